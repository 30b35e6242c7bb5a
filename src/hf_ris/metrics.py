"""Intersection over union, the only place that knows it."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import EvalPrediction


PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def intersection_and_union(predictions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Counts pixels of each mask's intersection and union with its ground truth.

    Args:
        predictions (`torch.BoolTensor` of shape `(N, H, W)`): Predicted masks.
        labels (`torch.BoolTensor` of shape `(N, H, W)`): Ground truth.

    Returns:
        `torch.LongTensor` of shape `(N, 2)`.
    """
    predictions, labels = predictions.flatten(1), labels.flatten(1)
    return torch.stack([(predictions & labels).sum(dim=1), (predictions | labels).sum(dim=1)], dim=1)


def summarize(counts: np.ndarray | Sequence[Sequence[int]]) -> dict[str, float]:
    """
    oIoU, mIoU and precision at thresholds from per-sample counts.

    Args:
        counts (`np.ndarray` of shape `(N, 2)`): Intersection and union of each sample, in pixels. A sample whose union is
            empty counts as IoU 0, as in the published evaluation of MagNet.

    Returns:
        `dict[str, float]`: `oIoU` (sum of intersections over sum of unions), `mIoU` (mean of the samples' IoU) and
        `P@0.5` … `P@0.9` (share of samples whose IoU is at least that), all between 0 and 1.

    Raises:
        ValueError: If there is no sample.
    """
    intersections, unions = np.asarray(counts, dtype=np.float64).reshape(-1, 2).T
    if not len(unions):
        raise ValueError("counts is empty; at least one sample is needed")
    ious = np.divide(intersections, unions, out=np.zeros_like(unions), where=unions > 0)
    overall = intersections.sum() / unions.sum() if unions.sum() else 0.0
    precisions = {f"P@{threshold}": float((ious >= threshold).mean()) for threshold in PRECISION_THRESHOLDS}
    return {"oIoU": float(overall), "mIoU": float(ious.mean()), **precisions}


def trainer_counts(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    `Trainer`'s `preprocess_logits_for_metrics`: reduces logits to two integers a sample before anything is gathered.

    Logits are upsampled as MagNet's published evaluation does (bilinear, `align_corners=True`, probability above 0.5) to
    the size of the labels.
    """
    upsampled = torch.nn.functional.interpolate(
        logits.unsqueeze(1).float(), size=labels.shape[-2:], mode="bilinear", align_corners=True
    )
    return intersection_and_union(upsampled.squeeze(1) > 0, labels > 0.5)


def trainer_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`Trainer`'s `compute_metrics`, fed by [`trainer_counts`]."""
    return summarize(np.asarray(prediction.predictions))


__all__ = ["intersection_and_union", "summarize", "trainer_counts", "trainer_metrics"]
