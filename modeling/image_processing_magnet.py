"""MagNet's pictures: RGB, squashed to one size, ImageNet statistics; masks squashed the same way by nearest neighbour.

The published preprocessing resizes with PIL, so there is a PIL back end only and the numbers are the same whether
torchvision is installed or not.
"""

from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack

from .image_inputs import load_image, load_mask


class MagNetImageProcessor(PilBackend):
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

    _auto_class = "AutoImageProcessor"
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 480, "width": 480}
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
            images (an image or a list of images):
                Whatever [`load_image`] takes: paths, URLs, base64, PIL images, arrays, tensors.
            segmentation_maps (a mask or a list of masks, *optional*):
                One-channel masks of the size of their image, everything but zero being foreground. With B images there
                are B * k of them, the k masks of the first image first.

        Returns:
            [`BatchFeature`]: `pixel_values`, `float32` of shape (B, 3, height, width), and with `segmentation_maps`
            also `labels`, `float32` zeros and ones of shape (B * k, height, width).

        Raises:
            ValueError: If an image or a mask cannot be read, or their numbers or sizes do not fit.
        """
        pictures = _load_all(images, load_image, "images")
        masks = None if segmentation_maps is None else _load_all(segmentation_maps, load_mask, "segmentation_maps")
        if masks is not None:
            _check_masks(masks, pictures)
        return super().preprocess(pictures, masks, **kwargs)

    def _preprocess_image_like_inputs(
        self,
        images: list[Image.Image],
        masks: list[np.ndarray] | None,
        do_resize: bool,
        size: SizeDict,
        return_tensors: str | None,
        **kwargs,
    ) -> BatchFeature:
        pixels = [np.moveaxis(np.asarray(image), -1, 0) for image in images]
        features = self._preprocess(pixels, do_resize=do_resize, size=size, return_tensors=None, **kwargs)
        if masks is not None:
            shape = (size.width, size.height) if do_resize else None
            features["labels"] = [_resize_mask(mask, shape) for mask in masks]
        return BatchFeature(dict(features), tensor_type=return_tensors)


def _load_all(values: Any, load: Any, argument: str) -> list:
    """Load one value, or each of a list, tuple or stacked array of them."""
    if getattr(values, "ndim", None) == 4:
        values = list(values)
    if not isinstance(values, list | tuple):
        return [load(values, argument=argument)]
    if not values:
        raise ValueError(f"`{argument}` is an empty list; at least one is needed.")
    return [load(value, argument=f"{argument}[{index}]") for index, value in enumerate(values)]


def _check_masks(masks: list[np.ndarray], pictures: list[Image.Image]) -> None:
    if len(masks) % len(pictures):
        raise ValueError(
            f"`segmentation_maps` holds {len(masks)} masks for {len(pictures)} images; every image needs the same number."
        )
    per_image = len(masks) // len(pictures)
    for index, mask in enumerate(masks):
        picture = pictures[index // per_image]
        if mask.shape != (picture.height, picture.width):
            raise ValueError(
                f"`segmentation_maps[{index}]` has shape {mask.shape}, but its image is {picture.height} high and "
                f"{picture.width} wide (upright, as its EXIF orientation says)."
            )


def _resize_mask(mask: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    picture = Image.fromarray(mask.astype(np.uint8))
    if size is not None:
        picture = picture.resize(size, PILImageResampling.NEAREST)
    return np.asarray(picture, dtype=np.float32)


__all__ = ["MagNetImageProcessor"]
