"""
Interpolation along one axis, as indices and weights: each new pixel is a weighted sum of a few old ones. What reads them may be NumPy
or torch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


STEPS = 32  # positions between two pixels that OpenCV's warps tell apart
PRECISION = 1024  # steps of the numbers that their positions are summed from
SHARPNESS = -0.75  # parameter of the cubic kernel of OpenCV and of torch

Kernel = Callable[[np.ndarray], np.ndarray]


class Taps(NamedTuple):
    """Indices of the old pixels that each of n new ones reads, (taps, n), and their weights, float32 (taps, n)."""

    indices: Any
    weights: Any


def linear(fractions: np.ndarray) -> np.ndarray:
    """Weights (2, n) of the pixel before and the pixel behind each of n positions."""
    return np.stack([1 - fractions, fractions])


def cubic(fractions: np.ndarray) -> np.ndarray:
    """Weights (4, n) of the two pixels before and the two behind each of n positions."""
    a = SHARPNESS
    before, behind = fractions + 1, 2 - fractions
    outer = [((a * far - 5 * a) * far + 8 * a) * far - 4 * a for far in (before, behind)]
    inner = [((a + 2) * near - (a + 3)) * near * near + 1 for near in (fractions, 1 - fractions)]
    return np.stack([outer[0], inner[0], inner[1], outer[1]])


def enlarge(new: int, old: int, kernel: Kernel, align_corners: bool) -> Taps:
    """Bring `old` pixels to `new` ones, as `torch.nn.functional.interpolate` does; beyond the edge its last pixel goes on."""
    index = np.arange(new, dtype=np.float64)
    if align_corners:
        positions = index * ((old - 1) / max(1, new - 1))
    else:
        positions = (index + 0.5) * (old / new) - 0.5
        positions = positions.clip(min=0) if kernel is linear else positions
    return _taps(positions, old, kernel)


def warp(new: int, old: int, scale: float, shift: float, kernel: Kernel) -> Taps:
    """Read the i-th of `new` pixels at `scale * i + shift`, rounded as OpenCV 4 does it; beyond the edge there is nothing."""
    along = (np.arange(new) * scale * PRECISION).round() + round(shift * PRECISION)
    indices, weights = _taps(np.floor(along / (PRECISION // STEPS) + 0.5) / STEPS, old, kernel, clamp=False)
    return Taps(indices.clip(0, old - 1), weights * ((indices >= 0) & (indices < old)))


def letterbox(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, tuple[float, float]]:
    """
    Fit an image of `size` (height, width) into `target` (height, width), as large as possible, in the middle.

    Returns:
        Its scale, and its distance from the top and from the left, in pixels of the target.
    """
    scale = min(new / old for new, old in zip(target, size, strict=True))
    top, left = ((new - old * scale) / 2 for new, old in zip(target, size, strict=True))
    return scale, (top, left)


def fit(size: tuple[int, int], target: tuple[int, int], kernel: Kernel) -> tuple[Taps, Taps]:
    """Bring an image of `size` (h, w) into its letterbox, `target` (H, W): the taps along its height and along its width."""
    scale, shifts = letterbox(size, target)
    vertical, horizontal = (
        warp(new, old, 1 / scale, -shift / scale, kernel) for new, old, shift in zip(target, size, shifts, strict=True)
    )
    return vertical, horizontal


def unfit(size: tuple[int, int], target: tuple[int, int], kernel: Kernel) -> tuple[Taps, Taps]:
    """Undo [`fit`], with the same arguments."""
    scale, shifts = letterbox(size, target)
    vertical, horizontal = (
        warp(old, new, scale, shift, kernel) for new, old, shift in zip(target, size, shifts, strict=True)
    )
    return vertical, horizontal


def resample(maps: Any, vertical: Taps, horizontal: Taps, border: Any = 0.0) -> Any:
    """
    Interpolate maps.

    Args:
        maps (array or tensor of shape `(C, h, w)`): Numbers; floating-point ones, unless there is a `border` of such.
        vertical, horizontal ([`Taps`]): Of the same library: for H new rows, and for W new columns.
        border (array or tensor of shape `(C, 1, 1)`, *optional*, defaults to 0.0): Values beyond the edge, for [`fit`].

    Returns:
        An array or tensor of shape (C, H, W).
    """
    lines = sum((_pick(maps, index, 1) - border) * weight[:, None] for index, weight in zip(*vertical, strict=True))
    return border + sum(_pick(lines, index, 2) * weight for index, weight in zip(*horizontal, strict=True))


def _pick(maps: Any, index: Any, axis: int) -> Any:
    return maps.take(index, axis) if isinstance(maps, np.ndarray) else maps.index_select(axis, index)


def _taps(positions: np.ndarray, old: int, kernel: Kernel, clamp: bool = True) -> Taps:
    first = np.floor(positions)
    weights = kernel((positions - first).astype(np.float32))
    indices = first.astype(np.int64) + (np.arange(len(weights)) - (len(weights) // 2 - 1))[:, None]
    return Taps(indices.clip(0, old - 1) if clamp else indices, weights)


__all__ = ["Taps", "cubic", "enlarge", "fit", "letterbox", "linear", "resample", "unfit"]
