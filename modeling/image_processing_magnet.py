"""MagNet's pictures: RGB, squashed to one size, ImageNet statistics; masks squashed the same way by nearest neighbour."""

from typing import Any

import numpy as np
from PIL import Image
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict

from .image_processing_referring_segmentation import ReferringSegmentationImageProcessor


class MagNetImageProcessor(ReferringSegmentationImageProcessor):
    """
    Prepares images, and the masks to learn from, for MagNet.

    Args:
        size (`dict[str, int]`, *optional*, defaults to `{"height": 480, "width": 480}`):
            What every image is resized to; the aspect ratio is not kept.
        do_resize, do_rescale, do_normalize (`bool`, *optional*, default to `True`):
            Whether to resize, to divide by 255, and to normalise with `image_mean` and `image_std`.

    Example:

    ```python
    >>> from hf_ris import MagNetImageProcessor

    >>> image_processor = MagNetImageProcessor(size={"height": 320, "width": 320})
    >>> image_processor("scene.png", return_tensors="pt").pixel_values.shape
    torch.Size([1, 3, 320, 320])
    ```
    """

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 480, "width": 480}

    def resize_image(self, image: Image.Image, size: SizeDict, **kwargs: Any) -> np.ndarray:
        return np.asarray(image.resize((size.width, size.height), kwargs["resample"]))

    def resize_mask(self, mask: np.ndarray, size: SizeDict) -> np.ndarray:
        picture = Image.fromarray(mask.astype(np.uint8))
        return np.asarray(picture.resize((size.width, size.height), PILImageResampling.NEAREST), dtype=np.float32)


__all__ = ["MagNetImageProcessor"]
