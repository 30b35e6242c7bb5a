"""
Intersection over union of referring image segmentation, as the field reports it, for `evaluate`.

It imports nothing of `hf_ris`, so that `evaluate.load` reads a copy of this folder anywhere.
"""

import math
from typing import Any

import datasets
import evaluate
import numpy as np


THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
COMPARISONS = {">=": np.greater_equal, ">": np.greater}

DESCRIPTION = """\
oIoU, mIoU and precision at thresholds, and where expressions may refer to nothing gIoU, cIoU, N-acc and T-acc (GRES: Generalized
Referring Expression Segmentation, CVPR 2023, section 5). Each sample is three integers, so that a run of any length, in any number
of processes and in any order, gives the same result to the last digit."""

INPUTS = """
Args:
    intersections (`list[int]`): Pixels that the predicted and the true mask share, of each sample.
    predicted_areas (`list[int]`): Pixels of the predicted masks.
    true_areas (`list[int]`): Pixels of the true masks; 0 where the expression refers to nothing.
    comparison (`str`, *optional*, defaults to `">="`): When a sample counts for the precision at a threshold: when its IoU is at least
        that (MagNet, LAVT), or `">"` (CRIS).
    empty_iou (`float`, *optional*, defaults to 0.0): IoU of a sample whose predicted and true mask are both empty, in mIoU and P@. 0, as
        MagNet, LAVT, CRIS and Global-Local have it; gIoU takes 1, by its definition.

Returns:
    `dict[str, float]`: Between 0 and 1.

    - **oIoU**: sum of intersections over sum of unions
    - **mIoU**: mean of the samples' IoU
    - **P@0.5** … **P@0.9**: share of the samples with at least this IoU

    and, if any true mask is empty,

    - **gIoU**: mean of the samples' IoU, which is 1 where both masks are empty
    - **cIoU**: another name for oIoU
    - **N-acc**: share of the empty true masks that were predicted empty
    - **T-acc**: share of the other true masks that were not

Example:

    >>> metric = ReferringSegmentationIoU()
    >>> metric.add_batch(intersections=[1, 9], predicted_areas=[1, 10], true_areas=[2, 9])
    >>> metric.compute()["mIoU"]
    0.7
"""


def sample_ious(counts: Any, empty_iou: float = 0.0) -> np.ndarray:
    """
    The IoU of each sample.

    Args:
        counts (array of shape `(N, 3)`): Intersection, predicted and true area of each sample, in pixels.
        empty_iou (`float`, *optional*, defaults to 0.0): IoU where both masks are empty.

    Returns:
        `np.ndarray` of shape `(N,)`, between 0 and 1.

    Raises:
        ValueError: If no masks can have these counts.
    """
    table = np.asarray(counts, dtype=np.int64).reshape(-1, 3)
    intersections, predicted, true = table.T
    impossible = (intersections < 0) | (intersections > np.minimum(predicted, true))
    if impossible.any():
        first = int(impossible.argmax())
        raise ValueError(
            f"Sample {first} has an intersection larger than a mask, or negative: {table[first].tolist()}."
        )
    unions = predicted + true - intersections
    return np.divide(intersections, unions, out=np.full(len(table), float(empty_iou)), where=unions > 0)


def summarize(counts: Any, comparison: str = ">=", empty_iou: float = 0.0) -> dict[str, float]:
    """
    Compute the metric without `evaluate`'s bookkeeping.

    Args:
        counts (array of shape `(N, 3)`): Intersection, predicted and true area of each sample, in pixels.
        comparison, empty_iou: See [`ReferringSegmentationIoU`].

    Raises:
        ValueError: If there is no sample, counts that no masks can have, or `comparison` is unknown.
    """
    if comparison not in COMPARISONS:
        raise ValueError(f"`comparison` must be one of {list(COMPARISONS)}, got {comparison!r}.")
    ious = sample_ious(counts, empty_iou)
    if not len(ious):
        raise ValueError("`counts` must hold at least one sample, got none.")
    intersections, predicted, true = np.asarray(counts, dtype=np.int64).reshape(-1, 3).T
    overall = int(intersections.sum()) / max(int((predicted + true - intersections).sum()), 1)
    results = {"oIoU": overall, "mIoU": math.fsum(ious) / len(ious)}  # fsum: the same in any order
    results |= {f"P@{threshold}": float(COMPARISONS[comparison](ious, threshold).mean()) for threshold in THRESHOLDS}
    nothing = true == 0
    if nothing.any():
        results["gIoU"] = math.fsum(sample_ious(counts, empty_iou=1.0)) / len(ious)
        results["cIoU"] = overall
        results["N-acc"] = float((predicted[nothing] == 0).mean())
        results["T-acc"] = float((predicted[~nothing] > 0).mean()) if not nothing.all() else 0.0
    return results


class ReferringSegmentationIoU(evaluate.Metric):
    __doc__ = f"{DESCRIPTION}\n{INPUTS}"

    def _info(self) -> evaluate.MetricInfo:
        names = ("intersections", "predicted_areas", "true_areas")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({name: datasets.Value("int64") for name in names}),
        )

    def _compute(
        self,
        intersections: list[int],
        predicted_areas: list[int],
        true_areas: list[int],
        comparison: str = ">=",
        empty_iou: float = 0.0,
    ) -> dict[str, float]:
        counts = np.stack([intersections, predicted_areas, true_areas], axis=1)
        return summarize(counts, comparison, empty_iou)
