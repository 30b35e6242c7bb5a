"""Measures published models on RefCOCO's copies on the Hub, and puts what was published beside it."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from accelerate.utils import release_memory
from transformers import Pipeline, pipeline

from .composition import grounded
from .conversion import convert
from .data import load_refcoco
from .evaluation import evaluate
from .evaluation_comparison import MODEL_ERRORS
from .output_folder import write_whole
from .reporting import machine, table
from .systems import TASK


DATA = {
    **{f"RefCOCO {split}": ("jxu124/refcoco-benchmark", split) for split in ("val", "testA", "testB")},
    "RefCOCO-M val": ("moondream/refcoco-m", "val"),
}
"""The Hub id and the split of each dataset, by name. RefCOCO-M has other masks: what was published for RefCOCO does not hold for it."""


@dataclass(frozen=True)
class PublishedModel:
    """
    A model whose figures are measured again.

    Attributes:
        source (`str`, *optional*): A Hub id; for a `system`, what [`~hf_ris.conversion.convert`] reads. `None` where the authors'
            file has no known Hub id: the user names it.
        compose (`Callable`, *optional*): Composes the pipeline of parts instead; called with a `device`.
        system (`str`, *optional*): The system of weights that have to be converted.
        conversion (`Mapping[str, Any]`): Further options of the conversion.
        protocol, text_column (`str`): How the published figures were measured.
        metric (`str`): Which figure was published.
        published (`Mapping[str, float]`): It, in percent, by the name of the dataset in `DATA`.
        origin (`str`): Where it was published.
    """

    source: str | None = None
    compose: Callable[..., Pipeline] | None = None
    system: str | None = None
    conversion: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = "original"
    text_column: str = "sent"
    metric: str = "mIoU"
    published: Mapping[str, float] = field(default_factory=dict)
    origin: str = ""


def _refcoco(val: float, test_a: float, test_b: float) -> dict[str, float]:
    return {"RefCOCO val": val, "RefCOCO testA": test_a, "RefCOCO testB": test_b}


MODELS = {
    "magnet": PublishedModel(
        "yxchng/magnet_weights::magnet_refcoco.pth",
        system="magnet",
        protocol="lavt",
        text_column="raw",
        metric="oIoU",
        published=_refcoco(75.24, 78.24, 71.05),
        origin="MagNet's repository",
    ),
    "cris-r50": PublishedModel(
        system="cris", protocol="cris", published=_refcoco(69.52, 72.72, 64.70), origin="CRIS's repository"
    ),
    "cris-r101": PublishedModel(
        system="cris", protocol="cris", published=_refcoco(70.47, 73.18, 66.10), origin="CRIS's repository"
    ),
    "clipseg": PublishedModel("CIDAS/clipseg-rd64-refined"),
    "sam3": PublishedModel("facebook/sam3"),
    "florence-2-base-ft": PublishedModel(
        "florence-community/Florence-2-base-ft", published={"RefCOCO val": 78.0}, origin="its model card"
    ),
    "grounded": PublishedModel(compose=grounded),
    "grounded-place": PublishedModel(compose=partial(grounded, select="place")),
}


def reproduce(
    output: str | Path,
    only: Iterable[str] | None = None,
    num_rows: int | None = None,
    weights: Mapping[str, str] | None = None,
    device: str | None = None,
    batch_size: int = 16,
    note: Callable[[str], None] = lambda message: None,
) -> list[dict[str, Any]]:
    """
    Measure `MODELS` on `DATA`. A run that was stopped continues. A model or dataset that cannot be had gets a line that says why.

    Args:
        output (`str` or `Path`): Folder for the table, `reproduction.md` and `reproduction.json`, which grows line by line, for
            converted weights, and for each evaluation.
        only (`Iterable[str]`, *optional*): Names in `MODELS`; by default all.
        num_rows (`int`, *optional*): Measure on the first referents only.
        weights (`Mapping[str, str]`, *optional*): Files of weights in place of a model's `source`, by its name.
        device (`str`, *optional*): Such as "cpu" or "cuda:0"; by default the first accelerator.
        batch_size (`int`, *optional*, defaults to 16): Expressions in one forward pass.
        note (`Callable`, *optional*): Called with a line of progress.

    Returns:
        `list[dict]`: A line for each model and dataset, with the model's `published` figure and what was measured (`results`, as
        [`~hf_ris.evaluation.evaluate`] returns it), or the `error`.

    Raises:
        ValueError: If a name is unknown.
    """
    weights = dict(weights or {})
    names = list(MODELS if only is None else dict.fromkeys(only))
    for option, given in (("only", names), ("weights", list(weights))):
        if unknown := [name for name in given if name not in MODELS]:
            raise ValueError(f"`{option}` must be one of {list(MODELS)}, got {unknown[0]!r}.")
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    rows: dict[str, datasets.Dataset | str] = {}
    for name, (root, split) in DATA.items():
        note(f"loading {name} from {root} ...")
        try:
            loaded = load_refcoco("refcoco", split, root)
            rows[name] = loaded if num_rows is None else loaded.select(range(min(num_rows, len(loaded))))
        except MODEL_ERRORS as error:
            rows[name] = str(error)

    lines: list[dict[str, Any]] = []
    for name in names:
        note(f"measuring {name} ...")
        model = MODELS[name]
        try:
            ris: Any = _load(name, model, weights.get(name, model.source), output, device, note)
        except MODEL_ERRORS as error:
            ris = str(error)
        for data, dataset in rows.items():
            line: dict[str, Any] = {"model": name, "data": data, "published": model.published.get(data)}
            folder = output / f"{data}{f' first {num_rows}' if num_rows else ''}".replace(" ", "-") / name
            try:
                for missing in (ris, dataset):
                    if isinstance(missing, str):
                        raise ValueError(missing)
                options = (model.protocol, batch_size, folder, model.text_column)
                line["results"] = evaluate(ris, dataset, *options, name=data, on_error="report")
            except MODEL_ERRORS as error:
                line["error"] = str(error)
                note(f"{name} on {data}: {error}")
            lines.append(line)
            write_whole(output / "reproduction.json", json.dumps(lines, indent=2, ensure_ascii=False))
            write_whole(output / "reproduction.md", render_lines(lines, num_rows))
        ris = None
        release_memory()
    return lines


def _load(
    name: str,
    model: PublishedModel,
    source: str | None,
    output: Path,
    device: str | None,
    note: Callable[[str], None],
) -> Pipeline:
    """Load a model; weights are converted once."""
    if model.compose is not None:
        return model.compose(device=device)
    if source is None:
        raise ValueError(f"`weights` must name the authors' file of {name}: no Hub id of it is known.")
    if model.system is not None:
        folder = output / "weights" / name
        if not folder.exists():  # it appears complete or not at all
            convert(model.system, source, folder, note=note, **model.conversion)
        source = str(folder)
    return pipeline(TASK, model=source, device=device)


def render_lines(lines: Iterable[dict[str, Any]], num_rows: int | None = None) -> str:
    """Make a document with a table of [`reproduce`]'s lines, in percent."""
    header = ["model", "data", "published", "measured", "difference", "oIoU", "mIoU", "protocol, text", "expressions"]
    cells = []
    for line in lines:
        model, published, results = MODELS[line["model"]], line["published"], line.get("results")
        claim = "" if published is None else f"{model.metric} {published:.2f}, {model.origin}"
        how = f"{model.protocol}, {model.text_column}"
        if results is None:
            reason = " ".join(line["error"].split()).replace("|", "\\|")
            cells.append([line["model"], line["data"], claim, f"not measured: {reason}", "", "", "", how, ""])
            continue
        measured = 100 * results[model.metric]
        comparable = published is not None and num_rows is None
        cells.append(
            [
                line["model"],
                line["data"],
                claim,
                f"{model.metric} {measured:.2f}",
                f"{measured - published:+.2f}" if comparable else "",
                *(f"{100 * results[metric]:.2f}" for metric in ("oIoU", "mIoU")),
                how,
                f"{results['expressions']:,}" + (f", {results['errors']} missed" if results["errors"] else ""),
            ]
        )
    part = (
        ""
        if num_rows is None
        else f"The first {num_rows} referents alone: not to be compared with what was published.\n\n"
    )
    return f"# Published and measured\n\n{part}{table(header, cells)}\n\nMeasured by `scripts/reproduce.py` on {machine()}.\n"


__all__ = ["DATA", "MODELS", "PublishedModel", "render_lines", "reproduce"]
