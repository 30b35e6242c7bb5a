"""Pictures of results: each expression's mask in its own colour, with a legend below the picture; and sheets of them."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

from .modeling.inputs import load_image
from .modeling.masks import mask_to_box, rle_to_mask


# Told apart by people of every colour vision (after Okabe and Ito), brightened to stand out from photos.
COLOURS = (
    (255, 59, 48),
    (255, 204, 0),
    (0, 132, 255),
    (0, 199, 120),
    (200, 80, 230),
    (255, 140, 26),
    (90, 210, 250),
    (255, 120, 180),
)
SHORTEST_WIDTH = 640
LONGEST_SIDE = 1600
SHORTEST_LEGEND = 400


def draw_overlay(image: Any, results: dict[str, Any] | Sequence[dict[str, Any]], opacity: float = 0.25) -> Image.Image:
    """
    Draw what was found over the image it was found in.

    The picture is enlarged to be at least 640 pixels wide and reduced to at most 1600 pixels a side, so that outlines and
    legend can be read at any size of the image.

    Args:
        image (an image):
            What was given to the pipeline.
        results (`dict` or `list[dict]`):
            What the pipeline returned for it, in any of its output formats.
        opacity (`float`, *optional*, defaults to 0.25):
            How much of the fill covers the picture, between 0 and 1; little, so that the colours spoken of can be seen.

    Returns:
        `PIL.Image.Image`: An RGB picture with a legend below.

    Raises:
        ValueError: If a mask is damaged or does not have the size of the image.
    """
    picture = load_image(image)
    results = [results] if isinstance(results, dict) else list(results)
    masks = [_read_mask(result["mask"], picture.size) for result in results]
    size = _display_size(picture.size)
    canvas = picture.resize(size, Image.Resampling.LANCZOS)
    masks = [_smooth_resize(mask, size) for mask in masks]

    for mask, colour in zip(masks, _colours(len(masks)), strict=True):
        canvas.paste(colour, mask=mask.point(lambda value: round(value * opacity)))
    unit = max(size) / 640
    for mask, colour in zip(masks, _colours(len(masks)), strict=True):
        # Dark, light and coloured lines around each other can be seen on dark, light and like-coloured ground.
        for line, radius in (((20, 20, 20), 4), ((255, 255, 255), 3), (colour, 2)):
            canvas.paste(line, mask=_ring(mask, round(radius * unit)))
    return _stack(canvas, _legend(results, max(size[0], SHORTEST_LEGEND)))


def draw_comparison(image: Any, text: str, score: float, predicted: np.ndarray, true: np.ndarray) -> Image.Image:
    """
    Draw a predicted mask and the annotated one over their image, and say how far they overlap.

    Args:
        image (an image): What was asked about.
        text (`str`): The expression.
        score (`float`): The predicted mask's.
        predicted, true (`np.ndarray`): Boolean masks of the image's height and width.

    Returns:
        `PIL.Image.Image`: As of [`draw_overlay`].
    """
    overlap = (predicted & true).sum() / max(1, (predicted | true).sum())
    entries = ((text, score, predicted), ("annotated; overlap", float(overlap), true))
    return draw_overlay(
        image,
        [{"label": label, "score": found, "mask": mask, "box": mask_to_box(mask)} for label, found, mask in entries],
    )


def draw_explanation(image: Any, results: Sequence[dict[str, Any]], most: int = 6) -> Image.Image:
    """
    Draw the regions that a zero-shot model chose from, and for each expression what the best of them scored.

    Args:
        image (an image): What was given to the pipeline.
        results (`list[dict]`): What it returned for it with `explain=True`.
        most (`int`, *optional*, defaults to 6): Regions that are listed for an expression.

    Returns:
        `PIL.Image.Image`: The picture with numbered regions, and a table for each expression below.
    """
    picture = load_image(image)
    size = _display_size(picture.size)
    canvas = picture.resize(size, Image.Resampling.LANCZOS)
    regions = [_smooth_resize(_read_mask(mask, picture.size), size) for mask in results[0]["explanation"]["regions"]]
    unit = max(size) / 640
    for mask, colour in zip(regions, _colours(len(regions)), strict=True):
        for line, radius in (((20, 20, 20), 3), (colour, 2)):
            canvas.paste(line, mask=_ring(mask, round(radius * unit)))
    font = ImageFont.load_default(round(15 * unit))
    draw = ImageDraw.Draw(canvas)
    for number, (mask, colour) in enumerate(zip(regions, _colours(len(regions)), strict=True)):
        place, margin = _inner_point(mask), round(3 * unit)
        left, top, right, bottom = draw.textbbox(place, str(number), font, "mm")
        badge = (left - margin, top - margin, right + margin, bottom + margin)
        draw.rounded_rectangle(badge, margin, fill=colour, outline=(20, 20, 20))
        draw.text(place, str(number), (20, 20, 20), font, "mm")
    tables = [_explanation_table(result, max(size[0], SHORTEST_LEGEND), most) for result in results]
    return reduce(_stack, tables, canvas)


def outline(mask: Any, size: tuple[int, int]) -> np.ndarray:
    """
    How much of each pixel a mask's outline covers.

    Args:
        mask: As the pipeline returns it, in any of its output formats.
        size (`tuple[int, int]`): (width, height) of the image.

    Returns:
        `np.ndarray`: Of shape (height, width), between 0 and 1.
    """
    return np.asarray(_ring(_read_mask(mask, size), round(max(size) / 320)), dtype=np.float32) / 255


def draw_sheet(pictures: Sequence[Image.Image], columns: int, width: int = 480) -> Image.Image:
    """Pictures side by side in rows, each `width` pixels wide; a row is as high as its highest."""
    scaled = [
        picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
        for picture in pictures
    ]
    lines = [scaled[first : first + columns] for first in range(0, len(scaled), columns)]
    heights = [max(picture.height for picture in line) for line in lines]
    sheet = Image.new("RGB", (width * len(lines[0]), sum(heights)), "white")
    for number, line in enumerate(lines):
        for place, picture in enumerate(line):
            sheet.paste(picture, (place * width, sum(heights[:number])))
    return sheet


def _colours(count: int) -> list[tuple[int, int, int]]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _read_mask(mask: Any, size: tuple[int, int]) -> Image.Image:
    if isinstance(mask, dict):
        mask = rle_to_mask(mask)
    picture = mask if isinstance(mask, Image.Image) else Image.fromarray(np.asarray(mask).astype(np.uint8) * 255)
    if picture.size != size:
        raise ValueError(
            f"`results` holds a mask of {picture.size[0]} x {picture.size[1]} pixels for an image of {size[0]} x {size[1]}."
        )
    return picture.convert("L")


def _display_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(max(1.0, SHORTEST_WIDTH / size[0]), LONGEST_SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def _smooth_resize(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize without staircases, and back to yes and no."""
    scale = size[0] / mask.width
    mask = mask.resize(size, Image.Resampling.BICUBIC)
    if scale > 1:
        mask = mask.filter(ImageFilter.GaussianBlur(0.6 * scale))
    return mask.point(lambda value: 255 if value >= 128 else 0)


def _ring(mask: Image.Image, width: int) -> Image.Image:
    """The pixels just outside of the mask, `width` of them and one more for smoothness."""
    grown = mask
    for step in range(max(1, width)):
        # Squares and crosses in turn grow a mask roundly.
        grown = grown.filter(ImageFilter.MaxFilter(3)) if step % 2 else _grow_by_cross(grown)
    return ImageChops.subtract(grown.filter(ImageFilter.GaussianBlur(0.7)), mask)


def _grow_by_cross(mask: Image.Image) -> Image.Image:
    padded = ImageOps.expand(mask, 1)
    width, height = mask.size
    shifts = [(0, 1), (2, 1), (1, 0), (1, 2)]
    return reduce(ImageChops.lighter, [padded.crop((x, y, x + width, y + height)) for x, y in shifts], mask)


def _legend(results: Sequence[dict[str, Any]], width: int) -> Image.Image:
    """A white strip with one entry for each expression: its colour, what it says, how sure the model is."""
    font = ImageFont.load_default(max(16, width // 40))
    line = round(font.getbbox("Ag")[3] * 1.35)
    margin = line // 2
    entries = []
    for result, colour in zip(results, _colours(len(results)), strict=True):
        found = f"{result['score']:.0%}" if result["box"] is not None else "nothing found"
        room = width - 4 * margin - line - round(font.getlength(found))
        entries.append((colour, _wrap(result["label"], font, room), found))

    height = 2 * margin + sum(len(lines) * line for _, lines, _ in entries)
    strip = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(strip)
    top = margin
    for colour, lines, found in entries:
        swatch = round(line * 0.7)
        draw.rounded_rectangle(
            (margin, top, margin + swatch, top + swatch), swatch // 4, fill=colour, outline=(20, 20, 20)
        )
        draw.text((width - margin, top), found, (90, 90, 90), font, anchor="ra")
        for text in lines:
            draw.text((2 * margin + swatch, top), text, (20, 20, 20), font)
            top += line
    return strip


def _wrap(text: str, font: Any, room: int) -> list[str]:
    """Break a label into lines that fit, inside a word where it must be."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= room:
            lines[-1] = joined
            continue
        lines = [*lines, ""] if lines[-1] else lines
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > room:
                lines.append("")
            lines[-1] += character
    return lines


def _inner_point(mask: Image.Image) -> tuple[int, int]:
    """A place inside of a mask, far from its edge: where the last of it goes when it shrinks."""
    small = mask.resize((max(1, mask.width // 8), max(1, mask.height // 8)))
    inside = np.asarray(small) > 127
    if not inside.any():
        return tuple(side // 2 for side in mask.size)  # type: ignore[return-value]
    left = inside
    while left.any():
        inside = left
        padded = np.pad(left, 1)
        left = left & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    row, column = np.argwhere(inside)[0]
    return int((column + 0.5) * mask.width / small.width), int((row + 0.5) * mask.height / small.height)


def _explanation_table(result: dict[str, Any], width: int, most: int) -> Image.Image:
    """An expression, what was read in it, and a line for each of the best regions."""
    told = result["explanation"]
    font = ImageFont.load_default(max(14, width // 46))
    line = round(font.getbbox("Ag")[3] * 1.35)
    margin = line // 2
    lines = [(text, (20, 20, 20)) for text in _wrap(result["label"], font, width - 2 * margin)]
    notes = [f"noun phrase: {told['phrase']}"] if told.get("phrase") else []
    for name in ("directions", "negatives"):
        if told.get(name):
            notes.append(f"{name}: {'; '.join(told[name])}")
    lines += [(text, (90, 90, 90)) for note in notes for text in _wrap(note, font, width - 2 * margin)]
    columns = ["region", "share", *told["terms"]]
    best = np.argsort(-np.array(told["shares"]))[:most].tolist()
    rows = [[str(number), f"{told['shares'][number]:.0%}"] for number in best]
    for row, number in zip(rows, best, strict=True):
        row += [f"{values[number]:.1f}" for values in told["terms"].values()]
    captions = told.get("captions")
    strip = Image.new("RGB", (width, 2 * margin + line * (len(lines) + 1 + len(rows))), "white")
    draw = ImageDraw.Draw(strip)
    top = margin
    for text, colour in lines:
        draw.text((margin, top), text, colour, font)
        top += line
    step = min(6 * line, (width - 2 * margin) // (len(columns) + (2 if captions else 0)))
    for number, row in zip([None, *best], [columns, *rows], strict=True):
        if number is not None and number == told["pick"]:
            draw.rectangle((margin // 2, top, width - margin // 2, top + line), fill=(255, 243, 200))
        for place, text in enumerate(row):
            draw.text((margin + place * step, top), text, (20, 20, 20), font)
        if captions and number is not None:
            room = width - 2 * margin - len(columns) * step
            caption = _wrap(captions[number], font, room)[0]
            draw.text((margin + len(columns) * step, top), caption, (90, 90, 90), font)
        top += line
    return strip


def _stack(picture: Image.Image, legend: Image.Image) -> Image.Image:
    stacked = Image.new("RGB", (legend.width, picture.height + legend.height), "white")
    stacked.paste(picture, ((legend.width - picture.width) // 2, 0))
    stacked.paste(legend, (0, picture.height))
    return stacked
