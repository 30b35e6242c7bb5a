"""CRIS's pictures: RGB, fitted into a square without being squashed, CLIP's statistics; masks fitted the same way."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack

from .image_processing_referring_segmentation import ReferringSegmentationImageProcessor
from .letterbox import cubic, fit, linear


class CRISImageProcessor(ReferringSegmentationImageProcessor):
    """
    Prepares images, and the masks to learn from, for CRIS.

    A picture becomes as large as fits and lies in the middle; around it is CLIP's mean colour. The edges of masks are between 0
    and 1. Both warps are OpenCV 4's, which the published system calls, to a grey level.

    Args:
        size (`dict[str, int]`, *optional*, defaults to `{"height": 416, "width": 416}`):
            What every image is fitted into; a multiple of 32.
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

    keeps_aspect_ratio = True
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
        """As of the base, but that every picture is fitted, as OpenCV does: only so masks can be brought back."""
        if kwargs.get("resample", self.resample) != self.resample:
            raise ValueError("`resample` is bicubic for CRIS, whose pictures are warped as OpenCV does.")
        if not kwargs.get("do_resize", self.do_resize):
            raise ValueError("`do_resize` must be True: CRIS's masks are brought back from the fitted picture.")
        return super().preprocess(images, segmentation_maps, **kwargs)

    def resize_image(self, image: Image.Image, size: SizeDict, **kwargs: Any) -> np.ndarray:
        check_size(size)
        border = torch.tensor([round(255 * mean) for mean in kwargs["image_mean"]])
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        fitted = fit(pixels, (size.height, size.width), cubic, border)
        return fitted.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()

    def resize_mask(self, mask: np.ndarray, size: SizeDict) -> np.ndarray:
        fitted = fit(
            torch.from_numpy(255 * mask.astype(np.uint8))[None], (size.height, size.width), linear, torch.zeros(1)
        )
        return (fitted[0].round() / 255).numpy()


def check_size(size: Any) -> None:
    """
    Raises:
        ValueError: If the network cannot have an input of this size and logits at a quarter of it, from which masks are brought back.
    """
    sides = dict(size)
    if set(sides) != {"height", "width"} or any(side < 32 or side % 32 for side in sides.values()):
        raise ValueError(f"`size` must be a height and a width that are multiples of 32 pixels, got {sides}.")


__all__ = ["CRISImageProcessor"]
