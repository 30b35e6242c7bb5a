"""
What the zero-shot systems share: they find regions in a picture, score them for each expression, and answer with the best.

What does not depend on an expression is computed once for a picture and kept for further calls.
"""

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from .configuration_zero_shot import ZeroShotSegmentationConfig
from .inputs import expressions_per_image
from .language_negatives import has_wordnet
from .language_parsing import Parse, load_parser, parser_name
from .modeling_referring_segmentation import (
    ReferringSegmentationPreTrainedModel,
    ZeroShotSegmentationOutput,
    render_card,
)
from .processing_zero_shot import NO_PROPOSER, ZeroShotSegmentationProcessor, read_regions
from .zero_shot_cache import CachedImage, ImageCache
from .zero_shot_parts import IMAGE_TEXT, Part, build_part, in_batches
from .zero_shot_regions import INSTALLED, PROPOSERS


if TYPE_CHECKING:
    # So that a saved model brings along the code of this pipeline, too.
    from .pipeline_zero_shot_referring_segmentation import ZeroShotReferringSegmentationPipeline  # noqa: F401

logger = logging.get_logger(f"transformers.{__name__}")  # under transformers' verbosity


@dataclass
class Answer:
    """
    What was chosen for an expression.

    Attributes:
        pick (`int` or `None`): Number of the region.
        shares (`torch.Tensor` of shape `(r,)`): Sums to 1.
        terms (`dict[str, torch.Tensor]`): What the shares were made of, (r,) each.
        explanation (`dict[str, Any]`): What was read in the expression and found in the regions.
    """

    pick: int | None
    shares: torch.Tensor
    terms: dict[str, torch.Tensor]
    explanation: dict[str, Any]


class ZeroShotPreTrainedModel(ReferringSegmentationPreTrainedModel):
    """
    Base of the models.

    Args:
        config ([`ZeroShotSegmentationConfig`]): Of the system.
    """

    config_class = ZeroShotSegmentationConfig
    main_input_name = "images"
    takes_regions = True
    _supports_sdpa = True
    _supports_attention_backend = True
    part_classes: ClassVar[dict[str, Mapping[str, type[Part]]]] = {"image_text": IMAGE_TEXT, "proposer": PROPOSERS}

    def __init__(self, config: ZeroShotSegmentationConfig) -> None:
        super().__init__(config)
        for name, classes in self.part_classes.items():
            part_config = getattr(config, f"{name}_config")
            options = (config.proposer_options or {}) if name == "proposer" else {}
            part = build_part(name, classes, part_config, **options) if part_config is not None else None
            setattr(self, name, part)
        self._images = ImageCache()
        self.post_init()

    @torch.no_grad()
    @can_return_tuple
    def forward(
        self,
        images: Sequence[np.ndarray],
        text: Sequence[str],
        region_masks: Sequence[np.ndarray | None] | None = None,
        labels: torch.Tensor | None = None,
        explain: bool = False,
    ) -> ZeroShotSegmentationOutput:
        """
        Args:
            images (`Sequence[np.ndarray]`):
                B pictures, RGB, bytes, (height, width, 3) each; sizes may differ.
            text (`Sequence[str]`):
                N = B * k expressions, the k of the first picture first.
            region_masks (`Sequence[np.ndarray]`, *optional*):
                Of each picture its regions, (r, height, width), boolean, none of them empty; where it is `None`, they are looked for.
            labels (`torch.Tensor`, *optional*):
                Must be left out: these models do not train.
            explain (`bool`, *optional*, defaults to `False`):
                Whether to return `explanations`.
            return_dict (`bool`, *optional*):
                Whether an output object or a tuple is returned; by default as the configuration says.

        Raises:
            ValueError: If `labels` are given, numbers or sizes do not match, or regions are needed and nothing finds them.
        """
        if labels is not None:
            raise ValueError(f"`labels` must be left out: {type(self).__name__} is zero-shot and does not train.")
        each = expressions_per_image(len(text), len(images))
        if region_masks is not None and len(region_masks) != len(images):
            raise ValueError(
                f"`region_masks` holds regions of {len(region_masks)} images, and there are {len(images)}."
            )
        self.image_text.warn_of_unknown_words(text)
        answers: list[Answer] = []
        regions: list[np.ndarray] = []
        for number, image in enumerate(images):
            given = None if region_masks is None else region_masks[number]
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(f"`images` must be (height, width, 3) bytes, got {image.shape} of {image.dtype}.")
            if given is not None:
                given = read_regions(given, image.shape[:2], f"region_masks[{number}]")
            key = self._key(image, given)
            cached = self._images.find(key) or CachedImage(
                image.copy(), self.find_regions(image) if given is None else np.array(given)
            )
            answers += self._answer(cached, text[number * each : (number + 1) * each])
            self._images.keep(key, cached, self.config.cache_size, self.config.cache_bytes)
            regions += [cached.regions]
        return self._pack(answers, regions, explain)

    def forget(self) -> None:
        """Drops what is kept of pictures."""
        self._images.clear()

    @abstractmethod
    def _score_expressions(self, cached: CachedImage, expressions: Sequence[str]) -> list[Answer]:
        """Of a picture with at least one region."""

    def _filter_regions(self, regions: np.ndarray) -> np.ndarray:
        """Those of the proposer's that count."""
        return regions

    def _answer(self, cached: CachedImage, expressions: Sequence[str]) -> list[Answer]:
        if not len(cached.regions):
            nothing = torch.zeros(0)
            return [Answer(None, nothing, {}, {"phrase": None}) for _ in expressions]
        asked = list(dict.fromkeys(expressions))  # each once: batches are filled up with repetitions
        answers = dict(zip(asked, self._score_expressions(cached, asked), strict=True))
        return [answers[expression] for expression in expressions]

    @torch.no_grad()
    def find_regions(self, image: np.ndarray) -> np.ndarray:
        """
        Regions of a picture, those that count.

        Args:
            image (`np.ndarray` of shape `(height, width, 3)`): RGB, bytes.

        Returns:
            `np.ndarray` of shape `(r, height, width)`: Boolean; there may be none.

        Raises:
            ValueError: If the model has no proposer.
        """
        if self.proposer is None:
            raise ValueError(NO_PROPOSER)
        return self._filter_regions(self.proposer.propose(image))

    def _key(self, image: np.ndarray, given: np.ndarray | None) -> bytes:
        """Of what an answer depends on besides the expression: contents, weights and settings."""
        digest = blake2b(digest_size=16)
        for array in (image, given):
            if array is not None:
                digest.update(repr((array.shape, array.dtype.str)).encode())
                # A bit tells as much of a mask as a byte does.
                digest.update((np.packbits(array) if array.dtype == bool else array).tobytes())
        weights = [
            (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
            for weight in (*self.parameters(), *self.buffers())
        ]
        digest.update(repr((weights, self.dtype)).encode())
        digest.update(self.describe_settings().encode())
        return digest.digest()

    def _pack(self, answers: list[Answer], regions: list[np.ndarray], explain: bool) -> ZeroShotSegmentationOutput:
        return ZeroShotSegmentationOutput(
            region_masks=tuple(torch.from_numpy(masks.copy()) for masks in regions),  # these are the caller's
            region_scores=tuple(answer.shares for answer in answers),
            picks=tuple(answer.pick for answer in answers),
            terms=tuple(answer.terms for answer in answers),
            explanations=tuple(answer.explanation for answer in answers) if explain else None,
        )

    # What systems ask of the parts.

    def _parse(self, text: str) -> Parse:
        if self.config.mode == "paper" and parser_name(self.config.parser) == "rules":
            logger.warning_once(
                "mode='paper' reads expressions by rules here; the papers' code has spaCy and a model of it."
            )
        return load_parser(self.config.parser)(text)

    def _encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """(n, d), in float32, not normalised."""
        unique = list(dict.fromkeys(texts))
        found = torch.cat(
            [
                self.image_text.encode_texts(self.image_text.tokenize(batch)).float()
                for batch in in_batches(unique, self.config.batch_size)
            ]
        )
        return found[[unique.index(text) for text in texts]]

    def _encode_pictures(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) -> (n, d), in float32, not normalised."""
        batches = in_batches(pixel_values, self.config.batch_size)
        return torch.cat([self.image_text.encode_images(batch).float() for batch in batches])

    def describe_settings(self) -> str:
        """All that answers depend on besides weights, pictures and expressions: settings, processors, and what is installed here."""
        without = {*self.config.sub_configs, "cache_size", "cache_bytes", "parts"}
        settings = {name: value for name, value in vars(self.config).items() if name not in without}
        installed = [*INSTALLED, *(["wordnet"] if has_wordnet() else [])]
        parts = [f"{name}: {part.describe_settings()}" for name, part in self.named_parts()]
        return "\n".join([repr(settings), parser_name(self.config.parser), *installed, *parts])

    # How a system is composed, saved and loaded: the parts' processors lie in folders of their names.

    def named_parts(self) -> Iterator[tuple[str, Part]]:
        """The parts that there are, by name."""
        for name in self.part_classes:
            part = getattr(self, name)
            if part is not None:
                yield name, part

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As the base class; each part's processor goes into a folder of its name, and a card names parts and licences."""
        if kwargs.pop("push_to_hub", False):
            raise ValueError("`push_to_hub` must be left out of `save_pretrained`: call `model.push_to_hub(repo_id)`.")
        for _, part in self.named_parts():
            part.check_complete()
        super().save_pretrained(save_directory, *args, **kwargs)
        ZeroShotSegmentationProcessor(max_size=self.config.max_size).save_pretrained(save_directory)
        for name, part in self.named_parts():
            part.save_files(os.path.join(save_directory, name))
        card = os.path.join(save_directory, "README.md")
        if not os.path.exists(card):
            with open(card, "w", encoding="utf-8") as file:
                file.write(self.card())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As the base class; loads the parts' processors, too."""
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
        """What the model is composed of, and each part's licence."""
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
            "Zero-shot referring image segmentation, composed of parts that were trained elsewhere.",
            "\n".join(
                ["| part | source | licence |", "| --- | --- | --- |", *rows]
                + ["", "Whoever uses it is bound by the licences of all parts."]
            ),
            licence=licence,
            tags=["zero-shot"],
            base_models=sorted({part["source"] for part in parts.values() if part.get("is_on_hub")}),
        )


def unit(features: torch.Tensor) -> torch.Tensor:
    """(n, d), each of length 1."""
    return nn.functional.normalize(features, dim=-1)


__all__ = ["Answer", "ZeroShotPreTrainedModel", "unit"]
