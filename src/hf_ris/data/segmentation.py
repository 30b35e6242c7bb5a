"""COCO's ways of writing down a mask, and the one used here: compressed run-length code."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ..modeling.masks import check_runs, read_runs


FAR = 2  # images that a polygon may lead out, on each side


def encode_segmentations(
    segmentations: list[Any], height: int, width: int, names: Sequence[Any] = ()
) -> dict[str, Any]:
    """
    The union of objects' masks.

    The published loaders add up the polygons of an object and keep the pixels that are exactly 1 (MagNet, LAVT,
    Global-Local), which turns their overlaps into background, or all that are not 0 (CRIS). Here every pixel that any
    polygon covers belongs to the object, as in COCO's own evaluation. A polygon of fewer than three points beside others is
    left out.

    Args:
        segmentations (`list`): One entry for each object: a list of polygons, each x, y, x, y, … in pixels; or a dictionary
            with `size` and `counts`, the runs as a list or as compressed text; or a list of those.
        height (`int`): Of the image, in pixels.
        width (`int`): Of the image, in pixels.
        names (`Sequence`, *optional*): What to call each object in an error message.

    Returns:
        `dict`: `size`, [height, width], and `counts`, ASCII text.

    Raises:
        ValueError: If an object has no polygon of three points, a polygon leads far out of the image or nowhere, or a run-length
            code does not fill the image. pycocotools itself would end the process over some of these.
    """
    encoded = []
    for number, segmentation in enumerate(segmentations):
        try:
            encoded += _encode(segmentation, height, width)
        except ValueError as error:
            raise ValueError(f"annotation {names[number]}: {error}" if names else str(error)) from error
    if not encoded:
        return encode_mask(np.zeros((height, width), dtype=bool))
    return _as_text(encoded[0] if len(encoded) == 1 else coco_mask.merge(encoded))


def _encode(segmentation: Any, height: int, width: int) -> list[dict[str, Any]]:
    if isinstance(segmentation, dict):
        return [_encode_runs(segmentation, height, width)]
    if not isinstance(segmentation, list):
        raise ValueError(
            f"its segmentation must be polygons or a run-length code, got {type(segmentation).__name__}: {segmentation!r:.80}"
        )
    if not segmentation:
        raise ValueError("its segmentation is empty")
    if all(isinstance(part, dict) for part in segmentation):  # as RefClef has it
        return [_encode_runs(part, height, width) for part in segmentation]
    polygons = [_check_polygon(part, height, width) for part in segmentation]
    whole = [polygon for polygon in polygons if len(polygon) >= 6]
    if not whole:
        raise ValueError(f"it has no polygon of three points or more; the longest has {max(map(len, polygons)) // 2}")
    return coco_mask.frPyObjects(whole, height, width)


def _check_polygon(polygon: Any, height: int, width: int) -> list[float]:
    """
    Raises:
        ValueError: If this is no list of x, y, x, y, …, finite and near the image: memory grows with the way around a polygon.
    """
    if not isinstance(polygon, list | tuple) or not all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in polygon
    ):
        raise ValueError(f"a polygon must be a list of numbers, got {polygon!r:.80}")
    if len(polygon) % 2:
        raise ValueError(f"a polygon has {len(polygon)} numbers; each point has two")
    for numbers, side in ((polygon[::2], width), (polygon[1::2], height)):
        for value in numbers:
            if not -FAR * side <= value <= (FAR + 1) * side:  # nor for NaN
                raise ValueError(
                    f"a polygon has the coordinate {value}; allowed are {-FAR * side} to {(FAR + 1) * side} in an image {width} "
                    f"wide and {height} high"
                )
    return [float(value) for value in polygon]


def _encode_runs(code: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    size, counts = code.get("size"), code.get("counts")
    if size is None or list(size) != [height, width]:
        found = "of no size" if size is None else " x ".join(map(str, size))
        raise ValueError(f"its mask is {found}, its image {height} x {width} (height x width)")
    if isinstance(counts, bytes):
        counts = counts.decode("latin1")
    if isinstance(counts, str):
        if counts.startswith(("b'", 'b"')):
            raise ValueError(
                f"its counts are the text of Python's bytes, {counts[:20]}…; write counts.decode() instead"
            )
        check_runs(read_runs(counts), height, width)
        return {"size": [height, width], "counts": counts.encode("ascii")}
    if not isinstance(counts, list) or not all(isinstance(run, int) and not isinstance(run, bool) for run in counts):
        raise ValueError(f"its counts must be text or a list of whole numbers, got {counts!r:.80}")
    check_runs(counts, height, width)
    return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)


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
