"""From masks to the three integers of a sample, and `Trainer`'s way to the metric."""

from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, ProcessorMixin

from .referring_segmentation_iou import ReferringSegmentationIoU, summarize


def count_pixels(predictions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Counts what [`ReferringSegmentationIoU`] needs of each mask.

    Args:
        predictions (`torch.BoolTensor` of shape `(N, H, W)`): Predicted masks.
        labels (`torch.BoolTensor` of shape `(N, H, W)`): Ground truth.

    Returns:
        `torch.LongTensor` of shape `(N, 3)`: Pixels of the intersection, of the predicted and of the true mask.
    """
    predictions, labels = predictions.flatten(1), labels.flatten(1)
    return torch.stack([(predictions & labels).sum(dim=1), predictions.sum(dim=1), labels.sum(dim=1)], dim=1)


class TrainerMetrics:
    """
    `Trainer`'s `compute_metrics`, fed by its own `count`. With `batch_eval_metrics` it is asked batch by batch, and no label is
    kept in between.

    Args:
        processor (`ProcessorMixin`): The model's; it knows how logits become masks.
    """

    def __init__(self, processor: ProcessorMixin) -> None:
        self.processor = processor
        self.counts: list[np.ndarray] = []

    def for_trainer(self) -> dict[str, Any]:
        """`Trainer`'s two arguments, by name."""
        return {"compute_metrics": self, "preprocess_logits_for_metrics": self.count}

    def count(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """
        `Trainer`'s `preprocess_logits_for_metrics`: three integers a sample, before anything is gathered.

        Args:
            logits (`torch.Tensor` of shape `(N, h, w)`): The model's.
            labels (`torch.Tensor` of shape `(N, H, W)`): Ground truth from 0 to 1, at the size of the model's input.

        Returns:
            `torch.LongTensor` of shape `(N, 3)`; see [`count_pixels`].
        """
        probabilities = self.processor.input_probabilities(logits, labels.shape[-2:])
        return count_pixels(probabilities > self.processor.threshold, labels > 0.5)

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        self.counts.append(torch.as_tensor(prediction.predictions).cpu().numpy())
        if not compute_result:
            return {}
        counts, self.counts = np.concatenate(self.counts), []
        return summarize(counts)


__all__ = ["ReferringSegmentationIoU", "TrainerMetrics", "count_pixels", "summarize"]
