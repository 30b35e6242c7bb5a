"""
Three-valued truth of a description: an object clearly fits (1), clearly does not (-1), or one could argue (0).

Every predicate has a margin, and a phrase with several readings ("the big red mug": big for a mug, or big for a red
mug?) is true or false only where all its readings agree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import hypot

from .categories import CATEGORIES
from .scene import Scene, SceneObject


TRUE, UNSURE, FALSE = 1, 0, -1

LEFT, RIGHT, TOP, BOTTOM = "left", "right", "top", "bottom"
SIDES = (LEFT, RIGHT, TOP, BOTTOM)


@dataclass(frozen=True)
class Description:
    """
    The statements of an expression about an object; an empty field says nothing.

    Attributes:
        noun: A category, a kind ("animal", "vehicle", "fruit"), "thing" or "one".
        colour, pattern, accent: As in [`SceneObject`].
        size: "big", "small", "biggest" or "smallest".
        place: A side ("left"), two ("top left"), a far end ("far left"), a corner ("corner top left") or "middle".
        rank: (2, "left") for the second from the left, (1, "left") for the leftmost.
        relations: How it stands to other objects.
    """

    noun: str
    colour: str = ""
    pattern: str = ""
    accent: str = ""
    size: str = ""
    place: str = ""
    rank: tuple[int, str] | None = None
    relations: tuple["Relation", ...] = ()


@dataclass(frozen=True)
class Relation:
    """A relation to its anchors: a side of one, "beside", "closest", "front" or "behind" one, or "between" two."""

    kind: str
    anchors: tuple[Description, ...]


def refers(scene: Scene, description: Description, target: int) -> bool:
    """Whether a description is clearly true of object number `target` and clearly false of all others; -1 is no object."""
    if target >= 0 and _looks(scene.objects[target], description) != TRUE:
        return False
    values = truth(scene, description)
    return all(value == (TRUE if number == target else FALSE) for number, value in enumerate(values))


def truth(scene: Scene, description: Description) -> list[int]:
    """Return the truth of a description for each object of the scene: 1, 0 or -1."""
    objects = scene.objects
    values = [_looks(item, description) for item in objects]
    members = _possible(values)

    def require(check: Callable[[int], int]) -> None:
        for number in members:
            values[number] = min(values[number], check(number))

    if description.size:
        looks, nouns = list(values), [_is_noun(item, description.noun) for item in objects]
        require(lambda number: _sized(objects, number, description.size, nouns, looks))
        members = _possible(values)
    if description.place:
        require(lambda number: _placed(scene, number, description.place, members))
    if description.rank:
        count, side = description.rank
        certain = all(values[number] == TRUE for number in members)
        require(lambda number: _ranked(scene, number, count, side, members) if certain else UNSURE)
    for relation in description.relations:
        resolved = [_resolve(scene, each) for each in relation.anchors]
        anchors = [anchor for anchor in resolved if anchor is not None]
        for number in members:
            known = len(anchors) == len(resolved)
            related = _related(scene, number, relation.kind, anchors, members) if known else UNSURE
            values[number] = min(values[number], related)
    return values


def _possible(values: list[int]) -> list[int]:
    return [number for number, value in enumerate(values) if value != FALSE]


def _resolve(scene: Scene, description: Description) -> int | None:
    """The object that a definite phrase stands for, or None where that is not certain."""
    values = truth(scene, description)
    if values.count(TRUE) == 1 and values.count(FALSE) == len(values) - 1:
        return values.index(TRUE)
    return None


def _by_margin(value: float, true: float, false: float) -> int:
    """True below the first bound, false above the second."""
    return TRUE if value < true else FALSE if value > false else UNSURE


def _is_noun(item: SceneObject, noun: str) -> int:
    category = CATEGORIES[item.category]
    if noun == "thing":
        return UNSURE if category.living else TRUE
    if noun in (item.category, category.kind, "one"):
        return TRUE
    return UNSURE if noun in category.near else FALSE


def _looks(item: SceneObject, description: Description) -> int:
    """Noun, colour and pattern together."""
    for name in ("colour", "pattern", "accent"):
        if getattr(description, name) not in ("", getattr(item, name)):
            return FALSE
    return _is_noun(item, description.noun)


def _larger(first: SceneObject, second: SceneObject, ratio: float = 1.35) -> bool:
    """Whether `first` is clearly larger, by area and, between different shapes, by length as well."""
    if first.size < ratio * second.size:
        return False
    return first.category == second.category or first.extent >= (ratio - 0.1) * second.extent


def _perhaps_larger(first: SceneObject, second: SceneObject) -> bool:
    return first.size >= 1.12 * second.size or first.extent >= 1.12 * second.extent


def _sized(objects: tuple[SceneObject, ...], number: int, size: str, nouns: list[int], looks: list[int]) -> int:
    """Truth of a size word; `nouns` holds the truth of the noun alone, `looks` that of noun and looks, by object."""
    item = objects[number]
    large, superlative = size in ("big", "biggest"), size.endswith("est")
    readings = set()
    # A superlative compares with what the whole phrase names; "big" perhaps with everything that its noun names.
    for group in (looks,) if superlative else (nouns, looks):
        others = [other for other in _possible(group) if other != number]
        if not others:
            continue
        pairs = [(item, objects[other]) if large else (objects[other], item) for other in others]
        above = [_larger(*pair) for pair in pairs]
        below = [_larger(second, first) for first, second in pairs]
        close = [_perhaps_larger(second, first) for first, second in pairs]
        certain = [group[other] == TRUE for other in others]
        if any(map(min, below, certain)):
            readings.add(FALSE)
        elif all(above) if superlative else (any(map(min, above, certain)) and not any(close)):
            readings.add(TRUE)
        else:
            readings.add(UNSURE)
    return readings.pop() if len(readings) == 1 else UNSURE


def from_side(scene: Scene, item: SceneObject, side: str) -> float:
    """Return the distance of an object's centre from a side, as a share of the canvas."""
    share = item.x / scene.width if side in (LEFT, RIGHT) else item.y / scene.height
    return share if side in (LEFT, TOP) else 1 - share


def off_centre(scene: Scene, item: SceneObject) -> float:
    """Return the larger of an object's distances from the canvas' middle lines, as a share of the canvas."""
    return max(abs(item.x / scene.width - 0.5), abs(item.y / scene.height - 0.5))


def _extreme(scene: Scene, number: int, side: str, members: list[int], gap: float) -> int | None:
    """Whether an object is the nearest of the members to a side; None without others."""
    share = from_side(scene, scene.objects[number], side)
    others = [from_side(scene, scene.objects[other], side) for other in members if other != number]
    if not others:
        return None
    if min(others) >= share + gap:
        return TRUE
    return FALSE if min(others) <= share - gap else UNSURE


def _placed(scene: Scene, number: int, place: str, members: list[int]) -> int:
    item = scene.objects[number]
    if place == "middle":
        return _central(scene, number, members)
    if place in SIDES:  # in that half of the image, and also the nearest of its kind to that side
        absolute = _by_margin(from_side(scene, item, place), 0.43, 0.54)
        return absolute if _extreme(scene, number, place, members, 0.1) in (None, absolute) else UNSURE
    word, rest = place.split(" ", 1)
    if word == "far":
        relative = _extreme(scene, number, rest, members, 0.12)
        share = from_side(scene, item, rest)
        if relative in (None, TRUE):
            return _by_margin(share, 0.3, 0.6)
        return FALSE if relative == FALSE and share > 0.24 else UNSURE
    if word == "corner":
        return _by_margin(max(from_side(scene, item, side) for side in rest.split(" ")), 0.3, 0.46)
    return _by_margin(max(from_side(scene, item, side) for side in place.split(" ")), 0.42, 0.54)


def _central(scene: Scene, number: int, members: list[int]) -> int:
    distance = off_centre(scene, scene.objects[number])
    if distance < 0.24:
        return TRUE if distance < 0.12 else UNSURE
    if len(members) % 2 and len(members) > 1:  # "the middle one" of a row
        for side in (LEFT, TOP):
            if _in_order(scene, members, side)[len(members) // 2] == number:
                return UNSURE
    return FALSE


def _in_order(scene: Scene, members: list[int], side: str) -> list[int]:
    return sorted(members, key=lambda member: from_side(scene, scene.objects[member], side))


def _ranked(scene: Scene, number: int, count: int, side: str, members: list[int]) -> int:
    if len(members) < count + 1:
        return UNSURE
    order = _in_order(scene, members, side)
    shares = [from_side(scene, scene.objects[member], side) for member in order]
    gap = 0.1 if count == 1 else 0.07
    if any(after - before < gap for before, after in pairwise(shares[: count + 1])):
        return UNSURE
    return TRUE if order[count - 1] == number else FALSE


def _related(scene: Scene, number: int, kind: str, anchors: list[int], members: list[int]) -> int:
    if number in anchors:
        return FALSE
    item, anchor = scene.objects[number], scene.objects[anchors[0]]
    if kind in SIDES:
        return _beyond(scene, item, anchor, kind)
    if kind == "between":
        return _between(item, anchor, scene.objects[anchors[1]])
    if kind == "beside":
        _, gap = _distance(item, anchor)
        return TRUE if gap <= 16 else FALSE if gap >= 56 else UNSURE
    if kind == "closest":
        return _closest(scene, number, anchors[0], members)
    return _covering(scene, number, anchors[0], kind)


def _beyond(scene: Scene, item: SceneObject, anchor: SceneObject, side: str) -> int:
    """Whether an object is to a side of another, and not too far off that direction."""
    along = (from_side(scene, anchor, side) - from_side(scene, item, side)) * scene.width
    across = abs(item.y - anchor.y) if side in (LEFT, RIGHT) else abs(item.x - anchor.x)
    if along >= 34 and across <= 1.1 * along:
        return TRUE
    return FALSE if along <= 2 else UNSURE


def _covering(scene: Scene, number: int, anchor: int, kind: str) -> int:
    """Whether an object is in "front" of or "behind" another: they overlap, in this order."""
    pair = (min(number, anchor), max(number, anchor))
    share = next((share for back, front, share in scene.overlaps if (back, front) == pair), 0.0)
    if 0 < share < 0.08:
        return UNSURE
    return TRUE if share and (number > anchor) == (kind == "front") else FALSE


def _closest(scene: Scene, number: int, anchor: int, members: list[int]) -> int:
    fixed = scene.objects[anchor]
    distance, gap = _distance(scene.objects[number], fixed)
    others = [_distance(scene.objects[other], fixed) for other in members if other not in (number, anchor)]
    if not others:
        return UNSURE
    if all(1.35 * distance + 8 <= far and gap + 14 <= wide for far, wide in others):
        return TRUE
    return FALSE if any(1.35 * near + 8 <= distance and narrow + 14 <= gap for near, narrow in others) else UNSURE


def _distance(first: SceneObject, second: SceneObject) -> tuple[float, float]:
    """Distance of the centres and of the rims, in pixels."""
    distance = hypot(first.x - second.x, first.y - second.y)
    return distance, distance - 0.42 * (first.extent + second.extent)


def _between(item: SceneObject, first: SceneObject, second: SceneObject) -> int:
    across, down = second.x - first.x, second.y - first.y
    length = max(1.0, hypot(across, down))
    along = ((item.x - first.x) * across + (item.y - first.y) * down) / (length * length)
    aside = abs((item.x - first.x) * down - (item.y - first.y) * across) / length
    if length >= 90 and 0.28 <= along <= 0.72 and aside <= 0.2 * length:
        return TRUE
    return FALSE if not 0 <= along <= 1 or aside >= 0.55 * length or length < 50 else UNSURE
