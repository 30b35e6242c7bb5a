"""The three integers of a sample, counted from masks, and the metric during training."""

from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, ProcessorMixin

from .referring_segmentation_iou import ReferringSegmentationIoU, summarize


def count_pixels(predictions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Count the pixels that [`ReferringSegmentationIoU`] takes.

    Args:
        predictions (`torch.BoolTensor` of shape `(N, H, W)`): Predicted masks.
        labels (`torch.BoolTensor` of shape `(N, H, W)`): Ground truth.

    Returns:
        `torch.LongTensor` of shape `(N, 3)`: Pixels of intersection, predicted mask and true mask.
    """
    predictions, labels = predictions.flatten(1), labels.flatten(1)
    return torch.stack([(predictions & labels).sum(dim=1), predictions.sum(dim=1), labels.sum(dim=1)], dim=1)


class TrainerMetrics:
    """
    `Trainer`'s `compute_metrics`, of the integers that `count` makes. With `batch_eval_metrics`, `Trainer` calls it for each batch and
    keeps no labels.

    Args:
        processor (`ProcessorMixin`): The model's processor, which turns logits into masks.
    """

    def __init__(self, processor: ProcessorMixin) -> None:
        self.processor = processor
        self.counts: list[np.ndarray] = []

    def for_trainer(self) -> dict[str, Any]:
        """`Trainer`'s two arguments, by name."""
        return {"compute_metrics": self, "preprocess_logits_for_metrics": self.count}

    def count(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """
        Count pixels before anything is gathered: `Trainer`'s `preprocess_logits_for_metrics`.

        Args:
            logits (`torch.Tensor` of shape `(N, h, w)`): Log-odds.
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
