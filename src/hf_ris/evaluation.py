"""
Evaluates a model on a dataset: questions, answers, figures, report.

A long run can be stopped at any moment and started again, and run in several processes (`torchrun`): the data alone decides what is
computed together, so the numbers are the same to the last digit.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import Pipeline

from .data.features import check_text_column
from .data.segmentation import decode_mask
from .evaluation_questions import ImageQuestions, Questions
from .evaluation_report import render_report
from .evaluation_shards import SHARDS, Key, Shard, key_of, read_shards, write_answers
from .modeling.inputs import Request
from .output_folder import claim_folder, describe_model, hold_folder, write_whole
from .protocols import PROTOCOLS
from .referring_segmentation_iou import summarize


Segmenter = Callable[[list[dict[str, Any]]], list[list[dict[str, Any]]]]


def evaluate(
    ris: Pipeline | Segmenter,
    dataset: datasets.Dataset,
    protocol: str = "original",
    batch_size: int = 16,
    output: str | Path | None = None,
    text_column: str = "sent",
    num_workers: int = 0,
    model_size: tuple[int, int] | None = None,
    name: str | None = None,
    on_error: str = "raise",
) -> dict[str, Any]:
    """
    Segment every expression of every row, and compare the masks with the true ones.

    Args:
        ris (`Pipeline` or function): A referring segmentation pipeline. Or a function, such as an oracle, that takes a list of
            items and returns, for each, a list with a dictionary for each expression, whose boolean `mask` is as large as the
            item's `size` (height, width). An item has the PIL `image`, the expressions as `text`, and the `truth`, their masks.
        dataset (`datasets.Dataset`): Rows with the columns of [`~hf_ris.data.FEATURES`].
        protocol (`str`, *optional*, defaults to `"original"`): "original" (masks compared at the image's size, P@t met at t),
            "lavt" (at the model's square input, met at t) or "cris" (at the image's size, met above t).
        batch_size (`int`, *optional*, defaults to 16): Expressions in one forward pass. An image with more of them goes alone:
            every image is read and encoded once.
        output (`str` or `Path`, *optional*): Folder for the predicted masks, written during the run, and for `results.json` and
            `report.html`, written at its end. Needed to continue a run that was stopped.
        text_column (`str`, *optional*, defaults to `"sent"`): "sent" (cleaned) or "raw" (as written).
        num_workers (`int`, *optional*, defaults to 0): Processes that read and prepare images.
        model_size (`tuple[int, int]`, *optional*): (height, width) of the model's input, for protocols that compare there; by
            default the image processor's.
        name (`str`, *optional*): Name of the dataset in the results; by default the one that `datasets` has.
        on_error (`str`, *optional*, defaults to `"raise"`): For an image that cannot be read and an expression that asks nothing:
            "raise" ends the run, which can be continued; "report" counts the expressions as misses and lists them, and a run that is
            continued asks their batches again.

    Returns:
        `dict`: The figures of [`ReferringSegmentationIoU`]; the numbers of `expressions`, `referents`, `images` and `errors`
        (expressions that could not be asked); `dataset`, `protocol`, `model` and its `revision` on the Hub; hashes of the contents of
        `data`, `weights` and `configuration`; the pipeline's thresholds, and so on.

    Raises:
        ValueError: If an argument is unknown, an image cannot be read or an expression asks nothing (the message names it), a mask has
            another size than its image, or `output` holds another run's results or is being written by another run.
    """
    check_options(protocol, batch_size, text_column, on_error)

    # 1. Questions, and all that the answers depend on
    rule = PROTOCOLS[protocol]
    square = (model_size or _input_size(ris, protocol)) if rule.where == "model" else None
    questions = Questions(dataset, batch_size, text_column, square, on_error)
    model = (
        describe_model(ris)
        if isinstance(ris, Pipeline)
        else {"model": getattr(ris, "__qualname__", type(ris).__qualname__)}
    )
    settings = {
        "dataset": name or f"{dataset.info.dataset_name or 'unnamed'} {dataset.split or ''}".strip(),
        "data": questions.fingerprint(),
        "text_column": text_column,
        "protocol": protocol,
        "mask_size": list(square) if square else "image",
        **model,
        "batch_size": batch_size,
    }
    state = join_processes()
    folder = None if output is None else Path(output)
    # One process holds the folder for all of a run's.
    with hold_folder(folder) if folder and state.is_main_process else nullcontext():
        # 2. Answers, those of earlier runs included
        finished, shard = {}, None
        if folder:
            with state.main_process_first():
                claim_folder(folder, settings, SHARDS)
            finished, shard = read_shards(folder), Shard(folder, state.process_index)
        answers = _answer_all(ris, questions, finished, shard, num_workers)
        # 3. Figures
        figures = summarize([answer["counts"] for answer in answers], rule.comparison, rule.empty_iou)
        description = {**questions.numbers(), "errors": sum("error" in answer for answer in answers), **settings}
        # 4. Report
        if folder and state.is_main_process:
            write_answers(folder, answers)
            texts = [questions.texts[answer["row"]][answer["expression"]] for answer in answers]
            write_whole(folder / "results.json", json.dumps({**figures, **description}, indent=2, ensure_ascii=False))
            write_whole(folder / "report.html", render_report(figures, description, rule, texts, dataset, answers))
        state.wait_for_everyone()
    return {**figures, **description}


def check_options(protocol: str, batch_size: int, text_column: str, on_error: str) -> None:
    """Raise a ValueError that names the argument of [`evaluate`] that is unknown or impossible, whatever model and dataset."""
    for option, value, allowed in (
        ("protocol", protocol, list(PROTOCOLS)),
        ("on_error", on_error, ["raise", "report"]),
    ):
        if value not in allowed:
            raise ValueError(f"`{option}` must be one of {allowed}, got {value!r}.")
    check_text_column(text_column)
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")


def _input_size(ris: Pipeline | Segmenter, protocol: str) -> tuple[int, int]:
    """(height, width) of the square that a model's images are resized to."""
    if not isinstance(ris, Pipeline):
        raise ValueError(
            f"`model_size` must be (height, width) under protocol {protocol!r} for a function, which has none."
        )
    size = cast(Any, ris.processor).input_size
    if size is None:
        allowed = " or ".join(repr(name) for name, rule in PROTOCOLS.items() if rule.where == "image")
        raise ValueError(
            f"`protocol` must be {allowed} for {ris.model.config.model_type}, which keeps images' aspect ratio; got {protocol!r}, "
            "which resizes masks to a square. `model_size` may name one."
        )
    return size


def join_processes(cpu: bool = False) -> PartialState:
    """
    Join the processes that `torchrun` or `accelerate launch` started, or this one alone. They wait for each other for up to a day:
    one of them makes the dataset's cache, or is slower. With `cpu`, accelerators are not used.
    """
    # Unless `cpu` is set, accelerate takes several processes without an accelerator for several runs.
    return PartialState(cpu=cpu or not torch.accelerator.is_available(), timeout=timedelta(days=1))


def _answer_all(
    ris: Pipeline | Segmenter,
    questions: Questions,
    finished: dict[Key, dict[str, Any]],
    shard: Shard | None,
    num_workers: int,
) -> list[dict[str, Any]]:
    """Every answer, in the dataset's order, in every process. Each process answers its share of the batches."""
    state = join_processes()
    share = range(state.process_index, len(questions), state.num_processes)
    keys = [key for number in share for key in questions.keys(number)]
    answers = {key: finished[key] for key in keys if key in finished}
    # A batch that was written in part is computed as a whole: its masks depend on what goes through the model together.
    open_batches = [number for number in share if any(key not in finished for key in questions.keys(number))]
    reader = cast(Any, ris).reader if isinstance(ris, Pipeline) else None
    loader: DataLoader = DataLoader(
        open_batches,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=num_workers,
        collate_fn=partial(_prepare_batch, questions, reader),
    )

    counts = np.array([answer["counts"] for answer in answers.values()], dtype=np.int64).reshape(-1, 3).sum(axis=0)
    with tqdm(total=len(keys), initial=len(answers), unit="expression", disable=not state.is_main_process) as progress:
        for number, images, groups in loader:
            batch = _answer_batch(ris, questions, number, images, groups)
            if shard is not None:
                shard.append(batch)
            added = [answer for answer in batch if key_of(answer) not in answers]
            answers |= {key_of(answer): answer for answer in batch}
            counts += np.sum([answer["counts"] for answer in added], axis=0, dtype=np.int64)
            progress.set_postfix(oIoU=f"{counts[0] / max(1, counts[1] + counts[2] - counts[0]):.3f}", refresh=False)
            progress.update(len(added))
    return sorted(gather_object(list(answers.values())), key=key_of)


def _prepare_batch(
    questions: Questions, reader: Any, number: int
) -> tuple[int, list[ImageQuestions], list[dict[str, Any]]]:
    """The images of a batch, and a pipeline's inputs for those that can be asked about."""
    images = questions[number]
    groups = reader([image.request for image in images if image.request])[0] if reader else []
    return number, images, groups


def _answer_batch(
    ris: Pipeline | Segmenter,
    questions: Questions,
    number: int,
    images: list[ImageQuestions],
    groups: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """The answers of a batch as they are written down, in the order of its questions."""
    readable = [(image, image.request) for image in images if image.request]
    answers = {}
    for (image, _), results in zip(readable, _segment(ris, readable, questions.square, groups), strict=True):
        for key, true_mask, result in zip(image.keys, image.true_masks, results, strict=True):
            answers[key] = questions.answer(key, result["mask"], result.get("score"), true_mask)
    errors = questions.faults | {key: image.error for image in images if image.error for key in image.keys}
    return [answers[key] if key in answers else questions.miss(key, errors[key]) for key in questions.keys(number)]


def _segment(
    ris: Pipeline | Segmenter,
    readable: list[tuple[ImageQuestions, Request]],
    square: tuple[int, int] | None,
    groups: list[dict[str, Any]],
) -> list[list[dict[str, Any]]]:
    """A pipeline's or a function's results: for each image, one for each of its expressions."""
    sizes = [square or request.size for _, request in readable]
    if isinstance(ris, Pipeline):
        groups = [{**group, "sizes": [sizes[place] for place in group["places"]]} for group in groups]
        options = {**ris._postprocess_params, "output_format": "array"}
        return list(ris.answer(groups, [None] * len(readable), ris._forward_params, options))
    items = [
        {
            "image": request.image,
            "text": request.expressions,
            "size": size,
            "truth": [decode_mask(code) for code in image.true_masks],
        }
        for (image, request), size in zip(readable, sizes, strict=True)
    ]
    return ris(items) if items else []


def shuffle_expressions(dataset: datasets.Dataset) -> datasets.Dataset:
    """
    Give each row the expressions of the row half the dataset away: a model's score then is its score without reading.

    Raises:
        ValueError: If an image would keep expressions of its referents.
    """
    shift = len(dataset) // 2
    order = [*range(shift, len(dataset)), *range(shift)]
    images = dataset["image_id"]
    if any(images[index] == images[other] for index, other in enumerate(order)):
        raise ValueError(f"`dataset` must hold more images to shuffle expressions, got {len(dataset)} rows.")
    expressions = dataset.select_columns(["expressions"]).select(order)
    return datasets.concatenate_datasets([dataset.remove_columns("expressions"), expressions], axis=1)


__all__ = ["PROTOCOLS", "Segmenter", "check_options", "evaluate", "join_processes", "shuffle_expressions"]
