"""
The spatial rectifier of TAS (EMNLP Findings 2023, section 3.4), mended: it reads whole words, knows middles, bottoms, orders, sizes
and relations to other things, and weighs what an expression says of places against how well regions fit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from .language_expression import Expression
from .language_lexicon import SUPERLATIVE_RELATIONS
from .language_places import Place
from .masks import shared_areas


# Against fits that lie between 0 and 1: places decide between regions that fit about as well.
WEIGHTS = {"side": 1.25, "middle": 1.0, "ordinal": 3.0, "size": 1.0, "relation": 1.5}
FIT_WEIGHT = 2.0
NAMELESS_FIT_WEIGHT = 0.5  # where the expression does not say what the referent is
SOFT_SIZE = 0.4  # "big" need not be the biggest
MIN_FIT = 0.5  # of a candidate, where the best region's is 1
SAME = 0.7  # share of the smaller region above which two are one thing
WHOLE = 0.8  # share of the image above which a region is its background


@dataclass(frozen=True)
class Layout:
    """Where regions lie, in shares of the image's sides."""

    centres: np.ndarray  # (r, 2): column and row of their centres of mass
    boxes: np.ndarray  # (r, 4): left, top, right, bottom
    areas: np.ndarray  # (r,): in shares of the image
    overlaps: np.ndarray  # (r, r): the share of the smaller of two regions that lies in the other

    @classmethod
    def of(cls, masks: np.ndarray) -> "Layout":
        """Measure masks (r, height, width), none of them empty."""
        _, height, width = masks.shape
        # Sums along rows and columns are all that is needed.
        along = [masks.sum(axis=1, dtype=np.int64), masks.sum(axis=2, dtype=np.int64)]  # (r, width), (r, height)
        areas = along[0].sum(axis=1)
        centres, first, last = [], [], []
        for counts, side in zip(along, (width, height), strict=True):
            centres.append((counts @ (np.arange(side) + 0.5)) / areas / side)
            filled = counts > 0
            first.append(filled.argmax(axis=1) / side)
            last.append(1 - filled[:, ::-1].argmax(axis=1) / side)
        overlaps = shared_areas(masks) / np.minimum(areas[:, None], areas)
        return cls(np.stack(centres, 1), np.stack(first + last, 1), areas / (height * width), overlaps)


def rectify(
    expression: Expression,
    layout: Layout,
    fits: np.ndarray,
    score_phrase: Callable[[str], np.ndarray] | None = None,
) -> tuple[int, list[int]]:
    """
    Choose a region by what an expression says of places.

    Args:
        expression ([`Expression`]): The expression; where it does not name its referent ("the left one"), any region may be it.
        layout (`Layout`): Where the regions lie, at least one.
        fits (`np.ndarray` of shape `(r,)`): How well each region fits, from 0 to 1.
        score_phrase (`Callable`, *optional*): Says how well each region fits a phrase, (r,), from 0 to 1: so it finds what relations
            are to. Without it they say nothing.

    Returns:
        The region's number, and the candidates that it was chosen from, ascending; all, where nothing is said of places.
    """
    places = expression.places
    if not places or len(fits) == 1:
        return int(np.argmax(fits)), list(range(len(fits)))
    least = max(2, *(abs(place.rank) for place in places))
    min_fit, fit_weight = (MIN_FIT, FIT_WEIGHT) if expression.names_referent else (0.0, NAMELESS_FIT_WEIGHT)
    candidates = find_candidates(layout, fits, least, min_fit)
    totals = fits[candidates] * fit_weight
    for place in places:
        totals = totals + WEIGHTS[place.kind] * rate_place(place, layout, candidates, score_phrase)
    return int(candidates[np.argmax(totals)]), candidates.tolist()


def find_candidates(layout: Layout, fits: np.ndarray, least: int, min_fit: float = MIN_FIT) -> np.ndarray:
    """
    Number the regions that may be the referent, ascending: those that fit, each thing once and without its parts, and no background;
    `least` of them, if there are as many.
    """
    kept: list[int] = []
    for number in np.argsort(-fits, kind="stable"):
        if len(kept) >= least and fits[number] < min_fit:
            break
        is_background = layout.areas[number] > WHOLE and len(fits) > 1
        if not is_background and not any(layout.overlaps[number, other] > SAME for other in kept):
            kept.append(int(number))
    return np.sort(kept or [int(np.argmax(fits))])


def rate_place(
    place: Place, layout: Layout, candidates: np.ndarray, score_phrase: Callable[[str], np.ndarray] | None
) -> np.ndarray:
    """Rate how well the candidates lie for a place, (c,), from 0 to 1."""
    if place.kind == "relation":
        if score_phrase is None:
            return np.zeros(len(candidates))
        return _relate(place, layout, candidates, [score_phrase(phrase) for phrase in place.anchors])
    if place.kind == "middle":
        return _middle(place.axis, layout, candidates)
    values = place.sign * _measure(place.axis, layout)[candidates]
    if place.kind == "ordinal":
        return _at_rank(values, place.rank)
    if place.extreme:
        return _at_best(values)
    return _spread(values) * (SOFT_SIZE if place.kind == "size" else 1.0)


def _at_best(values: np.ndarray) -> np.ndarray:
    return (values == values.max()).astype(float)


def _at_rank(values: np.ndarray, rank: int) -> np.ndarray:
    """1 for the value of a rank, counted from the largest, 0 for others; where there are fewer, the last of them has it."""
    order = np.argsort(-values, kind="stable")
    number = rank - 1 if rank > 0 else rank
    return (np.arange(len(values)) == order[max(-len(order), min(number, len(order) - 1))]).astype(float)


def _measure(axis: str, layout: Layout) -> np.ndarray:
    left, top, right, bottom = layout.boxes.T
    return {
        "x": layout.centres[:, 0],
        "y": layout.centres[:, 1],
        "depth": bottom,  # what stands nearer, stands lower
        "area": layout.areas,
        "height": bottom - top,
        "width": right - left,
        "length": np.maximum(bottom - top, right - left),
    }[axis]


def _spread(values: np.ndarray) -> np.ndarray:
    """Spread values from 0 for the smallest to 1 for the largest: half by order, half by distance; zeros where all are equal."""
    extent = values.max() - values.min()
    if extent == 0:
        return np.zeros(len(values))
    order = (values[:, None] > values).sum(axis=1) / (len(values) - 1)
    return 0.5 * order + 0.5 * (values - values.min()) / extent


def _middle(axis: str, layout: Layout, candidates: np.ndarray) -> np.ndarray:
    """Rate, of at least three, highest the one that as many lie before as behind, along the axis on which they are spread more."""
    centres = layout.centres[candidates]
    if len(candidates) < 3 or axis == "image":
        return 1 - np.minimum(1, np.abs(centres - 0.5).max(axis=1) * 2)
    along = 1 if axis == "y" else int(np.argmax(np.ptp(centres, axis=0)))
    ranks = centres[:, along].argsort(kind="stable").argsort(kind="stable")
    off = np.abs(ranks / (len(candidates) - 1) - 0.5) * 2
    # Two may be as near the middle of the order: then the one nearer to the middle of their extent is meant.
    middle = (centres[:, along].max() + centres[:, along].min()) / 2
    return 1 - off - 0.01 * np.abs(centres[:, along] - middle)


def _relate(place: Place, layout: Layout, candidates: np.ndarray, anchors: Sequence[np.ndarray]) -> np.ndarray:
    """Rate how well the candidates stand to the best of the regions that the relation may be to."""
    if place.axis == "between":
        return _between(layout, candidates, anchors)
    others = range(len(anchors[0]))
    stands = np.array([[_stand(place.axis, layout, one, other) for other in others] for one in candidates])
    stands[layout.overlaps[candidates] > SAME] = 0.0  # a thing stands in no relation to itself
    values = (stands * anchors[0]).max(axis=1)
    if place.rank:
        return _at_rank(values, place.rank)
    return _at_best(values) if place.axis in SUPERLATIVE_RELATIONS else values


def _stand(name: str, layout: Layout, one: int, other: int) -> float:
    """How far one region stands to another as a relation says, from 0 to 1."""
    column, row = layout.centres[one] - layout.centres[other]
    boxes = layout.boxes[[one, other]]
    gaps = np.maximum(0, boxes[:, :2].max(axis=0) - boxes[:, 2:].min(axis=0))
    closeness = float(1 - min(1.0, np.hypot(*gaps)))
    sizes = (boxes[:, 2:] - boxes[:, :2]).mean(axis=0)

    def beyond(distance: float, across: float, size: float) -> float:
        """1 where it lies this way by half its size, less where it lies more to the side."""
        share = min(1.0, max(0.0, distance / (0.5 * size)))
        slant = max(0.0, abs(across) - abs(distance))
        return share * closeness * (1 - min(1.0, slant))

    depth = boxes[0, 3] - boxes[1, 3]
    return {
        "left of": lambda: beyond(-column, row, sizes[0]),
        "right of": lambda: beyond(column, row, sizes[0]),
        "above": lambda: beyond(-row, column, sizes[1]),
        "below": lambda: beyond(row, column, sizes[1]),
        "in front of": lambda: closeness * (depth > 0),
        "behind": lambda: closeness * (depth < 0),
        "near": lambda: closeness,
        "nearest to": lambda: closeness,
        "far from": lambda: 1 - closeness,
        "furthest from": lambda: 1 - closeness,
    }[name]()


def _between(layout: Layout, candidates: np.ndarray, anchors: Sequence[np.ndarray]) -> np.ndarray:
    """Rate how near the candidates are to the middle of two others; for "the two cups" both anchors are the same."""
    first, second = anchors[0], anchors[-1]
    pairs = [
        (one, other)
        for one, other in product(range(len(first)), repeat=2)
        if one != other and layout.overlaps[one, other] <= SAME and first[one] * second[other] >= MIN_FIT**2
    ]
    values = np.zeros(len(candidates))
    for number, candidate in enumerate(candidates):
        for one, other in pairs:
            if max(layout.overlaps[candidate, one], layout.overlaps[candidate, other]) > SAME:
                continue
            ends = layout.centres[[one, other]]
            length = np.hypot(*(ends[1] - ends[0]))
            off = np.hypot(*(layout.centres[candidate] - ends.mean(axis=0)))
            fit = max(0.0, 1 - off / max(length / 2, 1e-6))
            values[number] = max(values[number], fit * first[one] * second[other])
    return values


__all__ = ["Layout", "find_candidates", "rate_place", "rectify"]
