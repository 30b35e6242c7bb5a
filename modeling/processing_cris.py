"""CRIS's processors: images fitted into a square, expressions of 17 tokens, masks above a probability of 0.35, brought back."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack

from .processing_referring_segmentation import ReferringSegmentationImageProcessor, ReferringSegmentationProcessor
from .resampling import Taps, cubic, fit, linear, resample, unfit
from .without_torch import row_bands


class CRISImageProcessor(ReferringSegmentationImageProcessor):
    """
    Prepares images, and the masks to learn from, for CRIS.

    An image becomes as large as fits, in the middle of CLIP's mean colour. The edges of masks are between 0 and 1. Both warps equal
    those of OpenCV 4, which the published system calls, to a grey level.

    Args:
        size (`dict[str, int]`, *optional*, defaults to `{"height": 416, "width": 416}`):
            Size that every image is fitted into; multiples of 32.
        do_rescale, do_normalize (`bool`, *optional*, default to `True`):
            Whether to divide by 255, and to normalise with `image_mean` and `image_std`.

    Example:

    ```python
    >>> from hf_ris import CRISImageProcessor

    >>> image_processor = CRISImageProcessor()
    >>> image_processor("scene.png", return_tensors="pt").pixel_values.shape
    torch.Size([1, 3, 416, 416])
    ```
    """

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 416, "width": 416}

    def __init__(self, **kwargs: Unpack[ImagesKwargs]) -> None:
        super().__init__(**kwargs)
        check_size(self.size)

    def preprocess(
        self, images: Any, segmentation_maps: Any | None = None, **kwargs: Unpack[ImagesKwargs]
    ) -> BatchFeature:
        """Like the base class, but resizing is mandatory and bicubic: post-processing inverts the letterbox."""
        if kwargs.get("resample", self.resample) != self.resample:
            raise ValueError(f"`resample` must be bicubic for CRIS, got {kwargs['resample']!r}.")
        if not kwargs.get("do_resize", self.do_resize):
            raise ValueError("`do_resize` must be True for CRIS: its masks are brought back from the letterbox.")
        return super().preprocess(images, segmentation_maps, **kwargs)

    def resize_image(self, image: Image.Image, size: SizeDict, **kwargs: Any) -> np.ndarray:
        check_size(size)
        border = torch.tensor([round(255 * mean) for mean in kwargs["image_mean"]])[:, None, None].float()
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        taps = fit((image.height, image.width), (size.height, size.width), cubic)
        fitted = resample(pixels, to_torch(taps[0]), to_torch(taps[1]), border)
        return fitted.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()

    def resize_mask(self, mask: np.ndarray, size: SizeDict) -> np.ndarray:
        levels = 255 * mask.astype(np.float32)[None]
        fitted = resample(levels, *fit(mask.shape, (size.height, size.width), linear))
        return fitted[0].round() / np.float32(255)


def to_torch(taps: Taps, device: Any = "cpu") -> Taps:
    return Taps(*(torch.from_numpy(part).to(device) for part in taps))


def check_size(size: Any) -> None:
    """Raise a ValueError unless the network takes this size, and gives logits at a quarter of it."""
    sides = dict(size)
    if set(sides) != {"height", "width"} or any(side < 32 or side % 32 for side in sides.values()):
        raise ValueError(f"`size` must be a height and a width that are multiples of 32 pixels, got {sides}.")


class CRISProcessor(ReferringSegmentationProcessor):
    """
    Wraps [`CRISImageProcessor`] and CLIP's tokenizer.

    Expressions are cut to `text_length` tokens, of which the last stays the end token, and padded with token 0, which counts as
    padding anywhere.

    Args:
        image_processor ([`CRISImageProcessor`]):
            Prepares images and masks.
        tokenizer (`CLIPTokenizer`):
            Prepares expressions.
        text_length (`int`, *optional*, defaults to 17):
            Tokens that every expression is cut and padded to; published are 17 for RefCOCO and RefCOCO+, 22 for RefCOCOg.
        threshold (`float`, *optional*, defaults to 0.35):
            Foreground probability above which a pixel belongs to the mask.

    Example:

    ```python
    >>> from transformers import AutoTokenizer
    >>> from hf_ris import CRISImageProcessor, CRISProcessor

    >>> tokenizer = AutoTokenizer.from_pretrained("openai/clip-vit-base-patch32")
    >>> processor = CRISProcessor(CRISImageProcessor(), tokenizer)
    >>> inputs = processor(images=image, text=["the left mug", "the tree"], return_tensors="pt")
    ```
    """

    pad_token_id = 0
    keeps_aspect_ratio = True

    def __init__(self, image_processor=None, tokenizer=None, text_length: int = 17, threshold: float = 0.35):
        super().__init__(image_processor, tokenizer, text_length=text_length, threshold=threshold)

    def input_probabilities(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        # Enlarged after the sigmoid: values may lie a little outside of 0 and 1.
        probabilities = logits[:, None].float().sigmoid()
        return nn.functional.interpolate(probabilities, size, mode="bicubic", align_corners=True)[:, 0]

    def probability_bands(self, logits: torch.Tensor, size: tuple[int, int]) -> Iterator[torch.Tensor]:
        fitted = self.input_probabilities(logits, (4 * logits.shape[1], 4 * logits.shape[2]))  # logits are at stride 4
        vertical, horizontal = (
            to_torch(taps, fitted.device) for taps in unfit(size, (fitted.shape[1], fitted.shape[2]), cubic)
        )
        for rows in row_bands(*size):
            yield resample(fitted, Taps(*(part[:, rows] for part in vertical)), horizontal)

    def cut(self, ids: list[int], length: int) -> list[int]:
        return [*ids[: length - 1], ids[-1]]

    def _encode(self, *args, **kwargs) -> dict[str, list[list[int]]]:
        encoded = super()._encode(*args, **kwargs)
        is_word = [[int(token != self.pad_token_id) for token in ids] for ids in encoded["input_ids"]]
        return {**encoded, "attention_mask": is_word}


__all__ = ["CRISImageProcessor", "CRISProcessor"]
