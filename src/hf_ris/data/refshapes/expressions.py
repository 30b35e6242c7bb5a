"""
Referring expressions in RefCOCO's three variants: plans are drawn at random and kept when they refer clearly.

`refshapes` is short and often telegraphic and may use location words, `refshapes+` says only what things look like,
and `refshapesg` is long and relational.
"""

from dataclasses import replace

import numpy as np

from .categories import CATEGORIES
from .phrasing import write
from .predicates import BOTTOM, LEFT, RIGHT, SIDES, TOP, TRUE, UNSURE, Description, Relation, off_centre, refers, truth
from .scene import COLOURS, PATTERNS, SPLITS, Scene, SceneObject, accents, generator, pick


NAMES = ("refshapes", "refshapes+", "refshapesg")

# How often each variant says what: only looks, a place, a rank ("second from the left"), one relation or two, or both a
# place and a relation.
_PLANS = {
    "refshapes": {"look": 0.2, "place": 0.42, "rank": 0.15, "relation": 0.23},
    "refshapes+": {"look": 1.0},
    "refshapesg": {"relation": 0.3, "relations": 0.5, "place and relation": 0.2},
}
_CHOICES, _TRIES = 5, 16


def describe(scene: Scene, target: int, variant: str, count: int = 1) -> list[str]:
    """
    Write different expressions that are clearly true of one object and clearly false of all others.

    Args:
        scene (`Scene`): What is drawn.
        target (`int`): Position in `scene.objects`.
        variant (`str`): "refshapes", "refshapes+" or "refshapesg".
        count (`int`, *optional*, defaults to 1): Largest number of expressions.

    Returns:
        Lower-case texts without punctuation; fewer than `count`, or none, where the object can hardly be distinguished.
    """
    rng = _generator(scene, target, variant, 0)
    texts: list[str] = []
    for _ in range(_CHOICES + 2 * count):
        kind = _draw_kind(rng, variant)
        for _ in range(_TRIES):  # rare kinds get their share before another one is chosen
            plan = _plan(rng, scene, target, kind, variant)
            if plan is not None and refers(scene, plan, target):
                break
        else:
            continue
        text = write(rng, scene, plan, target, variant)
        if text not in texts:
            texts.append(text)
            if len(texts) == count:
                break
    return texts


def describe_nothing(scene: Scene, variant: str, count: int = 1) -> list[str]:
    """
    Write expressions that are clearly false of every object, but near to what is there.

    Each is a clear expression for an object that has been given another look or category.
    """
    rng = _generator(scene, 0, variant, 1)
    texts: list[str] = []
    for _ in range(_CHOICES * _TRIES * count):
        target = int(rng.random() * len(scene.objects))
        changed = _change(rng, scene.objects[target])
        if changed.accent not in accents(changed.colour, changed.pattern):
            continue  # nothing could look like this
        imagined = replace(scene, objects=(*scene.objects[:target], changed, *scene.objects[target + 1 :]))
        plan = _plan(rng, imagined, target, _draw_kind(rng, variant), variant)
        if plan is None or not refers(imagined, plan, target) or not refers(scene, plan, -1):
            continue
        text = write(rng, imagined, plan, target, variant)
        if text not in texts:
            texts.append(text)
            if len(texts) == count:
                break
    return texts


def describe_several(scene: Scene, variant: str, count: int = 1) -> list[tuple[str, list[int]]]:
    """
    Write expressions that do not say which: each is clearly true of two or more objects and clearly false of all others.

    Returns:
        Each text with the positions in `scene.objects` of what it is true of; fewer than `count` where few look the same.
    """
    rng = _generator(scene, 0, variant, 2)
    found: dict[str, list[int]] = {}
    for _ in range(_CHOICES * _TRIES * count):
        target = int(rng.random() * len(scene.objects))
        plan = _plan(rng, scene, target, _draw_kind(rng, variant), variant)
        if plan is None:
            continue
        values = truth(scene, plan)
        if UNSURE in values or values.count(TRUE) < 2:
            continue
        found[write(rng, scene, plan, target, variant)] = [n for n, value in enumerate(values) if value == TRUE]
        if len(found) == count:
            break
    return list(found.items())


def _change(rng: np.random.Generator, item: SceneObject) -> SceneObject:
    """Give an object another colour, pattern or category."""
    draw = rng.random()
    if draw < 0.55:
        return replace(item, colour=pick(rng, tuple(COLOURS)))
    if draw < 0.7 and item.pattern != "plain":
        return replace(item, pattern=pick(rng, PATTERNS[1:]))
    return replace(item, category=pick(rng, tuple(CATEGORIES)))


def _generator(scene: Scene, target: int, variant: str, purpose: int) -> np.random.Generator:
    if variant not in NAMES:
        raise ValueError(f"`variant` must be one of {list(NAMES)}, got {variant!r}.")
    return generator(SPLITS.index(scene.split), scene.index, scene.attempt, 2, target, NAMES.index(variant), purpose)


def _draw_kind(rng: np.random.Generator, variant: str) -> str:
    draw = rng.random()
    kinds = _PLANS[variant]
    for kind, share in kinds.items():
        if draw < share:
            return kind
        draw -= share
    return next(iter(kinds))


def _plan(rng: np.random.Generator, scene: Scene, target: int, kind: str, variant: str) -> Description | None:
    """Draw what to say about the target; whether that refers is for the caller to check."""
    item = scene.objects[target]
    busy = kind != "look"
    plan = Description(
        noun=_draw_noun(rng, item.category),
        colour=item.colour if rng.random() < (0.7 if not busy else 0.6 if "relation" in kind else 0.4) else "",
    )
    if rng.random() < (0.22 if busy else 0.5) and (item.pattern != "plain" or rng.random() < 0.5):
        plan = replace(plan, pattern=item.pattern, accent=item.accent if rng.random() < 0.5 else "")
    if rng.random() < (0.14 if busy else 0.35):
        plan = replace(plan, size=_draw_size(rng, scene, target))
    if not busy:
        return plan if plan.noun != "one" or plan.colour or plan.pattern else None
    if kind not in ("relation", "relations"):
        # "the biggest mug on the left": the biggest of all, or of those on the left?
        plan = replace(plan, size=plan.size.replace("biggest", "big").replace("smallest", "small"))
        if plan.accent and not plan.colour:
            plan = replace(plan, accent="")
    if kind == "rank":
        if plan.noun in ("one", "thing") and not (plan.colour or plan.pattern):
            return None
        return replace(plan, rank=(pick(rng, (1, 2, 2, 2, 3)), pick(rng, SIDES)))
    if kind in ("place", "place and relation"):
        plan = replace(plan, place=_draw_place(rng, plan, scene, target, simple=kind != "place"))
    relations: list[Relation] = []
    free = [number for number in range(len(scene.objects)) if number != target]
    for _ in range({"place": 0, "relations": 2}.get(kind, 1)):
        relation = _relate(rng, scene, target, free, long=variant == "refshapesg")
        if relation is None or any(relation.kind == other.kind for other in relations):
            return None
        relations.append(relation)
    return replace(plan, relations=tuple(relations))


def _draw_noun(rng: np.random.Generator, category: str) -> str:
    draw = rng.random()
    if draw < 0.8:
        return category
    if draw < 0.9 and CATEGORIES[category].kind:
        return CATEGORIES[category].kind
    return "one" if CATEGORIES[category].living or draw < 0.95 else "thing"


def _draw_size(rng: np.random.Generator, scene: Scene, target: int) -> str:
    middle = sorted(item.size for item in scene.objects)[len(scene.objects) // 2]
    large = scene.objects[target].size > middle if rng.random() < 0.8 else rng.random() < 0.5
    return pick(rng, ("big", "big", "biggest") if large else ("small", "small", "smallest"))


def _draw_place(rng: np.random.Generator, plan: Description, scene: Scene, target: int, simple: bool) -> str:
    """Draw where in the image the target is; a simple place is a side, two sides or the middle."""
    item = scene.objects[target]
    horizontal = LEFT if item.x < scene.width / 2 else RIGHT
    vertical = TOP if item.y < scene.height / 2 else BOTTOM
    draw = rng.random()
    if off_centre(scene, item) < 0.12 and draw < 0.7:
        return "middle"
    vague = plan.noun in ("one", "thing") and not (plan.colour or plan.pattern)
    if draw < 0.5 or (vague and not simple):
        return horizontal if rng.random() < 0.6 else vertical
    if draw < 0.8 or simple:
        return f"{vertical} {horizontal}"
    return f"corner {vertical} {horizontal}" if draw < 0.9 else f"far {horizontal}"


def _relate(rng: np.random.Generator, scene: Scene, target: int, free: list[int], long: bool) -> Relation | None:
    """Draw a relation to one or two of the objects in `free`, which are taken out of it."""
    item = scene.objects[target]
    touching = [pair for pair in scene.overlaps if target in pair[:2] and pair[2] >= 0.08]
    first = pick(rng, free)
    draw = rng.random()
    if touching and draw < 0.3:
        back, front, _ = pick(rng, touching)
        first = front if back == target else back
        kind = "front" if front == target else "behind"
        if first not in free:
            return None
    elif draw < 0.42 and len(free) > 1:
        kind = "between"
    elif draw < 0.6:
        kind = "beside"
    elif draw < 0.68:
        kind = "closest"
    else:
        across, down = scene.objects[first].x - item.x, scene.objects[first].y - item.y
        sides = ((LEFT, RIGHT), across) if abs(across) > abs(down) else ((TOP, BOTTOM), down)
        kind = sides[0][0 if sides[1] > 0 else 1]
    free.remove(first)
    anchors = [_draw_anchor(rng, scene, first, long)]
    if kind == "between":
        second = pick(rng, free)
        free.remove(second)
        anchors.append(_draw_anchor(rng, scene, second, long))
    return Relation(kind, tuple(anchors)) if len(set(anchors)) == len(anchors) else None


def _draw_anchor(rng: np.random.Generator, scene: Scene, number: int, long: bool) -> Description:
    """Describe the object that a relation leads to: no more than is needed, mostly."""
    item = scene.objects[number]
    anchor = Description(noun=item.category)
    alone = sum(other.category == item.category for other in scene.objects) == 1
    if not alone or rng.random() < (0.4 if long else 0.15):
        anchor = replace(anchor, colour=item.colour)
    if rng.random() < (0.3 if not alone else 0.08):
        anchor = replace(anchor, pattern=item.pattern)
    if rng.random() < (0.3 if not alone else 0.06):
        anchor = replace(anchor, size=_draw_size(rng, scene, number))
    return anchor
