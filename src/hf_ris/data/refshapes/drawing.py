"""Paints scenes: an image and the exact visible mask of every object."""

from functools import lru_cache
from math import cos, radians, sin

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .backgrounds import paint_background
from .categories import shape_of
from .pen import INK, LINE, MAIN, SHADE, TINT, Colour
from .scene import Scene, SceneObject, placement


ACCENTS: dict[str, Colour] = {"white": (253, 251, 246), "black": (56, 50, 56)}
_SHADOW: Colour = (70, 60, 80)
_WHITE: Colour = (255, 255, 255)
_ONLY_MAIN = [255 if value == 255 else 0 for value in range(256)]
_ANYTHING = [255 if value else 0 for value in range(256)]
_FAINT = [int(value * 0.3) for value in range(256)]


def draw_scene(scene: Scene) -> tuple[Image.Image, np.ndarray]:
    """
    Paint a scene.

    Returns:
        The RGB image, and the visible masks, (num_objects, height, width) and boolean: disjoint, a pixel belongs to the
        frontmost object that covers at least half of it.
    """
    image = paint_background(scene)
    masks = np.zeros((len(scene.objects), scene.height, scene.width), dtype=bool)
    for number, item in enumerate(scene.objects):
        sprite, coverage, left, top = _paint_object(item)
        _cast_shadow(image, coverage, left, top, item.extent)
        image.paste(sprite, (left, top), coverage)
        # The sprite may stand over the canvas' rim by its outline: keep what lies inside.
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + coverage.width, scene.width), min(top + coverage.height, scene.height)
        solid = np.asarray(coverage)[y0 - top : y1 - top, x0 - left : x1 - left] >= 128
        masks[:number, y0:y1, x0:x1] &= ~solid
        masks[number, y0:y1, x0:x1] = solid
    return image, masks


def _paint_object(item: SceneObject) -> tuple[Image.Image, Image.Image, int, int]:
    """Paint one object: its RGB sprite, coverage (L) and the corner's position on the canvas."""
    shape = shape_of(item.category)
    scale = 2 if item.extent > 110 else 3
    line = min(2.4, max(1.1, item.extent * 0.022))
    points = shape.points @ placement(item.extent, item.rotation, item.flip)
    # A mirrored object's normals are mirrored and rotated with it, without being scaled by its extent.
    normals = shape.normals @ placement(1.0, item.rotation, item.flip)
    points += (item.x, item.y)
    low = np.floor(points.min(axis=0) - line - 1).astype(int)
    high = np.ceil(points.max(axis=0) + line + 1).astype(int)
    width, height = (high - low).tolist()
    inner = (points - low) * scale
    outer = inner + normals * (line * scale)
    fills = _fills(item)
    # The alpha channel tells what a pixel is: 0 nothing, 128 detail, 255 main fill. Empty pixels have the outline's
    # colour, so that averaged rim pixels keep it.
    canvas = Image.new("RGBA", (width * scale, height * scale), (*fills["ink"], 0))
    painter = ImageDraw.Draw(canvas)
    for first, last, fill, outlined in shape.parts:
        if outlined:
            painter.polygon(outer[first:last].ravel().tolist(), fill=(*fills["ink"], 128))
        colour = fills[fill] if isinstance(fill, str) else fill
        painter.polygon(inner[first:last].ravel().tolist(), fill=(*colour, 255 if fill == MAIN else 128))
    kind = canvas.getchannel("A")
    colours = canvas.convert("RGB")
    if item.pattern != "plain":
        pattern = _pattern(item, colours.size, ((item.x - low[0]) * scale, (item.y - low[1]) * scale), scale)
        colours.paste(ACCENTS[item.accent], mask=ImageChops.darker(pattern, kind.point(_ONLY_MAIN)))
    coverage = kind.point(_ANYTHING).reduce(scale)
    sprite = colours.reduce(scale)
    light, shade = (mask.resize((width, height), Image.Resampling.BILINEAR) for mask in _light_and_shade())
    sprite.paste(_WHITE, mask=light)
    sprite.paste(INK, mask=shade)
    return sprite, coverage, int(low[0]), int(low[1])


def _fills(item: SceneObject) -> dict[str, Colour]:
    """The colours of the fills that follow the object's colour."""
    tone = item.tone
    if sum(tone) < 260:  # dark
        shares = {SHADE: 0.14, TINT: 0.24, LINE: 0.34}
        return {MAIN: tone, "ink": (30, 28, 34), **{fill: _mix(tone, _WHITE, share) for fill, share in shares.items()}}
    return {
        MAIN: tone,
        SHADE: _mix(tone, (40, 20, 50), 0.16),
        TINT: _mix(tone, _WHITE, 0.3),
        LINE: _mix(tone, (40, 20, 40), 0.5),
        "ink": _mix(tone, (38, 30, 42), 0.78),
    }


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (int(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _pattern(item: SceneObject, size: tuple[int, int], centre: tuple[float, float], scale: int) -> Image.Image:
    """Where the pattern's colour goes, as an L image; stripes, dots and checks turn and grow with the object."""
    image = Image.new("L", size)
    painter = ImageDraw.Draw(image)
    step = max(5.6, item.extent * (0.15 if item.pattern == "dotted" else 0.19)) * scale
    angle = radians(item.rotation + (item.slant if item.pattern == "striped" else 0))
    c, s = cos(angle), sin(angle)
    reach = int(item.extent * scale * 0.75 / step) + 1

    def place(across: float, down: float) -> tuple[float, float]:
        return centre[0] + (across * c - down * s) * step, centre[1] + (across * s + down * c) * step

    def fill(left: float, top: float, right: float, bottom: float) -> None:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        painter.polygon([place(*corner) for corner in corners], fill=255)

    radius = step * 0.3
    for row in range(-reach, reach + 1):
        if item.pattern == "striped":
            fill(-reach, row - 0.22, reach, row + 0.22)
        elif item.pattern == "checked":
            for column in range(-reach + (row % 2), reach + 1, 2):
                fill(column, row, column + 1, row + 1)
        else:
            for column in range(-reach, reach + 1):
                x, y = place(column + 0.5 * (row % 2), row * 0.87)
                painter.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return image


@lru_cache(maxsize=1)
def _light_and_shade() -> tuple[Image.Image, Image.Image]:
    """Soft light from the upper left and shade at the lower right, as L masks for a sprite of any size."""
    across, down = np.meshgrid(np.linspace(0, 1, 64), np.linspace(0, 1, 64))
    light = np.clip(1 - np.hypot(across - 0.3, down - 0.22) / 0.55, 0, 1) ** 1.3 * 62
    shade = np.clip((across * 0.45 + down * 0.75) - 0.55, 0, 1) * 78
    return Image.fromarray(light.astype(np.uint8)), Image.fromarray(shade.astype(np.uint8))


def _cast_shadow(image: Image.Image, coverage: Image.Image, left: int, top: int, extent: float) -> None:
    """Darken the image softly, a little to the lower right of an object."""
    margin = 5
    shadow = Image.new("L", (coverage.width + 2 * margin, coverage.height + 2 * margin))
    shadow.paste(coverage.point(_FAINT), (margin, margin))
    shadow = shadow.filter(ImageFilter.BoxBlur(3))
    shift = 2 + int(extent * 0.02)
    image.paste(_SHADOW, (left - margin + shift, top - margin + shift + 1), shadow)
