"""Read masks in COCO's formats, and write them as compressed run-length code."""

import re
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask


MAX_DISTANCE = 2  # of a coordinate from the image, times the image's size
MAX_OUTLINE = 100  # length of all polygons, times the image's height and width


def encode_segmentations(segmentations: list[Any], height: int, width: int) -> dict[str, Any]:
    """
    Encode the union of objects' masks.

    The published loaders add up the polygons of an object and keep the pixels that are exactly 1 (MagNet, LAVT,
    Global-Local), which turns their overlaps into background, or all that are not 0 (CRIS). Here every pixel that any
    polygon covers belongs to the object, as in COCO's evaluation. A polygon of one or two points beside longer ones is left
    out, as in gRefCOCO's reader.

    Args:
        segmentations (`list`): One entry for each object: a list of polygons, each x, y, x, y, … in pixels, or a dictionary
            with `size` and `counts`, the runs as a list or as compressed text, or a list of such dictionaries.
        height, width (`int`): Size of the image in pixels.

    Returns:
        `dict`: `size`, [height, width], and `counts`, ASCII text.

    Raises:
        ValueError: If an object has no polygon of three points, a coordinate is no number or far outside of the image, a mask
            has another size than its image, or its runs do not fill it.
    """
    _check_size([height, width])
    encoded = [code for segmentation in segmentations for code in _encode(segmentation, height, width)]
    if not encoded:
        return encode_mask(np.zeros((height, width), dtype=bool))
    return _as_text(encoded[0] if len(encoded) == 1 else coco_mask.merge(encoded))


def _encode(segmentation: Any, height: int, width: int) -> list[dict[str, Any]]:
    parts = [segmentation] if isinstance(segmentation, dict) else segmentation
    if not isinstance(parts, list):
        raise ValueError(f"its segmentation must be polygons or run-length code, got {_shorten(parts)}")
    if not parts:
        raise ValueError("its segmentation is empty")
    codes = [_as_bytes(part, (height, width)) for part in parts if isinstance(part, dict)]
    polygons = [_read_polygon(part, height, width) for part in parts if not isinstance(part, dict)]
    areas = [polygon for polygon in polygons if len(polygon) >= 3]
    if not codes and not areas:
        raise ValueError(
            f"a polygon must have at least three points, two numbers each, got {2 * len(polygons[0])} numbers"
        )
    length = sum(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum() for points in areas)
    if length > MAX_OUTLINE * (height + width):  # pycocotools keeps every pixel of the outline in memory
        raise ValueError(
            f"its polygons are {length:.0f} pixels long; allowed are {MAX_OUTLINE} times the height and width of its image"
        )
    return codes + (coco_mask.frPyObjects([points.ravel() for points in areas], height, width) if areas else [])


def _read_polygon(polygon: Any, height: int, width: int) -> np.ndarray:
    """Read points, (n, 2). pycocotools ends the process for a coordinate that is no number or huge."""
    numbers = _read_numbers(polygon, "iuf")
    if numbers is None:
        raise ValueError(f"a polygon must be a list of numbers x, y, x, y, ..., got {_shorten(polygon)}")
    if len(numbers) % 2:
        raise ValueError(f"a polygon must have at least three points, two numbers each, got {len(numbers)} numbers")
    points = numbers.astype(np.float64).reshape(-1, 2)
    size = np.array([width, height])
    outside = ~((points >= -MAX_DISTANCE * size) & (points <= (1 + MAX_DISTANCE) * size))
    if outside.any():
        raise ValueError(
            f"a polygon has the coordinate {points[outside][0]:g}; allowed are numbers at most {MAX_DISTANCE} times the "
            f"image's size, {height} x {width} (height x width), outside of it"
        )
    return points


def check_mask(rle: dict[str, Any], height: int, width: int) -> None:
    """Raise a ValueError unless a mask in run-length code is complete and of this size."""
    _as_bytes(rle, (height, width))


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Encode a boolean mask (height, width) as `size` and `counts`; [`decode_mask`] undoes it."""
    return _as_text(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


def decode_mask(rle: dict[str, Any]) -> np.ndarray:
    """
    Decode a row's `mask`.

    Args:
        rle (`dict`): `size` and `counts`, compressed run-length code as text.

    Returns:
        `np.ndarray`: Boolean, of shape (height, width).

    Raises:
        ValueError: If the code is damaged.
    """
    return coco_mask.decode(_as_bytes(rle)).astype(bool)


def mask_geometry(rle: dict[str, Any]) -> dict[str, Any]:
    """Measure `bbox` (x, y, width, height) and `area` of a mask, in pixels."""
    code = _as_bytes(rle)
    return {"bbox": [float(value) for value in coco_mask.toBbox(code)], "area": int(coco_mask.area(code))}


def compare_masks(predicted: dict[str, Any], true: dict[str, Any]) -> list[int]:
    """
    Count the pixels of the intersection, of the predicted and of the true mask, without decoding them.

    Raises:
        ValueError: If a code is damaged, or they are of different sizes.
    """
    codes = [_as_bytes(predicted), _as_bytes(true)]
    if codes[0]["size"] != codes[1]["size"]:  # pycocotools would say that they have nothing in common
        raise ValueError(f"a predicted mask is {codes[0]['size']}, the true one {codes[1]['size']} (height, width)")
    return [int(coco_mask.area(code)) for code in (coco_mask.merge(codes, intersect=True), *codes)]


def overlap_masks(rles: list[dict[str, Any]]) -> float:
    """Measure how far masks of one size agree: the share of the pixels of any that belong to all; 1 where all are empty."""
    codes = [_as_bytes(rle) for rle in rles]
    shared, covered = (int(coco_mask.area(coco_mask.merge(codes, intersect=each))) for each in (True, False))
    return shared / covered if covered else 1.0


def _as_bytes(rle: dict[str, Any], image_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """
    Make pycocotools' code of a mask, after checking it: of a damaged one pycocotools makes uninitialized pixels.

    Raises:
        ValueError: If the code is damaged, or not of the size of its image, (height, width).
    """
    if not isinstance(rle, dict):
        raise ValueError(f"its mask must be run-length code, size and counts, got {_shorten(rle)}")
    height, width = _check_size(rle.get("size"))
    if image_size not in (None, (height, width)):
        needed = " x ".join(map(str, image_size))
        raise ValueError(f"its mask is {height} x {width}, its image {needed} (height x width)")
    counts = rle.get("counts")
    if isinstance(counts, str | bytes):
        text = counts if isinstance(counts, bytes) else counts.encode("utf-8", "replace")
        runs = _read_runs(text)
    else:
        whole = _read_numbers(counts, "iu")
        if whole is None:
            raise ValueError(f"the counts of its mask must be a list of whole numbers or text, got {_shorten(counts)}")
        runs = whole.astype(np.int64)
    impossible = runs[(runs < 0) | (runs > height * width)]
    if len(impossible) or runs.sum() != height * width:
        got = f"a run of {impossible[0]} pixels" if len(impossible) else f"runs of {int(runs.sum())} pixels"
        raise ValueError(f"its mask has {got}, where {height} x {width} (height x width) need {height * width}")
    if isinstance(counts, list):
        return coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {"size": [height, width], "counts": text}


def _check_size(size: Any) -> tuple[int, int]:
    """Return height and width if Pillow would open an image of this size."""
    sides = list(size) if isinstance(size, list | tuple) else []
    if len(sides) != 2 or not all(isinstance(side, int | np.integer) and side > 0 for side in sides):
        raise ValueError(f"the size of its mask must be [height, width] in pixels, got {_shorten(size)}")
    height, width = map(int, sides)
    if Image.MAX_IMAGE_PIXELS is not None and height * width > 2 * Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"the size of its mask is {height} x {width}, larger than any image that is opened")
    return height, width


def _read_runs(text: bytes) -> np.ndarray:
    """
    Read the runs of compressed code. A character holds five bits of a number, lowest first; its sixth bit says that more follow.
    From the fourth number on, each is the difference from the last but one.
    """
    digits = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero(digits < 32)
    if re.fullmatch(rb"[0-o]+", text) is None or not len(ends) or ends[-1] != len(digits) - 1:
        hint = ", which is how Python shows bytes: they have to be decoded first" if text.startswith(b"b'") else ""
        raise ValueError(
            f"the counts of its mask are {_shorten(text.decode('utf-8', 'replace'))}, no run-length code{hint}"
        )
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 32 bits
        raise ValueError("the counts of its mask hold a number that is larger than any image")
    positions = np.arange(len(digits)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & 31) << (5 * positions), starts)
    runs -= (digits[ends] >> 4 & 1) << (5 * lengths)  # the highest bit is the sign
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _read_numbers(values: Any, kinds: str) -> np.ndarray | None:
    """Make an array of a list of numbers of NumPy's `kinds`; None for anything else."""
    if not isinstance(values, list):
        return None
    try:
        numbers = np.asarray(values)
    except ValueError:  # lists of different lengths
        return None
    return numbers if numbers.ndim == 1 and (numbers.dtype.kind in kinds or not values) else None


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _as_text(code: dict[str, Any]) -> dict[str, Any]:
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


__all__ = [
    "check_mask",
    "compare_masks",
    "decode_mask",
    "encode_mask",
    "encode_segmentations",
    "mask_geometry",
    "overlap_masks",
]
