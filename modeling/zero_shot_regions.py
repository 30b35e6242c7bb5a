"""Regions that an expression may refer to: proposers that find them, filters, and cut-outs for image-text models and captioners."""

from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForUniversalSegmentation, PreTrainedConfig

from .masks import shared_areas
from .zero_shot_parts import Part


MAX_BOX_PIXELS = (
    2**26
)  # of all regions of one scale: an image of slanting stripes has a thousand, whose boxes are large

try:
    from scipy import ndimage
except ImportError:  # it comes with the extra `zero-shot`
    ndimage = None
try:
    from skimage.segmentation import felzenszwalb
except ImportError:
    felzenszwalb = None
INSTALLED = [name for name, part in (("scipy", ndimage), ("skimage", felzenszwalb)) if part is not None]


class Proposer(Part):
    """Base class of proposers."""

    @abstractmethod
    def propose(self, image: np.ndarray) -> np.ndarray:
        """
        Find regions.

        Args:
            image (`np.ndarray` of shape `(height, width, 3)`): RGB, bytes.

        Returns:
            `np.ndarray` of shape `(r, height, width)`: Boolean, none of them empty; there may be none.
        """


class InstanceSegmentationProposer(Proposer):
    """
    A network that was trained to find objects, such as Mask2Former.

    Args:
        config (`PreTrainedConfig`): The network's.
        min_score (`float`, *optional*, defaults to 0.3): Least score of an object.
    """

    network_class = AutoModelForUniversalSegmentation
    uncalled = ("model.transformer_module",)

    def __init__(self, config: PreTrainedConfig, min_score: float = 0.3) -> None:
        super().__init__(config)
        self.min_score = min_score

    def propose(self, image: np.ndarray) -> np.ndarray:
        inputs = self.processor(image, return_tensors="pt", input_data_format="channels_last")
        with self.weights_at_hand():
            outputs = self.network(pixel_values=inputs["pixel_values"].to(self.device, self.network.dtype))
        for name in ("class_queries_logits", "masks_queries_logits"):
            outputs[name] = outputs[name].float().cpu()
        result = self.processor.post_process_instance_segmentation(
            outputs, threshold=self.min_score, target_sizes=[image.shape[:2]], return_binary_maps=True
        )[0]["segmentation"]
        if not isinstance(result, torch.Tensor) or result.ndim != 3:  # a map of one number: nothing was found
            return np.zeros((0, *image.shape[:2]), bool)
        masks = result.numpy() > 0
        masks = masks[masks.any(axis=(1, 2))]
        # One mask may come back as several classes.
        return masks[_without_doubles([Region.of(mask) for mask in masks], max_iou=0.9)]


class FelzenszwalbProposer(Proposer):
    """
    Regions of like colour ("Efficient Graph-Based Image Segmentation", Felzenszwalb and Huttenlocher, IJCV 2004), by scikit-image:
    no network and no weights. A region includes what it encloses, so that an outline becomes its thing.
    """

    network_class = None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def propose(self, image: np.ndarray) -> np.ndarray:
        if felzenszwalb is None:
            raise ImportError("The proposer 'felzenszwalb' needs scikit-image: pip install 'hf_ris[zero-shot]'.")
        config = self.config
        height, width = image.shape[:2]
        reduced = _fit(image, config.max_pixels)
        least = max(1, round(config.min_share * reduced.shape[0] * reduced.shape[1]))
        regions: list[Region] = []
        with ThreadPoolExecutor(len(config.scales)) as threads:  # most of it leaves Python's lock to others
            for labels in threads.map(
                lambda scale: felzenszwalb(reduced, scale=scale, sigma=config.sigma, min_size=least), config.scales
            ):
                regions += _regions_of(labels)
        regions = [regions[number] for number in _without_doubles(regions, config.max_overlap)]
        largest = np.argsort([-region.area for region in regions], kind="stable")
        largest = largest[: max(1, config.max_mask_pixels // (height * width))]
        regions = [regions[number] for number in np.sort(largest)]
        return _to_masks(regions, reduced.shape[:2], (height, width))


class Region(NamedTuple):
    """A region within its box."""

    box: tuple[slice, slice]  # rows and columns
    mask: np.ndarray  # boolean, as large as the box
    area: int  # in pixels

    @classmethod
    def of(cls, mask: np.ndarray) -> "Region":
        """Find the region of a mask (height, width) that is not empty."""
        box = box_of(mask)
        return cls(box, mask[box], int(np.count_nonzero(mask)))

    def shared_with(self, other: "Region") -> int:
        """Count the pixels that both have."""
        boxes = list(zip(self.box, other.box, strict=True))
        starts = [max(one.start, two.start) for one, two in boxes]
        stops = [min(one.stop, two.stop) for one, two in boxes]
        if any(start >= stop for start, stop in zip(starts, stops, strict=True)):
            return 0
        shared = []
        for box, mask in ((self.box, self.mask), (other.box, other.mask)):
            sides = zip(box, starts, stops, strict=True)
            shared.append(mask[tuple(slice(start - side.start, stop - side.start) for side, start, stop in sides)])
        return int(np.count_nonzero(shared[0] & shared[1]))


def _fit(image: np.ndarray, most: int) -> np.ndarray:
    """Reduce an image to at most so many pixels."""
    height, width = image.shape[:2]
    scale = (most / (height * width)) ** 0.5
    if scale >= 1:
        return image
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _regions_of(labels: np.ndarray) -> list[Region]:
    """List the regions of a map of labels from 0 on, each with what it encloses; of very many, the largest."""
    boxes = ndimage.find_objects(labels + 1)
    areas = np.bincount(labels.ravel())
    sizes = np.array([(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in boxes])
    order = np.argsort(-areas, kind="stable")
    fits = np.zeros(len(boxes), bool)
    fits[order] = sizes[order].cumsum() <= MAX_BOX_PIXELS
    regions = []
    for label in np.flatnonzero(fits):
        box, mask = boxes[label], labels[boxes[label]] == label
        touched = sum(side.start == 0 for side in box)
        touched += sum(side.stop == end for side, end in zip(box, labels.shape, strict=True))
        if touched < 2 and areas[label] < mask.size:  # no background
            mask = ndimage.binary_fill_holes(mask)
        regions.append(Region(box, mask, int(np.count_nonzero(mask))))
    return regions


def _to_masks(regions: list[Region], size: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """Turn regions of an image of one size into masks (r, height, width) of another that is at least as large."""
    masks = np.zeros((len(regions), *target), bool)
    places = [np.arange(end) * side // end for side, end in zip(size, target, strict=True)]
    for mask, region in zip(masks, regions, strict=True):
        rows, columns = (
            np.searchsorted(along, (side.start, side.stop)) for along, side in zip(places, region.box, strict=True)
        )
        inside = np.ix_(
            places[0][slice(*rows)] - region.box[0].start, places[1][slice(*columns)] - region.box[1].start
        )
        mask[slice(*rows), slice(*columns)] = region.mask[inside]
    return masks


def _without_doubles(regions: list[Region], max_iou: float) -> list[int]:
    """Numbers of the regions that stay, in order, without those that are nearly one before them."""

    def nearly(shared: Any, area: int, others: Any) -> Any:
        return shared > max_iou * (area + others - shared)

    corners = np.array([[(side.start, side.stop) for side in region.box] for region in regions]).reshape(-1, 2, 2)
    areas = np.array([region.area for region in regions])
    kept: list[int] = []
    for number, region in enumerate(regions):
        one, others = corners[number], corners[kept]
        sides = np.minimum(one[:, 1], others[..., 1]) - np.maximum(one[:, 0], others[..., 0])
        # They share no more than their boxes do, and no more than either has.
        most = np.minimum(sides.clip(min=0).prod(axis=1), np.minimum(region.area, areas[kept]))
        near = np.flatnonzero(nearly(most, region.area, areas[kept]))
        if not any(
            nearly(region.shared_with(regions[kept[place]]), region.area, areas[kept[place]]) for place in near
        ):
            kept.append(number)
    return kept


def box_of(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the box around a mask (height, width) that is not empty."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def boxes_of(masks: np.ndarray) -> torch.Tensor:
    """(n, height, width) masks, none empty -> (n, 4): first column, first row, last column, last row."""
    boxes = [(columns.start, rows.start, columns.stop - 1, rows.stop - 1) for rows, columns in map(box_of, masks)]
    return torch.tensor(boxes, dtype=torch.long).view(-1, 4)


def suppress_boxes(boxes: torch.Tensor, scores: torch.Tensor, max_iou: float) -> torch.Tensor:
    """
    Suppress boxes (n, 4) that overlap a better one (non-maximum suppression); returns the positions of the others, the best first. Of
    equal scores (n,), the first is the better. By hand: torchvision may be missing.
    """
    corners = boxes.float()  # whole numbers
    order = scores.argsort(descending=True, stable=True)
    areas = (corners[:, 2:] - corners[:, :2]).prod(1)
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        near = torch.maximum(corners[best, :2], corners[order, :2])
        far = torch.minimum(corners[best, 2:], corners[order, 2:])
        shared = (far - near).clamp(min=0).prod(1)
        # Multiplied out: boxes of one row or column have no area.
        order = order[shared <= max_iou * (areas[best] + areas[order] - shared)]
    return torch.stack(kept) if kept else order


def remove_small_parts(mask: np.ndarray, min_area: int) -> np.ndarray:
    """
    Remove holes and islands of fewer than `min_area` pixels; where all islands are small, the largest stays. By hand: scikit-image's
    functions leave none of them, and their threshold differs between versions.
    """
    for fill in (True, False):
        parts, number = ndimage.label(mask != fill, structure=np.ones((3, 3)))
        if number == 0:
            continue
        areas = np.bincount(parts.ravel(), minlength=number + 1)[1:]
        small = areas < min_area
        if not fill and small.all():
            small[areas.argmax()] = False
        mask = np.where(np.isin(parts, 1 + np.flatnonzero(small)), fill, mask)
    return mask


MIN_REGION_AREA = 2000  # pixels; TAS's, for images of about 640 x 480


def filter_regions(masks: np.ndarray, min_area: float = MIN_REGION_AREA, max_overlap: float = 0.4) -> np.ndarray:
    """
    Leave out regions (r, height, width) of fewer than `min_area` pixels, and of two the smaller if more than `max_overlap` of it lies in
    the other (TAS, section 4.1, as its code does it); returns the positions of the others, in order. Of two equally large ones the
    first stays; a region that is left out leaves others out, too.
    """
    kept = np.flatnonzero(masks.sum(axis=(1, 2)) >= min_area)
    shared = shared_areas(masks[kept])
    areas = np.diag(shared)
    overlaps = shared > max_overlap * np.minimum(areas[:, None], areas)
    order = np.arange(len(kept))
    is_smaller = (areas[:, None] < areas) | ((areas[:, None] == areas) & (order[:, None] > order))
    return kept[~(overlaps & is_smaller).any(axis=1)]


WITHOUT_PROMPTS: dict[str, type[Proposer]] = {
    "mask2former": InstanceSegmentationProposer,
    "maskformer": InstanceSegmentationProposer,
    "felzenszwalb": FelzenszwalbProposer,
}


def cut_out(image: np.ndarray, mask: np.ndarray, filling: np.ndarray | None = None) -> np.ndarray:
    """
    Cut out the box of a region, a mask (height, width), from an image (height, width, 3), with black around the box: (side, side, 3).
    Within the box, around the region, is the filling, a colour (3,) or an image as large as the first; by default black.
    """
    crop = fill_around(image, mask, box_of(mask), filling)
    height, width = crop.shape[:2]
    rows, columns = max(0, width - height), max(0, height - width)
    return np.pad(crop, [(rows // 2, (rows + 1) // 2), (columns // 2, (columns + 1) // 2), (0, 0)])


def fill_around(
    image: np.ndarray, mask: np.ndarray, box: tuple[slice, ...], filling: np.ndarray | None = None
) -> np.ndarray:
    """Cut out a box, with a colour or another image of the same size around the region, as in [`cut_out`]."""
    if filling is None:
        filling = np.zeros(image.shape[2], image.dtype)
    return np.where(mask[box][..., None], image[box], filling if filling.ndim == 1 else filling[box])


__all__ = [
    "FelzenszwalbProposer",
    "INSTALLED",
    "InstanceSegmentationProposer",
    "Proposer",
    "WITHOUT_PROMPTS",
    "cut_out",
    "fill_around",
    "filter_regions",
    "suppress_boxes",
]
