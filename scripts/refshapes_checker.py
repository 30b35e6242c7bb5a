"""Reads an expression of RefShapes back: from its text and the scene to the objects that it is true of.

It shares nothing with the generator but the scene and the categories' words: table of phrases, grammar and plain two-valued
meanings are written anew. Both agree always because of the margins that the generator keeps.
"""

from dataclasses import dataclass, field
from functools import cache
from math import hypot, sqrt

from hf_ris.data.refshapes import CATEGORIES, COLOURS, Scene, SceneObject


_PLACES = {
    "left": "left|on left|on the left|on the left side|left side|to the left"
    "|on the left side of the picture|on the left hand side",
    "right": "right|on right|on the right|on the right side|right side|to the right"
    "|on the right side of the picture|on the right hand side",
    "top": "top|upper|at top|at the top|up top|at the very top|at the top of the picture",
    "bottom": "bottom|lower|at bottom|at the bottom|at the very bottom|at the bottom of the picture",
    "first left": "leftmost|furthest left|furthest to the left",
    "first right": "rightmost|furthest right|furthest to the right",
    "far left": "far left|on the far left|all the way on the left",
    "far right": "far right|on the far right|all the way on the right",
    "first top": "topmost|highest|highest up",
    "first bottom": "lowest|bottommost|lowest down",
    "middle": "middle|center|in middle|in the middle|in the center|in the middle of the picture",
}
RELATIONS = {
    "left": "left of|to the left of|on the left side of",
    "right": "right of|to the right of|on the right side of",
    "top": "above|up above|higher than",
    "bottom": "below|under|underneath|beneath|lower than",
    "beside": "next to|beside|close to|near|by|right next to",
    "closest": "closest to|nearest to",
    "front": "in front of|partly covering",
    "behind": "behind|partly behind|partly hidden by",
    "between": "between|in between",
}
_PATTERNS = {
    "plain": "plain|solid|with no pattern|without a pattern",
    "striped": "striped|stripy|stripes",
    "dotted": "dotted|spotted|polka dot|dots|spots|polka dots",
    "checked": "checked|checkered|checks|squares",
}
_SIZES = {
    "big": "big|large|huge",
    "small": "small|little|tiny",
    "biggest": "biggest|largest|bigger|larger",
    "smallest": "smallest|tiniest|smaller",
}
_ORDINALS = {"second": 2, "2nd": 2, "third": 3, "3rd": 3, "first": 1}
_FILLERS = (
    "the|a|an|that is|which is|who is|is|you can see|sitting|resting|standing|waiting|placed|that was put"
    "|that can be found|with|that has|covered in|on it|also|find|show me|where|point to|look for|select"
)


@dataclass
class _Phrase:
    """A noun phrase: what restricts it, in the order in which it has to be applied."""

    noun: str = ""
    looks: list[tuple[str, str]] = field(default_factory=list)
    size: str = ""
    place: list[str] = field(default_factory=list)
    rank: tuple[int, str] | None = None
    relations: list[tuple[str, list["_Phrase"]]] = field(default_factory=list)


def true_of(scene: Scene, expression: str) -> set[int]:
    """
    Find the objects that an expression is true of, as positions in `scene.objects`.

    Args:
        scene (`Scene`): What is drawn.
        expression (`str`): Lower-case text without punctuation.

    Raises:
        ValueError: If the text cannot be read.
    """
    return _matches(scene, _read(_tokens(expression), expression))


KINDS = {
    "name alone": "the mug",
    "looks": "the striped red mug",
    "size": "the small mug",
    "place": "the red mug on the left",
    "rank": "the second mug from the left",
    "relation": "the mug next to the tree",
}


def kind_of(expression: str) -> str:
    """Return the last of `KINDS` that an expression makes use of."""
    phrase = _read(_tokens(expression), expression)
    made = {
        "relation": phrase.relations,
        "rank": phrase.rank or any(place.startswith("first ") for place in phrase.place),
        "place": phrase.place,
        "size": phrase.size,
        "looks": phrase.looks,
    }
    return next((kind for kind, used in made.items() if used), "name alone")


@cache
def _table() -> dict[str, tuple[str, str]]:
    """Map every known phrase to its kind and meaning."""
    table: dict[str, tuple[str, str]] = {}
    for kind, meanings in (("place", _PLACES), ("relation", RELATIONS), ("pattern", _PATTERNS), ("size", _SIZES)):
        for meaning, phrases in meanings.items():
            table |= dict.fromkeys(phrases.split("|"), (kind, meaning))
    for vertical, words in (("top", ("top", "upper")), ("bottom", ("bottom", "lower"))):
        for word in words:
            for horizontal in ("left", "right"):
                for lead in ("", "in ", "in the ", "on the ", "at the "):
                    for end in ("", " corner", " hand corner"):
                        meaning = f"{vertical} {horizontal}" + end.replace(" hand", "")
                        table[f"{lead}{word} {horizontal}{end}"] = ("place", meaning)
    for side in ("left", "right", "top", "bottom"):
        for lead in ("from ", "from the "):
            table[lead + side] = ("from", side)
    table |= dict.fromkeys(_FILLERS.split("|"), ("filler", ""))
    table |= {word: ("ordinal", word) for word in _ORDINALS}
    table |= {colour: ("colour", colour) for colour in COLOURS} | {
        "grey": ("colour", "gray"),
        "violet": ("colour", "purple"),
    }
    for name, category in CATEGORIES.items():
        table |= dict.fromkeys((*category.words, category.plural), ("noun", name))
    table |= {kind: ("noun", kind) for kind in ("animal", "vehicle", "fruit")} | {"creature": ("noun", "animal")}
    table |= {"thing": ("noun", "any"), "object": ("noun", "any"), "one": ("noun", "any")}
    table |= {f"of the {number}": ("several", number) for number in ("two", "three", "four", "five")}
    table |= {"and": ("and", "")}
    return table


def _tokens(expression: str) -> list[tuple[str, str]]:
    """Cut the text into known phrases, the longest first."""
    words = expression.split()
    tokens, first = [], 0
    while first < len(words):
        for last in range(min(len(words), first + 8), first, -1):
            phrase = " ".join(words[first:last])
            if phrase in _table():
                tokens.append(_table()[phrase])
                first = last
                break
        else:
            raise ValueError(f"`expression` must consist of words of the vocabulary, got {words[first]!r}.")
    return [token for token in tokens if token[0] != "filler"]


def _read(tokens: list[tuple[str, str]], expression: str) -> _Phrase:
    """Read the head phrase and its relations."""
    head = _Phrase()
    first = 0
    while first < len(tokens):
        kind, meaning = tokens[first]
        if kind == "relation":
            anchors = []
            first += 1
            for number in range(2 if meaning == "between" else 1):
                if number and tokens[first : first + 1] == [("and", "")]:
                    first += 1
                anchor = _Phrase()
                while first < len(tokens) and not anchor.noun:
                    first = _take(anchor, tokens, first)
                anchors.append(anchor)
            head.relations.append((meaning, anchors))
        else:
            first = _take(head, tokens, first)
    if not head.noun or any(not anchor.noun for _, anchors in head.relations for anchor in anchors):
        raise ValueError(f"`expression` must have a noun in each of its phrases, got {expression!r}.")
    return head


def _take(phrase: _Phrase, tokens: list[tuple[str, str]], first: int) -> int:
    """Add the token at `first` to a phrase and return the position after what was read."""
    kind, meaning = tokens[first]
    following = [token[0] for token in tokens[first + 1 : first + 4]]
    if kind == "noun":
        if meaning != "any" or not phrase.noun:  # "of the two mugs the one": the mug stays
            phrase.noun = meaning
    elif kind == "colour":
        if following[:1] == ["pattern"] and phrase.noun:  # "with white dots"
            phrase.looks.append(("accent", meaning))
        else:
            phrase.looks.append(("colour", meaning))
            if following == ["and", "colour", "pattern"]:  # "red and white striped"
                phrase.looks.append(("accent", tokens[first + 2][1]))
                return first + 3
    elif kind == "pattern":
        phrase.looks.append(("pattern", meaning))
    elif kind == "size":
        phrase.size = meaning
    elif kind == "place":
        phrase.place.append(meaning)
    elif kind == "ordinal":
        phrase.rank = (_ORDINALS[meaning], "")
    elif kind == "from" and phrase.rank:
        phrase.rank = (phrase.rank[0], meaning)
    return first + 1


def _matches(scene: Scene, phrase: _Phrase) -> set[int]:
    objects = scene.objects
    named = [number for number, item in enumerate(objects) if _named(item, phrase.noun)]
    found = [number for number in named if all(getattr(objects[number], key) == value for key, value in phrase.looks)]
    if phrase.size and found:
        found = _of_size(objects, found, named, phrase.size)
    if phrase.rank:
        count, side = phrase.rank
        order = sorted(found, key=lambda number: _share(scene, objects[number], side))
        found = order[count - 1 : count]
    for place in phrase.place:
        found = _at(scene, found, place)
    group = found
    for relation, anchors in phrase.relations:
        places = [_matches(scene, anchor) for anchor in anchors]
        if any(len(place) != 1 for place in places):
            return set()
        fixed = [next(iter(place)) for place in places]
        found = [number for number in found if number not in fixed and _holds(scene, number, relation, fixed, group)]
    return set(found)


def _named(item: SceneObject, noun: str) -> bool:
    return noun in ("any", item.category, CATEGORIES[item.category].kind)


def _of_size(objects: tuple[SceneObject, ...], found: list[int], named: list[int], size: str) -> list[int]:
    sign = 1 if size.startswith("big") else -1
    if size.endswith("est"):
        return [max(found, key=lambda number: sign * objects[number].size)]
    group = found if len(found) > 1 else named
    sizes = [objects[number].size for number in group]
    if max(sizes) < 1.2 * min(sizes):
        return []
    limit = max(sizes) / sqrt(1.35) if sign > 0 else min(sizes) * sqrt(1.35)
    return [number for number in found if sign * objects[number].size >= sign * limit]


def _share(scene: Scene, item: SceneObject, side: str) -> float:
    share = item.x / scene.width if side in ("left", "right") else item.y / scene.height
    return share if side in ("left", "top") else 1 - share


def _at(scene: Scene, found: list[int], place: str) -> list[int]:
    objects = scene.objects
    word, _, side = place.partition(" ")
    if word in ("first", "far"):
        outermost = sorted(found, key=lambda number: _share(scene, objects[number], side))[:1]
        return [number for number in outermost if word == "first" or _share(scene, objects[number], side) < 0.5]
    if place == "middle":
        return [
            number
            for number in found
            if max(abs(objects[number].x / scene.width - 0.5), abs(objects[number].y / scene.height - 0.5)) < 0.18
        ]
    sides = place.removesuffix(" corner").split()
    limit = 0.38 if place.endswith(" corner") else 0.5
    return [number for number in found if all(_share(scene, objects[number], side) < limit for side in sides)]


def _holds(scene: Scene, number: int, relation: str, anchors: list[int], group: list[int]) -> bool:
    item, anchor = scene.objects[number], scene.objects[anchors[0]]
    if relation in ("left", "right", "top", "bottom"):
        return _share(scene, anchor, relation) - _share(scene, item, relation) > 0.03
    if relation in ("front", "behind"):
        pair = tuple(sorted((number, anchors[0])))
        touching = any((back, front) == pair and share > 0.04 for back, front, share in scene.overlaps)
        return touching and (number > anchors[0]) == (relation == "front")
    if relation == "beside":
        return _far(item, anchor) - 0.42 * (item.extent + anchor.extent) < 36
    if relation == "closest":
        rivals = [other for other in group if other not in anchors]
        return number == min(rivals, key=lambda other: _far(scene.objects[other], anchor))
    other = scene.objects[anchors[1]]
    length = _far(anchor, other)
    if length <= 70:
        return False
    along = ((item.x - anchor.x) * (other.x - anchor.x) + (item.y - anchor.y) * (other.y - anchor.y)) / length**2
    aside = abs((item.x - anchor.x) * (other.y - anchor.y) - (item.y - anchor.y) * (other.x - anchor.x)) / length
    return 0.14 < along < 0.86 and aside < 0.35 * length


def _far(first: SceneObject, second: SceneObject) -> float:
    return hypot(first.x - second.x, first.y - second.y)
