"""From descriptions to words."""

import numpy as np

from . import words
from .categories import CATEGORIES
from .predicates import LEFT, RIGHT, SIDES, Description, Relation
from .scene import Scene, pick


# Share of texts without articles.
TELEGRAPHIC = {"refshapes": 0.6, "refshapes+": 0.5, "refshapesg": 0.0}


def write(rng: np.random.Generator, scene: Scene, plan: Description, target: int, variant: str) -> str:
    """Write what a plan says about an object."""
    bare = noun_phrase(rng, plan)
    superlative = plan.size.endswith("est")
    indefinite = variant == "refshapesg" and not superlative and not bare.startswith("one") and rng.random() < 0.35
    article = ("an" if bare[0] in "aeiou" else "a") if indefinite else "the"
    full = f"{article} {bare}"
    if plan.relations and plan.place:
        full = f"{article} {noun_phrase(rng, plan, compact=True)} {pick(rng, words.LONG_PLACES[plan.place])}"
    elif plan.place or plan.rank:
        form = _location_form(rng, plan)
        if not form.endswith("{}"):  # never "the mug with white dots left"
            bare = noun_phrase(rng, plan, compact=True)
        return _request(rng, form.replace("{the}", f"the {bare}").replace("{}", bare))
    brief = rng.random() < TELEGRAPHIC[variant]
    if not plan.relations:
        text = _comparison(rng, scene, plan) if superlative and rng.random() < 0.35 else ""
        return text or (bare if brief else full if variant == "refshapes+" else _request(rng, full))
    relations = [_write_relation(rng, relation, brief) for relation in plan.relations]
    joined = relations[0] if len(relations) == 1 else pick(rng, words.JOINS).join(relations)
    if brief:
        return f"{bare} {joined}"
    group = CATEGORIES[scene.objects[target].category].group
    forms = words.GROUP_FORMS[group] if rng.random() < 0.35 and not joined.startswith("partly") else words.LONG_FORMS
    if plan.place:
        forms = words.LONG_FORMS[1:4]  # with a verb: never "at the top" right before "left of the tree"
    form = pick(rng, forms) if variant == "refshapesg" else words.LONG_FORMS[0]
    text = form.replace("{the}", full).replace("{r}", joined)
    if variant == "refshapesg" and plan.noun in CATEGORIES and not superlative and rng.random() < 0.15:
        return _of_several(rng, scene, plan, joined) or text
    return text


def _request(rng: np.random.Generator, text: str) -> str:
    """Turn a phrase with its article into a request, now and then."""
    return pick(rng, words.REQUESTS).replace("{}", text) if text.startswith("the ") and rng.random() < 0.06 else text


def _location_form(rng: np.random.Generator, plan: Description) -> str:
    """Choose a form for the plan's rank or place, with {} and {the} left open."""
    if plan.rank:
        count, side = plan.rank
        form = pick(rng, words.FIRST_FORMS[side] if count == 1 else words.RANK_FORMS)
        return form.replace("{nth}", pick(rng, words.ORDINALS.get(count, ("",)))).replace("{side}", side)
    if plan.place in SIDES:
        on = "on " if plan.place in (LEFT, RIGHT) else "at "
        form = pick(rng, words.SIDE_FORMS if rng.random() < 0.6 else words.EXTRA_SIDE_FORMS[plan.place])
        return form.replace("{on}", on).replace("{side}", plan.place)
    word, *rest = plan.place.split(" ")
    if word == "middle":
        return pick(rng, words.MIDDLE_FORMS)
    if word == "far":
        return pick(rng, words.FAR_FORMS[rest[0]])
    vertical, horizontal = rest if word == "corner" else (word, rest[0])
    form = pick(rng, words.CORNER_FORMS if word == "corner" else words.QUADRANT_FORMS)
    return form.replace("{v}", pick(rng, words.VERTICAL[vertical])).replace("{h}", horizontal)


def _write_relation(rng: np.random.Generator, relation: Relation, brief: bool) -> str:
    text = pick(rng, words.RELATION_WORDS[relation.kind])
    if text == "by {}" and not brief:
        text = "near {}"  # not "found by the tree"
    for anchor in relation.anchors:
        phrase = noun_phrase(rng, anchor, compact=True)
        text = text.replace("{}", phrase if brief and rng.random() < 0.5 else f"the {phrase}", 1)
    return text


def noun_phrase(rng: np.random.Generator, plan: Description, compact: bool = False) -> str:
    """Write adjectives and noun without an article; in a compact phrase all stand before the noun."""
    colour = pick(rng, words.COLOUR_WORDS.get(plan.colour, (plan.colour,))) if plan.colour else ""
    before, after = [colour] if colour else [], ""
    if plan.pattern == "plain":
        if compact or colour or rng.random() < 0.6:
            before.insert(0, pick(rng, words.PLAIN))
        else:
            after = pick(rng, (" with no pattern", " without a pattern"))
    elif plan.pattern:
        adjective = pick(rng, words.PATTERN_ADJECTIVES[plan.pattern])
        if plan.accent and colour and (compact or rng.random() < 0.4):
            before = [f"{colour} and {plan.accent} {adjective}"]
        elif not compact and (plan.accent or rng.random() < 0.35):
            marks = f"{plan.accent} {pick(rng, words.PATTERN_NOUNS[plan.pattern])}".strip()
            after = " " + pick(rng, words.PATTERN_LEADS).replace("{}", marks)
        else:
            before.insert(int(rng.random() * (len(before) + 1)), adjective)
    if plan.size:
        before.insert(0, pick(rng, words.SIZE_WORDS[plan.size]))
    return " ".join((*before, _noun(rng, plan.noun))) + after


def _noun(rng: np.random.Generator, noun: str) -> str:
    if noun in CATEGORIES:
        nouns = CATEGORIES[noun].words
        return nouns[0] if rng.random() < 0.7 else pick(rng, nouns)
    if noun == "thing":
        return pick(rng, ("thing", "object"))
    return pick(rng, words.KIND_WORDS.get(noun, (noun,)))


def _comparison(rng: np.random.Generator, scene: Scene, plan: Description) -> str:
    """Write "the bigger of the two red mugs", where that many are there."""
    group = _several(rng, scene, plan)
    if not group or plan.accent or plan.pattern:
        return ""
    number, plural = group
    if number == 2:
        form = pick(rng, ("the {} of the two {}", "the {} one of the two {}"))
        return form.format(pick(rng, words.COMPARATIVES[plan.size]), plural)
    return f"the {pick(rng, words.SIZE_WORDS[plan.size])} of the {words.NUMBERS[number]} {plural}"


def _of_several(rng: np.random.Generator, scene: Scene, plan: Description, joined: str) -> str:
    """Write "of the two red mugs the one next to the tree", where that many are there."""
    group = _several(rng, scene, plan)
    if not group or plan.accent or plan.pattern or plan.size or plan.place:
        return ""
    number, plural = group
    several = f"of the {words.NUMBERS[number]} {plural}"
    return f"{several} the one {joined}" if rng.random() < 0.5 else f"the one {several} that is {joined}"


def _several(rng: np.random.Generator, scene: Scene, plan: Description) -> tuple[int, str] | None:
    """Count the objects that have the plan's noun and colour, and name them in the plural."""
    noun, colour = plan.noun, plan.colour
    if noun not in CATEGORIES or any(noun in CATEGORIES[item.category].near for item in scene.objects):
        return None
    number = sum(item.category == noun and colour in ("", item.colour) for item in scene.objects)
    adjective = colour and pick(rng, words.COLOUR_WORDS.get(colour, (colour,)))
    plural = f"{adjective} {CATEGORIES[noun].plural}".strip()
    return (number, plural) if number in words.NUMBERS else None
