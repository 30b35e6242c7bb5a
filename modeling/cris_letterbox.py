"""
CRIS's letterbox: images fitted into a square with their aspect ratio, and masks brought back, by the warps of OpenCV 4.

Such a warp reads each pixel from its position in the other image, rounded to a 32nd of a pixel, between the four pixels around it
(linear) or the sixteen (cubic). Nothing is averaged where an image shrinks. What lies outside has one colour.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch


STEPS = 32  # positions between two pixels
PRECISION = 1024  # steps of the numbers that positions are summed from
SHARPNESS = -0.75  # parameter of OpenCV's cubic kernel, and of torch's

Kernel = Callable[[torch.Tensor], torch.Tensor]


class Axis(NamedTuple):
    """Positions of new pixels among the old ones, along one axis: `scale * index + shift`."""

    scale: float
    shift: float


def letterbox(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, tuple[float, float]]:
    """
    Fit an image of `size` (height, width) into `target` (height, width), as large as possible, in the middle.

    Returns:
        Its scale, and its distance from the top and from the left, in pixels of the target.
    """
    scale = min(new / old for new, old in zip(target, size, strict=True))
    top, left = ((new - old * scale) / 2 for new, old in zip(target, size, strict=True))
    return scale, (top, left)


def fit(pixels: torch.Tensor, target: tuple[int, int], kernel: Kernel, border: torch.Tensor) -> torch.Tensor:
    """
    Fit an image into another size.

    Args:
        pixels (`torch.Tensor` of shape `(C, h, w)`): The image, of any dtype.
        target (`tuple[int, int]`): (H, W).
        kernel (`Callable`): [`linear`] or [`cubic`].
        border (`torch.Tensor` of shape `(C,)`): Colour around the image.

    Returns:
        `torch.FloatTensor` of shape `(C, H, W)`.
    """
    scale, shifts = letterbox((pixels.shape[1], pixels.shape[2]), target)
    return warp(pixels, target, [Axis(1 / scale, -shift / scale) for shift in shifts], kernel, border)


def unfit(maps: torch.Tensor, size: tuple[int, int], kernel: Kernel, rows: slice = slice(None)) -> torch.Tensor:
    """
    Bring maps over a fitted image back to the image's size.

    Args:
        maps (`torch.Tensor` of shape `(C, H, W)`): Maps over the output of [`fit`].
        size (`tuple[int, int]`): (h, w) of the image.
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
    kernel: Kernel,
    border: torch.Tensor,
    rows: slice = slice(None),
) -> torch.Tensor:
    """Warp `maps` (C, h, w) to another size (H, W), or some of its rows; `axes` are the vertical and the horizontal."""
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
    """Weights (2, n) of the pixel before and the pixel behind each of n positions."""
    return torch.stack([1 - fractions, fractions])


def cubic(fractions: torch.Tensor) -> torch.Tensor:
    """Weights (4, n) of the two pixels before and the two behind each of n positions."""
    a = SHARPNESS
    before, behind = fractions + 1, 2 - fractions
    outer = [((a * far - 5 * a) * far + 8 * a) * far - 4 * a for far in (before, behind)]
    inner = [((a + 2) * near - (a + 3)) * near * near + 1 for near in (fractions, 1 - fractions)]
    return torch.stack([outer[0], inner[0], inner[1], outer[1]])


def _taps(new: int, old: int, axis: Axis, kernel: Kernel, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the `old` pixels that each of the `new` ones along an axis reads, (taps, new), and their weights."""
    along = (torch.arange(new, dtype=torch.float64) * axis.scale * PRECISION).round() + round(axis.shift * PRECISION)
    positions = (along / (PRECISION // STEPS) + 0.5).floor()
    first = (positions / STEPS).floor()
    weights = kernel((positions / STEPS - first).float())
    around = torch.arange(len(weights)) - (len(weights) // 2 - 1)
    indices = first.long() + around[:, None]
    weights = weights * ((indices >= 0) & (indices < old))
    return indices.clamp(0, old - 1).to(device), weights.to(device)


__all__ = ["cubic", "fit", "letterbox", "linear", "unfit"]
