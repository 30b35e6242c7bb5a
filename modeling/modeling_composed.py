"""Models that are composed of parts: the zero-shot systems, and a detector with a segmenter. All parts are saved as one model."""

import os
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np

from .configuration_zero_shot import ComposedConfig
from .inputs import expressions_per_image
from .modeling_referring_segmentation import ReferringSegmentationPreTrainedModel, render_card
from .processing_referring_segmentation import SegmentationProcessor
from .zero_shot_cache import ImageCache
from .zero_shot_parts import Part, build_part


class ComposedPreTrainedModel(ReferringSegmentationPreTrainedModel):
    """
    Base of the composed models. Whatever does not depend on an expression is computed once for an image and cached for further calls.

    Args:
        config ([`ComposedConfig`]): Parts and options.

    Attributes:
        part_classes (`dict[str, Mapping[str, type[Part]]]`): For each part the classes that it may have, by `model_type`.
        summary (`str`): What the model does, for its card.
    """

    config_class = ComposedConfig
    main_input_name = "images"
    _supports_sdpa = True
    _supports_attention_backend = True
    part_classes: ClassVar[dict[str, Mapping[str, type[Part]]]] = {}
    summary: ClassVar[str]

    def __init__(self, config: ComposedConfig) -> None:
        super().__init__(config)
        for name, classes in self.part_classes.items():
            part_config = getattr(config, f"{name}_config")
            options = getattr(config, f"{name}_options", None) or {}
            part = build_part(name, classes, part_config, **options) if part_config is not None else None
            setattr(self, name, part)
        self._images = ImageCache()
        self.post_init()

    def make_processor(self) -> SegmentationProcessor:
        """Make the processor that is saved with the model."""
        raise NotImplementedError

    def check_inputs(self, images: Sequence[np.ndarray], text: Sequence[str], labels: Any) -> int:
        """
        Check the inputs of a forward pass.

        Returns:
            `int`: Expressions of each image.

        Raises:
            ValueError: If there are labels, numbers do not match, or an image is none of bytes.
        """
        if labels is not None:
            raise ValueError(f"`labels` must be left out: {type(self).__name__} is zero-shot and does not train.")
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(f"`images` must be (height, width, 3) bytes, got {image.shape} of {image.dtype}.")
        return expressions_per_image(len(text), len(images))

    def forget(self) -> None:
        """Empty the cache of images."""
        self._images.clear()

    def _key(self, *arrays: np.ndarray | None) -> bytes:
        """A digest of everything that an answer depends on besides the expression: arrays, weights and settings."""
        digest = blake2b(digest_size=16)
        for array in arrays:
            if array is not None:
                digest.update(repr((array.shape, array.dtype.str)).encode())
                digest.update((np.packbits(array) if array.dtype == bool else array).tobytes())
        weights = [
            (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
            for weight in (*self.parameters(), *self.buffers())
        ]
        digest.update(repr((weights, self.dtype)).encode())
        digest.update(self.describe_settings().encode())
        return digest.digest()

    def describe_settings(self) -> str:
        """Everything that answers depend on besides weights, images and expressions: settings, processors, installed libraries."""
        without = {*self.config.sub_configs, "cache_size", "cache_bytes", "parts"}
        settings = {name: value for name, value in vars(self.config).items() if name not in without}
        parts = [f"{name}: {part.describe_settings()}" for name, part in self.named_parts()]
        return "\n".join([repr(settings), *parts])

    # How it is saved and loaded: each part's processor lies in a folder of the part's name.

    def named_parts(self) -> Iterator[tuple[str, Part]]:
        """Names and parts of those that the model has."""
        for name in self.part_classes:
            part = getattr(self, name)
            if part is not None:
                yield name, part

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save the model, each part's processor in a folder of the part's name, and a card that names parts and licences."""
        if kwargs.pop("push_to_hub", False):
            raise ValueError("`push_to_hub` must be left out of `save_pretrained`: call `model.push_to_hub(repo_id)`.")
        for _, part in self.named_parts():
            part.check_complete()
        super().save_pretrained(save_directory, *args, **kwargs)
        self.make_processor().save_pretrained(save_directory)
        for name, part in self.named_parts():
            part.save_files(os.path.join(save_directory, name))
        card = os.path.join(save_directory, "README.md")
        if not os.path.exists(card):
            with open(card, "w", encoding="utf-8") as file:
                file.write(self.card())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load the model and the parts' processors."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        hub_options = ("cache_dir", "force_download", "local_files_only", "revision", "token")
        options = {name: kwargs[name] for name in hub_options if name in kwargs}
        if pretrained_model_name_or_path is not None:
            within = kwargs.get("subfolder", "")
            for name, part in model.named_parts():
                folder = f"{within}/{name}" if within else name
                part.load_files(str(pretrained_model_name_or_path), subfolder=folder, **options)
        return loaded

    def card(self) -> str:
        """A card that names the parts and their licences."""
        parts = self.config.parts or {}
        licences = {part.get("license") for part in parts.values() if part.get("has_weights", True)}
        rows = [
            f"| {kind} | {part['source']} | {part.get('license') or 'not stated: ask its authors'} |"
            for kind, part in parts.items()
        ]
        licence = None  # as long as one of them is not known
        if licences and None not in licences:
            licence = licences.pop() if len(licences) == 1 else "other"
        return render_card(
            type(self).__name__,
            self.summary,
            "\n".join(
                ["| part | source | licence |", "| --- | --- | --- |", *rows]
                + ["", "Whoever uses it is bound by the licences of all parts."]
            ),
            licence=licence,
            tags=["zero-shot"],
            base_models=sorted({part["source"] for part in parts.values() if part.get("is_on_hub")}),
        )


__all__ = ["ComposedPreTrainedModel"]
