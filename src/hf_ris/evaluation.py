"""Evaluates a pipeline on rows of a referring segmentation dataset, masks at the pictures' own size."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from transformers import Pipeline

from .data.collator import decode_mask
from .metrics import intersection_and_union, summarize


def evaluate_pipeline(
    ris: Pipeline, rows: Iterable[Mapping[str, Any]], shuffle_expressions: bool = False, batch_size: int = 8
) -> dict[str, float]:
    """
    Segments every expression of every row and compares the masks with the truth.

    Args:
        ris (`Pipeline`): A referring segmentation pipeline.
        rows (`Iterable[Mapping]`): Rows with `image`, `mask` and `expressions`, such as `load_refshapes` gives.
        shuffle_expressions (`bool`, *optional*, defaults to `False`): Whether each picture is asked for what belongs to
            another one, half the rows away: what a model scores then, it scores without reading.
        batch_size (`int`, *optional*, defaults to 8): Pictures in one forward pass.

    Returns:
        `dict[str, float]`: What [`summarize`] says of all expressions, and their number as `expressions`.

    Raises:
        ValueError: If there is no row.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("rows is empty; at least one row is needed")
    shift = len(rows) // 2 if shuffle_expressions else 0
    texts = [[expression["sent"] for expression in row["expressions"]] for row in rows[shift:] + rows[:shift]]

    def inputs() -> Iterator[dict[str, Any]]:
        for row, text in zip(rows, texts, strict=True):
            yield {"image": row["image"], "text": text}

    counts = []
    answers = ris(inputs(), batch_size=batch_size, output_format="array")
    for row, results in zip(rows, answers, strict=True):
        predictions = torch.stack([torch.from_numpy(result["mask"]) for result in results])
        truth = torch.from_numpy(decode_mask(row["mask"])).expand_as(predictions)
        counts += intersection_and_union(predictions, truth).tolist()
    return {**summarize(counts), "expressions": len(counts)}


__all__ = ["evaluate_pipeline"]
