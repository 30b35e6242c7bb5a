"""Pale textured backgrounds: light and little saturated, so that no object is ever camouflaged."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from .pen import Colour
from .scene import SPLITS, Scene, generator, pick


_PALES: tuple[Colour, ...] = (
    (244, 236, 222),
    (229, 236, 226),
    (224, 233, 240),
    (240, 228, 228),
    (234, 228, 240),
    (238, 234, 218),
    (226, 236, 236),
    (236, 232, 230),
)
_HILLS: tuple[Colour, ...] = ((218, 230, 216), (208, 224, 204), (216, 226, 198))
_SKIES: tuple[Colour, ...] = ((220, 232, 242), (240, 228, 220), (230, 226, 240))
_WOODS: tuple[Colour, ...] = ((234, 222, 204), (228, 220, 210), (238, 230, 216))


def paint_background(scene: Scene) -> Image.Image:
    """Paint an RGB image of the canvas' size in the style that the scene names; split, index and attempt decide the colours."""
    rng = generator(SPLITS.index(scene.split), scene.index, scene.attempt, 1)
    size = (scene.width, scene.height)
    base = pick(rng, _PALES)
    other = pick(rng, _PALES)
    image = Image.new("RGB", size, base)
    _STYLES[scene.background](image, rng, base, other)
    grain = _grain(scene.width, scene.height, pick(rng, (0, 1, 2, 3)))
    return ImageChops.subtract(ImageChops.add(image, grain), _half(size))


@lru_cache(maxsize=2)
def _half(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, (12, 12, 12))


@lru_cache(maxsize=8)
def _grain(width: int, height: int, number: int) -> Image.Image:
    """Fine paper grain around the value 12, as an RGB image."""
    rng = generator(number, 77)
    fine = rng.normal(0, 2.2, (height, width))
    field = Image.fromarray(rng.normal(0, 3.2, (height // 8, width // 8)).astype(np.float32))
    coarse = np.asarray(field.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(12 + fine + coarse, 0, 24).astype(np.uint8)).convert("RGB")


@lru_cache(maxsize=8)
def _cloud(number: int) -> Image.Image:
    """A soft random field of 64 x 64, as an L image."""
    field = generator(number, 78).random((5, 5)).astype(np.float32) * 255
    return Image.fromarray(field).resize((64, 64), Image.Resampling.BICUBIC).convert("L")


@lru_cache(maxsize=1)
def _ramp() -> Image.Image:
    return Image.fromarray(np.linspace(255, 0, 64, dtype=np.uint8)[:, None].repeat(4, axis=1))


def _shift(colour: Colour, by: int) -> Colour:
    red, green, blue = (max(0, min(255, channel + by)) for channel in colour)
    return red, green, blue


def _blend(image: Image.Image, colour: Colour, mask: Image.Image) -> None:
    image.paste(colour, mask=mask.resize(image.size, Image.Resampling.BILINEAR))


def _paper(image: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    _blend(image, _shift(base, -14), _cloud(int(rng.random() * 8)))


def _wash(image: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    _blend(image, _shift(other, -10), _cloud(int(rng.random() * 8)))
    painter = ImageDraw.Draw(image, "RGBA")
    for _ in range(5):
        x, y = rng.random() * image.width, rng.random() * image.height
        radius = 30 + 60 * rng.random()
        painter.ellipse((x - radius, y - radius * 0.8, x + radius, y + radius * 0.8), fill=(*_shift(other, -6), 60))


def _hills(image: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    image.paste((226, 236, 242), (0, 0, *image.size))
    painter = ImageDraw.Draw(image)
    width, height = image.size
    across = np.linspace(0, width, 25)
    for number, colour in enumerate(_HILLS):
        wave = height * (0.42 + 0.19 * number) + 14 * np.sin(across / (34 + 26 * rng.random()) + 6 * rng.random())
        points = [(0, height), *zip(across.tolist(), wave.tolist(), strict=True), (width, height)]
        painter.polygon(points, fill=colour)


def _sky(image: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    tint = pick(rng, _SKIES)
    image.paste((246, 242, 234), (0, 0, *image.size))
    _blend(image, tint, _ramp())
    painter = ImageDraw.Draw(image)
    for _ in range(4):
        x, y = rng.random() * image.width, rng.random() * image.height * 0.8
        for dx, dy, radius in ((-22, 4, 13), (-6, -4, 18), (14, -1, 15), (28, 5, 10)):
            box = (x + dx - radius, y + dy - radius, x + dx + radius, y + dy + radius)
            painter.ellipse(box, fill=_shift(tint, 10))


def _linen(image: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    step = 4 + int(rng.random() * 3)
    _upright_lines(image, range(0, image.width, step), _shift(base, -7))
    _level_lines(image, range(0, image.height, step), _shift(base, 6))


def _notebook(image: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    step = 18 + int(rng.random() * 8)
    _level_lines(image, range(step, image.height, step), _shift(base, -16))
    if rng.random() < 0.5:
        _upright_lines(image, range(step, image.width, step), _shift(base, -16))


def _upright_lines(image: Image.Image, places: range, colour: Colour) -> None:
    painter = ImageDraw.Draw(image)
    for x in places:
        painter.line((x, 0, x, image.height), fill=colour)


def _level_lines(image: Image.Image, places: range, colour: Colour) -> None:
    painter = ImageDraw.Draw(image)
    for y in places:
        painter.line((0, y, image.width, y), fill=colour)


def _wallpaper(image: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    painter = ImageDraw.Draw(image)
    step = 20 + int(rng.random() * 10)
    radius = 2.0 + 1.6 * rng.random()
    for row, y in enumerate(range(step // 2, image.height, step)):
        for x in range(step // 2 + (row % 2) * step // 2, image.width, step):
            painter.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_shift(base, -11))


def _planks(image: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    wood = pick(rng, _WOODS)
    painter = ImageDraw.Draw(image)
    step = 40 + int(rng.random() * 24)
    for y in range(0, image.height, step):
        painter.rectangle((0, y, image.width, y + step), fill=_shift(wood, int(8 * rng.random()) - 4))
        painter.line((0, y, image.width, y), fill=_shift(wood, -24), width=2)
        joint = int(rng.random() * image.width)
        painter.line((joint, y, joint, y + step), fill=_shift(wood, -20), width=2)


_STYLES = {
    "paper": _paper,
    "wash": _wash,
    "hills": _hills,
    "sky": _sky,
    "linen": _linen,
    "wallpaper": _wallpaper,
    "planks": _planks,
    "notebook": _notebook,
}
