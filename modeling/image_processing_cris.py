"""CRIS's pictures: RGB, fitted into a square without being squashed, CLIP's statistics; masks fitted the same way."""

from typing import Any

import numpy as np
import torch
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

    def preprocess(
        self, images: Any, segmentation_maps: Any | None = None, **kwargs: Unpack[ImagesKwargs]
    ) -> BatchFeature:
        """As of the base, but that every picture is fitted, as OpenCV does: only so masks can be brought back."""
        if kwargs.get("resample", self.resample) != self.resample:
            raise ValueError("`resample` is bicubic for CRIS, whose pictures are warped as OpenCV does.")
        if not kwargs.get("do_resize", self.do_resize):
            raise ValueError("`do_resize` must be True: CRIS's masks are brought back from the fitted picture.")
        return super().preprocess(images, segmentation_maps, **kwargs)

    def resize(self, image: np.ndarray, size: SizeDict, **kwargs) -> np.ndarray:
        """A picture (3, h, w) of bytes to one of the model's size."""
        border = torch.tensor([round(255 * mean) for mean in self.image_mean])
        fitted = fit(torch.from_numpy(np.ascontiguousarray(image)), (size.height, size.width), cubic, border)
        return fitted.round().clamp(0, 255).byte().numpy()

    def resize_mask(self, mask: np.ndarray, size: SizeDict) -> np.ndarray:
        fitted = fit(
            torch.from_numpy(255 * mask.astype(np.uint8))[None], (size.height, size.width), linear, torch.zeros(1)
        )
        return (fitted[0].round() / 255).numpy()


__all__ = ["CRISImageProcessor"]
