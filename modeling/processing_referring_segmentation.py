"""
The processors' contract, and the trained models' share of it: images, masks and expressions to tensors, logits to masks at the
image's size.

The published systems do not resize as torchvision does, so there is a PIL back end only, and the numbers are the same whether
torchvision is installed or not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import SizeDict
from transformers.processing_utils import ImagesKwargs, ProcessorMixin, Unpack

from .inputs import Request, expressions_per_image, load_all, load_mask
from .masks import read_mask, read_target_sizes
from .without_torch import TextWarnings, check_expressions, check_probability, load_image


class SegmentationProcessor(ProcessorMixin):
    """
    Base of all processors. Pipelines call [`prepare`] and [`iterate_segments`]; `__call__` and
    [`post_process_referring_segmentation`] are for users of the model alone.

    Attributes:
        task (`str`): What pipelines know such a processor by.
        answer_options (`dict[str, Callable]`): Options of [`iterate_segments`] beyond the contract's, which pipelines pass on, and the
            function that checks each; it gets name and value, and raises a `ValueError`.
        forward_options (`tuple[str, ...]`): Those of them that the model's forward pass takes, too.
    """

    _auto_class = "AutoProcessor"
    task = "referring-segmentation"
    answer_options: ClassVar[dict[str, Callable[[str, Any], None]]] = {}
    forward_options: ClassVar[tuple[str, ...]] = ()

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The (height, width) that every image is squashed to; `None` where aspect ratios are kept."""
        return None

    def prepare(self, requests: Sequence[Request]) -> BatchFeature:
        """Turn requests, with equally many expressions each, into the model's inputs. Nothing is checked again."""
        raise NotImplementedError

    def iterate_segments(
        self, outputs: Any, target_sizes: Sequence[Sequence[int]] | torch.Tensor, threshold: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """
        Yield what [`post_process_referring_segmentation`] returns, one mask at a time: the masks of many expressions on a large
        image need not be held together.
        """
        raise NotImplementedError

    def post_process_referring_segmentation(
        self,
        outputs: Any,
        target_sizes: Sequence[Sequence[int]] | torch.Tensor,
        threshold: float | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """
        Turn outputs into masks, each at the size of its image.

        Args:
            outputs ([`ReferringSegmentationOutput`] or [`ZeroShotSegmentationOutput`]):
                The model's outputs for N expressions.
            target_sizes (`list[tuple[int, int]]` or `torch.Tensor` of shape (N, 2)):
                (height, width) in pixels for each expression.
            threshold (`float`, *optional*):
                A pixel belongs to the mask if its foreground probability is above this; by default the processor's own. In a
                zero-shot system's region a pixel is or is not, so that only 0 and 1 change anything.
            options (*optional*):
                Further options that this processor's `iterate_segments` takes.

        Returns:
            `list[dict]`: For each expression `mask` (boolean `torch.Tensor` of shape (height, width)) and `score`
            (`float`: the mean foreground probability inside the mask, the chosen region's share, or, of models that judge their
            masks, the probability that the mask at a threshold of 0.5 is right; 0.0 for an empty mask).

        Raises:
            ValueError: If there is not one target size for each expression, or the threshold is not between 0 and 1.
        """
        return list(self.iterate_segments(outputs, target_sizes, threshold, **options))


class ReferringSegmentationImageProcessor(PilBackend):
    """
    Base of the image processors; a system's own says how an image and its masks are brought to the model's size.
    """

    _auto_class = "AutoImageProcessor"
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    model_input_names = ["pixel_values"]

    def preprocess(
        self, images: Any, segmentation_maps: Any | None = None, **kwargs: Unpack[ImagesKwargs]
    ) -> BatchFeature:
        """
        Args:
            images (an image, a list of images, or a list of such lists):
                See [`load_image`]. Lists within the list are taken one after the other.
            segmentation_maps (a mask or a list of masks, *optional*):
                One-channel masks of the size of their image, everything but zero being foreground. With B images there
                are B * k of them, the k masks of the first image first.

        Returns:
            [`BatchFeature`]: `pixel_values`, `float32` of shape (B, 3, height, width), and with `segmentation_maps`
            also `labels`, `float32` from 0 to 1 of shape (B * k, height, width).

        Raises:
            ValueError: If an image or a mask cannot be read, or their numbers or sizes do not fit.
        """
        loaded = load_all(images, load_image, "images")
        masks = None if segmentation_maps is None else load_all(segmentation_maps, load_mask, "segmentation_maps")
        if masks is not None:
            _check_masks(masks, loaded)
        return self.transform(loaded, masks, **kwargs)

    def transform(
        self, images: list[Image.Image], masks: list[np.ndarray] | None = None, **kwargs: Unpack[ImagesKwargs]
    ) -> BatchFeature:
        """Turn what is loaded already into the features of [`preprocess`]."""
        return super().preprocess(images, masks, **kwargs)

    def _preprocess_image_like_inputs(
        self,
        images: list[Image.Image],
        masks: list[np.ndarray] | None,
        do_resize: bool,
        size: SizeDict,
        return_tensors: str | None,
        **kwargs,
    ) -> BatchFeature:
        # Resized here and not by the back end, which would copy a large photo three times on the way.
        resized = [self.resize_image(image, size, **kwargs) if do_resize else np.asarray(image) for image in images]
        pixels = [np.moveaxis(image, -1, 0) for image in resized]
        features = self._preprocess(pixels, do_resize=False, size=size, return_tensors=None, **kwargs)
        if masks is not None:
            features["labels"] = [
                self.resize_mask(mask, size) if do_resize else mask.astype(np.float32) for mask in masks
            ]
        return BatchFeature(dict(features), tensor_type=return_tensors)

    def resize_image(self, image: Image.Image, size: SizeDict, **kwargs: Any) -> np.ndarray:
        """Bring an RGB image to the model's size, bytes (H, W, 3); `kwargs` are the call's other options."""
        raise NotImplementedError

    def resize_mask(self, mask: np.ndarray, size: SizeDict) -> np.ndarray:
        """Bring a boolean mask (h, w) to the model's size, `float32` from 0 to 1."""
        raise NotImplementedError


def _check_masks(masks: list[np.ndarray], images: list[Image.Image]) -> None:
    if len(masks) % len(images):
        raise ValueError(
            f"`segmentation_maps` holds {len(masks)} masks for {len(images)} images; every image needs the same number."
        )
    per_image = len(masks) // len(images)
    for index, mask in enumerate(masks):
        image = images[index // per_image]
        if mask.shape != (image.height, image.width):
            raise ValueError(
                f"`segmentation_maps[{index}]` has shape {mask.shape}, but its image is {image.height} high and "
                f"{image.width} wide (upright, as its EXIF orientation says)."
            )


class ReferringSegmentationProcessor(SegmentationProcessor):
    """
    Base of the trained models' processors: an image processor and a tokenizer. A system's own says how expressions that are too long
    are cut, and how logits become probabilities.

    Args:
        image_processor ([`ReferringSegmentationImageProcessor`]): Prepares images and masks.
        tokenizer (`PreTrainedTokenizerBase`): Prepares expressions.
        text_length (`int`): Tokens that every expression is cut and padded to, special tokens included.
        threshold (`float`): Foreground probability above which a pixel belongs to the mask.

    Attributes:
        keeps_aspect_ratio (`bool`): Whether images are fitted into the model's input, or squashed to it.
    """

    text_kwargs = {"padding": "max_length"}
    keeps_aspect_ratio = False

    def __init__(self, image_processor=None, tokenizer=None, *, text_length: int, threshold: float):
        if text_length < 1:
            raise ValueError(f"`text_length` must be at least 1, got {text_length}.")
        check_probability("threshold", threshold)
        self.text_length = text_length
        self.threshold = threshold
        self.text_warnings = TextWarnings()
        super().__init__(image_processor, tokenizer)

    @property
    def input_size(self) -> tuple[int, int] | None:
        size = self.image_processor.size
        return None if self.keeps_aspect_ratio else (size["height"], size["width"])

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Leave out the model's dtype, which `pipeline` passes: a tokenizer would keep it and then could not be saved."""
        kwargs.pop("dtype", None)
        return super().from_pretrained(*args, **kwargs)

    def __call__(
        self,
        images: Any | None = None,
        text: str | list[str] | None = None,
        segmentation_maps: Any | None = None,
        **kwargs,
    ) -> BatchFeature:
        """
        Args:
            images (an image or a list of images, *optional*):
                B images, as the image processor takes them.
            text (`str` or `list[str]`, *optional*):
                N = B * k expressions, the k of the first image first.
            segmentation_maps (a mask or a list of masks, *optional*):
                The N masks that the expressions refer to.
            padding (`bool` or `str`, *optional*, defaults to `"max_length"`):
                `"max_length"`, or `True` / `"longest"` to pad to the longest expression only: for models that do not depend on
                padding, as all but a MagNet whose `language_attention_mask` is `"published"`.
            max_length (`int`, *optional*, defaults to `text_length`):
                Number of tokens to cut and pad to.
            return_tensors (`str`, *optional*):
                `"pt"` for torch tensors.

        Returns:
            [`BatchFeature`]: `pixel_values` (B, 3, height, width), `input_ids` and `attention_mask` (N, length), `labels`
            (N, height, width), each where its argument was given.

        Raises:
            ValueError: If an image, an expression or a mask is unfit, or their numbers do not match.
        """
        if images is None and text is None:
            raise ValueError("`images` and `text` are both missing; at least one is needed.")
        if images is None and segmentation_maps is not None:
            raise ValueError("`segmentation_maps` came without the `images` they belong to.")
        merged = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        return_tensors = merged["text_kwargs"].get("return_tensors")

        data: dict[str, Any] = {}
        if text is not None:
            data |= self._encode(check_expressions(text), **merged["text_kwargs"])
        if images is not None:
            data |= self.image_processor(images, segmentation_maps, **merged["images_kwargs"])
        number, expressions, masks = (len(data.get(key, [])) for key in ("pixel_values", "input_ids", "labels"))
        if number and expressions:
            expressions_per_image(expressions, number)
        if masks and expressions and masks != expressions:
            raise ValueError(
                f"`segmentation_maps` holds {masks} masks for {expressions} expressions; one each is needed."
            )
        return BatchFeature(data, tensor_type=return_tensors)

    def prepare(self, requests: Sequence[Request]) -> BatchFeature:
        texts = [expression for request in requests for expression in request.expressions]
        pixels = self.prepare_images([request.image for request in requests])
        return BatchFeature({**pixels, **self._encode(texts)}, tensor_type="pt")

    def prepare_images(self, images: list[Image.Image]) -> Mapping[str, Any]:
        """Bring RGB images to the model's size: `pixel_values`, (B, 3, height, width)."""
        return self.image_processor.transform(images)

    @torch.no_grad()
    def iterate_segments(
        self, outputs: Any, target_sizes: Sequence[Sequence[int]] | torch.Tensor, threshold: float | None = None
    ) -> Iterator[dict[str, Any]]:
        logits, confidence = outputs.logits, getattr(outputs, "confidence", None)
        threshold = self.threshold if threshold is None else threshold
        sizes = read_target_sizes(target_sizes, len(logits), threshold)
        for number, (expression_logits, size) in enumerate(zip(logits, sizes, strict=True)):
            bands = (band[0] for band in self.probability_bands(expression_logits[None], size))
            mask, score = read_mask(bands, threshold)
            if confidence is not None and score:
                score = float(confidence[number])
            yield {"mask": mask, "score": score}

    def input_probabilities(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Foreground probabilities (N, H, W) over the model's input, which has this size (H, W); logits (N, h, w)."""
        raise NotImplementedError

    def probability_bands(self, logits: torch.Tensor, size: tuple[int, int]) -> Iterator[torch.Tensor]:
        """Foreground probabilities over an image of this size (H, W), in bands of rows (N, rows, W); logits (N, h, w)."""
        raise NotImplementedError

    def probabilities(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Foreground probabilities (N, H, W) over an image of this size (H, W); logits (N, h, w)."""
        return torch.cat(list(self.probability_bands(logits, size)), dim=1)

    def cut(self, ids: list[int], length: int) -> list[int]:
        """Cut an expression's token ids, which are more than `length`, to this number."""
        raise NotImplementedError

    def _encode(
        self,
        expressions: list[str],
        padding: bool | str = "max_length",
        max_length: int | None = None,
        return_tensors: str | None = None,
        **kwargs,
    ) -> dict[str, list[list[int]]]:
        """Tokenize, cut and pad: `input_ids` and `attention_mask`, lists of equal length (with `padding`)."""
        max_length = self.text_length if max_length is None else max_length
        if max_length < 1:
            raise ValueError(f"`max_length` must be at least 1, got {max_length}.")
        encoded = self.tokenizer(expressions, verbose=False, return_attention_mask=False)
        if self.tokenizer.is_fast:
            self.text_warnings.unknown_words(expressions, encoded.encodings, self.tokenizer.unk_token_id)
        all_ids = encoded["input_ids"]
        for expression, ids in zip(expressions, all_ids, strict=True):
            if len(ids) > max_length:
                rest = self.tokenizer.decode(self.cut(ids, max_length), skip_special_tokens=True)
                self.text_warnings.too_long(expression, len(ids), max_length, rest)
        all_ids = [self.cut(ids, max_length) if len(ids) > max_length else ids for ids in all_ids]

        longest = max(map(len, all_ids))
        lengths: dict[bool | str, int] = {"max_length": max_length, True: longest, "longest": longest, False: 0}
        if padding not in lengths:
            raise ValueError(f"`padding` must be one of {list(lengths)}, got {padding!r}.")
        length = lengths[padding]
        return {
            "input_ids": [ids + [self.pad_token_id] * (length - len(ids)) for ids in all_ids],
            "attention_mask": [[1] * len(ids) + [0] * (length - len(ids)) for ids in all_ids],
        }

    @property
    def pad_token_id(self) -> int:
        """The token that expressions are filled up with."""
        return self.tokenizer.pad_token_id


__all__ = ["ReferringSegmentationImageProcessor", "ReferringSegmentationProcessor", "SegmentationProcessor"]
