"""From logits to a boolean mask and its score; regions at other sizes, and what they share."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn

from .without_torch import check_probability


TILE = 128  # pixels each way


def check_flag(name: str, value: Any) -> None:
    """
    Raises:
        ValueError: If it is neither `True` nor `False`.
    """
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False, got {value!r}.")


def logit(probability: float) -> float:
    """The log-odds of a probability; infinite for 0 and 1."""
    return float(torch.tensor(probability, dtype=torch.float64).logit())


def read_target_sizes(
    target_sizes: Sequence[Sequence[int]] | torch.Tensor, expressions: int, threshold: float
) -> list[tuple[int, int]]:
    """
    Check the sizes and the threshold of masks.

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
    check_probability("threshold", threshold)
    return [(int(height), int(width)) for height, width in sizes]


def enlarge_logits(logits: torch.Tensor, size: tuple[int, int], rows: slice = slice(None)) -> torch.Tensor:
    """
    Resize mask logits bilinearly with aligned corners, as published.

    Args:
        logits (`torch.Tensor` of shape `(N, h, w)`):
            Log-odds.
        size (`tuple[int, int]`):
            (H, W) in pixels.
        rows (`slice`, *optional*):
            Which of the H rows are computed; by default all.

    Returns:
        `torch.FloatTensor` of shape `(N, rows, W)`.
    """
    maps, band = logits[:, None].float(), range(size[0])[rows]
    if len(band) < size[0]:
        # Each row lies between two of the given ones; along the columns, nothing changes.
        last = maps.shape[2] - 1
        positions = torch.arange(band.start, band.stop, device=maps.device) * (last / (size[0] - 1))
        above = positions.floor().long()
        share = (positions - above)[:, None]
        maps = maps[:, :, above] * (1 - share) + maps[:, :, (above + 1).clamp(max=last)] * share
    return nn.functional.interpolate(maps, (len(band), size[1]), mode="bilinear", align_corners=True)[:, 0]


def read_mask(bands: Iterable[torch.Tensor], threshold: float) -> tuple[torch.Tensor, float]:
    """
    Threshold probabilities, and take the mean of those inside the mask.

    Args:
        bands (`Iterable[torch.Tensor]`): Foreground probabilities (rows, W), from the top band to the lowest.
        threshold (`float`): A pixel belongs to the mask if its probability is above this.

    Returns:
        `tuple[torch.BoolTensor, float]`: The mask of shape (H, W), and its score between 0 and 1; 0.0 for an empty mask.
    """
    parts, total, count = [], 0.0, 0
    for band in bands:
        band = band.clamp_(0, 1)
        inside = band > threshold
        total += float(band[inside].sum())
        count += int(inside.sum())
        parts.append(inside)
    return torch.cat(parts), min(1.0, total / count) if count else 0.0


def resize_region(region: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """
    Resize a region.

    Args:
        region (`torch.BoolTensor` of shape `(h, w)`): Not empty.
        size (`tuple[int, int]`): (H, W) in pixels.

    Returns:
        `torch.BoolTensor` of shape `(H, W)`: A pixel is set if at least half of it is covered; if none is, every touched one is set.
    """
    if tuple(region.shape) == size:
        return region
    pixels = region[None, None].float().cpu()
    if size[0] >= region.shape[0] and size[1] >= region.shape[1]:
        return nn.functional.interpolate(pixels, size, mode="bilinear")[0, 0] > 0.5
    shares = nn.functional.adaptive_avg_pool2d(pixels, size)[0, 0]
    covered = shares >= 0.5
    return covered if covered.any() else shares > 0


def shared_areas(masks: np.ndarray) -> np.ndarray:
    """
    Count the pixels that each two masks share.

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
            pixels = tile[here].reshape(len(here), -1).astype(np.float32)  # counts this small are exact
            shared[np.ix_(here, here)] += (pixels @ pixels.T).astype(np.int64)
    return shared
