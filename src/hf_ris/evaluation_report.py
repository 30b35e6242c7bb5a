"""An evaluation as one self-contained HTML page: the numbers, where they come from, and the best, median and worst answers."""

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import jinja2
import numpy as np
from PIL import Image, ImageFilter

from .data.segmentation import decode_mask
from .modeling.language_expression import LOOK, PLACE, RELATION, Expression
from .protocols import Protocol
from .referring_segmentation_iou import sample_ious, summarize


BINS = 20
SHOWN = 6  # answers in each gallery
THUMBNAIL = 320  # pixels of the longer side
OUTLINE = (214, 0, 108)


@dataclass(frozen=True)
class Sample:
    """
    An answer, as the page shows it.

    Attributes:
        text (`str`): The expression.
        area (`float`): Share of the image that the true mask covers.
        iou (`float`): IoU of predicted and true mask; 1 where both are empty, so that what was rightly not found looks right.
        answer (`dict[str, Any]`): The answer in the evaluation's file.
    """

    text: str
    area: float
    iou: float
    answer: dict[str, Any]


LENGTHS = {"1-2 words": 2, "3-4": 4, "5-7": 7, "8 and more": 10**9}
SIZES = {"nothing": 0.0, "below 1 %": 0.01, "1-5 %": 0.05, "5-20 %": 0.2, "above 20 %": 1.0}
KINDS = {LOOK: "neither: looks alone", PLACE: "place in the image", RELATION: "relation to something else"}


def length_of(text: str) -> str:
    """Name the one of `LENGTHS` that an expression has."""
    words = len(text.split())
    return next(name for name, limit in LENGTHS.items() if words <= limit)


def kind_of(sample: Sample) -> str:
    """Name the one of `KINDS` that an expression is of."""
    return KINDS[Expression(sample.text).kind]


def size_of(sample: Sample) -> str:
    """Name the one of `SIZES` that the true mask has."""
    return next(name for name, limit in SIZES.items() if sample.area <= limit)


BREAKDOWNS: dict[str, tuple[Callable[[Sample], str], tuple[str, ...]]] = {
    "Length of the expression": (lambda sample: length_of(sample.text), tuple(LENGTHS)),
    "What the expression tells": (kind_of, tuple(KINDS.values())),
    "Share of the image that the object fills": (size_of, tuple(SIZES)),
}


def render_report(
    figures: dict[str, float],
    facts: dict[str, Any],
    protocol: Protocol,
    texts: list[str],
    dataset: datasets.Dataset,
    answers: list[dict[str, Any]],
) -> str:
    """
    Render the page.

    Args:
        figures (`dict[str, float]`): The metric's results.
        facts (`dict[str, Any]`): Model, dataset and settings, with the numbers of `expressions`, `referents` and `images`.
        protocol (`Protocol`): The rules by which masks were compared.
        texts (`list[str]`): The expressions, as they were asked.
        dataset (`datasets.Dataset`): The dataset's rows.
        answers (`list[dict[str, Any]]`): The answers to the expressions.

    Returns:
        `str`: HTML that needs no other file.
    """
    samples = make_samples(texts, answers)
    asked = [sample for sample in samples if "error" not in sample.answer]
    ranked = sorted(asked, key=lambda sample: (sample.iou, sample.answer["row"], sample.answer["expression"]))
    middle = ranked[len(ranked) // 2 :] + ranked[: len(ranked) // 2]
    galleries = {
        "Worst": various(ranked, SHOWN),
        "From the median up": various(middle, SHOWN),
        "Best": various(reversed(ranked), SHOWN),
    }
    histogram, _ = np.histogram([sample.iou for sample in samples], bins=BINS, range=(0, 1))
    return render_page(
        "evaluation_report.html",
        facts=facts,
        title=f"{Path(facts['model']).name or 'a model'} on {facts['dataset']}",
        protocol=protocol,
        figures=figures,
        histogram=[
            (number / BINS, int(count), count / max(1, histogram.max())) for number, count in enumerate(histogram)
        ],
        breakdowns={title: break_down(samples, *how, protocol) for title, how in BREAKDOWNS.items()},
        errors=dict.fromkeys(sample.answer["error"] for sample in samples if "error" in sample.answer),
        galleries={title: [_show(sample, dataset) for sample in shown] for title, shown in galleries.items()},
    )


def render_page(template: str, **values: Any) -> str:
    """Render a template of the package's assets."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hf_ris", "assets"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)


def make_samples(texts: list[str], answers: list[dict[str, Any]]) -> list[Sample]:
    """Put expressions and the answers to them together."""
    samples = []
    ious = sample_ious([answer["counts"] for answer in answers], empty_iou=1.0).tolist()
    for text, iou, answer in zip(texts, ious, answers, strict=True):
        height, width = answer["mask"]["size"]
        samples.append(Sample(text, answer["counts"][2] / (height * width), iou, answer))
    return samples


def various(samples: Iterable[Sample], number: int) -> list[Sample]:
    """Take the first few, each of another image."""
    chosen: dict[int, Sample] = {}
    for sample in samples:
        chosen.setdefault(sample.answer["image_id"], sample)
        if len(chosen) == number:
            break
    return list(chosen.values())


def break_down(
    samples: list[Sample], name_of: Callable[[Sample], str], names: tuple[str, ...], protocol: Protocol
) -> list[tuple[str, int, dict[str, float]]]:
    """Compute the figures of the samples of each name: the name, how many there are, the figures."""
    rows = []
    for name in names:
        counts = [sample.answer["counts"] for sample in samples if name_of(sample) == name]
        if counts:
            rows.append((name, len(counts), summarize(counts, protocol.comparison, empty_iou=1.0)))
    return rows


def _show(sample: Sample, dataset: datasets.Dataset) -> dict[str, Any]:
    """Image, truth and prediction of a sample, for a gallery."""
    row = dataset[sample.answer["row"]]
    masks = {"truth": row["mask"], "prediction": sample.answer["mask"]}
    return {"text": sample.text, "iou": sample.iou, "panels": draw_panels(row["image"], masks)}


def draw_panels(image: Image.Image, masks: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Draw a small `image`, and one with each of the masks (run-length code), as URLs that hold them."""
    image = image.convert("RGB")
    scale = min(1.0, THUMBNAIL / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    thumbnail = image.resize(size, Image.Resampling.LANCZOS)
    panels = {"image": thumbnail, **{name: _spotlight(thumbnail, decode_mask(code)) for name, code in masks.items()}}
    return {name: _data_url(panel) for name, panel in panels.items()}


def _spotlight(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """Draw an image pale outside of a mask, which is stretched over it, with a line around the mask."""
    inside = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size)
    pale = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "white"), 0.65)
    pale.paste(OUTLINE, mask=inside.filter(ImageFilter.MaxFilter(5)))
    return Image.composite(image, pale, inside)


def _data_url(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


__all__ = [
    "KINDS",
    "LENGTHS",
    "Sample",
    "break_down",
    "draw_panels",
    "length_of",
    "make_samples",
    "render_page",
    "render_report",
    "various",
]
