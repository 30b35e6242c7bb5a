"""
Parts that the models share whose weights and classes transformers has already: CLIPSeg, SAM 3, Florence-2. Each is asked here as the
systems of this library are: B images with k expressions each, and every image is encoded once.
"""

import copy
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image
from transformers import AutoTokenizer, PreTrainedModel
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .inputs import expressions_per_image, load_requests
from .modeling_referring_segmentation import put_card, render_card
from .processing_referring_segmentation import ReferringSegmentationProcessor


class HubProcessor(ReferringSegmentationProcessor):
    """
    Base of the processors: transformers' tokenizer, and an image processor that needs PIL alone. A saved one is transformers' own, and
    loads there; what this class adds (`text_length`, `threshold`) is not saved with it.

    Attributes:
        image_processor_class (`type[PilBackend]`): Prepares images; it reads the settings that transformers' own saved.
        saved_class (`type[ProcessorMixin]`): The class of transformers whose files are written.
        saved_names (`tuple[str, ...]`): Names of transformers' processors that it stands for.
        default_text_length (`int`): Tokens that the published model reads.
    """

    image_processor_class: ClassVar[type[PilBackend]]
    saved_class: ClassVar[type[ProcessorMixin]]
    saved_names: ClassVar[tuple[str, ...]]
    default_text_length: ClassVar[int]

    def __init__(self, image_processor=None, tokenizer=None, text_length: int | None = None, threshold: float = 0.5):
        if tokenizer is not None and len(tokenizer) <= len(tokenizer.all_special_tokens):
            # transformers makes one where its files are missing.
            raise ValueError("`tokenizer` must have a vocabulary, got one that knows special tokens alone.")
        length = self.default_text_length if text_length is None else text_length
        super().__init__(image_processor, tokenizer, text_length=length, threshold=threshold)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, text_length: int | None = None, **options: Any) -> Any:
        """
        Load a processor from a folder or the Hub, where transformers' own was saved.

        Args:
            source (`str` or `os.PathLike`): The folder or Hub id.
            text_length (`int`, *optional*): Tokens that the model reads.
            options: `token`, `revision`, `cache_dir` and others that name files on the Hub.

        Raises:
            OSError: If there are no such files.
        """
        options.pop("dtype", None)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        return cls(cls.image_processor_class.from_pretrained(source, **options), tokenizer, text_length=text_length)

    @classmethod
    def wrap(cls, processor: ProcessorMixin, text_length: int | None = None) -> Any:
        """Make one of transformers' own, with its settings and its tokenizer."""
        settings = processor.image_processor.to_dict()
        return cls(cls.image_processor_class.from_dict(settings), processor.tokenizer, text_length=text_length)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> Any:
        """Write the files of transformers' own processor; arguments as in `ProcessorMixin.save_pretrained`."""
        return self.unwrap().save_pretrained(save_directory, **kwargs)

    def unwrap(self) -> ProcessorMixin:
        """Make transformers' own processor of these parts."""
        return self.saved_class(image_processor=self.image_processor, tokenizer=self.tokenizer)

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        segmentation_maps: Any = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """
        Args:
            images (an image or a list of images): B images.
            text (`str` or `list[str]`): N = B * k expressions, the k of the first image first.
            segmentation_maps (*optional*): Must be left out: these models do not train here.
            return_tensors (`str`, *optional*): No effect: the features are torch tensors.

        Returns:
            [`BatchFeature`]: The inputs of the model.

        Raises:
            ValueError: If an image or an expression is unfit, one is missing, or their numbers do not match.
        """
        if images is None or text is None:
            raise ValueError("`images` and `text` are both needed.")
        if segmentation_maps is not None:
            raise ValueError(f"`segmentation_maps` must be left out: {self.saved_names[0]}'s model does not train.")
        return self.prepare(load_requests(images, text))

    def prepare_images(self, images: list[Image.Image]) -> dict[str, np.ndarray]:
        return {"pixel_values": np.stack(self.image_processor(images)["pixel_values"])}

    def cut(self, ids: list[int], length: int) -> list[int]:
        return [*ids[: length - 1], ids[-1]]


if TYPE_CHECKING:

    class _Network(PreTrainedModel):
        """The class of transformers that the mixin is put before."""

else:
    _Network = object


class HubModelMixin(_Network):
    """
    Base of the models, to be put before a class of transformers, which has the weights. A saved one is that class's, and loads there.

    Attributes:
        processor_class (`type[HubProcessor]`): Its processor.
        saved_class (`type[PreTrainedModel]`): The class of transformers.
        system, licence, url (`str`): Its name, the licence of the published weights and its paper, for the card.
        native_id (`str`): A Hub id of weights in transformers' form.
    """

    takes_regions = False  # it finds masks itself
    accepts_loss_kwargs = False
    processor_class: ClassVar[type[HubProcessor]]
    saved_class: ClassVar[type[PreTrainedModel]]
    system: ClassVar[str]
    licence: ClassVar[str]
    url: ClassVar[str]
    native_id: ClassVar[str]
    # Set between a pipeline's loading the model and its asking for the processor.
    load_processor: Callable[[], HubProcessor] | None = None

    @property
    def max_text_length(self) -> int:
        """Tokens that it has positions for."""
        return self.config.text_config.max_position_embeddings

    def find_processor(self, given: Any) -> Any:
        """
        Find the processor that a pipeline asks this model with.

        Args:
            given (*optional*): The processor that the pipeline was given or has loaded; transformers' own is wrapped.

        Returns:
            [`HubProcessor`] or `None`, if there is none.

        Raises:
            ValueError: If it is another model's.
            OSError: If the files that the model came with hold none.
        """
        load, self.load_processor = self.load_processor, None  # what it holds, such as a token, is not kept
        if isinstance(given, self.processor_class):
            return given
        if given is None:
            return self._load(load) if load else None
        if type(given).__name__ not in self.processor_class.saved_names:
            raise ValueError(
                f"`processor` must be a {self.processor_class.saved_names[0]} or a {self.processor_class.__name__} for a "
                f"{type(self).__name__}, got {type(given).__name__}."
            )
        return self.processor_class.wrap(given, text_length=self.max_text_length)

    def _load(self, load: Callable[[], HubProcessor]) -> HubProcessor:
        try:
            return load()
        except (AttributeError, OSError, ValueError) as error:  # the first where Florence-2 lacks a tokenizer
            raise OSError(f"`model` {self.name_or_path!r} has no whole processor beside it: {error}") from error

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Write the files of transformers' own class; arguments as in `PreTrainedModel.save_pretrained`."""
        same = copy.copy(self)  # the weights are shared
        same.__class__ = self.saved_class  # whose name goes into the configuration
        same.save_pretrained(*args, **kwargs)

    def describe_settings(self) -> str:
        """Settings that the answers depend on, besides weights, images and expressions."""
        return self.config.to_json_string()

    def card(self) -> str:
        """The model's card as Markdown."""
        source = self.name_or_path
        is_id = source.count("/") == 1 and not os.path.exists(source)
        summary = f"[{self.system}]({self.url}), asked through `hf_ris`: an image and expressions in, their masks out."
        return render_card(
            self.system,
            summary,
            f"## Licence\n\nThe published weights of {self.system}: {self.licence}.",
            base_models=[source] if is_id else [],
            carries_code=False,
        )

    def _upload_modified_files(self, working_dir: str, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        put_card(self, working_dir, repo_id, kwargs)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def check_inputs(self, pixel_values: Any, input_ids: Any, labels: Any) -> int:
        """
        Check the inputs of a forward pass.

        Returns:
            `int`: Expressions of each image.

        Raises:
            ValueError: If there are labels, or there is no equal number of expressions for each image.
        """
        if labels is not None:
            raise ValueError(f"`labels` must be left out: {type(self).__name__} does not train.")
        return expressions_per_image(len(input_ids), len(pixel_values))


__all__ = ["HubModelMixin", "HubProcessor"]
