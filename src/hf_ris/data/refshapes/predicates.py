"""Three-valued truth of a description: an object clearly fits (1), clearly does not (-1), or one could argue (0).

Every predicate has a margin, and a phrase with several readings ("the big red mug": big for a mug, or big for a red
mug?) is true or false only where all its readings agree.
"""

from collections.abc import Iterable
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
    """What an expression says about an object; an empty field says nothing.

    Attributes:
        noun: a category, a kind ("animal", "vehicle", "fruit") or "thing".
        colour, pattern, accent: as in [`SceneObject`].
        size: "big", "small", "biggest" or "smallest".
        place: a side ("left"), two ("top left"), a far end ("far left"), a corner ("corner top left") or "middle".
        rank: (2, "left") for the second from the left, (1, "left") for the leftmost.
        relations: how it stands to other objects.
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
    """Whether the description is clearly true of object `target` and clearly false of every other.

    Args:
        scene (`Scene`): the facts.
        description (`Description`): what is said.
        target (`int`): position in `scene.objects`; -1 asks whether it is clearly false of all of them.
    """
    if target >= 0 and _looks(scene.objects[target], description) != TRUE:
        return False
    values = truth(scene, description)
    return all(value == (TRUE if number == target else FALSE) for number, value in enumerate(values))


def truth(scene: Scene, description: Description) -> list[int]:
    """Truth of the description for each object of the scene: 1, 0 or -1.

    Args:
        scene (`Scene`): the facts.
        description (`Description`): what is said.
    """
    objects = scene.objects
    values = [_looks(fact, description) for fact in objects]
    if description.size:
        members, nouns = list(values), [_is_noun(fact, description.noun) for fact in objects]
        for number in _possible(members):
            values[number] = min(values[number], _sized(objects, number, description.size, nouns, members))
    members = _possible(values)
    if description.place:
        for number in members:
            values[number] = min(values[number], _placed(scene, number, description.place, members))
    if description.rank:
        count, side = description.rank
        certain = all(values[number] == TRUE for number in members)
        for number in members:
            values[number] = min(values[number], _ranked(scene, number, count, side, members) if certain else UNSURE)
    for relation in description.relations:
        anchors = [_resolve(scene, anchor) for anchor in relation.anchors]
        for number in members:
            if None in anchors:
                values[number] = min(values[number], UNSURE)
            else:
                found = [anchor for anchor in anchors if anchor is not None]
                values[number] = min(values[number], _related(scene, number, relation.kind, found, members))
    return values


def _possible(values: Iterable[int]) -> list[int]:
    return [number for number, value in enumerate(values) if value != FALSE]


def _resolve(scene: Scene, description: Description) -> int | None:
    """The object a definite phrase stands for, or None where that is not certain."""
    values = truth(scene, description)
    if values.count(TRUE) == 1 and values.count(FALSE) == len(values) - 1:
        return values.index(TRUE)
    return None


def _is_noun(fact: SceneObject, noun: str) -> int:
    category = CATEGORIES[fact.category]
    if noun == "thing":
        return UNSURE if category.living else TRUE
    if noun in (fact.category, category.kind, "one"):
        return TRUE
    return UNSURE if noun in category.near else FALSE


def _looks(fact: SceneObject, description: Description) -> int:
    """Noun, colour and pattern together."""
    if description.colour and description.colour != fact.colour:
        return FALSE
    if description.pattern and description.pattern != fact.pattern:
        return FALSE
    if description.accent and description.accent != fact.accent:
        return FALSE
    return _is_noun(fact, description.noun)


def _larger(first: SceneObject, second: SceneObject, ratio: float = 1.35) -> bool:
    """Whether `first` is clearly larger, by area and, between different shapes, by length as well."""
    if first.size < ratio * second.size:
        return False
    return first.category == second.category or first.extent >= (ratio - 0.1) * second.extent


def _perhaps_larger(first: SceneObject, second: SceneObject) -> bool:
    """Whether somebody could call `first` the larger one."""
    return first.size >= 1.12 * second.size or first.extent >= 1.12 * second.extent


def _sized(objects: tuple[SceneObject, ...], number: int, size: str, nouns: list[int], members: list[int]) -> int:
    """Truth of a size word; `nouns` holds the truth of the noun alone, `members` that of noun and looks, by object."""
    fact = objects[number]
    large = size in ("big", "biggest")
    readings = set()
    # A superlative compares with what the whole phrase names; "big" perhaps with everything that its noun names.
    for group in (members,) if size.endswith("est") else (nouns, members):
        others = [other for other in _possible(group) if other != number]
        if not others:
            continue
        pairs = [(fact, objects[other]) if large else (objects[other], fact) for other in others]
        above = [_larger(*pair) for pair in pairs]
        below = [_larger(second, first) for first, second in pairs]
        close = [_perhaps_larger(second, first) for first, second in pairs]
        certain = [group[other] == TRUE for other in others]
        if any(map(min, below, certain)):
            readings.add(FALSE)
        elif all(above) if size.endswith("est") else (any(map(min, above, certain)) and not any(close)):
            readings.add(TRUE)
        else:
            readings.add(UNSURE)
    return readings.pop() if len(readings) == 1 else UNSURE


def _from_side(scene: Scene, fact: SceneObject, side: str) -> float:
    """Distance of the centre from a side, as a share of the canvas."""
    share = fact.x / scene.width if side in (LEFT, RIGHT) else fact.y / scene.height
    return share if side in (LEFT, TOP) else 1 - share


def _extreme(scene: Scene, number: int, side: str, members: list[int], gap: float) -> int | None:
    """Whether an object is the nearest of the members to a side; None without others."""
    own = _from_side(scene, scene.objects[number], side)
    others = [_from_side(scene, scene.objects[other], side) for other in members if other != number]
    if not others:
        return None
    if min(others) >= own + gap:
        return TRUE
    return FALSE if min(others) <= own - gap else UNSURE


def _placed(scene: Scene, number: int, place: str, members: list[int]) -> int:
    fact = scene.objects[number]
    if place == "middle":
        return _central(scene, number, members)
    if place in SIDES:  # in that half of the picture, and also the nearest of its kind to that side
        share = _from_side(scene, fact, place)
        absolute = TRUE if share < 0.43 else FALSE if share > 0.54 else UNSURE
        relative = _extreme(scene, number, place, members, 0.1)
        return absolute if relative in (None, absolute) else UNSURE
    word, rest = place.split(" ", 1)
    if word == "far":
        relative = _extreme(scene, number, rest, members, 0.12)
        share = _from_side(scene, fact, rest)
        if relative in (None, TRUE):
            return TRUE if share < 0.3 else FALSE if share > 0.6 else UNSURE
        return FALSE if relative == FALSE and share > 0.24 else UNSURE
    inner, outer = (0.3, 0.46) if word == "corner" else (0.42, 0.54)
    shares = [_from_side(scene, fact, side) for side in (rest if word == "corner" else place).split(" ")]
    return TRUE if max(shares) < inner else FALSE if max(shares) > outer else UNSURE


def _central(scene: Scene, number: int, members: list[int]) -> int:
    fact = scene.objects[number]
    off = max(abs(fact.x / scene.width - 0.5), abs(fact.y / scene.height - 0.5))
    if off < 0.12:
        return TRUE
    if off < 0.24:
        return UNSURE
    if len(members) % 2 and len(members) > 1:  # "the middle one" of a row
        for side in (LEFT, TOP):
            order = sorted(members, key=lambda member: _from_side(scene, scene.objects[member], side))
            if order[len(order) // 2] == number:
                return UNSURE
    return FALSE


def _ranked(scene: Scene, number: int, count: int, side: str, members: list[int]) -> int:
    if len(members) < count + 1:
        return UNSURE
    order = sorted(members, key=lambda member: _from_side(scene, scene.objects[member], side))
    shares = [_from_side(scene, scene.objects[member], side) for member in order]
    gap = 0.1 if count == 1 else 0.07
    if any(after - before < gap for before, after in pairwise(shares[: count + 1])):
        return UNSURE
    return TRUE if order[count - 1] == number else FALSE


def _related(scene: Scene, number: int, kind: str, anchors: list[int], members: list[int]) -> int:
    if number in anchors:
        return FALSE
    fact, anchor = scene.objects[number], scene.objects[anchors[0]]
    if kind in SIDES:
        return _beyond(scene, fact, anchor, kind)
    if kind == "between":
        return _between(fact, anchor, scene.objects[anchors[1]])
    if kind == "beside":
        _, gap = _distance(fact, anchor)
        return TRUE if gap <= 16 else FALSE if gap >= 56 else UNSURE
    if kind == "closest":
        return _closest(scene, number, anchors[0], members)
    return _covering(scene, number, anchors[0], kind)


def _beyond(scene: Scene, fact: SceneObject, anchor: SceneObject, side: str) -> int:
    """Whether an object is to a side of another, and not too far off that direction."""
    along = (_from_side(scene, anchor, side) - _from_side(scene, fact, side)) * scene.width
    across = abs(fact.y - anchor.y) if side in (LEFT, RIGHT) else abs(fact.x - anchor.x)
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


def _between(fact: SceneObject, first: SceneObject, second: SceneObject) -> int:
    across, down = second.x - first.x, second.y - first.y
    length = max(1.0, hypot(across, down))
    along = ((fact.x - first.x) * across + (fact.y - first.y) * down) / (length * length)
    aside = abs((fact.x - first.x) * down - (fact.y - first.y) * across) / length
    if length >= 90 and 0.28 <= along <= 0.72 and aside <= 0.2 * length:
        return TRUE
    return FALSE if not 0 <= along <= 1 or aside >= 0.55 * length or length < 50 else UNSURE
