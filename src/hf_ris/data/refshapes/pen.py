"""A recording pen: categories are drawn once into lists of polygons, which are then placed, coloured and painted.

A drawing function receives a [`Pen`] and works in a box of 100 x 100 units, y pointing down. Curves and strokes become closed
polygons here, so that placing an object is one matrix product.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi, radians, sin
from typing import Any

import numpy as np
from PIL import Image, ImageDraw


Points = Sequence[tuple[float, float]] | np.ndarray
Colour = tuple[int, int, int]
Fill = str | Colour

# Fills that follow the object's colour: the patterned fill itself, a darker and a lighter one, and lines upon it.
MAIN, SHADE, TINT, LINE = "main", "shade", "tint", "line"

# Fixed colours of details: neutral, so that they never compete with the object's own colour word.
INK: Colour = (52, 44, 54)
WHITE: Colour = (252, 250, 245)
CREAM: Colour = (250, 236, 208)
SKIN: Colour = (245, 205, 170)
WOOD: Colour = (150, 112, 82)
LEAF: Colour = (108, 158, 98)
GLASS: Colour = (206, 228, 236)
STEEL: Colour = (172, 180, 190)
GOLD: Colour = (238, 196, 92)
CHEEK: Colour = (240, 160, 160)


@dataclass(frozen=True)
class Shape:
    """
    A category's drawing, centred on the origin with its longest side 1.

    Attributes:
        points: All polygons' corners, (num_points, 2).
        normals: Outward directions at these corners, (num_points, 2); moved along them, a polygon becomes its outline.
        parts: One (first, last, fill, outlined) per polygon in painting order, slicing `points`.
        area: The silhouette's area, as a share of the unit square.
    """

    points: np.ndarray
    normals: np.ndarray
    parts: tuple[tuple[int, int, Fill, bool], ...]
    area: float


class Pen:
    """Records polygons. Unless `outline` is False, they get an outline."""

    def __init__(self) -> None:
        self.polygons: list[tuple[np.ndarray, Fill, bool]] = []

    def polygon(self, points: Points, fill: Fill = MAIN, outline: bool = True) -> None:
        """Draw a closed polygon through `points`."""
        corners = np.asarray(points, dtype=np.float64)
        x, y = corners[:, 0], corners[:, 1]
        if np.dot(x, np.roll(y, -1)) < np.dot(y, np.roll(x, -1)):
            corners = corners[::-1]  # one orientation, so that all normals point outwards
        self.polygons.append((corners, fill, outline))

    def curve(self, points: Points, fill: Fill = MAIN, outline: bool = True) -> None:
        """Draw a smooth closed curve through `points`."""
        self.polygon(_smooth(np.asarray(points, dtype=np.float64), closed=True), fill, outline)

    def ellipse(
        self,
        x: float,
        y: float,
        x_radius: float,
        y_radius: float,
        fill: Fill = MAIN,
        outline: bool = True,
        angle: float = 0.0,
    ) -> None:
        """Draw an ellipse around (x, y), turned by `angle` degrees."""
        turn = np.linspace(0, 2 * pi, max(12, int(8 + max(x_radius, y_radius))), endpoint=False)
        across, down = x_radius * np.cos(turn), y_radius * np.sin(turn)
        c, s = cos(radians(angle)), sin(radians(angle))
        self.polygon(np.stack([x + c * across - s * down, y + s * across + c * down], axis=1), fill, outline)

    def rectangle(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        fill: Fill = MAIN,
        outline: bool = True,
        radius: float = 0.0,
    ) -> None:
        """Draw a rectangle whose corners are rounded by `radius`."""
        if radius <= 0:
            self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill, outline)
            return
        corners = [(right, bottom, 0), (left, bottom, 90), (left, top, 180), (right, top, 270)]
        points = []
        for x, y, start in corners:
            x += -radius if x == right else radius
            y += -radius if y == bottom else radius
            for step in range(5):
                angle = radians(start + 22.5 * step)
                points.append((x + radius * cos(angle), y + radius * sin(angle)))
        self.polygon(points, fill, outline)

    def stroke(
        self, points: Points, width: float, fill: Fill = LINE, outline: bool = False, smooth: bool = True
    ) -> None:
        """Draw a line of `width` with round ends through `points`; a smooth one by default."""
        line = np.asarray(points, dtype=np.float64)
        if smooth and len(line) > 2:
            line = _smooth(line, closed=False)
        direction = np.gradient(line, axis=0)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-9
        side = np.stack([-direction[:, 1], direction[:, 0]], axis=1) * width / 2
        end = _cap(line[-1], side[-1])
        start = _cap(line[0], -side[0])
        self.polygon(np.concatenate([line + side, end, (line - side)[::-1], start]), fill, outline)

    def arc(
        self,
        x: float,
        y: float,
        x_radius: float,
        y_radius: float,
        start: float,
        stop: float,
        width: float,
        fill: Fill = LINE,
        outline: bool = False,
    ) -> None:
        """Draw a part of an ellipse's rim from `start` to `stop` degrees (0 is right, 90 is down)."""
        turn = np.radians(np.linspace(start, stop, 14))
        points = np.stack([x + x_radius * np.cos(turn), y + y_radius * np.sin(turn)], axis=1)
        self.stroke(points, width, fill, outline, smooth=False)

    def eye(self, x: float, y: float, radius: float) -> None:
        """Draw a bright eye with a dark pupil, visible on every colour."""
        self.ellipse(x, y, radius, radius, WHITE)
        self.ellipse(x, y, radius * 0.62, radius * 0.62, INK, outline=False)
        self.ellipse(x - radius * 0.2, y - radius * 0.25, radius * 0.22, radius * 0.22, WHITE, outline=False)

    def pair(self, draw: Callable[..., None], first: Any, *rest: Any, **options: Any) -> None:
        """Draw by a method above (but `rectangle`), then the same with left and right swapped at x = 50."""
        draw(first, *rest, **options)
        if "angle" in options:
            options["angle"] *= -1
        draw(mirror(first) if isinstance(first, list) else 100 - first, *rest, **options)


def mirror(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Swap left and right at x = 50."""
    return [(100 - x, y) for x, y in points]


def symmetric(half: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Complete the right half of a closed line, from its top to its bottom."""
    return [*half, *mirror([(x, y) for x, y in reversed(half) if x != 50])]


def record(draw: Callable[[Pen], None]) -> Shape:
    """Run a drawing function once and normalise what it drew."""
    pen = Pen()
    draw(pen)
    points = np.concatenate([corners for corners, _, _ in pen.polygons])
    low, high = points.min(axis=0), points.max(axis=0)
    side, centre = float((high - low).max()), (low + high) / 2
    parts, placed, first = [], [], 0
    silhouette = Image.new("1", (200, 200))
    painter = ImageDraw.Draw(silhouette)
    for corners, fill, outline in pen.polygons:
        corners = (corners - centre) / side
        placed.append(corners)
        parts.append((first, first + len(corners), fill, outline))
        first += len(corners)
        painter.polygon(((corners + 0.5) * 199).ravel().tolist(), fill=1)
    area = round(float(np.asarray(silhouette).mean()), 3)
    return Shape(np.concatenate(placed), np.concatenate([_normals(corners) for corners in placed]), tuple(parts), area)


def _smooth(points: np.ndarray, closed: bool, steps: int = 6) -> np.ndarray:
    """Catmull-Rom curve through `points` of shape (n, 2)."""
    if closed:
        before, after, beyond = np.roll(points, 1, 0), np.roll(points, -1, 0), np.roll(points, -2, 0)
        current = points
    else:
        padded = np.concatenate([points[:1], points, points[-1:]])
        before, current, after, beyond = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    before, current, after, beyond = (part[:, None] for part in (before, current, after, beyond))
    curve = 0.5 * (
        2 * current
        + (after - before) * t
        + (2 * before - 5 * current + 4 * after - beyond) * t**2
        + (3 * current - before - 3 * after + beyond) * t**3
    )
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def _cap(centre: np.ndarray, side: np.ndarray) -> np.ndarray:
    """The half circle that leads from centre + side around the end of a stroke to centre - side."""
    forward = np.array([side[1], -side[0]])
    turn = np.linspace(0, pi, 7)[1:-1, None]
    return centre + np.cos(turn) * side + np.sin(turn) * forward


def _normals(corners: np.ndarray) -> np.ndarray:
    """Outward mitre directions of a polygon's corners, clipped at sharp ones."""
    edge = np.roll(corners, -1, axis=0) - corners
    edge /= np.linalg.norm(edge, axis=1, keepdims=True) + 1e-9
    outward = np.stack([edge[:, 1], -edge[:, 0]], axis=1)
    mitre = outward + np.roll(outward, 1, axis=0)
    length = np.linalg.norm(mitre, axis=1, keepdims=True) + 1e-9
    return mitre / length * np.minimum(2 / length, 2.0)
