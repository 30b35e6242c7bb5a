"""IoU by hand."""

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from hf_ris.metrics import intersection_and_union, summarize, trainer_counts, trainer_metrics


def test_counts_of_two_masks():
    predictions = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]], dtype=torch.bool)
    labels = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]]], dtype=torch.bool)

    assert intersection_and_union(predictions, labels).tolist() == [[1, 3], [0, 0]]


def test_summary_by_hand():
    metrics = summarize([[1, 2], [9, 10], [0, 0]])

    assert metrics["oIoU"] == pytest.approx(10 / 12)
    assert metrics["mIoU"] == pytest.approx((0.5 + 0.9 + 0.0) / 3), "an empty union counts as 0"
    assert metrics["P@0.5"] == pytest.approx(2 / 3), "a threshold is met by being reached"
    assert metrics["P@0.9"] == pytest.approx(1 / 3)


def test_nothing_to_summarize_is_an_error():
    with pytest.raises(ValueError, match="counts"):
        summarize(np.zeros((0, 2)))


def test_trainer_sees_counts_at_the_labels_size():
    labels = torch.zeros(2, 8, 8)
    labels[:, :4] = 1
    logits = torch.full((2, 2, 2), -5.0)
    logits[0, 0] = 5.0
    counts = trainer_counts(logits, labels)

    assert counts.tolist() == [[32, 32], [0, 32]]
    metrics = trainer_metrics(EvalPrediction(predictions=counts.numpy(), label_ids=labels.numpy()))
    assert metrics["mIoU"] == pytest.approx(0.5)
