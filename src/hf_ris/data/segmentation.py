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
        encoded = [coco_mask.encode(np.zeros((height, width), dtype=np.uint8, order="F"))]
    union = encoded[0] if len(encoded) == 1 else coco_mask.merge(encoded)
    return {"size": [height, width], "counts": union["counts"].decode("ascii")}


def _encode(segmentation: Any, height: int, width: int) -> list[dict[str, Any]]:
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(
                f"its mask is {' x '.join(map(str, segmentation['size']))}, its image {height} x {width} (height x width)"
            )
        if isinstance(segmentation["counts"], list):
            return [coco_mask.frPyObjects(segmentation, height, width)]
        return [{**segmentation, "counts": segmentation["counts"].encode("ascii")}]
    if not segmentation:
        raise ValueError("its segmentation is empty")
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:  # pycocotools takes four numbers for a box
            raise ValueError(
                f"a polygon has {len(polygon)} numbers; three points or more are needed, two numbers each"
            )
    return coco_mask.frPyObjects(segmentation, height, width)


def decode_mask(rle: dict[str, Any]) -> np.ndarray:
    """
    Decodes a row's `mask`.

    Args:
        rle (`dict`): `size` and `counts`, compressed run-length code as text.

    Returns:
        `np.ndarray`: Boolean, of shape (height, width).
    """
    return coco_mask.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")}).astype(bool)


def mask_geometry(rle: dict[str, Any]) -> dict[str, Any]:
    """`bbox` (x, y, width, height) and `area` of a mask, in pixels."""
    code = {"size": rle["size"], "counts": rle["counts"].encode("ascii")}
    return {"bbox": [float(value) for value in coco_mask.toBbox(code)], "area": int(coco_mask.area(code))}


__all__ = ["decode_mask", "encode_segmentations", "mask_geometry"]
