"""From descriptions to words: all words of expressions stand in this module's tables or belong to the categories."""

import re
from collections.abc import Iterator

import numpy as np

from .categories import CATEGORIES
from .predicates import BOTTOM, LEFT, RIGHT, SIDES, TOP, Description, Relation
from .scene import COLOURS, Scene, pick


_KIND_WORDS = {"animal": ("animal", "animal", "creature"), "vehicle": ("vehicle",), "fruit": ("fruit",)}
_COLOUR_WORDS = {"gray": ("gray", "gray", "grey"), "purple": ("purple", "purple", "violet")}
_PLAIN = ("plain", "plain", "solid")
_PATTERN_ADJECTIVES = {
    "striped": ("striped", "striped", "stripy"),
    "dotted": ("dotted", "spotted", "polka dot"),
    "checked": ("checked", "checkered"),
}
_PATTERN_NOUNS = {"striped": ("stripes",), "dotted": ("dots", "spots", "polka dots"), "checked": ("checks", "squares")}
_SIZE_WORDS = {
    "big": ("big", "big", "large", "huge"),
    "small": ("small", "small", "little", "tiny"),
    "biggest": ("biggest", "largest"),
    "smallest": ("smallest", "smallest", "tiniest"),
}
_COMPARATIVES = {"biggest": ("bigger", "larger"), "smallest": ("smaller",)}
_ORDINALS = {2: ("second", "2nd"), 3: ("third", "3rd")}
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}

# Where {} stands for the noun phrase without and {the} for the one with its article.
_SIDE_FORMS = ("{side} {}", "{side} {}", "{} {on}{side}", "{} {on}the {side}", "{the} {on}the {side}", "the {side} {}")
_EXTRA_SIDE_FORMS = {
    LEFT: (
        "left side {}",
        "{} on the left side",
        "{} on the left hand side",
        "{} to the left",
        "{} left",
        "{the} on the left side of the picture",
    ),
    RIGHT: (
        "right side {}",
        "{} on the right side",
        "{} on the right hand side",
        "{} to the right",
        "{} right",
        "{the} on the right side of the picture",
    ),
    TOP: ("upper {}", "{} up top", "{} at the very top", "the upper {}", "{the} at the top of the picture"),
    BOTTOM: ("lower {}", "{} at the very bottom", "the lower {}", "{the} at the bottom of the picture"),
}
_FAR_FORMS = {
    LEFT: ("far left {}", "{} far left", "{} on the far left", "{the} on the far left", "{} all the way on the left"),
    RIGHT: (
        "far right {}",
        "{} far right",
        "{} on the far right",
        "{the} on the far right",
        "{} all the way on the right",
    ),
}
# Where in the picture something is, between a long text's noun and its relations.
_LONG_PLACES = {
    LEFT: ("on the left", "on the left side of the picture"),
    RIGHT: ("on the right", "on the right side of the picture"),
    TOP: ("at the top", "at the top of the picture"),
    BOTTOM: ("at the bottom", "at the bottom of the picture"),
    f"{TOP} {LEFT}": ("in the top left", "in the upper left"),
    f"{TOP} {RIGHT}": ("in the top right", "in the upper right"),
    f"{BOTTOM} {LEFT}": ("in the bottom left", "in the lower left"),
    f"{BOTTOM} {RIGHT}": ("in the bottom right", "in the lower right"),
    "middle": ("in the middle", "in the middle of the picture"),
}
_MIDDLE_FORMS = (
    "middle {}",
    "center {}",
    "{} in middle",
    "{} in the middle",
    "{the} in the middle",
    "{the} in the center",
)
_QUADRANT_FORMS = (
    "{v} {h} {}",
    "{} {v} {h}",
    "{} in {v} {h}",
    "{} on the {v} {h}",
    "{the} in the {v} {h}",
    "{the} at the {v} {h}",
)
_CORNER_FORMS = (
    "{} in {v} {h} corner",
    "{v} {h} corner {}",
    "{the} in the {v} {h} corner",
    "{the} in the {v} {h} hand corner",
)
_VERTICAL = {TOP: ("top", "upper"), BOTTOM: ("bottom", "lower")}
_FIRST_FORMS = {
    LEFT: (
        "leftmost {}",
        "the leftmost {}",
        "{} furthest left",
        "{the} furthest to the left",
        "first {} from the left",
    ),
    RIGHT: (
        "rightmost {}",
        "the rightmost {}",
        "{} furthest right",
        "{the} furthest to the right",
        "first {} from the right",
    ),
    TOP: ("topmost {}", "highest {}", "the highest {}", "{the} highest up"),
    BOTTOM: ("lowest {}", "the lowest {}", "bottommost {}", "{the} lowest down"),
}
_RANK_FORMS = (
    "{nth} {} from {side}",
    "{nth} {} from the {side}",
    "the {nth} {} from the {side}",
    "{} {nth} from {side}",
    "{} that is {nth} from the {side}",
)
_RELATION_WORDS = {
    LEFT: ("left of {}", "to the left of {}", "to the left of {}", "on the left side of {}"),
    RIGHT: ("right of {}", "to the right of {}", "to the right of {}", "on the right side of {}"),
    TOP: ("above {}", "above {}", "higher than {}", "up above {}"),
    BOTTOM: ("below {}", "under {}", "underneath {}", "lower than {}", "beneath {}"),
    "beside": ("next to {}", "next to {}", "beside {}", "close to {}", "near {}", "by {}", "right next to {}"),
    "closest": ("closest to {}", "nearest to {}"),
    "front": ("in front of {}", "partly covering {}"),
    "behind": ("behind {}", "partly behind {}", "partly hidden by {}"),
    "between": ("between {} and {}", "in between {} and {}"),
}
_LONG_FORMS = (
    "{the} {r}",
    "{the} that is {r}",
    "{the} which is {r}",
    "{the} is {r}",
    "{the} you can see {r}",
)
_ANIMAL_FORMS = ("{the} sitting {r}", "{the} that is sitting {r}", "{the} resting {r}")
_FIGURE_FORMS = ("{the} standing {r}", "{the} who is standing {r}", "{the} who is {r}", "{the} waiting {r}")
_THING_FORMS = ("{the} placed {r}", "{the} that was put {r}", "{the} that can be found {r}")
_GROUP_FORMS = {"animal": _ANIMAL_FORMS, "figure": _FIGURE_FORMS, "thing": _THING_FORMS}
_JOINS = (" and ", " and ", " and also ")
_PATTERN_LEADS = ("with {}", "with {}", "with {}", "with {} on it", "that has {}", "covered in {}")
_REQUESTS = ("find {}", "show me {}", "where is {}", "point to {}", "look for {}", "select {}")
_OTHER_WORDS = "a an the one thing object and with without no pattern of on at"
# Share of texts without articles.
_TELEGRAPHIC = {"refshapes": 0.6, "refshapes+": 0.5, "refshapesg": 0.0}


def vocabulary() -> list[str]:
    """Every word that any expression may contain, sorted."""
    words: set[str] = set(COLOURS)
    for category in CATEGORIES.values():
        words.update(" ".join((*category.words, category.plural)).split())
    for table in _TABLES:
        for text in _strings(table):
            words.update(re.sub(r"{[^}]*}", " ", text).split())
    return sorted(words)


def write(rng: np.random.Generator, scene: Scene, plan: Description, target: int, name: str) -> str:
    bare = noun_phrase(rng, plan)
    superlative = plan.size.endswith("est")
    indefinite = name == "refshapesg" and not superlative and not bare.startswith("one") and rng.random() < 0.35
    article = ("an" if bare[0] in "aeiou" else "a") if indefinite else "the"
    full = f"{article} {bare}"
    if plan.relations and plan.place:
        full = f"{article} {noun_phrase(rng, plan, compact=True)} {pick(rng, _LONG_PLACES[plan.place])}"
    elif plan.place or plan.rank:
        form = _location_form(rng, plan)
        if not form.endswith("{}"):  # never "the mug with white dots left"
            bare = noun_phrase(rng, plan, compact=True)
        return _request(rng, form.replace("{the}", f"the {bare}").replace("{}", bare))
    brief = rng.random() < _TELEGRAPHIC[name]
    if not plan.relations:
        text = _comparison(rng, scene, plan) if superlative and rng.random() < 0.35 else ""
        return text or (bare if brief else full if name == "refshapes+" else _request(rng, full))
    relations = [_write_relation(rng, relation, brief) for relation in plan.relations]
    joined = relations[0] if len(relations) == 1 else pick(rng, _JOINS).join(relations)
    if brief:
        return f"{bare} {joined}"
    group = CATEGORIES[scene.objects[target].category].group
    forms = _GROUP_FORMS[group] if rng.random() < 0.35 and not joined.startswith("partly") else _LONG_FORMS
    if plan.place:
        forms = _LONG_FORMS[1:4]  # with a verb: never "at the top" right before "left of the tree"
    form = pick(rng, forms) if name == "refshapesg" else _LONG_FORMS[0]
    text = form.replace("{the}", full).replace("{r}", joined)
    if name == "refshapesg" and plan.noun in CATEGORIES and not superlative and rng.random() < 0.15:
        return _of_several(rng, scene, plan, joined) or text
    return text


def _request(rng: np.random.Generator, text: str) -> str:
    """Now and then turns a phrase with its article into a request."""
    return pick(rng, _REQUESTS).replace("{}", text) if text.startswith("the ") and rng.random() < 0.06 else text


def _location_form(rng: np.random.Generator, plan: Description) -> str:
    """A form for the plan's rank or place, with {} and {the} left open."""
    if plan.rank:
        count, side = plan.rank
        form = pick(rng, _FIRST_FORMS[side] if count == 1 else _RANK_FORMS)
        return form.replace("{nth}", pick(rng, _ORDINALS.get(count, ("",)))).replace("{side}", side)
    if plan.place in SIDES:
        on = "on " if plan.place in (LEFT, RIGHT) else "at "
        form = pick(rng, _SIDE_FORMS if rng.random() < 0.6 else _EXTRA_SIDE_FORMS[plan.place])
        return form.replace("{on}", on).replace("{side}", plan.place)
    word, *rest = plan.place.split(" ")
    if word == "middle":
        return pick(rng, _MIDDLE_FORMS)
    if word == "far":
        return pick(rng, _FAR_FORMS[rest[0]])
    vertical, horizontal = rest if word == "corner" else (word, rest[0])
    form = pick(rng, _CORNER_FORMS if word == "corner" else _QUADRANT_FORMS)
    return form.replace("{v}", pick(rng, _VERTICAL[vertical])).replace("{h}", horizontal)


def _write_relation(rng: np.random.Generator, relation: Relation, brief: bool) -> str:
    text = pick(rng, _RELATION_WORDS[relation.kind])
    if text == "by {}" and not brief:
        text = "near {}"  # not "found by the tree"
    for anchor in relation.anchors:
        words = noun_phrase(rng, anchor, compact=True)
        text = text.replace("{}", words if brief and rng.random() < 0.5 else f"the {words}", 1)
    return text


def noun_phrase(rng: np.random.Generator, plan: Description, compact: bool = False) -> str:
    """Adjectives and noun without an article; in a compact phrase all stand before the noun."""
    colour = pick(rng, _COLOUR_WORDS.get(plan.colour, (plan.colour,))) if plan.colour else ""
    before, after = [colour] if colour else [], ""
    if plan.pattern == "plain":
        if compact or colour or rng.random() < 0.6:
            before.insert(0, pick(rng, _PLAIN))
        else:
            after = pick(rng, (" with no pattern", " without a pattern"))
    elif plan.pattern:
        adjective = pick(rng, _PATTERN_ADJECTIVES[plan.pattern])
        if plan.accent and colour and (compact or rng.random() < 0.4):
            before = [f"{colour} and {plan.accent} {adjective}"]
        elif not compact and (plan.accent or rng.random() < 0.35):
            marks = f"{plan.accent} {pick(rng, _PATTERN_NOUNS[plan.pattern])}".strip()
            after = " " + pick(rng, _PATTERN_LEADS).replace("{}", marks)
        else:
            before.insert(int(rng.random() * (len(before) + 1)), adjective)
    if plan.size:
        before.insert(0, pick(rng, _SIZE_WORDS[plan.size]))
    return " ".join((*before, _noun(rng, plan.noun))) + after


def _noun(rng: np.random.Generator, noun: str) -> str:
    if noun in CATEGORIES:
        words = CATEGORIES[noun].words
        return words[0] if rng.random() < 0.7 else pick(rng, words)
    if noun == "thing":
        return pick(rng, ("thing", "object"))
    return pick(rng, _KIND_WORDS.get(noun, (noun,)))


def _comparison(rng: np.random.Generator, scene: Scene, plan: Description) -> str:
    """ "the bigger of the two red mugs", where that many are there."""
    group = _several(rng, scene, plan)
    if not group or plan.accent or plan.pattern:
        return ""
    number, words = group
    if number == 2:
        return pick(rng, ("the {} of the two {}", "the {} one of the two {}")).format(
            pick(rng, _COMPARATIVES[plan.size]), words
        )
    return f"the {pick(rng, _SIZE_WORDS[plan.size])} of the {_NUMBERS[number]} {words}"


def _of_several(rng: np.random.Generator, scene: Scene, plan: Description, joined: str) -> str:
    """ "of the two red mugs the one next to the tree"."""
    group = _several(rng, scene, plan)
    if not group or plan.accent or plan.pattern or plan.size or plan.place:
        return ""
    number, words = group
    several = f"of the {_NUMBERS[number]} {words}"
    return f"{several} the one {joined}" if rng.random() < 0.5 else f"the one {several} that is {joined}"


def _several(rng: np.random.Generator, scene: Scene, plan: Description) -> tuple[int, str] | None:
    """How many objects have the plan's noun and colour, and their plural."""
    if plan.noun not in CATEGORIES:
        return None
    if any(plan.noun in CATEGORIES[fact.category].near for fact in scene.objects):
        return None
    number = sum(
        fact.category == plan.noun and (not plan.colour or fact.colour == plan.colour) for fact in scene.objects
    )
    colour = plan.colour and pick(rng, _COLOUR_WORDS.get(plan.colour, (plan.colour,)))
    words = f"{colour} {CATEGORIES[plan.noun].plural}".strip()
    return (number, words) if number in _NUMBERS else None


_TABLES = (
    _KIND_WORDS,
    _REQUESTS,
    _PATTERN_LEADS,
    _COLOUR_WORDS,
    _PLAIN,
    _PATTERN_ADJECTIVES,
    _PATTERN_NOUNS,
    _SIZE_WORDS,
    _COMPARATIVES,
    _ORDINALS,
    _NUMBERS,
    SIDES,
    _EXTRA_SIDE_FORMS,
    _FAR_FORMS,
    _LONG_PLACES,
    _MIDDLE_FORMS,
    _QUADRANT_FORMS,
    _CORNER_FORMS,
    _VERTICAL,
    _FIRST_FORMS,
    _RANK_FORMS,
    _RELATION_WORDS,
    _LONG_FORMS,
    _ANIMAL_FORMS,
    _FIGURE_FORMS,
    _THING_FORMS,
    _JOINS,
    _OTHER_WORDS,
)


def _strings(table: object) -> Iterator[str]:
    """All texts in nested tables, without a mapping's keys."""
    if isinstance(table, str):
        yield table
    elif isinstance(table, dict):
        for value in table.values():
            yield from _strings(value)
    elif isinstance(table, tuple):
        for value in table:
            yield from _strings(value)
