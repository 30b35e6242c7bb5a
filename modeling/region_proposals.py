"""Which regions of a picture an expression may refer to: where they come from, and which of them are kept."""

import math

import numpy as np


def filter_regions(masks: np.ndarray, min_area: int = 2000, max_overlap: float = 0.4) -> np.ndarray:
    """
    Leaves out small regions, and of two that overlap the smaller one (TAS, section 4.1, as its code does it).

    Args:
        masks (`np.ndarray` of shape `(r, height, width)`): Boolean.
        min_area (`int`, *optional*, defaults to 2000): Fewer pixels are too few.
        max_overlap (`float`, *optional*, defaults to 0.4): How much of the smaller one may lie in the larger.

    Returns:
        `np.ndarray`: Positions of those that stay, in order. Of two as large as each other the first stays; what is left out
        leaves others out, too.
    """
    areas = masks.sum(axis=(1, 2))
    kept = np.flatnonzero(areas >= min_area)
    flat = (
        masks[kept].reshape(len(kept), math.prod(masks.shape[1:])).astype(np.float32)
    )  # whole numbers, exact below 2**24
    shared = flat @ flat.T
    areas = areas[kept]
    overlaps = shared > max_overlap * np.minimum(areas[:, None], areas)
    order = np.arange(len(kept))
    is_smaller = (areas[:, None] < areas) | ((areas[:, None] == areas) & (order[:, None] > order))
    return kept[~(overlaps & is_smaller).any(axis=1)]


__all__ = ["filter_regions"]
