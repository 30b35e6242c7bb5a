"""A comparison of models as text for a terminal, and as one self-contained HTML page."""

from typing import Any

import datasets
import numpy as np

from .data.segmentation import overlap_masks
from .evaluation_report import KINDS, Sample, break_down, draw_panels, make_samples, render_page, various
from .modeling.language_expression import Expression
from .protocols import PROTOCOLS, Protocol
from .published_card import METRICS


EXAMPLES = 16


def kind_figures(texts: list[str], answers: list[dict[str, Any]], protocol: Protocol) -> dict[str, dict[str, float]]:
    """
    Compute a model's figures by kind of expression, with the number of `expressions` of each. Both masks empty is IoU 1, as in a report.

    Args:
        texts (`list[str]`): The expressions, as they were asked.
        answers (`list[dict[str, Any]]`): The answers to them.
        protocol (`Protocol`): The rules by which masks were compared.
    """
    rows = break_down(
        make_samples(texts, answers), lambda sample: Expression(sample.text).kind, tuple(KINDS), protocol
    )
    return {kind: {"expressions": number, **figures} for kind, number, figures in rows}


def comparison_table(comparison: dict[str, Any]) -> str:
    """Make a comparison's table for a terminal, in percent: a line for each model, then the intervals."""
    models = comparison["models"]
    kinds = next(iter(models.values()))["kinds"]
    lines = [["", *METRICS, *(f"mIoU {kind}" for kind in kinds)]]
    for name, model in models.items():
        values = [*(model[metric] for metric in METRICS), *(model["kinds"][kind]["mIoU"] for kind in kinds)]
        lines.append([name, *(f"{100 * value:.2f}" for value in values)])
    text = _align(lines)
    if len(models) > 1:
        lines = [[f"minus {comparison['first']}", "oIoU", "", "mIoU", ""]]
        for name, model in list(models.items())[1:]:
            cells = [(_signed(each["value"]), _interval(each)) for each in model["difference"].values()]
            lines.append([name, *(cell for pair in cells for cell in pair)])
        level = f"{comparison['interval']['level']:.0%}"
        text += f"\n\n{_align(lines)}\n{level} intervals, images drawn with replacement"
    return text


def _align(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
    )


def _signed(value: float) -> str:
    """A difference in percent points; a zero has no sign."""
    return f"{round(100 * value, 2) + 0.0:+.2f}".replace("+0.00", "0.00")


def _interval(difference: dict[str, float]) -> str:
    return f"[{_signed(difference['low'])}, {_signed(difference['high'])}]"


def render_comparison(
    comparison: dict[str, Any],
    texts: list[str],
    dataset: datasets.Dataset,
    answers: dict[str, list[dict[str, Any]]],
) -> str:
    """
    Render the page.

    Args:
        comparison (`dict[str, Any]`): The content of `comparison.json`.
        texts (`list[str]`): The expressions, as they were asked.
        dataset (`datasets.Dataset`): The dataset's rows.
        answers (`dict[str, list[dict]]`): Each model's answers to the expressions.

    Returns:
        `str`: HTML that needs no other file.
    """
    samples = {name: make_samples(texts, each) for name, each in answers.items()}
    models = comparison["models"]
    kinds = models[comparison["first"]]["kinds"]
    tables = {
        "Figures": _table({name: {metric: model[metric] for metric in METRICS} for name, model in models.items()})
    }
    for metric in ("mIoU", "oIoU"):
        by_kind = {name: {kind: model["kinds"][kind][metric] for kind in kinds} for name, model in models.items()}
        tables[f"{metric} by what an expression tells"] = _table(by_kind)
    differences = [each for model in models.values() for each in model["difference"].values()]
    return render_page(
        "evaluation_comparison.html",
        comparison=comparison,
        rule=PROTOCOLS[comparison["protocol"]],
        tables=tables,
        kinds={kind: (KINDS[kind].removeprefix("neither: "), row["expressions"]) for kind, row in kinds.items()},
        widest=max((abs(each[end]) for each in differences for end in ("low", "high")), default=0.0) or 1.0,
        signed=_signed,
        interval=_interval,
        examples=[_show(chosen, samples, dataset) for chosen in _most_disputed(samples)] if len(samples) > 1 else [],
    )


def _table(figures: dict[str, dict[str, float]]) -> dict[str, Any]:
    """A header, and for each model its figures in percent, each with whether it is the best."""
    header = list(next(iter(figures.values())))
    best = {name: max(row[name] for row in figures.values()) for name in header}
    rows = {
        model: [(f"{100 * value:.2f}", len(figures) > 1 and value == best[name]) for name, value in row.items()]
        for model, row in figures.items()
    }
    return {"header": header, "rows": rows}


def _most_disputed(samples: dict[str, list[Sample]]) -> list[int]:
    """The numbers of the expressions whose IoU differs most between models, then those whose masks do; one an image."""
    ious = np.array([[sample.iou for sample in each] for each in samples.values()])
    spread = ious.max(axis=0) - ious.min(axis=0)

    def rank(number: int) -> tuple[float, float]:
        codes = [each[number].answer["mask"] for each in samples.values()]
        has_one_size = all(code["size"] == codes[0]["size"] for code in codes)  # each model's own, under "lavt"
        return -spread[number], overlap_masks(codes) if has_one_size else 1.0

    first = next(iter(samples.values()))
    asked = [number for number, sample in enumerate(first) if "error" not in sample.answer]
    numbers = {id(first[number]): number for number in asked}
    return [numbers[id(sample)] for sample in various((first[number] for number in sorted(asked, key=rank)), EXAMPLES)]


def _show(number: int, samples: dict[str, list[Sample]], dataset: datasets.Dataset) -> dict[str, Any]:
    """Image, truth and every model's mask of an expression."""
    chosen = {name: each[number] for name, each in samples.items()}
    sample = next(iter(chosen.values()))
    row = dataset[sample.answer["row"]]
    masks = {"truth": row["mask"], **{f"model {name}": each.answer["mask"] for name, each in chosen.items()}}
    image, truth, *predictions = draw_panels(row["image"], masks).values()
    ious = [each.iou for each in chosen.values()]
    return {
        "text": sample.text,
        "kind": Expression(sample.text).kind,
        "image": image,
        "truth": truth,
        "best": max(ious),
        "predictions": list(zip(chosen, predictions, ious, strict=True)),
    }


__all__ = ["comparison_table", "kind_figures", "render_comparison"]
