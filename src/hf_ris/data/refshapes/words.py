"""The words of expressions, but for the categories' and the colours'.

In a form, {} stands for the noun phrase without its article and {the} for the one with it; {side}, {v}, {h}, {nth} and {r} for
a side, a vertical and a horizontal one, an ordinal number and a relation.
"""

import re
from collections.abc import Iterator

from .categories import CATEGORIES
from .predicates import BOTTOM, LEFT, RIGHT, TOP
from .scene import COLOURS


def _sideways(*forms: str) -> dict[str, tuple[str, ...]]:
    """Fill forms in for the left and for the right."""
    return {side: tuple(form.replace("{side}", side) for form in forms) for side in (LEFT, RIGHT)}


KIND_WORDS = {"animal": ("animal", "animal", "creature"), "vehicle": ("vehicle",), "fruit": ("fruit",)}
COLOUR_WORDS = {"gray": ("gray", "gray", "grey"), "purple": ("purple", "purple", "violet")}
PLAIN = ("plain", "plain", "solid")
PATTERN_ADJECTIVES = {
    "striped": ("striped", "striped", "stripy"),
    "dotted": ("dotted", "spotted", "polka dot"),
    "checked": ("checked", "checkered"),
}
PATTERN_NOUNS = {"striped": ("stripes",), "dotted": ("dots", "spots", "polka dots"), "checked": ("checks", "squares")}
SIZE_WORDS = {
    "big": ("big", "big", "large", "huge"),
    "small": ("small", "small", "little", "tiny"),
    "biggest": ("biggest", "largest"),
    "smallest": ("smallest", "smallest", "tiniest"),
}
COMPARATIVES = {"biggest": ("bigger", "larger"), "smallest": ("smaller",)}
ORDINALS = {2: ("second", "2nd"), 3: ("third", "3rd")}
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}

SIDE_FORMS = ("{side} {}", "{side} {}", "{} {on}{side}", "{} {on}the {side}", "{the} {on}the {side}", "the {side} {}")
EXTRA_SIDE_FORMS = {
    **_sideways(
        "{side} side {}",
        "{} on the {side} side",
        "{} on the {side} hand side",
        "{} to the {side}",
        "{} {side}",
        "{the} on the {side} side of the picture",
    ),
    TOP: ("upper {}", "{} up top", "{} at the very top", "the upper {}", "{the} at the top of the picture"),
    BOTTOM: ("lower {}", "{} at the very bottom", "the lower {}", "{the} at the bottom of the picture"),
}
FAR_FORMS = _sideways(
    "far {side} {}", "{} far {side}", "{} on the far {side}", "{the} on the far {side}", "{} all the way on the {side}"
)
# Where in the image something is, between a long text's noun and its relations.
LONG_PLACES = {
    **_sideways("on the {side}", "on the {side} side of the picture"),
    TOP: ("at the top", "at the top of the picture"),
    BOTTOM: ("at the bottom", "at the bottom of the picture"),
    **{f"{TOP} {side}": (f"in the top {side}", f"in the upper {side}") for side in (LEFT, RIGHT)},
    **{f"{BOTTOM} {side}": (f"in the bottom {side}", f"in the lower {side}") for side in (LEFT, RIGHT)},
    "middle": ("in the middle", "in the middle of the picture"),
}
MIDDLE_FORMS = (
    "middle {}",
    "center {}",
    "{} in middle",
    "{} in the middle",
    "{the} in the middle",
    "{the} in the center",
)
QUADRANT_FORMS = (
    "{v} {h} {}",
    "{} {v} {h}",
    "{} in {v} {h}",
    "{} on the {v} {h}",
    "{the} in the {v} {h}",
    "{the} at the {v} {h}",
)
CORNER_FORMS = (
    "{} in {v} {h} corner",
    "{v} {h} corner {}",
    "{the} in the {v} {h} corner",
    "{the} in the {v} {h} hand corner",
)
VERTICAL = {TOP: ("top", "upper"), BOTTOM: ("bottom", "lower")}
FIRST_FORMS = {
    **_sideways(
        "{side}most {}",
        "the {side}most {}",
        "{} furthest {side}",
        "{the} furthest to the {side}",
        "first {} from the {side}",
    ),
    TOP: ("topmost {}", "highest {}", "the highest {}", "{the} highest up"),
    BOTTOM: ("lowest {}", "the lowest {}", "bottommost {}", "{the} lowest down"),
}
RANK_FORMS = (
    "{nth} {} from {side}",
    "{nth} {} from the {side}",
    "the {nth} {} from the {side}",
    "{} {nth} from {side}",
    "{} that is {nth} from the {side}",
)
RELATION_WORDS = {
    **_sideways("{side} of {}", "to the {side} of {}", "to the {side} of {}", "on the {side} side of {}"),
    TOP: ("above {}", "above {}", "higher than {}", "up above {}"),
    BOTTOM: ("below {}", "under {}", "underneath {}", "lower than {}", "beneath {}"),
    "beside": ("next to {}", "next to {}", "beside {}", "close to {}", "near {}", "by {}", "right next to {}"),
    "closest": ("closest to {}", "nearest to {}"),
    "front": ("in front of {}", "partly covering {}"),
    "behind": ("behind {}", "partly behind {}", "partly hidden by {}"),
    "between": ("between {} and {}", "in between {} and {}"),
}
LONG_FORMS = ("{the} {r}", "{the} that is {r}", "{the} which is {r}", "{the} is {r}", "{the} you can see {r}")
GROUP_FORMS = {
    "animal": ("{the} sitting {r}", "{the} that is sitting {r}", "{the} resting {r}"),
    "figure": ("{the} standing {r}", "{the} who is standing {r}", "{the} who is {r}", "{the} waiting {r}"),
    "thing": ("{the} placed {r}", "{the} that was put {r}", "{the} that can be found {r}"),
}
JOINS = (" and ", " and ", " and also ")
PATTERN_LEADS = ("with {}", "with {}", "with {}", "with {} on it", "that has {}", "covered in {}")
REQUESTS = ("find {}", "show me {}", "where is {}", "point to {}", "look for {}", "select {}")
OTHER_WORDS = "a an the one thing object and with without no pattern of on at"


def vocabulary() -> list[str]:
    """Return every word that any expression may contain, sorted."""
    words: set[str] = set(COLOURS)
    for category in CATEGORIES.values():
        words.update(" ".join((*category.words, category.plural)).split())
    for name, table in globals().items():
        if name.isupper():
            for text in _texts(table):
                words.update(re.sub(r"{[^}]*}", " ", text).split())
    return sorted(words)


def _texts(table: object) -> Iterator[str]:
    """Yield all texts in nested tables, without a mapping's keys."""
    if isinstance(table, str):
        yield table
    elif isinstance(table, dict | tuple):
        for value in table.values() if isinstance(table, dict) else table:
            yield from _texts(value)
