"""How sure a difference between models is: paired bootstrap intervals, with images as what is drawn."""

from typing import Any, NamedTuple

import numpy as np

from .referring_segmentation_iou import sample_ious


RESAMPLES = 10_000
LEVEL = 0.95
DRAWN_AT_ONCE = 4_000_000  # images; what bounds the memory


class Difference(NamedTuple):
    """A difference between two models' figures, and the ends of its interval."""

    value: float
    low: float
    high: float


def paired_differences(
    counts: Any,
    images: Any,
    empty_iou: float = 0.0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[dict[str, Difference]]:
    """
    Bootstrap each model's figures minus the first model's. Images are drawn with replacement, each with all of its expressions, since
    these depend on each other, and for all models at once, so that what makes an image hard for all of them cancels. The ends are
    percentiles (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; drawing whole clusters: Field & Welsh,
    "Bootstrapping clustered data", 2007).

    Args:
        counts (array of shape `(M, N, 3)`): Intersection, predicted and true area of N expressions by M models, in pixels.
        images (array of shape `(N,)`): The image of each expression: any numbers that are equal for the same one.
        empty_iou (`float`, *optional*, defaults to 0.0): IoU where both masks are empty.
        resamples (`int`, *optional*, defaults to 10,000): How often images are drawn.
        level (`float`, *optional*, defaults to 0.95): Share of the resamples' differences inside of an interval.
        seed (`int`, *optional*, defaults to 0): Seed of the draws.

    Returns:
        `list[dict[str, Difference]]`: For each model but the first, the differences in "oIoU" and "mIoU", between -1 and 1.
    """
    counts = np.asarray(counts, dtype=np.int64)
    _, image = np.unique(images, return_inverse=True)
    number = image.max() + 1
    # Sums over an image's expressions: how many there are, then each model's intersections, unions and IoUs.
    per_sample = [np.ones(len(image))]
    for model in counts:
        intersections, predicted, true = model.T
        per_sample += [intersections, predicted + true - intersections, sample_ious(model, empty_iou)]
    sums = np.stack([np.bincount(image, weights, number) for weights in per_sample], axis=1)  # (images, 1 + 3 M)

    def figures(totals: np.ndarray) -> dict[str, np.ndarray]:
        """The models' figures of sums over images, (..., M)."""
        intersections, unions, ious = totals[..., 1::3], totals[..., 2::3], totals[..., 3::3]
        return {"oIoU": intersections / np.maximum(unions, 1), "mIoU": ious / totals[..., :1]}

    generator = np.random.default_rng(seed)
    drawn = []
    at_once = max(1, DRAWN_AT_ONCE // number)
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        places = generator.integers(number, size=(size, number)) + number * np.arange(size)[:, None]
        times = np.bincount(places.ravel(), minlength=size * number).reshape(size, number)
        drawn.append(times @ sums)
    measured, resampled = figures(sums.sum(axis=0)), figures(np.concatenate(drawn))
    ends = [(1 - level) / 2, (1 + level) / 2]
    differences: list[dict[str, Difference]] = []
    for model in range(1, len(counts)):
        differences.append({})
        for name, values in measured.items():
            low, high = np.quantile(resampled[name][:, model] - resampled[name][:, 0], ends)
            differences[-1][name] = Difference(float(values[model] - values[0]), float(low), float(high))
    return differences


__all__ = ["LEVEL", "RESAMPLES", "Difference", "paired_differences"]
