"""
The spatial rectifier of TAS (EMNLP Findings 2023, section 3.4), mended: it reads whole words, knows middles, bottoms, orders, sizes
and relations to other things, and weighs what an expression says of places against how well regions fit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from .language_places import EXTREMES, Direction, read_directions
from .masks import shared_areas


# Against fits that lie between 0 and 1: what is said of places decides between regions that fit about as well.
WEIGHTS = {"side": 1.25, "middle": 1.0, "ordinal": 3.0, "size": 1.0, "relation": 1.5}
FIT_WEIGHT = 2.0
SOFT_SIZE = 0.4  # "big" need not be the biggest
MIN_FIT = 0.5  # of a region that may be the target, where the best one's is 1
SAME = 0.7  # share of the smaller region above which two are one thing
WHOLE = 0.8  # share of the picture above which a region is its background


@dataclass(frozen=True)
class Layout:
    """
    Where regions lie, in shares of the picture's sides.

    Attributes:
        centres (`np.ndarray` of shape `(r, 2)`): Column and row of their centres of mass.
        boxes (`np.ndarray` of shape `(r, 4)`): Left, top, right, bottom.
        areas (`np.ndarray` of shape `(r,)`): In shares of the picture.
        overlaps (`np.ndarray` of shape `(r, r)`): Which share of the smaller of two regions lies in the other.
    """

    centres: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    overlaps: np.ndarray

    @classmethod
    def of(cls, masks: np.ndarray) -> "Layout":
        """Of masks (r, height, width), none of them empty."""
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


@dataclass(frozen=True)
class Rectified:
    """
    Attributes:
        pick (`int`): Number of the region.
        directions (`tuple[Direction, ...]`): What the expression says of the target's place.
        candidates (`tuple[int, ...]`): The regions that it was chosen from; all, where nothing was said.
        totals (`np.ndarray` of shape `(r,)`): How well each fits, places included; minus infinity for what is no candidate.
    """

    pick: int
    directions: tuple[Direction, ...]
    candidates: tuple[int, ...]
    totals: np.ndarray


def rectify(
    expression: str,
    layout: Layout,
    fits: np.ndarray,
    score_phrase: Callable[[str], np.ndarray] | None = None,
    has_noun: bool = True,
) -> Rectified:
    """
    Chooses a region.

    Args:
        expression (`str`): What is looked for.
        layout (`Layout`): Of at least one region.
        fits (`np.ndarray` of shape `(r,)`): How well each region fits, from 0 to 1.
        score_phrase (`Callable`, *optional*): How well each region fits a phrase, (r,), from 0 to 1: finds what relations are to.
            Without it they say nothing.
        has_noun (`bool`, *optional*, defaults to `True`): Whether the expression says what the target is; "the left one" does not,
            and any region may be it.
    """
    directions = read_directions(expression)
    everything = tuple(range(len(fits)))
    if not directions or len(fits) == 1:
        return Rectified(int(np.argmax(fits)), directions, everything, fits)
    most = max((abs(direction.rank) for direction in directions), default=0)
    members = find_candidates(layout, fits, least=max(2, most), min_fit=MIN_FIT if has_noun else 0.0)
    totals = np.full(len(fits), -np.inf)
    totals[members] = fits[members] * (FIT_WEIGHT if has_noun else 0.5)
    for direction in directions:
        totals[members] += WEIGHTS[direction.kind] * _place(direction, layout, members, score_phrase)
    return Rectified(int(np.argmax(totals)), directions, tuple(members.tolist()), totals)


def find_candidates(layout: Layout, fits: np.ndarray, least: int, min_fit: float = MIN_FIT) -> np.ndarray:
    """
    Regions that may be the target: those that fit, each thing once and without its parts, and no background; `least` of them, if there
    are as many.

    Returns:
        `np.ndarray`: Their numbers, ascending.
    """
    kept: list[int] = []
    for number in np.argsort(-fits, kind="stable"):
        if len(kept) >= least and fits[number] < min_fit:
            break
        is_background = layout.areas[number] > WHOLE and len(fits) > 1
        if not is_background and not any(layout.overlaps[number, other] > SAME for other in kept):
            kept.append(int(number))
    return np.sort(kept or [int(np.argmax(fits))])


def _place(
    direction: Direction,
    layout: Layout,
    members: np.ndarray,
    score_phrase: Callable[[str], np.ndarray] | None,
) -> np.ndarray:
    """How well the candidates lie for a direction, (c,), from 0 to 1."""
    if direction.kind == "relation":
        if score_phrase is None:
            return np.zeros(len(members))
        anchors = [score_phrase(phrase) for phrase in direction.anchors]
        return _relate(direction.axis, layout, members, anchors)
    if direction.kind == "middle":
        return _middle(direction.axis, layout, members)
    values = direction.sign * _measure(direction.axis, layout)[members]
    if direction.kind == "ordinal":
        order = np.argsort(-values, kind="stable")
        rank = direction.rank - 1 if direction.rank > 0 else direction.rank
        # Where there are fewer than it counts to, the farthest one is meant.
        return np.arange(len(members)) == order[max(-len(order), min(rank, len(order) - 1))]
    if direction.extreme:
        return (values == values.max()).astype(float)
    return _spread(values) * (SOFT_SIZE if direction.kind == "size" else 1.0)


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
    """From 0 for the smallest to 1 for the largest: half by order, half by distance; zeros where all are equal."""
    extent = values.max() - values.min()
    if extent == 0:
        return np.zeros(len(values))
    order = (values[:, None] > values).sum(axis=1) / (len(values) - 1)
    return 0.5 * order + 0.5 * (values - values.min()) / extent


def _middle(axis: str, layout: Layout, members: np.ndarray) -> np.ndarray:
    """Of at least three, the one that as many lie before as behind, along the side on which they are spread more."""
    centres = layout.centres[members]
    if len(members) < 3 or axis == "picture":
        return 1 - np.minimum(1, np.abs(centres - 0.5).max(axis=1) * 2)
    along = 1 if axis == "y" else int(np.argmax(np.ptp(centres, axis=0)))
    ranks = centres[:, along].argsort(kind="stable").argsort(kind="stable")
    off = np.abs(ranks / (len(members) - 1) - 0.5) * 2
    # Of two that are as near the middle of the order, the one nearer to the middle of the place.
    middle = (centres[:, along].max() + centres[:, along].min()) / 2
    return 1 - off - 0.01 * np.abs(centres[:, along] - middle)


def _relate(name: str, layout: Layout, members: np.ndarray, anchors: Sequence[np.ndarray]) -> np.ndarray:
    """How well the candidates stand to the best of what the relation may be to."""
    if name == "between":
        return _between(layout, members, anchors)
    stands = np.array([[_stand(name, layout, own, other) for other in range(len(anchors[0]))] for own in members])
    stands[layout.overlaps[members] > SAME] = 0.0  # a thing stands in no relation to itself
    values = (stands * anchors[0]).max(axis=1)
    return (values == values.max()).astype(float) if name in EXTREMES else values


def _stand(name: str, layout: Layout, own: int, other: int) -> float:
    """Whether one region stands to another as a relation says, from 0 to 1."""
    column, row = layout.centres[own] - layout.centres[other]
    boxes = layout.boxes[[own, other]]
    gaps = np.maximum(0, boxes[:, :2].max(axis=0) - boxes[:, 2:].min(axis=0))
    closeness = float(1 - min(1.0, np.hypot(*gaps)))
    sizes = (boxes[:, 2:] - boxes[:, :2]).mean(axis=0)

    def beyond(distance: float, across: float, size: float) -> float:
        """1 where it lies in this direction by half its size, less where it lies more to the side."""
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


def _between(layout: Layout, members: np.ndarray, anchors: Sequence[np.ndarray]) -> np.ndarray:
    """Near the middle of two others; of "the two cups", the anchors are the same."""
    first, second = (anchors[0], anchors[-1])
    pairs = [
        (one, other)
        for one, other in product(range(len(first)), repeat=2)
        if one != other and layout.overlaps[one, other] <= SAME and first[one] * second[other] >= MIN_FIT**2
    ]
    values = np.zeros(len(members))
    for place, own in enumerate(members):
        for one, other in pairs:
            if max(layout.overlaps[own, one], layout.overlaps[own, other]) > SAME:
                continue
            ends = layout.centres[[one, other]]
            length = np.hypot(*(ends[1] - ends[0]))
            off = np.hypot(*(layout.centres[own] - ends.mean(axis=0)))
            fit = max(0.0, 1 - off / max(length / 2, 1e-6))
            values[place] = max(values[place], fit * first[one] * second[other])
    return values


__all__ = ["Layout", "Rectified", "find_candidates", "rectify"]
