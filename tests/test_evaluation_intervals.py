"""Intervals of differences between models: what a plain loop gives, and as often right as they say."""

import numpy as np
import pytest

from hf_ris import evaluation_intervals
from hf_ris.evaluation_intervals import paired_differences
from hf_ris.metrics import summarize


def draw_counts(generator, images: int, per_image: int, advantage: float = 0.0):
    """Counts of two models, (2, N, 3), whose IoUs on an image go up and down together, and the image of each expression."""
    hardness = np.repeat(generator.normal(0, 0.15, images), per_image)
    size = np.repeat(generator.integers(500, 5000, images), per_image)
    counts = []
    for shift in (0.0, advantage):
        iou = np.clip(0.6 + shift + hardness + generator.normal(0, 0.05, len(size)), 0, 1)
        counts.append(np.stack([(iou * size).astype(int), (iou * size).astype(int), size], axis=1))
    return np.array(counts), np.repeat(np.arange(images), per_image)


def test_a_plain_loop_gives_the_same():
    generator = np.random.default_rng(1)
    counts, images = draw_counts(generator, 30, 3, 0.05)
    counts, images = (
        np.concatenate([counts, counts[:1]])[:, :-2],
        images[:-2] * 7 + 5,
    )  # the last image has one expression
    shuffled = generator.permutation(len(images))
    counts, images = counts[:, shuffled], images[shuffled]

    draws = np.random.default_rng(3)
    rows = {image: np.flatnonzero(images == image) for image in sorted(set(images))}
    order = list(rows)
    looped = []
    for _ in range(400):
        drawn = np.concatenate([rows[order[place]] for place in draws.integers(len(order), size=len(order))])
        first, second = (summarize(model[drawn]) for model in counts[:2])
        looped.append([second[name] - first[name] for name in ("oIoU", "mIoU")])
    low, high = np.quantile(looped, [0.05, 0.95], axis=0)

    second, again = paired_differences(counts, images, resamples=400, level=0.9, seed=3)
    for number, name in enumerate(("oIoU", "mIoU")):
        value = summarize(counts[1])[name] - summarize(counts[0])[name]
        np.testing.assert_allclose(second[name], [value, low[number], high[number]], atol=1e-12)
        assert again[name] == pytest.approx((0, 0, 0), abs=1e-12), "a model does not differ from itself"


def test_memory_is_bounded_without_a_trace(monkeypatch):
    counts, images = draw_counts(np.random.default_rng(0), 20, 2, 0.1)
    (whole,) = paired_differences(counts, images, resamples=50)
    for at_once in (70, 1):
        monkeypatch.setattr(evaluation_intervals, "DRAWN_AT_ONCE", at_once)
        (bounded,) = paired_differences(counts, images, resamples=50)
        assert [bounded[name] == pytest.approx(whole[name], abs=1e-12) for name in whole] == [True, True]


def test_both_masks_empty():
    counts = np.array([[[0, 0, 0], [5, 5, 5]], [[0, 3, 0], [5, 5, 5]]])
    (difference,) = paired_differences(counts, [1, 1], empty_iou=1.0)
    assert difference["mIoU"] == pytest.approx((-0.5, -0.5, -0.5)), "of one image there is one resample"
    assert paired_differences(counts, [1, 1])[0]["mIoU"] == (0, 0, 0)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Two equal models differ by 0 in truth. Expressions of an image move together: drawing expressions would be too sure."""
    generator = np.random.default_rng(0)
    held, held_by_expression = 0, 0
    runs = 200
    for _ in range(runs):
        counts, images = draw_counts(generator, 60, 1)
        counts, images = np.repeat(counts, 6, axis=1), np.repeat(images, 6)
        (by_image,) = paired_differences(counts, images, resamples=500)
        (by_expression,) = paired_differences(counts, np.arange(len(images)), resamples=500)
        held += by_image["mIoU"].low <= 0 <= by_image["mIoU"].high
        held_by_expression += by_expression["mIoU"].low <= 0 <= by_expression["mIoU"].high
    assert 0.90 <= held / runs <= 0.985
    assert held_by_expression / runs < 0.75
