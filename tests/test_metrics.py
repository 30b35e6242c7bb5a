"""IoU by hand, through `evaluate`, and the same in any order and any number of processes."""

import multiprocessing
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from transformers import EvalPrediction

import hf_ris.referring_segmentation_iou
from hf_ris.metrics import ReferringSegmentationIoU, TrainerMetrics, count_pixels, summarize


NAMES = ("intersections", "predicted_areas", "true_areas")


def by_name(counts) -> dict[str, list[int]]:
    return dict(zip(NAMES, np.asarray(counts).T.tolist(), strict=True))


def test_counts_of_two_masks():
    predictions = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]], dtype=torch.bool)
    labels = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]]], dtype=torch.bool)

    assert count_pixels(predictions, labels).tolist() == [[1, 2, 2], [0, 0, 0]]


def test_summary_by_hand():
    metrics = summarize([[1, 1, 2], [9, 10, 9], [0, 0, 4]])

    assert metrics["oIoU"] == 10 / 16
    assert metrics["mIoU"] == (0.5 + 0.9 + 0.0) / 3
    assert metrics["P@0.5"] == 2 / 3, "a threshold is met by being reached"
    assert metrics["P@0.9"] == 1 / 3
    assert "gIoU" not in metrics, "where every expression refers to something"


def test_thresholds_can_be_passed_instead_of_reached():
    assert summarize([[1, 1, 2], [9, 10, 9]], comparison=">")["P@0.5"] == 0.5
    assert summarize([[7, 7, 10]])["P@0.7"] == 1.0
    assert summarize([[7, 7, 10]], comparison=">")["P@0.7"] == 0.0


def test_expressions_of_nothing_by_hand():
    metrics = summarize([[0, 0, 0], [0, 5, 0], [4, 4, 8], [0, 0, 7]])

    assert metrics["gIoU"] == (1 + 0 + 0.5 + 0) / 4
    assert metrics["cIoU"] == metrics["oIoU"] == 4 / 20
    assert metrics["N-acc"] == 0.5 and metrics["T-acc"] == 0.5
    assert metrics["mIoU"] == 0.5 / 4, "empty beside empty counts as 0 by default"
    assert summarize([[0, 0, 0], [0, 5, 0]], empty_iou=1.0)["mIoU"] == 0.5


def test_agrees_with_pycocotools():
    generator = np.random.default_rng(0)
    masks = generator.random((20, 2, 30, 40)) < generator.random((20, 2, 1, 1))
    codes = [[coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in pair] for pair in masks]
    expected = [coco_mask.iou([prediction], [truth], [0]).item() for prediction, truth in codes]
    predictions, labels = torch.from_numpy(masks).unbind(1)

    assert summarize(count_pixels(predictions, labels))["mIoU"] == pytest.approx(np.mean(expected), abs=1e-12)


def random_counts(number: int) -> np.ndarray:
    generator = np.random.default_rng(1)
    intersections = generator.integers(0, 10_000, number)
    return np.stack([intersections, *(intersections + generator.integers(0, 9_999, (2, number)))], axis=1)


def test_the_order_does_not_matter():
    counts = random_counts(1000)
    assert summarize(counts) == summarize(counts[::-1]) == summarize(np.random.default_rng(2).permutation(counts))


@pytest.mark.parametrize("source", ["class", "folder"])
def test_through_evaluate(source, tmp_path):
    folder = Path(hf_ris.referring_segmentation_iou.__file__).parent
    metric = ReferringSegmentationIoU() if source == "class" else evaluate.load(str(folder), cache_dir=str(tmp_path))
    counts = random_counts(10)
    for part in (counts[:7], counts[7:]):
        metric.add_batch(**by_name(part))

    assert metric.compute(comparison=">") == summarize(counts, comparison=">")


def compute_part(rank: int, folder: str, queue) -> None:
    metric = ReferringSegmentationIoU(num_process=2, process_id=rank, experiment_id="two", cache_dir=folder)
    counts = random_counts(101)
    metric.add_batch(**by_name(counts[:37] if rank == 0 else counts[37:]))
    queue.put((rank, metric.compute()))


@pytest.mark.slow
def test_two_processes_give_the_same(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=compute_part, args=(rank, str(tmp_path), queue)) for rank in range(2)]
    for process in processes:
        process.start()
    results = dict(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()

    assert results[0] == summarize(random_counts(101))
    assert results[1] is None, "the first process has the result"


@pytest.mark.parametrize(
    "counts, options, message",
    [
        (np.zeros((0, 3)), {}, "at least one sample"),
        ([[5, 4, 9]], {}, r"Sample 0 .*\[5, 4, 9\]"),
        ([[1, 1, 1]], {"comparison": "=="}, "`comparison` must be one of .*, got '=='"),
    ],
)
def test_unfit_counts_are_named(counts, options, message):
    with pytest.raises(ValueError, match=message):
        summarize(counts, **options)


def test_trainer_sees_counts_at_the_labels_size(processor):
    labels = torch.zeros(2, 8, 8)
    labels[:, :4] = 1
    logits = torch.full((2, 2, 2), -5.0)
    logits[0, 0] = 5.0
    metrics = TrainerMetrics(processor)
    counts = metrics.count(logits, labels)

    assert counts.tolist() == [[32, 32, 32], [0, 0, 32]]
    whole = EvalPrediction(predictions=counts.numpy(), label_ids=labels.numpy())
    assert metrics(whole)["mIoU"] == pytest.approx(0.5)
