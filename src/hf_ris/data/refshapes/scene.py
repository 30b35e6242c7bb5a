"""
Scenes: what is drawn where, sampled deterministically from (split, index).

Every split has its share of all layouts: a layout's signature (categories, colours and coarse cells) is hashed into disjoint
buckets, and a scene is recoloured until it falls into its split's bucket. So no layout of val, testA or testB occurs in train.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import sqrt
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

from .categories import CATEGORIES, shape_of


T = TypeVar("T")
Placed = tuple[list["_Body"], tuple[tuple[int, int, float], ...]]  # from back to front, and their overlaps

SPLITS = ("train", "val", "testA", "testB")
CANVAS = 320
CELL = 4  # pixels of the coarse grid in which placement and occlusion are decided
LAYOUT_CELL = 80  # pixels of a layout signature's cells

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 56, 58),
    "orange": (242, 138, 46),
    "yellow": (248, 212, 72),
    "green": (84, 166, 88),
    "blue": (62, 116, 206),
    "purple": (138, 84, 176),
    "pink": (246, 156, 188),
    "brown": (136, 88, 58),
    "black": (62, 60, 66),
    "white": (252, 252, 250),
    "gray": (150, 154, 160),
}
PATTERNS = ("plain", "striped", "dotted", "checked")
BACKGROUNDS = ("paper", "wash", "hills", "linen", "wallpaper", "planks", "sky", "notebook")

_ACCENTS: dict[str, tuple[str, ...]] = {  # by the object's colour; "white" on the others
    "red": ("white", "white", "black"),
    "orange": ("white", "black"),
    "yellow": ("black",),
    "green": ("white", "white", "black"),
    "pink": ("white", "black"),
    "white": ("black",),
    "gray": ("white", "black"),
}

_VIVID = ("red", "orange", "yellow", "green", "blue", "purple", "pink")  # drawn twice as often

# Square roots of the silhouettes' areas in pixels: three classes with clear gaps between them.
_SIZES = {"small": (29.0, 37.0), "medium": (54.0, 66.0), "big": (94.0, 114.0)}
_LONGEST = 165.0  # pixels of the longest side
_GROUPS = {
    4: ((2, 2), (3, 1), (2, 2), (4,), (2, 1, 1)),
    5: ((3, 2), (2, 2, 1), (3, 1, 1), (4, 1), (2, 3)),
    6: ((3, 3), (2, 2, 2), (3, 2, 1), (4, 2), (2, 2, 1, 1)),
    7: ((3, 2, 2), (4, 3), (3, 3, 1), (2, 2, 2, 1), (5, 2)),
    8: ((3, 3, 2), (4, 4), (2, 2, 2, 2), (4, 2, 2), (3, 3, 1, 1)),
}
_BUCKETS = {"val": (0, 24), "testA": (24, 48), "testB": (48, 72), "train": (72, 256)}


@dataclass(frozen=True)
class SceneObject:
    """
    One object; positions and lengths are in pixels.

    Attributes:
        category, colour, pattern: Words of `CATEGORIES`, `COLOURS` and `PATTERNS`.
        accent: Colour of the pattern, "white" or "black"; "" when plain.
        size_class: "small", "medium" or "big".
        x, y: Centre of the silhouette's box before rotation.
        extent: Longest side of that box.
        size: Square root of the silhouette's area.
        rotation: Degrees, clockwise.
        flip: Whether it is mirrored.
        tone: The exact RGB colour.
        slant: Direction of the pattern in degrees.
    """

    category: str
    colour: str
    pattern: str
    accent: str
    size_class: str
    x: float
    y: float
    extent: float
    size: float
    rotation: float
    flip: bool
    tone: tuple[int, int, int]
    slant: float


@dataclass(frozen=True)
class Scene:
    """
    All that is in an image.

    Attributes:
        split, index, attempt: What it was sampled from.
        width, height: Canvas in pixels.
        background: One of `BACKGROUNDS`.
        objects: From the backmost to the frontmost.
        overlaps: (back, front, share) of each pair that overlaps; the share is that of the smaller object's area.
    """

    split: str
    index: int
    attempt: int
    width: int
    height: int
    background: str
    objects: tuple[SceneObject, ...]
    overlaps: tuple[tuple[int, int, float], ...]


def generator(*key: int) -> np.random.Generator:
    """Return the random generator of a key; the same key gives the same stream on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Draw one option uniformly (much faster than `Generator.choice`)."""
    return options[int(rng.random() * len(options))]


def accents(colour: str, pattern: str) -> tuple[str, ...]:
    """Return the colours that a pattern may have, so that the object's colour stays obvious; none if it may not occur."""
    if pattern == "plain":
        return ("",)
    if pattern != "dotted" and colour in ("black", "white"):
        return ()
    if pattern != "dotted" and colour in ("green", "gray"):
        return ("white",)  # half dark, they would hardly be called green or gray
    return _ACCENTS.get(colour, ("white",))


def layout_split(objects: Sequence[SceneObject]) -> str:
    """Return the only split in which a layout may occur."""
    cells = [(item.category, item.colour, int(item.x // LAYOUT_CELL), int(item.y // LAYOUT_CELL)) for item in objects]
    bucket = blake2b(repr(tuple(sorted(cells))).encode(), digest_size=1).digest()[0]
    return next(split for split, (first, last) in _BUCKETS.items() if first <= bucket < last)


def sample_scene(split: str, index: int, attempt: int = 0) -> Scene:
    """
    Sample a scene.

    Args:
        split (`str`): "train", "val", "testA" or "testB".
        index (`int`): Number of the scene, from 0.
        attempt (`int`, *optional*, defaults to 0): Number of the scene among those with this index; the next one is asked for
            when too few of a scene's objects can be described.

    Raises:
        ValueError: If the split is unknown or the index negative.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {list(SPLITS)}, got {split!r}.")
    if index < 0:
        raise ValueError(f"`index` must not be negative, got {index}.")
    rng = generator(SPLITS.index(split), index, attempt)
    while (placed := _place(rng, _draw_bodies(rng, split))) is None:
        pass
    bodies, overlaps = placed
    while layout_split(objects := _colour(rng, bodies)) != split:
        pass
    return Scene(split, index, attempt, CANVAS, CANVAS, pick(rng, BACKGROUNDS), objects, overlaps)


@dataclass
class _Body:
    """An object without a colour; `left` and `top` are the coarse cells of its mask's corner, once it has a place."""

    category: str
    size_class: str
    extent: float
    size: float
    rotation: float
    flip: bool
    mask: np.ndarray
    centre: tuple[float, float]
    left: int = 0
    top: int = 0

    @property
    def x(self) -> float:
        return self.left * CELL + self.centre[0]

    @property
    def y(self) -> float:
        return self.top * CELL + self.centre[1]


_SHARED = ("category", "size_class", "x", "y", "extent", "size", "rotation", "flip")  # fields of `SceneObject`
_LIVING = tuple(name for name, category in CATEGORIES.items() if category.living)
_THINGS = tuple(name for name, category in CATEGORIES.items() if not category.living)
_POOLS = {"testA": _LIVING, "testB": _THINGS}  # of a test split's first category


def _draw_bodies(rng: np.random.Generator, split: str) -> list[_Body]:
    """Draw categories and sizes: groups of one category, most of them with several members."""
    groups = pick(rng, _GROUPS[pick(rng, (4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 8))])
    names: list[str] = []
    for _ in groups:
        pool = None if names else _POOLS.get(split)
        if pool is None:
            pool = _LIVING if rng.random() < 0.45 else _THINGS
        while (name := pick(rng, pool)) in names:
            pass
        names.append(name)
    bodies = []
    room = 0.36 * CANVAS * CANVAS
    for name, count in zip(names, groups, strict=True):
        for _ in range(count):
            body = _draw_body(rng, name, room)
            room -= body.size**2
            bodies.append(body)
    return bodies


def _draw_body(rng: np.random.Generator, name: str, room: float) -> _Body:
    shape = shape_of(name)
    root = sqrt(shape.area)
    draw = rng.random()
    size_class = "small" if draw < 0.36 else "medium" if draw < 0.76 else "big"
    if size_class == "big" and (_SIZES["big"][0] / root > _LONGEST * 0.94 or room < 0.15 * CANVAS * CANVAS):
        size_class = "medium"
    low, high = _SIZES[size_class]
    size = min(low + (high - low) * rng.random(), _LONGEST * root)
    extent = size / root
    tilt = CATEGORIES[name].tilt
    rotation = tilt * (2 * rng.random() - 1) if rng.random() < 0.7 else 0.0
    flip = rng.random() < 0.5
    mask, centre = _coarse_mask(name, extent, rotation, flip)
    return _Body(name, size_class, extent, size, rotation, flip, mask, centre)


def placement(extent: float, rotation: float, flip: bool) -> np.ndarray:
    """Return the matrix that takes a shape's points (as rows) to pixels relative to the object's centre."""
    angle = np.deg2rad(rotation)
    c, s = float(np.cos(angle)) * extent, float(np.sin(angle)) * extent
    mirror = -1.0 if flip else 1.0
    return np.array([[c * mirror, s * mirror], [-s, c]])


def _coarse_mask(name: str, extent: float, rotation: float, flip: bool) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the silhouette in coarse cells, (rows, columns), and the centre's offset from its corner in pixels."""
    shape = shape_of(name)
    points = shape.points @ placement(extent, rotation, flip) / CELL
    low = points.min(axis=0)
    points -= low
    width, height = (int(side) + 2 for side in points.max(axis=0))
    image = Image.new("1", (width, height))
    painter = ImageDraw.Draw(image)
    for first, last, _, _ in shape.parts:
        painter.polygon(points[first:last].ravel().tolist(), fill=1)
    return np.asarray(image), (float(-low[0]) * CELL, float(-low[1]) * CELL)


def _place(rng: np.random.Generator, bodies: list[_Body]) -> Placed | None:
    """Find places with moderate overlap and an order of depth, or None when the bodies do not fit."""
    cells = CANVAS // CELL
    taken = np.zeros((cells, cells), dtype=bool)
    done: list[_Body] = []
    for body in sorted(bodies, key=lambda body: -body.size):
        rows, columns = body.mask.shape
        area = int(body.mask.sum())
        for _ in range(40):
            if done and rng.random() < 0.3:  # beside or partly over another object
                other = pick(rng, done)
                reach = 0.5 * (body.extent + other.extent)
                left = int((other.x + reach * (2 * rng.random() - 1) - body.centre[0]) / CELL)
                top = int((other.y + reach * (2 * rng.random() - 1) - body.centre[1]) / CELL)
                if not (1 <= left <= cells - columns - 1 and 1 <= top <= cells - rows - 1):
                    continue
            else:
                left = 1 + int(rng.random() * (cells - columns - 1))
                top = 1 + int(rng.random() * (cells - rows - 1))
            body.left, body.top = left, top
            hidden = int((taken[top : top + rows, left : left + columns] & body.mask).sum())
            if hidden > 0.26 * area or any(_too_close(body, other) for other in done):
                continue
            taken[top : top + rows, left : left + columns] |= body.mask
            done.append(body)
            break
        else:
            return None
    keys = [body.size + 60 * rng.random() for body in done]  # small objects tend to be in front
    order = [body for _, body in sorted(zip(keys, done, strict=True), key=lambda pair: -pair[0])]
    return _depth(order, cells)


def _too_close(body: _Body, other: _Body) -> bool:
    distance = sqrt((body.x - other.x) ** 2 + (body.y - other.y) ** 2)
    return distance < max(28.0, 0.36 * max(body.extent, other.extent))


def _depth(order: list[_Body], cells: int) -> Placed | None:
    """Check that every object stays recognisable in this order, and measure the overlaps."""
    masks = np.zeros((len(order), cells, cells), dtype=bool)
    for mask, body in zip(masks, order, strict=True):
        rows, columns = body.mask.shape
        mask[body.top : body.top + rows, body.left : body.left + columns] = body.mask
    flat = masks.reshape(len(order), -1).astype(np.float32)
    shared = flat @ flat.T
    areas = shared.diagonal()
    overlaps = []
    covered = np.zeros((cells, cells), dtype=bool)
    for front in range(len(order) - 1, -1, -1):
        if (masks[front] & covered).sum() > 0.26 * areas[front]:
            return None
        covered |= masks[front]
        for back in range(front):
            if shared[back, front] > 0:
                overlaps.append((back, front, round(float(shared[back, front] / min(areas[back], areas[front])), 3)))
    return order, tuple(sorted(overlaps))


def _colour(rng: np.random.Generator, bodies: list[_Body]) -> tuple[SceneObject, ...]:
    """Give colours and patterns from a small palette, so that one word seldom distinguishes a category's objects."""
    names = (*COLOURS, *_VIVID)
    palette = [pick(rng, names) for _ in range(2 + int(rng.random() * 3))]
    patterns = ["plain", pick(rng, PATTERNS), pick(rng, PATTERNS[1:])]
    seen: set[tuple[str, ...]] = set()
    objects = []
    for body in bodies:
        for _ in range(8):
            colour = pick(rng, palette) if rng.random() < 0.85 else pick(rng, names)
            pattern = pick(rng, patterns)
            if colour in ("black", "white") and pattern in ("striped", "checked"):
                pattern = "dotted"  # black stripes on white are white stripes on black
            accent = pick(rng, accents(colour, pattern))
            look = (body.category, body.size_class, colour, pattern, accent)
            if look not in seen:
                break
        seen.add(look)
        objects.append(
            SceneObject(
                **{name: getattr(body, name) for name in _SHARED},
                colour=colour,
                pattern=pattern,
                accent=accent,
                tone=_tone(rng, colour),
                slant=pick(rng, (0.0, 90.0, 45.0, -45.0)),
            )
        )
    return tuple(objects)


def _tone(rng: np.random.Generator, colour: str) -> tuple[int, int, int]:
    """Return the named colour with a slight jitter of brightness and hue."""
    light = 10 * (rng.random() - 0.5) * (0.3 if colour == "white" else 1.6)
    hue = 0.2 if colour in ("white", "gray") else 1
    red, green, blue = (
        int(min(255, max(0, channel + light + 10 * (rng.random() - 0.5) * hue))) for channel in COLOURS[colour]
    )
    return red, green, blue
