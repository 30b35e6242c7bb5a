"""COCO's ways of writing down a mask, and the one used here: compressed run-length code."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def encode_segmentations(segmentations: list[Any], height: int, width: int) -> dict[str, Any]:
    """
    The union of objects' masks.

    The published loaders add up the polygons of an object and keep the pixels that are exactly 1 (MagNet, LAVT,
    Global-Local), which turns their overlaps into background, or all that are not 0 (CRIS). Here every pixel that any
    polygon covers belongs to the object, as in COCO's own evaluation.

    Args:
        segmentations (`list`): One entry for each object: a list of polygons, each x, y, x, y, … in pixels, or a dictionary
            with `size` and `counts`, the runs as a list or as compressed text.
        height (`int`): Of the image, in pixels.
        width (`int`): Of the image, in pixels.

    Returns:
        `dict`: `size`, [height, width], and `counts`, ASCII text.

    Raises:
        ValueError: If a polygon has fewer than three points, or a mask another size than its image.
    """
    encoded = [code for segmentation in segmentations for code in _encode(segmentation, height, width)]
    if not encoded:
        return encode_mask(np.zeros((height, width), dtype=bool))
    return _as_text(encoded[0] if len(encoded) == 1 else coco_mask.merge(encoded))


def _encode(segmentation: Any, height: int, width: int) -> list[dict[str, Any]]:
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(
                f"its mask is {' x '.join(map(str, segmentation['size']))}, its image {height} x {width} (height x width)"
            )
        if isinstance(segmentation["counts"], list):
            return [coco_mask.frPyObjects(segmentation, height, width)]
        return [_as_bytes(segmentation)]
    if not segmentation:
        raise ValueError("its segmentation is empty")
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:  # pycocotools takes four numbers for a box
            raise ValueError(
                f"a polygon has {len(polygon)} numbers; three points or more are needed, two numbers each"
            )
    return coco_mask.frPyObjects(segmentation, height, width)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """A boolean mask of shape (height, width) as `size` and `counts`; [`decode_mask`] undoes it."""
    return _as_text(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


def decode_mask(rle: dict[str, Any]) -> np.ndarray:
    """
    Decodes a row's `mask`.

    Args:
        rle (`dict`): `size` and `counts`, compressed run-length code as text.

    Returns:
        `np.ndarray`: Boolean, of shape (height, width).
    """
    return coco_mask.decode(_as_bytes(rle)).astype(bool)


def mask_geometry(rle: dict[str, Any]) -> dict[str, Any]:
    """`bbox` (x, y, width, height) and `area` of a mask, in pixels."""
    code = _as_bytes(rle)
    return {"bbox": [float(value) for value in coco_mask.toBbox(code)], "area": int(coco_mask.area(code))}


def compare_masks(predicted: dict[str, Any], true: dict[str, Any]) -> list[int]:
    """Pixels of the intersection, of the predicted and of the true mask, read off their codes."""
    codes = [_as_bytes(predicted), _as_bytes(true)]
    return [int(coco_mask.area(code)) for code in (coco_mask.merge(codes, intersect=True), *codes)]


def _as_bytes(rle: dict[str, Any]) -> dict[str, Any]:
    """What pycocotools calls a code."""
    return {"size": rle["size"], "counts": rle["counts"].encode("ascii")}


def _as_text(code: dict[str, Any]) -> dict[str, Any]:
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


__all__ = ["compare_masks", "decode_mask", "encode_mask", "encode_segmentations", "mask_geometry"]
