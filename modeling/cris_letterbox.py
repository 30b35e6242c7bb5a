"""
Pictures brought to a square without being squashed, and masks brought back: the warps of OpenCV 4, as CRIS uses them.

Such a warp takes each pixel from where it lies in the other picture, between the four pixels around (linear) or the sixteen
(cubic), at positions rounded to a 32nd of a pixel; nothing is averaged where a picture shrinks. What lies outside has one colour.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch


STEPS = 32  # of a position between two pixels
PRECISION = 1024  # of the numbers that positions are added up from
SHARPNESS = -0.75  # of OpenCV's cubic kernel, and of torch's


class Axis(NamedTuple):
    """Where along one axis each new pixel lies among the old: at `scale * index + shift`."""

    scale: float
    shift: float


def letterbox(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, tuple[float, float]]:
    """
    How a picture is fitted into another size: as large as possible, in the middle.

    Args:
        size (`tuple[int, int]`): Of the picture, (height, width) in pixels.
        target (`tuple[int, int]`): What it is fitted into, the same.

    Returns:
        `tuple[float, tuple[float, float]]`: How many times as large it becomes, and how far it then lies from the top and the left.
    """
    scale = min(new / old for new, old in zip(target, size, strict=True))
    top, left = ((new - old * scale) / 2 for new, old in zip(target, size, strict=True))
    return scale, (top, left)


def fit(
    pixels: torch.Tensor, target: tuple[int, int], kernel: Callable[[torch.Tensor], torch.Tensor], border: torch.Tensor
) -> torch.Tensor:
    """
    Fits a picture into another size.

    Args:
        pixels (`torch.Tensor` of shape `(C, h, w)`): The picture, of any dtype.
        target (`tuple[int, int]`): (H, W).
        kernel (`Callable`): [`linear`] or [`cubic`].
        border (`torch.Tensor` of shape `(C,)`): Colour of what lies around it.

    Returns:
        `torch.FloatTensor` of shape `(C, H, W)`.
    """
    scale, shifts = letterbox((pixels.shape[1], pixels.shape[2]), target)
    return warp(pixels, target, [Axis(1 / scale, -shift / scale) for shift in shifts], kernel, border)


def unfit(
    maps: torch.Tensor,
    size: tuple[int, int],
    kernel: Callable[[torch.Tensor], torch.Tensor],
    rows: slice = slice(None),
) -> torch.Tensor:
    """
    Brings maps over a fitted picture back to the picture's own size.

    Args:
        maps (`torch.Tensor` of shape `(C, H, W)`): Over what [`fit`] gave.
        size (`tuple[int, int]`): Of the picture, (h, w).
        kernel (`Callable`): [`linear`] or [`cubic`].
        rows (`slice`, *optional*): Which of the h rows are computed; by default all.

    Returns:
        `torch.FloatTensor` of shape `(C, rows, w)`.
    """
    scale, shifts = letterbox(size, (maps.shape[1], maps.shape[2]))
    return warp(maps, size, [Axis(scale, shift) for shift in shifts], kernel, maps.new_zeros(len(maps)), rows)


def warp(
    maps: torch.Tensor,
    size: tuple[int, int],
    axes: list[Axis],
    kernel: Callable[[torch.Tensor], torch.Tensor],
    border: torch.Tensor,
    rows: slice = slice(None),
) -> torch.Tensor:
    """`maps` (C, h, w) at another size (H, W), or some rows of that; `axes` are the vertical and the horizontal."""
    vertical, horizontal = (
        _taps(new, old, axis, kernel, maps.device) for new, old, axis in zip(size, maps.shape[1:], axes, strict=True)
    )
    vertical = vertical[0][:, rows], vertical[1][:, rows]
    border = border[:, None, None].float()
    lines = sum(
        (maps.index_select(1, index).float() - border) * weight[:, None]
        for index, weight in zip(*vertical, strict=True)
    )
    return border + sum(lines.index_select(2, index) * weight for index, weight in zip(*horizontal, strict=True))


def linear(fractions: torch.Tensor) -> torch.Tensor:
    """Weights (2, n) of the pixels before and behind n positions."""
    return torch.stack([1 - fractions, fractions])


def cubic(fractions: torch.Tensor) -> torch.Tensor:
    """Weights (4, n) of the two pixels before and the two behind n positions."""
    a = SHARPNESS
    before, behind = fractions + 1, 2 - fractions
    outer = [((a * far - 5 * a) * far + 8 * a) * far - 4 * a for far in (before, behind)]
    inner = [((a + 2) * near - (a + 3)) * near * near + 1 for near in (fractions, 1 - fractions)]
    return torch.stack([outer[0], inner[0], inner[1], outer[1]])


def _taps(
    new: int, old: int, axis: Axis, kernel: Callable[[torch.Tensor], torch.Tensor], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """For `new` pixels along an axis, which of the `old` are read, (taps, new), and with what weight."""
    along = (torch.arange(new, dtype=torch.float64) * axis.scale * PRECISION).round() + round(axis.shift * PRECISION)
    positions = (along / (PRECISION // STEPS) + 0.5).floor()
    first = (positions / STEPS).floor()
    weights = kernel((positions / STEPS - first).float())
    around = torch.arange(len(weights)) - (len(weights) // 2 - 1)
    indices = first.long() + around[:, None]
    weights = weights * ((indices >= 0) & (indices < old))
    return indices.clamp(0, old - 1).to(device), weights.to(device)


__all__ = ["cubic", "fit", "letterbox", "linear", "unfit"]
