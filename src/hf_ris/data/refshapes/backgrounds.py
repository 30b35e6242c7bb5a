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


def paint_background(scene: Scene) -> Image.Image:
    """Paints the background of a scene.

    Args:
        scene (`Scene`): its `background` names the style; colours come from the split, index and attempt.

    Returns:
        An RGB picture of the canvas' size.
    """
    rng = generator(SPLITS.index(scene.split), scene.index, scene.attempt, 1)
    size = (scene.width, scene.height)
    base = pick(rng, _PALES)
    other = pick(rng, _PALES)
    picture = Image.new("RGB", size, base)
    _STYLES[scene.background](picture, rng, base, other)
    grain = _grain(scene.width, scene.height, pick(rng, (0, 1, 2, 3)))
    return ImageChops.subtract(ImageChops.add(picture, grain), _half(size))


@lru_cache(maxsize=2)
def _half(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, (12, 12, 12))


@lru_cache(maxsize=8)
def _grain(width: int, height: int, number: int) -> Image.Image:
    """Fine paper grain around the value 12, as an RGB picture."""
    rng = generator(number, 77)
    fine = rng.normal(0, 2.2, (height, width))
    coarse = np.asarray(
        Image.fromarray(rng.normal(0, 3.2, (height // 8, width // 8)).astype(np.float32)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
    )
    return Image.fromarray(np.clip(12 + fine + coarse, 0, 24).astype(np.uint8)).convert("RGB")


@lru_cache(maxsize=8)
def _cloud(number: int) -> Image.Image:
    """A soft random field of 64 x 64, as an L picture."""
    rng = generator(number, 78)
    field = rng.random((5, 5)).astype(np.float32) * 255
    return Image.fromarray(field).resize((64, 64), Image.Resampling.BICUBIC).convert("L")


def _shift(colour: Colour, by: int) -> Colour:
    red, green, blue = (max(0, min(255, channel + by)) for channel in colour)
    return red, green, blue


def _paper(picture: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    _blend(picture, _shift(base, -14), int(rng.random() * 8))


def _wash(picture: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    _blend(picture, _shift(other, -10), int(rng.random() * 8))
    painter = ImageDraw.Draw(picture, "RGBA")
    for _ in range(5):
        x, y = rng.random() * picture.width, rng.random() * picture.height
        radius = 30 + 60 * rng.random()
        painter.ellipse((x - radius, y - radius * 0.8, x + radius, y + radius * 0.8), fill=(*_shift(other, -6), 60))


def _blend(picture: Image.Image, colour: Colour, number: int) -> None:
    picture.paste(colour, mask=_cloud(number).resize(picture.size, Image.Resampling.BILINEAR))


def _hills(picture: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    picture.paste((226, 236, 242), (0, 0, *picture.size))
    painter = ImageDraw.Draw(picture)
    width, height = picture.size
    across = np.linspace(0, width, 25)
    for number, colour in enumerate(((218, 230, 216), (208, 224, 204), (216, 226, 198))):
        wave = height * (0.42 + 0.19 * number) + 14 * np.sin(across / (34 + 26 * rng.random()) + 6 * rng.random())
        points = [(0, height), *zip(across.tolist(), wave.tolist(), strict=True), (width, height)]
        painter.polygon(points, fill=colour)


def _sky(picture: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    tint = pick(rng, ((220, 232, 242), (240, 228, 220), (230, 226, 240)))
    ramp = _ramp().resize(picture.size, Image.Resampling.BILINEAR)
    picture.paste((246, 242, 234), (0, 0, *picture.size))
    picture.paste(tint, mask=ramp)
    painter = ImageDraw.Draw(picture)
    light = _shift(tint, 10)
    for _ in range(4):
        x, y = rng.random() * picture.width, rng.random() * picture.height * 0.8
        for dx, dy, radius in ((-22, 4, 13), (-6, -4, 18), (14, -1, 15), (28, 5, 10)):
            painter.ellipse((x + dx - radius, y + dy - radius, x + dx + radius, y + dy + radius), fill=light)


@lru_cache(maxsize=1)
def _ramp() -> Image.Image:
    return Image.fromarray(np.linspace(255, 0, 64, dtype=np.uint8)[:, None].repeat(4, axis=1))


def _linen(picture: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    painter = ImageDraw.Draw(picture)
    step = 4 + int(rng.random() * 3)
    for x in range(0, picture.width, step):
        painter.line((x, 0, x, picture.height), fill=_shift(base, -7))
    for y in range(0, picture.height, step):
        painter.line((0, y, picture.width, y), fill=_shift(base, 6))


def _wallpaper(picture: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    painter = ImageDraw.Draw(picture)
    step = 20 + int(rng.random() * 10)
    radius = 2.0 + 1.6 * rng.random()
    for row, y in enumerate(range(step // 2, picture.height, step)):
        for x in range(step // 2 + (row % 2) * step // 2, picture.width, step):
            painter.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_shift(base, -11))


def _planks(picture: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    wood = pick(rng, ((234, 222, 204), (228, 220, 210), (238, 230, 216)))
    painter = ImageDraw.Draw(picture)
    step = 40 + int(rng.random() * 24)
    for y in range(0, picture.height, step):
        painter.rectangle((0, y, picture.width, y + step), fill=_shift(wood, int(8 * rng.random()) - 4))
        painter.line((0, y, picture.width, y), fill=_shift(wood, -24), width=2)
        joint = int(rng.random() * picture.width)
        painter.line((joint, y, joint, y + step), fill=_shift(wood, -20), width=2)


def _notebook(picture: Image.Image, rng: np.random.Generator, base: Colour, other: Colour) -> None:
    painter = ImageDraw.Draw(picture)
    step = 18 + int(rng.random() * 8)
    for y in range(step, picture.height, step):
        painter.line((0, y, picture.width, y), fill=_shift(base, -16))
    if rng.random() < 0.5:
        for x in range(step, picture.width, step):
            painter.line((x, 0, x, picture.height), fill=_shift(base, -16))


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
