"""
Evaluates a model on a dataset, so that what the numbers mean is named beside them.

A long run can be stopped at any moment and started again, and run in several processes (`torchrun`): what is computed
together is decided by the data alone, so the numbers are the same to the last digit.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import Pipeline

from .data.features import check_text_column, expression_text
from .data.segmentation import check_mask, compare_masks, decode_mask, encode_mask
from .evaluation_report import render_report
from .evaluation_shards import SHARDS, Key, Shard, key_of, read_shards
from .modeling.inputs import check_expressions
from .output_folder import claim_folder, describe_model, hold_folder, write_whole
from .protocols import PROTOCOLS, Protocol
from .referring_segmentation_iou import ReferringSegmentationIoU


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
    Segments every expression of every row and compares the masks with the truth.

    Args:
        ris (`Pipeline` or function): A referring segmentation pipeline. Or a function, such as an oracle, that takes a list of
            items and gives, for each, a list with a dictionary for each expression, whose boolean `mask` is as large as the
            item's `size` (height, width). An item has the PIL `image`, the expressions as `text`, and the `truth`, their masks.
        dataset (`datasets.Dataset`): Rows with the columns of [`~hf_ris.data.FEATURES`].
        protocol (`str`, *optional*, defaults to `"original"`): "original" (masks compared at the image's size, P@t met at t),
            "lavt" (at the model's square input, met at t) or "cris" (at the image's size, met above t).
        batch_size (`int`, *optional*, defaults to 16): Expressions in one forward pass. An image with more of them goes alone:
            every image is read and encoded once.
        output (`str` or `Path`, *optional*): Folder for the predicted masks, written as the run goes, and `results.json` and
            `report.html` at its end. Needed to continue a run that was stopped.
        text_column (`str`, *optional*, defaults to `"sent"`): "sent" (cleaned) or "raw" (as written).
        num_workers (`int`, *optional*, defaults to 0): Processes that read and prepare images.
        model_size (`tuple[int, int]`, *optional*): (height, width) of the model's input, for protocols that compare there; by
            default the image processor's.
        name (`str`, *optional*): What the results call the dataset; by default what `datasets` knows of it.
        on_error (`str`, *optional*, defaults to `"raise"`): What becomes of an image that cannot be read and of an expression that
            asks nothing: "raise" ends the run, which can be continued, and "report" counts the expressions as misses and lists them; a run that
            is continued asks them again.

    Returns:
        `dict`: What [`ReferringSegmentationIoU`] gives, the numbers of `expressions`, `referents` and `images`, how many expressions
        could not be asked (`errors`), and what was evaluated how: `dataset`, `protocol`, `model` and its `revision` on the Hub, hashes of the contents of `data`, `weights`
        and `configuration`, the pipeline's thresholds, and so on.

    Raises:
        ValueError: If an argument is unknown, an image cannot be read or an expression asks nothing (the message names it), a mask has
            another size than its image, or `output` holds another run's results or is being written by another run.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is unknown; allowed are {', '.join(PROTOCOLS)}")
    check_text_column(text_column)
    if on_error not in ("raise", "report"):
        raise ValueError(f"on_error={on_error!r} is unknown; allowed are raise, report")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is too small; allowed are numbers from 1")
    if not len(dataset):
        raise ValueError("dataset is empty; at least one row is needed")
    rule = PROTOCOLS[protocol]
    square = None
    if rule.where == "model":
        if model_size is None and not isinstance(ris, Pipeline):
            raise ValueError(f"protocol={protocol!r} compares at the model's input: model_size is needed")
        square = model_size or _input_size(ris)
    questions = Questions(dataset, batch_size, text_column, square, reports=on_error == "report")
    settings = {
        "dataset": name or f"{dataset.info.dataset_name or 'unnamed'} {dataset.split or ''}".strip(),
        "data": questions.fingerprint(),
        "text_column": text_column,
        "protocol": protocol,
        "mask_size": list(square) if square else "image",
        **(describe_model(ris) if isinstance(ris, Pipeline) else {"model": _name(ris)}),
        "batch_size": batch_size,
    }
    state = join_processes()
    if output is None:
        return _evaluate(ris, questions, rule, settings, None, num_workers)
    output = Path(output)
    # One process holds the folder for all of a run's.
    with hold_folder(output) if state.is_main_process else nullcontext():
        with state.main_process_first():
            claim_folder(output, settings, SHARDS)
        results = _evaluate(ris, questions, rule, settings, output, num_workers)
        state.wait_for_everyone()
    return results


def _evaluate(
    ris: Pipeline | Segmenter,
    questions: "Questions",
    rule: Protocol,
    settings: dict[str, Any],
    output: Path | None,
    num_workers: int,
) -> dict[str, Any]:
    """The results of a run whose folder is claimed."""
    state = join_processes()
    finished, shard = {}, None
    if output is not None:
        finished, shard = read_shards(output), Shard(output, state.process_index)
    answers = _answer_all(ris, questions, finished, shard, num_workers)

    metric = ReferringSegmentationIoU()
    counts = [answer["counts"] for answer in answers]
    metric.add_batch(**dict(zip(metric.features, np.array(counts).T.tolist(), strict=True)))
    figures = metric.compute(comparison=rule.comparison, empty_iou=rule.empty_iou)
    facts = {**questions.numbers(), "errors": sum("error" in answer for answer in answers), **settings}
    if output is not None and state.is_main_process:
        texts = [questions.texts[answer["row"]][answer["expression"]] for answer in answers]
        write_whole(output / "results.json", json.dumps({**figures, **facts}, indent=2, ensure_ascii=False))
        write_whole(output / "report.html", render_report(figures, facts, rule, texts, questions.dataset, answers))
    return {**figures, **facts}


def _name(segmenter: Segmenter) -> str:
    return getattr(segmenter, "__qualname__", type(segmenter).__qualname__)


def join_processes(cpu: bool = False) -> PartialState:
    """
    The processes that `torchrun` or `accelerate launch` started, or this one alone. They wait for each other for up to a day:
    one of them makes the dataset's cache, or is slower. With `cpu`, they leave accelerators alone.
    """
    # Without an accelerator, accelerate takes several processes for several runs unless it is told.
    return PartialState(cpu=cpu or not torch.accelerator.is_available(), timeout=timedelta(days=1))


class Questions(Dataset):
    """
    A dataset as batches of items, one for each image, with all expressions of all its referents.

    Images with equally many expressions stand together, so that a batch needs no padding.

    Args:
        dataset (`datasets.Dataset`): The rows.
        batch_size (`int`): Expressions in a batch.
        text_column (`str`): Which text of an expression.
        square (`tuple[int, int]`, *optional*): (height, width) at which masks are compared; by default the image's.
        reports (`bool`, *optional*, defaults to `False`): Whether an item of an image that cannot be read says so as its `error`, and
            an expression that asks nothing is left out of what is asked, instead of a ValueError.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        batch_size: int,
        text_column: str,
        square: tuple[int, int] | None,
        reports: bool = False,
    ) -> None:
        self.dataset = dataset
        self.rows = dataset.select_columns(["ref_id", "image_id", "mask", "expressions"])
        self.square = square
        self.reports = reports
        images = defaultdict(list)
        for index, image_id in enumerate(self.rows["image_id"]):
            images[image_id].append(index)
        self.texts: list[list[str]] = []
        self.faults: dict[Key, str] = {}  # of expressions that ask nothing
        for row, (expressions, ref_id) in enumerate(zip(self.rows["expressions"], self.rows["ref_id"], strict=True)):
            if not expressions:
                raise ValueError(f"referent {ref_id} has no expression")
            self.texts.append([expression_text(expression, text_column) for expression in expressions])
            for order, (text, expression) in enumerate(zip(self.texts[-1], expressions, strict=True)):
                try:
                    check_expressions(text)
                except ValueError as error:
                    fault = f"expression {expression['sent_id']} of referent {ref_id}: {error}"
                    if not reports:
                        raise ValueError(fault) from error
                    self.faults[row, order] = fault
        groups: dict[int, list[list[int]]] = defaultdict(list)
        for indices in images.values():
            groups[sum(len(self.texts[index]) for index in indices)].append(indices)
        self.batches = [
            of_equal[start : start + max(1, batch_size // number)]
            for number, of_equal in sorted(groups.items())
            for start in range(0, len(of_equal), max(1, batch_size // number))
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> list[dict[str, Any]]:
        """The items of a batch: each an `image` with its `text`, and the `keys` and true `codes` of these; or an `error` and the `keys`."""
        return [self._item(indices) for indices in self.batches[number]]

    def miss(self, key: Key, error: str) -> dict[str, Any]:
        """
        The answer to a question that cannot be asked, as it is written down: an empty mask, or, where that would be right, one of a
        single pixel.
        """
        true_code = self._code(self.rows[key[0]]["mask"])
        mask = np.zeros(true_code["size"], dtype=bool)
        mask[0, 0] = not decode_mask(true_code).any()
        code = encode_mask(mask)
        return {
            **self.name(key),
            "score": 0.0,
            "mask": code,
            "counts": compare_masks(code, true_code),
            "error": error,
        }

    def name(self, key: Key) -> dict[str, Any]:
        """What an answer says of its question."""
        row, order = key
        asked = self.rows[row]
        return {
            "row": row,
            "expression": order,
            "image_id": asked["image_id"],
            "ref_id": asked["ref_id"],
            "sent_id": asked["expressions"][order]["sent_id"],
        }

    def keys(self, number: int) -> list[tuple[int, int]]:
        """(row, expression of it) of each question of a batch."""
        return [
            (index, order)
            for indices in self.batches[number]
            for index in indices
            for order in range(len(self.texts[index]))
        ]

    def numbers(self) -> dict[str, int]:
        return {
            "expressions": sum(map(len, self.texts)),
            "referents": len(self.rows),
            "images": sum(map(len, self.batches)),
        }

    def fingerprint(self) -> str:
        """A hash of referents, masks and expressions in their order (answers name their row), whatever copy they are from."""
        digest = blake2b(digest_size=8)
        for row in self.rows:
            digest.update(json.dumps(row, sort_keys=True).encode())
        return digest.hexdigest()

    def _item(self, indices: list[int]) -> dict[str, Any]:
        keys = [(index, order) for index in indices for order in range(len(self.texts[index]))]
        keys = [key for key in keys if key not in self.faults]
        try:
            image = self._read(indices)
        except ValueError as error:
            if not self.reports:
                raise
            return {"keys": keys, "error": str(error)}
        for index in indices:
            row = self.rows[index]
            try:
                check_mask(row["mask"], image.height, image.width)
            except ValueError as error:
                raise ValueError(f"referent {row['ref_id']} of image {row['image_id']}: {error}") from error
        return {
            "image": image,
            "text": [self.texts[row][order] for row, order in keys],
            "size": self.square or (image.height, image.width),
            "keys": keys,
            "codes": [self._code(self.rows[row]["mask"]) for row, _ in keys],
        }

    def _read(self, indices: list[int]) -> Image.Image:
        """
        The image of some rows.

        Raises:
            ValueError: If it cannot be read; the message names file and referent.
        """
        try:
            image = self.dataset[indices[0]]["image"]
            image.load()
        except Exception as error:  # decoders raise anything on damaged files
            name = self.dataset.select_columns(["file_name"])[indices[0]]["file_name"]
            raise ValueError(
                f"the image {name} of referent {self.rows[indices[0]]['ref_id']} cannot be read: {error}"
            ) from error
        return image

    def _code(self, code: dict[str, Any]) -> dict[str, Any]:
        """A true mask at the size at which masks are compared."""
        if self.square is None:
            return code
        mask = Image.fromarray(decode_mask(code).astype(np.uint8))
        return encode_mask(np.asarray(mask.resize(self.square[::-1], Image.Resampling.NEAREST)))


def shuffle_expressions(dataset: datasets.Dataset) -> datasets.Dataset:
    """
    Asks each picture for what belongs to the row half the dataset away: what a model scores then, it scores without reading.

    Raises:
        ValueError: If a picture would be asked for what it shows.
    """
    shift = len(dataset) // 2
    order = [*range(shift, len(dataset)), *range(shift)]
    images = dataset["image_id"]
    if any(images[index] == images[other] for index, other in enumerate(order)):
        raise ValueError(f"dataset holds too few pictures to shuffle expressions: {len(dataset)} rows")
    expressions = dataset.select_columns(["expressions"]).select(order)
    return datasets.concatenate_datasets([dataset.remove_columns("expressions"), expressions], axis=1)


def _input_size(ris: Pipeline) -> tuple[int, int]:
    images = getattr(ris.processor, "image_processor", None)
    if images is None:
        raise ValueError(
            "model_size must be given under this protocol: a zero-shot model has no input size of its own"
        )
    if images.keeps_aspect_ratio:
        allowed = ", ".join(name for name, rule in PROTOCOLS.items() if rule.where == "image")
        raise ValueError(f"protocol compares on squashed pictures, which this model never sees; allowed are {allowed}")
    size = images.size
    return size["height"], size["width"]


def _answer_all(
    ris: Pipeline | Segmenter,
    questions: Questions,
    finished: dict[Key, dict[str, Any]],
    shard: Shard | None,
    num_workers: int,
) -> list[dict[str, Any]]:
    """Every answer, in the dataset's order, in every process. Each answers its share of the batches."""
    state = join_processes()
    share = range(state.process_index, len(questions), state.num_processes)
    keys = [key for number in share for key in questions.keys(number)]
    answers = {key: finished[key] for key in keys if key in finished}
    # A batch that was written in part is computed as a whole: its masks depend on what goes through the model together.
    open_batches = [number for number in share if any(key not in finished for key in questions.keys(number))]
    loader = DataLoader(
        _Prepared(questions, open_batches, ris), batch_size=None, num_workers=num_workers, collate_fn=_as_it_is
    )

    counts = np.array([answer["counts"] for answer in answers.values()], dtype=np.int64).reshape(-1, 3).sum(axis=0)
    with tqdm(total=len(keys), initial=len(answers), unit="expression", disable=not state.is_main_process) as progress:
        for number, items, group in loader:
            new = _answer(ris, questions, number, items, group)
            if shard is not None:
                shard.append(new)
            fresh = [answer for answer in new if key_of(answer) not in answers]
            answers |= {key_of(answer): answer for answer in new}
            counts += np.sum([answer["counts"] for answer in fresh], axis=0, dtype=np.int64)
            progress.set_postfix(oIoU=f"{counts[0] / max(1, counts[1] + counts[2] - counts[0]):.3f}", refresh=False)
            progress.update(len(fresh))
    return sorted(gather_object(list(answers.values())), key=key_of)


class _Prepared(Dataset):
    """Batches and the model's tensors of them, made in the `DataLoader`'s workers."""

    def __init__(self, questions: Questions, numbers: list[int], ris: Pipeline | Segmenter) -> None:
        self.questions = questions
        self.numbers = numbers
        self.reader = cast(Any, ris).reader if isinstance(ris, Pipeline) else None

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
        """A batch's number, its items, and groups of those that can be asked."""
        items = self.questions[self.numbers[index]]
        if self.reader is None:
            return self.numbers[index], items, []
        asked = [{"image": item["image"], "text": item["text"]} for item in items if item.get("text")]
        groups, _ = self.reader(asked)
        return self.numbers[index], items, groups


def _as_it_is(batch: Any) -> Any:
    """Keeps the `DataLoader` from making tensors of arrays."""
    return batch


def _answer(
    ris: Pipeline | Segmenter,
    questions: Questions,
    number: int,
    items: list[dict[str, Any]],
    groups: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """The answers of a batch as they are written down, in the order of its questions."""
    asked = [item for item in items if item.get("text")]
    answers = {}
    for item, results in zip(asked, _segment(ris, asked, groups), strict=True):
        for key, true_code, result in zip(item["keys"], item["codes"], results, strict=True):
            if list(result["mask"].shape) != true_code["size"]:
                raise ValueError(
                    f"a predicted mask is {result['mask'].shape}, {tuple(true_code['size'])} was asked for"
                )
            code = encode_mask(result["mask"])
            answers[key] = {
                **questions.name(key),
                "score": result.get("score"),
                "mask": code,
                "counts": compare_masks(code, true_code),
            }
    errors = {key: item["error"] for item in items if "error" in item for key in item["keys"]}
    return [
        answers[key] if key in answers else questions.miss(key, errors.get(key) or questions.faults[key])
        for key in questions.keys(number)
    ]


def _segment(
    ris: Pipeline | Segmenter, items: list[dict[str, Any]], groups: list[dict[str, Any]]
) -> list[list[dict[str, Any]]]:
    """The results of each item."""
    if not isinstance(ris, Pipeline):
        return (
            ris([{**item, "truth": [decode_mask(code) for code in item["codes"]]} for item in items]) if items else []
        )
    results: dict[int, list[dict[str, Any]]] = {}
    for group in groups:
        outputs = ris.forward({**group, "sizes": [items[place]["size"] for place in group["places"]]})
        found = ris.postprocess(outputs, **{**ris._postprocess_params, "output_format": "array"})
        results |= zip(group["places"], found, strict=True)
    return [results[place] for place in range(len(items))]


__all__ = ["PROTOCOLS", "evaluate", "join_processes", "shuffle_expressions"]
