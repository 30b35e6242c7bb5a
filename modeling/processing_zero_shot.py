"""The zero-shot systems' processor: it hands pictures, expressions and regions on, since each part of a model prepares its own."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .inputs import check_expressions, check_regions, expressions_per_image, load_all, load_image, to_array
from .masks import read_target_sizes
from .modeling_referring_segmentation import chosen_masks


NO_PROPOSER = (
    "`regions` are missing: this model has no proposer. Give the pipeline of the task "
    '"zero-shot-referring-segmentation" `regions` with each image, or compose the model with a proposer, such as '
    'hf_ris.zero_shot(..., proposer="felzenszwalb").'
)


class ZeroShotSegmentationProcessor(ProcessorMixin):
    """
    Reads pictures, reduces large ones, and checks what comes with them.

    Args:
        max_size (`int`, *optional*, defaults to 1024): Longest side of a picture in pixels.
    """

    _auto_class = "AutoProcessor"

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
                Of each image its regions: (r, height, width), or a list of masks; `None` where they are to be looked for.
            segmentation_maps (*optional*):
                Must be left out: these models do not train.
            return_tensors (`str`, *optional*):
                Of no effect: a batch's pictures differ in size.

        Returns:
            [`BatchFeature`]: `images` (B arrays of bytes), `text` (N) and, where they were given, `region_masks`.

        Raises:
            ValueError: If an image, an expression or a region is unfit, or their numbers do not match.
        """
        if segmentation_maps is not None:
            raise ValueError("`segmentation_maps` must be left out: zero-shot models do not train.")
        pictures = load_all(images, load_image, "images")
        expressions = check_expressions(text)
        expressions_per_image(len(expressions), len(pictures))
        data: dict[str, Any] = {"images": [self._reduce(picture) for picture in pictures], "text": expressions}
        if region_masks is not None:
            of_images = region_masks if isinstance(images, list | tuple) else [region_masks]
            if len(of_images) != len(pictures):
                raise ValueError(
                    f"`region_masks` holds regions of {len(of_images)} images, and there are {len(pictures)}."
                )
            data["region_masks"] = [
                None if masks is None else self._reduce_regions(masks, picture, f"region_masks[{number}]")
                for number, (masks, picture) in enumerate(zip(of_images, pictures, strict=True))
            ]
        return BatchFeature(data)

    def post_process_referring_segmentation(
        self, outputs: Any, target_sizes: Sequence[Sequence[int]] | torch.Tensor, threshold: float | None = None
    ) -> list[dict[str, Any]]:
        """
        The chosen regions, each at the size of its image.

        Args:
            outputs ([`ZeroShotSegmentationOutput`]):
                The model's.
            target_sizes (`list[tuple[int, int]]` or `torch.Tensor` of shape (N, 2)):
                (height, width) in pixels for each expression.
            threshold (`float`, *optional*, defaults to 0.5):
                Of no effect but at 0 and 1: a pixel is in a region or not.

        Returns:
            `list[dict]`: For each expression `mask` (boolean `torch.Tensor` of shape (height, width)) and `score` (`float`: the
            region's share; 0.0 where no region was found).

        Raises:
            ValueError: If there is not one target size for each expression, or the threshold is not between 0 and 1.
        """
        return list(self.iterate_segments(outputs, target_sizes, threshold))

    @torch.no_grad()
    def iterate_segments(
        self, outputs: Any, target_sizes: Sequence[Sequence[int]] | torch.Tensor, threshold: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield what [`post_process_referring_segmentation`] returns, one mask at a time."""
        threshold = 0.5 if threshold is None else threshold
        sizes = read_target_sizes(target_sizes, len(outputs.picks), threshold)
        for number, (mask, size) in enumerate(zip(chosen_masks(outputs), sizes, strict=True)):
            pick = outputs.picks[number]
            if threshold in (0, 1):
                mask = torch.full_like(mask, threshold == 0)
            score = 0.0 if pick is None else float(outputs.region_scores[number][pick])
            # A mask of its own: two expressions may have chosen one region.
            yield {"mask": resize_mask(mask, size).clone(), "score": score}

    def _reduce(self, picture: Image.Image) -> np.ndarray:
        size = self._size(picture)
        return np.asarray(picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC))

    def _size(self, picture: Image.Image) -> tuple[int, int]:
        scale = min(1.0, self.max_size / max(picture.size))
        return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))

    def _reduce_regions(self, masks: Any, picture: Image.Image, name: str) -> np.ndarray:
        """Regions of a picture at its reduced size."""
        regions = read_regions(masks, (picture.height, picture.width), name)
        width, height = self._size(picture)
        if regions.shape[1:] == (height, width):
            return regions
        # One at a time: of a large photo, all together would not fit.
        reduced = [resize_mask(torch.from_numpy(region), (height, width)).numpy() for region in regions]
        return CheckedRegions.of(np.stack(reduced) if reduced else np.zeros((0, height, width), bool))


class CheckedRegions(np.ndarray):
    """Regions that were read and checked; what is computed of them is not."""

    is_checked = False

    @classmethod
    def of(cls, masks: np.ndarray) -> "CheckedRegions":
        """Of masks (r, height, width), boolean, none of them empty."""
        regions = masks.view(cls)
        regions.is_checked = True
        return regions


def read_regions(masks: Any, size: tuple[int, int], name: str) -> np.ndarray:
    """
    Regions as users have them: an array or tensor (r, height, width), or a list of masks. What it gave before is not read again.

    Args:
        masks: What was given.
        size (`tuple[int, int]`): (height, width) of their picture.
        name (`str`): What to call them in an error message.

    Returns:
        `np.ndarray` of shape `(r, height, width)`: Boolean.

    Raises:
        ValueError: If they are no masks of this size, or one of them is empty.
    """
    if isinstance(masks, CheckedRegions) and masks.is_checked and masks.shape[1:] == size:
        return masks
    if isinstance(masks, list | tuple):
        arrays = [_to_array(mask, name) for mask in masks]
        if len({array.shape for array in arrays}) > 1:
            raise ValueError(f"`{name}` holds masks of different shapes: {sorted({array.shape for array in arrays})}.")
        masks = np.stack(arrays) if arrays else np.zeros((0, *size), bool)
    elif isinstance(masks, torch.Tensor):
        masks = _to_array(masks, name)
    check_regions(masks, size, name)
    return CheckedRegions.of(masks if masks.dtype == bool else masks != 0)


def _to_array(mask: Any, name: str) -> np.ndarray:
    try:
        return to_array(mask) if isinstance(mask, torch.Tensor) else np.asarray(mask)
    except (TypeError, ValueError, RuntimeError) as error:  # a sparse tensor, one without data, a ragged list
        raise ValueError(f"`{name}` must hold masks, got {type(mask).__name__}: {error}") from error


def resize_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A mask (h, w) at another size: half of a pixel must be filled. What is too thin for that stays where it touches a pixel."""
    if tuple(mask.shape) == size:
        return mask
    pixels = mask[None, None].float().cpu()
    if size[0] >= mask.shape[0] and size[1] >= mask.shape[1]:
        return nn.functional.interpolate(pixels, size, mode="bilinear")[0, 0] > 0.5
    shares = nn.functional.adaptive_avg_pool2d(pixels, size)[0, 0]
    found = shares >= 0.5
    return found if found.any() else shares > 0


__all__ = ["CheckedRegions", "ZeroShotSegmentationProcessor", "read_regions", "resize_mask"]
