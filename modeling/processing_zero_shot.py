"""The zero-shot systems' processor: it passes on images, expressions and regions, since each part of a model prepares its own."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BatchFeature

from .inputs import Request, load_requests
from .masks import read_target_sizes, resize_region
from .modeling_referring_segmentation import chosen_masks
from .processing_referring_segmentation import SegmentationProcessor


class ZeroShotSegmentationProcessor(SegmentationProcessor):
    """
    Reduces large images, and the regions that come with them.

    Args:
        max_size (`int`, *optional*, defaults to 1024): Longest side of an image in pixels.
    """

    def __init__(self, max_size: int = 1024, **kwargs: Any) -> None:
        if max_size < 32:
            raise ValueError(f"`max_size` must be at least 32, got {max_size}.")
        self.max_size = max_size
        super().__init__(**kwargs)

    def __call__(
        self,
        images: Any,
        text: str | list[str],
        region_masks: Any = None,
        segmentation_maps: Any = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """
        Args:
            images (an image or a list of images):
                B images.
            text (`str` or `list[str]`):
                N = B * k expressions, the k of the first image first.
            region_masks (an array or a list of arrays, *optional*):
                The regions of each image, (r, height, width) or a list of masks; `None` where the model shall find them.
            segmentation_maps (*optional*):
                Must be left out: these models do not train.
            return_tensors (`str`, *optional*):
                No effect: the images of a batch differ in size.

        Returns:
            [`BatchFeature`]: `images` (B arrays of bytes), `text` (N) and, where they were given, `region_masks`.

        Raises:
            ValueError: If an image, an expression or a region is unfit, or their numbers do not match.
        """
        if segmentation_maps is not None:
            raise ValueError("`segmentation_maps` must be left out: zero-shot models do not train.")
        return self.prepare(load_requests(images, text, region_masks))

    def prepare(self, requests: Sequence[Request]) -> BatchFeature:
        data: dict[str, Any] = {
            "images": [self._reduce(request.image) for request in requests],
            "text": [expression for request in requests for expression in request.expressions],
        }
        if any(request.regions is not None for request in requests):
            data["region_masks"] = [self._reduce_regions(request) for request in requests]
        return BatchFeature(data)

    @torch.no_grad()
    def iterate_segments(
        self, outputs: Any, target_sizes: Sequence[Sequence[int]] | torch.Tensor, threshold: float | None = None
    ) -> Iterator[dict[str, Any]]:
        threshold = 0.5 if threshold is None else threshold
        sizes = read_target_sizes(target_sizes, len(outputs.picks), threshold)
        for number, (mask, size) in enumerate(zip(chosen_masks(outputs), sizes, strict=True)):
            pick = outputs.picks[number]
            if threshold in (0, 1):
                mask = torch.full_like(mask, threshold == 0)
            score = 0.0 if pick is None else float(outputs.region_scores[number][pick])
            # A mask of its own: two expressions may have chosen one region.
            yield {"mask": resize_region(mask, size).clone(), "score": score}

    def _reduce(self, image: Image.Image) -> np.ndarray:
        size = self._reduced_size(image)
        return np.asarray(image if size == image.size else image.resize(size, Image.Resampling.BICUBIC))

    def _reduced_size(self, image: Image.Image) -> tuple[int, int]:
        """(width, height), as PIL has it."""
        scale = min(1.0, self.max_size / max(image.size))
        return max(1, round(image.width * scale)), max(1, round(image.height * scale))

    def _reduce_regions(self, request: Request) -> np.ndarray | None:
        width, height = self._reduced_size(request.image)
        if request.regions is None or request.size == (height, width):
            return request.regions
        reduced = np.zeros((len(request.regions), height, width), bool)
        for number, region in enumerate(
            request.regions
        ):  # one at a time: of a large photo, all together would not fit
            reduced[number] = resize_region(torch.from_numpy(region), (height, width)).numpy()
        return reduced


__all__ = ["ZeroShotSegmentationProcessor"]
