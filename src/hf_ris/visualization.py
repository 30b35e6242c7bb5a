"""Drawings of results: the mask of each expression in a colour, over the image and above a legend; and sheets of drawings."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

from .modeling.without_torch import load_image, mask_to_box, rle_to_mask


# Distinct to people of every colour vision (after Okabe and Ito), brightened to stand out from photos.
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
BLACK, GREY, WHITE = (20, 20, 20), (90, 90, 90), (255, 255, 255)
HIGHLIGHT = (255, 243, 200)
MIN_WIDTH = 640
MAX_SIDE = 1600
MIN_LEGEND_WIDTH = 400


def draw_overlay(image: Any, results: dict[str, Any] | Sequence[dict[str, Any]], opacity: float = 0.25) -> Image.Image:
    """
    Draw results over their image.

    The image is enlarged to be at least 640 pixels wide and reduced to at most 1600 pixels a side, so that outlines and
    legend can be read at any size of the image.

    Args:
        image (an image):
            The image that was given to the pipeline.
        results (`dict` or `list[dict]`):
            The pipeline's results for it, in any of its output formats.
        opacity (`float`, *optional*, defaults to 0.25):
            Share of the fill over the image, between 0 and 1; little, so that the image's colours stay visible.

    Returns:
        `PIL.Image.Image`: Mode `"RGB"`, with a legend below.

    Raises:
        ValueError: If a mask is damaged or does not have the size of the image.
    """
    results = [results] if isinstance(results, dict) else list(results)
    canvas, masks = _prepare(image, [result["mask"] for result in results])
    for mask, colour in zip(masks, _colours(masks), strict=True):
        canvas.paste(colour, mask=mask.point(lambda value: round(value * opacity)))
    # Dark, light and coloured lines around each other can be seen on dark, light and like-coloured ground.
    _draw_outlines(canvas, masks, {BLACK: 4, WHITE: 3, None: 2})
    return _stack(canvas, _legend(results, max(canvas.width, MIN_LEGEND_WIDTH)))


def draw_comparison(image: Any, text: str, score: float, predicted: np.ndarray, true: np.ndarray) -> Image.Image:
    """
    Draw a predicted mask and the annotated one over their image, with their overlap.

    Args:
        image (an image): The image.
        text (`str`): The expression.
        score (`float`): The predicted mask's score.
        predicted, true (`np.ndarray`): Boolean masks of the image's height and width.

    Returns:
        `PIL.Image.Image`: See [`draw_overlay`].
    """
    overlap = (predicted & true).sum() / max(1, (predicted | true).sum())
    entries = ((text, score, predicted), ("annotated; overlap", float(overlap), true))
    return draw_overlay(
        image,
        [{"label": label, "score": score, "mask": mask, "box": mask_to_box(mask)} for label, score, mask in entries],
    )


def draw_explanation(image: Any, results: Sequence[dict[str, Any]], most: int = 6) -> Image.Image:
    """
    Draw what a model chose from, and for each expression the scores of the best: a zero-shot model's regions, or the boxes of a model
    that finds instances. What was chosen has a strong outline.

    Args:
        image (an image): The image that was given to the pipeline.
        results (`list[dict]`): The pipeline's results for it, with `explain=True`.
        most (`int`, *optional*, defaults to 6): Largest number of regions or boxes in the table of an expression.

    Returns:
        `PIL.Image.Image`: The image with numbered regions, or an expression's boxes, above the tables of the expressions that choose
        among them.
    """
    if "boxes" in results[0]["explanation"]:
        drawn = [
            _draw_boxes(image, result, colour, most) for result, colour in zip(results, _colours(results), strict=True)
        ]
        return reduce(_stack, drawn)
    groups: list[list[dict[str, Any]]] = []
    for result in results:
        if groups and _have_same_regions(groups[-1][0], result):
            groups[-1].append(result)
        else:
            groups.append([result])
    return reduce(_stack, [_draw_regions(image, group, most) for group in groups])


def _have_same_regions(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two expressions choose among the same regions; a detector finds others for each."""
    first, second = one["explanation"]["regions"], other["explanation"]["regions"]
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def _draw_regions(image: Any, results: Sequence[dict[str, Any]], most: int) -> Image.Image:
    """An image with its regions, above the tables of expressions."""
    canvas, regions = _prepare(image, results[0]["explanation"]["regions"])
    _draw_outlines(canvas, regions, {BLACK: 3, None: 2})
    for number, (mask, colour) in enumerate(zip(regions, _colours(regions), strict=True)):
        _draw_badge(canvas, _inner_point(mask), str(number), "mm", colour)
    tables = [_explanation_table(result, max(canvas.width, MIN_LEGEND_WIDTH), most) for result in results]
    return reduce(_stack, tables, canvas)


def _draw_badge(canvas: Image.Image, place: tuple[int, int], text: str, anchor: str, colour: Any) -> None:
    """Write on a plate of a colour; `anchor` says which point of the text is at the place."""
    font, margin = ImageFont.load_default(round(15 * _unit(canvas))), round(3 * _unit(canvas))
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = draw.textbbox(place, text, font, anchor)
    x, y = (max(0, margin - left), max(0, margin - top))  # a badge stays within the image
    draw.rounded_rectangle(
        (left - margin + x, top - margin + y, right + margin + x, bottom + margin + y),
        margin,
        fill=colour,
        outline=BLACK,
    )
    draw.text((place[0] + x, place[1] + y), text, BLACK, font, anchor)


def _draw_boxes(image: Any, result: dict[str, Any], colour: tuple[int, int, int], most: int) -> Image.Image:
    """An image with the boxes that were found for an expression, those that were chosen last and strongest, above their table."""
    explanation = result["explanation"]
    canvas, _ = _prepare(image, [])
    scale, line = canvas.width / load_image(image).width, max(1, round(_unit(canvas)))
    draw = ImageDraw.Draw(canvas)
    picked, candidates = explanation["picked"], explanation.get("candidates", [])
    order = [number for number in _best(explanation["scores"], most, picked) if number not in picked]
    for number in [*reversed(order), *picked]:
        box = np.clip(np.multiply(explanation["boxes"][number], scale), 0, (canvas.width - 1, canvas.height - 1) * 2)
        width = line * (4 if number in picked else 2 if number in candidates else 1)
        plate = colour if number in picked else WHITE
        draw.rectangle([*(box[:2] - line), *(box[2:] + line)], outline=BLACK, width=width + 2 * line)
        draw.rectangle([*box], outline=plate, width=width)
        left, top = box[:2].round().astype(int).tolist()
        _draw_badge(canvas, (left, top), f"{number}: {explanation['scores'][number]:.0%}", "lt", plate)
    return _stack(canvas, _boxes_table(result, max(canvas.width, MIN_LEGEND_WIDTH), most))


def outline(mask: Any, size: tuple[int, int]) -> np.ndarray:
    """
    Share of each pixel that a mask's outline covers.

    Args:
        mask: A mask of the pipeline, in any of its output formats.
        size (`tuple[int, int]`): (width, height) of the image.

    Returns:
        `np.ndarray`: Of shape (height, width), between 0 and 1.
    """
    return np.asarray(_ring(_read_mask(mask, size), round(max(size) / 320)), dtype=np.float32) / 255


def draw_sheet(images: Sequence[Image.Image], columns: int, width: int = 480) -> Image.Image:
    """Lay out images in rows of `columns`, each `width` pixels wide; a row is as high as its highest image."""
    scaled = [
        image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS) for image in images
    ]
    rows = [scaled[first : first + columns] for first in range(0, len(scaled), columns)]
    heights = [max(image.height for image in row) for row in rows]
    sheet = Image.new("RGB", (width * len(rows[0]), sum(heights)), "white")
    for number, row in enumerate(rows):
        for column, image in enumerate(row):
            sheet.paste(image, (column * width, sum(heights[:number])))
    return sheet


def _colours(entries: Sequence[Any]) -> list[tuple[int, int, int]]:
    return [COLOURS[index % len(COLOURS)] for index in range(len(entries))]


def _unit(canvas: Image.Image) -> float:
    """Width of a line, relative to a canvas of 640 pixels."""
    return max(canvas.size) / 640


def _prepare(image: Any, masks: Sequence[Any]) -> tuple[Image.Image, list[Image.Image]]:
    """Image and masks at the size at which they are drawn."""
    loaded = load_image(image)
    masks = [_read_mask(mask, loaded.size) for mask in masks]
    scale = min(max(1.0, MIN_WIDTH / loaded.width), MAX_SIDE / max(loaded.size))
    size = (max(1, round(loaded.width * scale)), max(1, round(loaded.height * scale)))
    return loaded.resize(size, Image.Resampling.LANCZOS), [_smooth_resize(mask, size) for mask in masks]


def _read_mask(mask: Any, size: tuple[int, int]) -> Image.Image:
    if isinstance(mask, dict):
        mask = rle_to_mask(mask)
    image = mask if isinstance(mask, Image.Image) else Image.fromarray(np.asarray(mask).astype(np.uint8) * 255)
    if image.size != size:
        raise ValueError(
            f"`results` holds a mask of {image.width} x {image.height} pixels for an image of {size[0]} x {size[1]}."
        )
    return image.convert("L")


def _smooth_resize(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize without staircases, to 0 and 255 again."""
    scale = size[0] / mask.width
    mask = mask.resize(size, Image.Resampling.BICUBIC)
    if scale > 1:
        mask = mask.filter(ImageFilter.GaussianBlur(0.6 * scale))
    return mask.point(lambda value: 255 if value >= 128 else 0)


def _draw_outlines(
    canvas: Image.Image, masks: Sequence[Image.Image], radii: dict[tuple[int, int, int] | None, int]
) -> None:
    """Draw lines of these colours and radii around each mask, the widest first; `None` is the mask's colour."""
    for mask, mask_colour in zip(masks, _colours(masks), strict=True):
        for colour, radius in radii.items():
            canvas.paste(colour or mask_colour, mask=_ring(mask, round(radius * _unit(canvas))))


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
    """A white strip with one entry for each expression: colour, expression, score."""
    font, line = _font(max(16, width // 40))
    margin = line // 2
    entries = []
    for result, colour in zip(results, _colours(results), strict=True):
        found = f"{result['score']:.0%}" if result["box"] is not None else "nothing found"
        room = width - 4 * margin - line - round(font.getlength(found))
        entries.append((colour, _wrap(result["label"], font, room), found))

    height = 2 * margin + sum(len(lines) * line for _, lines, _ in entries)
    strip = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(strip)
    top = margin
    for colour, lines, found in entries:
        swatch = round(line * 0.7)
        draw.rounded_rectangle((margin, top, margin + swatch, top + swatch), swatch // 4, fill=colour, outline=BLACK)
        draw.text((width - margin, top), found, GREY, font, anchor="ra")
        for text in lines:
            draw.text((2 * margin + swatch, top), text, BLACK, font)
            top += line
    return strip


def _font(size: int) -> tuple[Any, int]:
    """A font, and the height of its lines."""
    font = ImageFont.load_default(size)
    return font, round(font.getbbox("Ag")[3] * 1.35)


def _wrap(text: str, font: Any, room: int) -> list[str]:
    """Break a label into lines that fit, inside a word if need be."""
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
    """A point inside of a mask, far from its edge: the last one that is left when the mask shrinks."""
    small = mask.resize((max(1, mask.width // 8), max(1, mask.height // 8)))
    inside = np.asarray(small) > 127
    if not inside.any():
        return mask.width // 2, mask.height // 2
    shrunk = inside
    while shrunk.any():
        inside = shrunk
        padded = np.pad(inside, 1)
        shrunk = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    row, column = np.argwhere(inside)[0]
    return int((column + 0.5) * mask.width / small.width), int((row + 0.5) * mask.height / small.height)


def _explanation_table(result: dict[str, Any], width: int, most: int) -> Image.Image:
    """A white strip with an expression, what was read in it, and a line for each of the best regions."""
    explanation = result["explanation"]
    columns = ["region", "share", *explanation["terms"]]
    rows = []
    for number in _best(explanation["shares"], most):
        scores = [f"{values[number]:.1f}" for values in explanation["terms"].values()]
        cells = [str(number), f"{explanation['shares'][number]:.0%}", *scores]
        rows.append(
            (
                number == explanation["pick"],
                cells,
                explanation["captions"][number] if explanation.get("captions") else "",
            )
        )
    return _table(result, ("directions", "negatives"), columns, rows, width)


def _boxes_table(result: dict[str, Any], width: int, most: int) -> Image.Image:
    """A white strip with an expression, what was read in it, and a line for each of the best boxes."""
    explanation = result["explanation"]
    picked, candidates = explanation["picked"], explanation.get("candidates", [])
    rows = []
    for number in _best(explanation["scores"], most, picked):
        role = "chosen" if number in picked else "candidate" if number in candidates else ""
        rows.append((number in picked, [str(number), f"{explanation['scores'][number]:.0%}", role], ""))
    return _table(result, ("places",), ["box", "score", ""] if rows else ["nothing found"], rows, width)


def _best(scores: Sequence[float], most: int, kept: Sequence[int] = ()) -> list[int]:
    """The numbers of the highest scores, best first, and of those that are kept in any case."""
    order = np.argsort(-np.array(scores), kind="stable").tolist()
    return [number for place, number in enumerate(order) if place < most or number in kept]


def _table(
    result: dict[str, Any],
    read: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[tuple[bool, Sequence[str], str]],
    width: int,
) -> Image.Image:
    """
    A white strip with an expression, what was read in it, and a table.

    Args:
        result (`dict`): The expression's result.
        read (`Sequence[str]`): Names of what the explanation says was read in it.
        columns (`Sequence[str]`): The table's head.
        rows (`Sequence[tuple]`): For each row whether it is highlighted, its cells, and a sentence behind them.
        width (`int`): In pixels.
    """
    explanation = result["explanation"]
    font, line = _font(max(14, width // 46))
    margin = line // 2
    notes = [f"noun phrase: {explanation['phrase']}"] if explanation.get("phrase") else []
    notes += [f"{name}: {'; '.join(explanation[name])}" for name in read if explanation.get(name)]
    room = width - 2 * margin
    lines = [(text, BLACK) for text in _wrap(result["label"], font, room)]
    lines += [(text, GREY) for note in notes for text in _wrap(note, font, room)]

    strip = Image.new("RGB", (width, 2 * margin + line * (len(lines) + 1 + len(rows))), "white")
    draw = ImageDraw.Draw(strip)
    top = margin
    for text, colour in lines:
        draw.text((margin, top), text, colour, font)
        top += line
    step = min(6 * line, room // (len(columns) + (2 if any(sentence for *_, sentence in rows) else 0)))
    for is_highlighted, cells, sentence in [(False, columns, ""), *rows]:
        if is_highlighted:
            draw.rectangle((margin // 2, top, width - margin // 2, top + line), fill=HIGHLIGHT)
        for place, cell in enumerate(cells):
            draw.text((margin + place * step, top), cell, BLACK, font)
        if sentence:
            left = margin + len(columns) * step
            draw.text((left, top), _wrap(sentence, font, width - margin - left)[0], GREY, font)
        top += line
    return strip


def _stack(image: Image.Image, legend: Image.Image) -> Image.Image:
    stacked = Image.new("RGB", (legend.width, image.height + legend.height), "white")
    stacked.paste(image, ((legend.width - image.width) // 2, 0))
    stacked.paste(legend, (0, image.height))
    return stacked
