"""From logits to a binary mask, and what is read off it: its score, its box, its run-length code, and the way back."""

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from torch import nn


TILE = 128  # pixels each way


def read_target_sizes(
    target_sizes: Sequence[Sequence[int]] | torch.Tensor, expressions: int, threshold: float
) -> list[tuple[int, int]]:
    """
    What every processor is told about the masks it makes.

    Args:
        target_sizes (`list[tuple[int, int]]` or `torch.Tensor` of shape (N, 2)):
            (height, width) in pixels for each expression.
        expressions (`int`):
            N.
        threshold (`float`):
            A foreground probability.

    Returns:
        `list[tuple[int, int]]`: The sizes.

    Raises:
        ValueError: If there is not one target size for each expression, or the threshold is not between 0 and 1.
    """
    sizes = target_sizes.tolist() if isinstance(target_sizes, torch.Tensor) else target_sizes
    if len(sizes) != expressions:
        raise ValueError(f"`target_sizes` holds {len(sizes)} sizes for {expressions} expressions; one each is needed.")
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"`threshold` must be a probability between 0 and 1, got {threshold}.")
    return [(int(height), int(width)) for height, width in sizes]


def enlarge_logits(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """
    Mask logits at another size: bilinear with aligned corners, as published.

    Args:
        logits (`torch.Tensor` of shape `(N, h, w)`):
            Log-odds.
        size (`tuple[int, int]`):
            (H, W) in pixels.

    Returns:
        `torch.FloatTensor` of shape `(N, H, W)`.
    """
    return nn.functional.interpolate(logits[:, None].float(), size, mode="bilinear", align_corners=True)[:, 0]


def foreground_score(probabilities: torch.Tensor, mask: torch.Tensor) -> float:
    """
    The mean foreground probability inside a mask.

    Args:
        probabilities (`torch.Tensor`):
            Foreground probabilities between 0 and 1, of shape (H, W).
        mask (`torch.Tensor`):
            Boolean, of shape (H, W).

    Returns:
        `float`: Between 0 and 1; 0.0 for an empty mask.
    """
    return min(1.0, float(probabilities[mask].mean())) if bool(mask.any()) else 0.0


def mask_to_box(mask: np.ndarray) -> dict[str, int] | None:
    """
    The tightest box around a mask, in pixels.

    As in transformers' object detection, the corners are edges: `xmax` and `ymax` are exclusive, `xmax - xmin` is the
    width, and `image.crop((xmin, ymin, xmax, ymax))` holds exactly the object.

    Args:
        mask (`np.ndarray`):
            Boolean, of shape (H, W).

    Returns:
        `dict[str, int]` or `None`: `xmin`, `ymin`, `xmax`, `ymax`; `None` for an empty mask.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return {
        "xmin": int(columns[0]),
        "ymin": int(rows[0]),
        "xmax": int(columns[-1]) + 1,
        "ymax": int(rows[-1]) + 1,
    }


def shared_areas(masks: np.ndarray) -> np.ndarray:
    """
    How many pixels each two masks share.

    Args:
        masks (`np.ndarray`):
            Boolean, of shape (r, H, W).

    Returns:
        `np.ndarray`: Whole numbers, of shape (r, r); the diagonal holds the masks' own areas.
    """
    shared = np.zeros((len(masks), len(masks)), np.int64)
    for row, column in product(*(range(0, side, TILE) for side in masks.shape[1:])):
        tile = masks[:, row : row + TILE, column : column + TILE]
        here = np.flatnonzero(tile.any(axis=(1, 2)))  # of many regions, each lies in few places
        if len(here):
            some = tile[here].reshape(len(here), -1).astype(np.float32)  # counts this small are exact
            shared[np.ix_(here, here)] += (some @ some.T).astype(np.int64)
    return shared


def mask_to_rle(mask: np.ndarray) -> dict[str, Any]:
    """
    The compressed run-length encoding of COCO, as `pycocotools.mask.decode` reads it.

    Written here because pycocotools is not needed anywhere else at inference.

    Args:
        mask (`np.ndarray`):
            Boolean, of shape (H, W).

    Returns:
        `dict`: `size`, [height, width], and `counts`, the runs as ASCII text.
    """
    pixels = np.asarray(mask, dtype=bool).flatten(order="F")  # COCO counts down the columns
    changes = (np.flatnonzero(pixels[1:] != pixels[:-1]) + 1).tolist()
    # Runs begin with background, if need be with none of it.
    edges = [0, 0, *changes, pixels.size] if pixels[:1].any() else [0, *changes, pixels.size]
    runs = [end - start for start, end in pairwise(edges)]

    characters = []
    for index, run in enumerate(runs):
        # From the fourth run on, the difference to the last run of the same kind is stored: it is smaller.
        value = run - runs[index - 2] if index > 2 else run
        while True:
            # Five bits a character, lowest first; the sixth says that more follow, 48 makes it printable.
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            characters.append(chr((bits | 0x20 if more else bits) + 48))
            if not more:
                break
    return {"size": [int(size) for size in mask.shape], "counts": "".join(characters)}


def rle_to_mask(rle: dict[str, Any]) -> np.ndarray:
    """
    Undo [`mask_to_rle`].

    Args:
        rle (`dict`):
            `size`, [height, width], and `counts`, COCO's compressed run-length encoding as text.

    Returns:
        `np.ndarray`: Boolean, of shape (H, W).

    Raises:
        ValueError: If the runs do not fill a mask of this size.
    """
    height, width = rle["size"]
    runs: list[int] = []
    value = shift = 0
    for character in rle["counts"]:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:  # more follow
            continue
        if bits & 0x10:  # negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"`rle` is damaged: its runs do not fill a mask {height} high and {width} wide.")
    kinds = np.arange(len(runs)) % 2 == 1
    return np.repeat(kinds, runs).reshape(height, width, order="F")
