"""Evaluates a pipeline on rows of a referring segmentation dataset, masks at the pictures' own size."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import Pipeline

from .data.collator import decode_mask
from .metrics import intersection_and_union, summarize


def evaluate_pipeline(
    ris: Pipeline, rows: Sequence[Mapping[str, Any]], shuffle_expressions: bool = False, batch_size: int = 8
) -> dict[str, float]:
    """
    Segments every expression of every row and compares the masks with the truth.

    Args:
        ris (`Pipeline`): A referring segmentation pipeline.
        rows (`Sequence[Mapping]`): A dataset, or a list, of rows with `image`, `mask` and `expressions`, such as `load_refshapes` gives.
        shuffle_expressions (`bool`, *optional*, defaults to `False`): Whether each picture is asked for what belongs to
            the row half the dataset away: what a model scores then, it scores without reading.
        batch_size (`int`, *optional*, defaults to 8): Pictures in one forward pass.

    Returns:
        `dict[str, float]`: What [`summarize`] says of all expressions, and their number as `expressions`.

    Raises:
        ValueError: If there is no row, or shuffling would ask a picture for what it shows.
    """
    num_rows = len(rows)
    if num_rows == 0:
        raise ValueError("rows is empty; at least one row is needed")
    shift = num_rows // 2 if shuffle_expressions else 0
    asked: list[Mapping[str, Any]] = []

    def inputs() -> Iterator[dict[str, Any]]:
        for index in range(num_rows):
            row, other = rows[index], rows[(index + shift) % num_rows]
            if shift and row["image_id"] == other["image_id"]:
                raise ValueError(f"rows holds too few pictures to shuffle expressions: {num_rows} rows")
            asked.append(row)
            yield {"image": row["image"], "text": [expression["sent"] for expression in other["expressions"]]}

    counts = []
    for results in ris(inputs(), batch_size=batch_size, output_format="array"):
        predictions = torch.stack([torch.from_numpy(result["mask"]) for result in results])
        truth = torch.from_numpy(decode_mask(asked.pop(0)["mask"])).expand_as(predictions)
        counts += intersection_and_union(predictions, truth).tolist()
    return {**summarize(counts), "expressions": len(counts)}


__all__ = ["evaluate_pipeline"]
