"""Evaluates several models on the same rows, one after the other, and compares them: one table, intervals, one page."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from hashlib import blake2b
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import gather_object, release_memory
from transformers import Pipeline, PreTrainedConfig

from .evaluation import Segmenter, check_options, evaluate, join_processes
from .evaluation_comparison_page import kind_figures, render_comparison
from .evaluation_intervals import LEVEL, RESAMPLES, paired_differences
from .evaluation_questions import Questions
from .evaluation_shards import read_shards
from .output_folder import hold_folder, write_whole
from .protocols import PROTOCOLS, Protocol
from .systems import find_model


# What one model may lack while the others can be had: weights, access, a size of its own, memory.
MODEL_ERRORS = (ValueError, OSError, ImportError, MemoryError, FloatingPointError, torch.OutOfMemoryError)


def compare(
    models: Mapping[str, Callable[[], Pipeline | Segmenter]],
    dataset: datasets.Dataset,
    output: str | Path,
    protocol: str = "original",
    batch_size: int = 16,
    text_column: str = "sent",
    on_error: str = "raise",
    **options: Any,
) -> dict[str, Any]:
    """
    Evaluate models on the same rows under the same protocol, and compare them with the first one. One model is in memory at a time.

    Args:
        models (`Mapping[str, Callable]`): Names, as the page shows them, and functions without arguments that load a pipeline or
            another thing that [`~hf_ris.evaluation.evaluate`] takes.
        dataset (`datasets.Dataset`): Rows with the columns of [`~hf_ris.data.FEATURES`].
        output (`str` or `Path`): Folder for `comparison.json`, `comparison.html` and a folder for each model, as `evaluate` writes it.
            The models' folders depend on their names alone, so that a run with others or in another order continues them.
        protocol, batch_size, text_column, on_error, **options: See [`~hf_ris.evaluation.evaluate`].

    Returns:
        `dict`: `dataset`, `protocol` and so on; `models`, by name: what `evaluate` returns, the model's `folder` in `output`, its figures
        by kind of expression (`kinds`), and, for all but the first, `difference`: oIoU and mIoU minus those of the first, with a 95 %
        interval (see [`~hf_ris.evaluation_intervals.paired_differences`]); `errors`: why a model has no figures, by name.

    Raises:
        ValueError: If an argument is not possible, the dataset holds something that no model can be asked, or another run writes to `output`.
    """
    check_options(protocol, batch_size, text_column, on_error)
    output = Path(output)
    folders = {name: output / folder_name(name) for name in models}
    if not folders or len(set(folders.values())) < len(folders):
        raise ValueError(f"`models` must hold at least one model and each once, got {list(models)}.")
    questions = Questions(dataset, batch_size, text_column, None, on_error)
    state = join_processes()
    results: dict[str, dict[str, Any]] = {}
    errors: dict[str, str] = {}
    comparison: dict[str, Any] = {}
    with hold_folder(output) if state.is_main_process else nullcontext():
        for name, load in models.items():
            try:
                ris = _load_everywhere(load)
                arguments = (dataset, protocol, batch_size, folders[name], text_column)
                results[name] = evaluate(ris, *arguments, on_error=on_error, **options)
            except MODEL_ERRORS as error:
                if state.num_processes > 1 and not isinstance(error, _MissingModelError):
                    raise  # the other processes wait for this one
                errors[name] = str(error)
            ris = None
            release_memory()
        if state.is_main_process:
            comparison = {"models": {}, "errors": errors}
            if results:
                texts = [text for texts in questions.texts for text in texts]
                answers = {name: _read_answers(folders[name]) for name in results}
                comparison |= _compare(results, answers, texts, PROTOCOLS[protocol])
                for name, model in comparison["models"].items():
                    model["folder"] = folders[name].name
                write_whole(output / "comparison.html", render_comparison(comparison, texts, dataset, answers))
            write_whole(output / "comparison.json", json.dumps(comparison, indent=2, ensure_ascii=False))
    return gather_object([comparison])[0]


class _MissingModelError(ValueError):
    """A model that a process could not load, in all processes."""


def _load_everywhere(load: Callable[[], Pipeline | Segmenter]) -> Pipeline | Segmenter:
    """Load a model in every process, or in none."""
    reason = None
    try:
        ris = load()
    except MODEL_ERRORS as error:
        reason = str(error)
    reasons = [each for each in gather_object([reason]) if each is not None]
    if reasons:
        raise _MissingModelError(reasons[0])
    return ris


def _compare(
    results: dict[str, dict[str, Any]], answers: dict[str, list[dict[str, Any]]], texts: list[str], rule: Protocol
) -> dict[str, Any]:
    """The content of `comparison.json`, of models that were evaluated."""
    first, *others = results
    counts = [[answer["counts"] for answer in each] for each in answers.values()]
    images = [answer["image_id"] for answer in answers[first]]
    differences = dict(zip(others, paired_differences(counts, images, rule.empty_iou), strict=True))
    models = {
        name: {
            **result,
            "kinds": kind_figures(texts, answers[name], rule),
            "difference": {
                key: {"value": each.value, "low": each.low, "high": each.high}
                for key, each in differences.get(name, {}).items()
            },
        }
        for name, result in results.items()
    }
    shared = ("dataset", "data", "protocol", "text_column", "expressions", "referents", "images")
    facts = {key: results[first][key] for key in shared}
    interval = {"level": LEVEL, "resamples": RESAMPLES, "drawn": "images", "seed": 0}
    return {**facts, "first": first, "interval": interval, "models": models}


def _read_answers(folder: Path) -> list[dict[str, Any]]:
    """A finished run's answers, in the dataset's order."""
    return [answer for _, answer in sorted(read_shards(folder, with_misses=True).items())]


def folder_name(model: str) -> str:
    """
    Name the folder of a model: its Hub id as `user--name`, or a local folder's name with a hash of where it lies. It depends on
    nothing else that is compared.
    """
    folder = Path(model).expanduser()
    name = folder.resolve().name if folder.is_dir() else model.replace("/", "--")
    plain = re.sub(r"[^\w.-]+", "-", name).strip(".-")[:80]
    if plain == name and not folder.is_dir():
        return plain
    identity = str(folder.resolve()) if folder.is_dir() else model
    return f"{plain}-{blake2b(identity.encode(), digest_size=4).hexdigest()}"


def check_found(models: Iterable[str]) -> None:
    """
    Check that models can be had, by fetching their configurations, which are small.

    Args:
        models (`Iterable[str]`): Folders or Hub ids, `bundled` or `bundled-zero-shot`.

    Raises:
        ValueError: If one is missing, or its repository gives no access; the message names all of them.
    """
    missing = []
    for model in models:
        source = find_model(model)
        try:
            if source.startswith((".", "/")) and not Path(source).is_dir():
                raise ValueError("there is no such folder.")
            PreTrainedConfig.get_config_dict(source)
        except (OSError, ValueError) as error:
            missing.append(f"{model}: {error}")
    if missing:
        raise ValueError("\n".join(missing))


__all__ = ["MODEL_ERRORS", "check_found", "compare", "folder_name"]
