"""
What the image processors of the trained models share: pictures and masks of any kind in, tensors of one size out.

The published systems do not resize as torchvision does, so there is a PIL back end only, and the numbers are the same whether
torchvision is installed or not.
"""

from abc import abstractmethod
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack

from .image_inputs import load_all, load_image, load_mask


class ReferringSegmentationImageProcessor(PilBackend):
    """
    Base of the image processors; a system's own says how a picture and its masks are brought to the model's size.

    Attributes:
        keeps_aspect_ratio (`bool`): Whether pictures are fitted into the model's input, or squashed to it.
    """

    keeps_aspect_ratio = False

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
                Whatever [`load_image`] takes: paths, URLs, base64, PIL images, arrays, tensors. Lists within the list are
                taken one after the other.
            segmentation_maps (a mask or a list of masks, *optional*):
                One-channel masks of the size of their image, everything but zero being foreground. With B images there
                are B * k of them, the k masks of the first image first.

        Returns:
            [`BatchFeature`]: `pixel_values`, `float32` of shape (B, 3, height, width), and with `segmentation_maps`
            also `labels`, `float32` from 0 to 1 of shape (B * k, height, width).

        Raises:
            ValueError: If an image or a mask cannot be read, or their numbers or sizes do not fit.
        """
        pictures = load_all(images, load_image, "images")
        masks = None if segmentation_maps is None else load_all(segmentation_maps, load_mask, "segmentation_maps")
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
        # Resized here and not by the back end, which would copy a large photo three times on the way.
        resized = [self.resize_image(image, size, **kwargs) if do_resize else np.asarray(image) for image in images]
        pixels = [np.moveaxis(image, -1, 0) for image in resized]
        features = self._preprocess(pixels, do_resize=False, size=size, return_tensors=None, **kwargs)
        if masks is not None:
            features["labels"] = [
                self.resize_mask(mask, size) if do_resize else mask.astype(np.float32) for mask in masks
            ]
        return BatchFeature(dict(features), tensor_type=return_tensors)

    @abstractmethod
    def resize_image(self, image: Image.Image, size: SizeDict, **kwargs: Any) -> np.ndarray:
        """An RGB picture to bytes (H, W, 3) of the model's size; the call's other options as `kwargs`."""

    @abstractmethod
    def resize_mask(self, mask: np.ndarray, size: SizeDict) -> np.ndarray:
        """A boolean mask (h, w) to `float32` from 0 to 1, of the model's size."""


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


__all__ = ["ReferringSegmentationImageProcessor"]
