"""
Where an expression says that its referent is: sides, middles, orders, sizes, depths, and relations to other things.

The expression is read word by word, as people point at things in images. A word for a place that says nothing of the referent's
place is left out: "the right hand" of someone, "a white top", "the only one left", "facing left".
"""

import re
from dataclasses import dataclass, replace

from .language_lexicon import (
    ARTICLES,
    BODY_PARTS,
    DEPTHS,
    EDGES,
    EMPHASIS,
    EXCLUSIONS,
    GROUP_LEADS,
    GROUPS,
    IMAGES,
    MIDDLES,
    MIRRORED,
    MIRRORED_WORD,
    NUMBERS,
    ORDINALS,
    OWNERS,
    PEOPLE,
    PLAIN_COLOURS,
    POSSESSIVES,
    REFLEXIVES,
    RELATIONS,
    RELATIONS_TO_NOTHING,
    RELATIONS_TO_VIEWERS,
    ROWS,
    SIDES,
    SIZES,
    SUPERLATIVE_RELATIONS,
    VIEWERS,
    words,
)


TOP_MODIFIERS = PLAIN_COLOURS | words(  # "tank top", "white top" are no sides
    "tank crop halter tube table counter desk bench stove hill roof tree mountain striped plaid floral denim sleeveless"
)
WEARING = words("in wearing with wears")
GAZES = words("facing looking pointing turned turning leaning heading going moving walking running faces looks points")
BETWEEN_GAZE_AND_SIDE = words("the to towards toward slightly off his her")
ADVERB_FOLLOWERS = words("next behind under above below there beside by at near in below outside inside before after")
BEFORE_SIDES = words("the on to at far bottom top upper lower your my from middle very extreme front back")
REQUESTS = words("find show me where is point to look for select click")
BEFORE_SIZES = (
    ARTICLES
    | EMPHASIS
    | MIDDLES
    | TOP_MODIFIERS
    | REQUESTS
    | {*SIDES, *DEPTHS, *ORDINALS, *SIZES, ",", "on", "one", "two", "three"}
)
NEAR_FOLLOWERS = {"", *SIDES, *MIDDLES, *EDGES, *IMAGES, *VIEWERS, *DEPTHS}  # "near the top" without its article
CLAUSE_ENDS = words(", . ;")
COUNTED_FROM = {**SIDES, "front": DEPTHS["front"], "back": DEPTHS["back"]}  # ends of an order
PHRASE_ENDS = CLAUSE_ENDS | words(
    "with wearing in holding who that which at on from and is are has having carrying whose"
)
WITHIN_OWN_CLAUSE = CLAUSE_ENDS | words("that which who is from on at")


@dataclass(frozen=True)
class Place:
    """One thing that an expression says of its referent's place."""

    kind: str  # "side", "middle", "ordinal", "size" or "relation"
    words: str  # those that say it
    axis: str  # what is compared: "x", "y", "depth", "area", "height", "width", "length"; for a relation, its name
    sign: int = 1  # 1 if more of it is meant, -1 if less
    rank: int = 0  # of an ordinal, or of "second closest to": counted from the end that `sign` names; the last is -1
    extreme: bool = False  # whether nothing lies beyond the referent
    anchors: tuple[str, ...] = ()  # the things that a relation is to


# "on the dog's left" is a relation to the dog, "on the dog's left ear" is none.
OWNED_SIDE = re.compile(r"\b(on|to|at) ((?:\w+ ){0,2}\w+)'s ((?:left|right)(?: side)?)(?=\W*$|[,.;])")

Found = tuple[Place | None, int]  # the place, if words for one say something, and where to read on


def read_places(expression: str) -> tuple[Place, ...]:
    """Read what an expression says of its referent's place, in that order, without the places of other things."""
    tokens = _split(expression)
    places: list[Place] = []
    start = 0
    is_of_anchor = False  # "the dog next to the man on the left": it is the man who stands there
    while start < len(tokens):
        if tokens[start] in CLAUSE_ENDS:
            is_of_anchor = False
        found = (
            _exclusion(tokens, start)
            or _ordinal(tokens, start)
            or _relation(tokens, start)
            or _place_word(tokens, start)
        )
        if found is None:
            start += 1
            continue
        place, start = found
        if place is not None and (place.kind == "relation" or not is_of_anchor):
            is_of_anchor = place.kind == "relation"
            places.append(place)
    return tuple(places)


def _split(expression: str) -> list[str]:
    text = " ".join(expression.lower().replace("-", " ").replace("\u2019", "'").split())
    text = re.sub(r"\b(that|who|what|where|there|here|it|he|she)'s\b", r"\1", text)  # it means "is"
    text = re.sub(r"\b(is|are|was|were|do|does)n'?t\b", r"\1 not", text)
    text = re.sub(r"\b(left|right|top|bottom|upper|lower|front|back) most\b", r"\1most", text)
    text = re.sub(r"\b(left|right) hand (side|corner)\b", r"\1 \2", text)
    text = OWNED_SIDE.sub(r"\1 the \3 of \2", text)
    text = re.sub(r"\binfront\b", "in front", text)
    return re.findall(r"'s\b|[^\W_]+|[,.;]", text)


def _at(tokens: list[str], position: int) -> str:
    """The word at a position, or nothing beyond the ends."""
    return tokens[position] if 0 <= position < len(tokens) else ""


def _exclusion(tokens: list[str], start: int) -> Found | None:
    """ "not the left one", "all but the left one": what is not meant says nothing."""
    for pattern in EXCLUSIONS:
        first = start + len(pattern)
        if tuple(tokens[start:first]) == pattern:
            ends = CLAUSE_ENDS | {"but"}
            return None, next((end for end in range(first, len(tokens)) if tokens[end] in ends), len(tokens))
    return None


def _ordinal(tokens: list[str], start: int) -> Found | None:
    """Read a rank in an order."""
    if tokens[start] in ORDINALS:
        readers = (_to_last, _row, _superlative, _counted)
    else:
        readers = (_to_last, _number, _from_side, _after_side)
    return next((found for read in readers if (found := read(tokens, start))), None)


def _to_last(tokens: list[str], start: int) -> Found | None:
    """ "second to last from the right", "next to last"."""
    if tokens[start] not in {*ORDINALS, "next"} or tokens[start + 1 : start + 3] != ["to", "last"]:
        return None
    last = next((end for end in range(start + 3, min(start + 9, len(tokens))) if tokens[end] in SIDES), None)
    if last is None:  # of an order that is not said
        return None, start + 3
    return _ordered(tokens, start, last, SIDES[tokens[last]], -ORDINALS.get(tokens[start], 2))


def _row(tokens: list[str], start: int) -> Found | None:
    """ "second row from the left": rows are not counted."""
    if _at(tokens, start + 1) not in ROWS:
        return None
    end = start + 1
    if _at(tokens, start + 2) == "from":
        end = next((each for each in range(end, min(end + 4, len(tokens))) if tokens[each] in COUNTED_FROM), end)
    return None, end + 1


def _superlative(tokens: list[str], start: int) -> Found | None:
    """ "second largest", "third closest to the tree": they are counted by what the superlative compares."""
    rank = ORDINALS[tokens[start]]
    if rank < 0 or not _is_superlative(_at(tokens, start + 1)):
        return None
    place, end = _relation(tokens, start + 1) or _place_word(tokens, start + 1) or (None, start)
    if place is None or not (place.extreme or place.kind == "relation"):
        return None
    kind = "relation" if place.kind == "relation" else "ordinal"
    return replace(place, kind=kind, words=f"{tokens[start]} {place.words}", rank=rank, extreme=False), end


def _counted(tokens: list[str], start: int) -> Found | None:
    """ "second man from the left", "third from right", "2nd left", "last one on the right"."""
    for end in range(start + 1, min(start + 9, len(tokens))):
        if _is_end(tokens, end) and _at(tokens, end + 1) not in ROWS:
            return _ordered(tokens, start, end, COUNTED_FROM[tokens[end]], ORDINALS[tokens[start]])
        if tokens[end] in CLAUSE_ENDS or tokens[end] in ORDINALS:
            break
    return None


def _number(tokens: list[str], start: int) -> Found | None:
    """ "number 3 from the left"; in "the two from the left" both are meant."""
    if tokens[start] not in NUMBERS or _at(tokens, start + 1) != "from" or _at(tokens, start - 1) in ARTICLES:
        return None
    end = start + 3 if _at(tokens, start + 2) in ARTICLES else start + 2
    if not _is_end(tokens, end):
        return None
    return _ordered(tokens, start, end, COUNTED_FROM[tokens[end]], NUMBERS[tokens[start]])


def _from_side(tokens: list[str], start: int) -> Found | None:
    """ "from the left the second"."""
    for end in range(start + 1, min(start + 6, len(tokens))) if tokens[start] == "from" else ():
        side = next((each for each in tokens[start:end] if each in SIDES), None)
        if tokens[end] in ORDINALS and side:
            return _ordered(tokens, start, end, SIDES[side], ORDINALS[tokens[end]])
    return None


def _after_side(tokens: list[str], start: int) -> Found | None:
    """ "the left second dog", but not "top second from left"."""
    rank = ORDINALS.get(_at(tokens, start + 1), 0)
    if rank <= 0 or tokens[start] not in SIDES or _is_trap(tokens, start) or _ordinal(tokens, start + 1):
        return None
    return _ordered(tokens, start, start + 1, SIDES[tokens[start]], rank)


def _is_end(tokens: list[str], position: int) -> bool:
    """Whether a word names an end that is counted from."""
    word = _at(tokens, position)
    return word in COUNTED_FROM and not (word in SIDES and _is_trap(tokens, position))


def _ordered(tokens: list[str], start: int, last: int, axis: tuple[str, int], rank: int) -> Found:
    if rank < 0 and "from" not in tokens[start:last]:  # "the last one on the right"
        rank = -rank
    return Place("ordinal", " ".join(tokens[start : last + 1]), *axis, rank), last + 1


def _relation(tokens: list[str], start: int) -> Found | None:
    """A relation to something; one to the image or to its viewer is a side."""
    before = _at(tokens, start - 1)
    for pattern, name in RELATIONS.items():
        end = start + len(pattern)
        if tuple(tokens[start:end]) != pattern:
            continue
        following = _at(tokens, end)
        is_adjective = following not in ARTICLES and (not start or before in {*ARTICLES, *ORDINALS})
        if is_adjective and (pattern == ("nearest",) or (pattern == ("near",) and following not in NEAR_FOLLOWERS)):
            continue  # "the nearest car" is near to the viewer
        is_adverb = pattern == ("over",) and following in ("there", "here", "by", "on", "in", "to", "")
        if is_adverb or (pattern == ("behind",) and before == "from"):  # "seen from behind"
            return None, end
        return _resolve_relation(tokens, start, pattern, name)
    return None


def _resolve_relation(tokens: list[str], start: int, pattern: tuple[str, ...], name: str) -> Found:
    after = start + len(pattern)
    anchors, end = _read_anchors(tokens, after, name)
    said = " ".join(tokens[start:end])
    nouns = [set(anchor) - ARTICLES for anchor in anchors]
    first = nouns[0]
    sides = first & set(SIDES)
    is_superlative = name in SUPERLATIVE_RELATIONS
    if name in ("near", "nearest to") and first and first <= EDGES | MIDDLES | sides:
        return None, after  # "near the top" is at the top
    if name in ("far from", "furthest from") and len(sides) == 1 and first <= EDGES | sides:
        axis, sign = SIDES[sides.pop()]
        return Place("side", said, axis, -sign, extreme=is_superlative), end
    if any(each & REFLEXIVES or (each & POSSESSIVES and any(map(_is_part, each))) for each in nouns):
        return None, end  # "by himself", "a bag over her shoulder"
    is_viewer = bool(first) and first <= VIEWERS
    is_image = is_viewer or any(each & (IMAGES | VIEWERS) or (each and each <= MIDDLES) for each in nouns)
    phrases = tuple(" ".join(anchor) for anchor, each in zip(anchors, nouns, strict=True) if each)
    is_group = _is_group(anchors[0]) or _is_one_of(tokens, start, pattern, anchors[0])
    if phrases and not is_image and not is_group:
        return Place("relation", said, name, anchors=phrases), end
    axis, sign = (RELATIONS_TO_VIEWERS if is_viewer else RELATIONS_TO_NOTHING).get(name, ("", 0))
    # "right" and "left" have traps of their own.
    if not axis or (axis == "x" and _is_trap(tokens, start + pattern.index("left" if sign < 0 else "right"))):
        return None, end
    return Place("side", said, axis, sign, extreme=is_superlative), end


def _read_anchors(tokens: list[str], start: int, name: str) -> tuple[list[list[str]], int]:
    """The things that a relation is to, one or with "between" two, and where their words end."""
    anchors: list[list[str]] = []
    end = start
    if name == "between" and (second := _second_anchor(tokens, start)):
        anchors.append(tokens[start : second - 1])
        end = second
    while True:
        first = end
        while end < len(tokens) and tokens[end] not in PHRASE_ENDS:
            if end > first:
                is_last = end + 1 == len(tokens) or tokens[end + 1] in PHRASE_ENDS
                # "the fence left": a place at its end is the referent's
                if is_last and tokens[end] in SIDES and tokens[end - 1] not in ARTICLES:
                    break
                if any(tuple(tokens[end : end + len(pattern)]) == pattern for pattern in RELATIONS):
                    break
            end += 1
        anchors.append(tokens[first:end])
        if name != "between" or len(anchors) == 2 or _at(tokens, end) != "and":
            return anchors, end
        end += 1


def _second_anchor(tokens: list[str], start: int) -> int | None:
    """Where the second of two things begins: after "and" in "between the man in red and the boy"; not for "the two men in red"."""
    ends = CLAUSE_ENDS | {"and"}
    first_end = next((end for end in range(start, len(tokens)) if tokens[end] in ends), len(tokens))
    is_one = first_end == start or _at(tokens, first_end) != "and"
    return None if is_one or not GROUPS.isdisjoint(tokens[start:first_end]) else first_end + 1


def _is_group(tokens: list[str]) -> bool:
    return bool(tokens) and (tokens[-1] in GROUPS or tokens[-2:] == ["other", "one"])


def _is_one_of(tokens: list[str], start: int, pattern: tuple[str, ...], anchor: list[str]) -> bool:
    """Whether one of a group is meant, as in "right of the three dogs"; a "man right of the three dogs" is none of them."""
    names_none = set(tokens[:start]) <= ARTICLES | EMPHASIS | REQUESTS
    return names_none and pattern in (("left", "of"), ("right", "of")) and not GROUP_LEADS.isdisjoint(anchor)


def _place_word(tokens: list[str], start: int) -> Found | None:
    word, before, after = (_at(tokens, start + step) for step in (0, -1, 1))
    is_extreme = _is_superlative(word) or before in EMPHASIS
    place: Place | None = None
    if word in SIDES and not _is_trap(tokens, start):
        place = Place("side", word, *SIDES[word], extreme=is_extreme)
    elif word in MIDDLES and not (_is_part(after) or before in OWNERS or after in ("aged", "air", "swing")):
        axis = "y" if after in ROWS else "image" if IMAGES & set(tokens[start + 1 : start + 4]) else "order"
        place = Place("middle", word, axis)
    elif word in EMPHASIS and (far := _far_side(tokens, start)):
        return far
    elif word in DEPTHS and not _is_depth_trap(tokens, start):
        place = Place("side", word, *DEPTHS[word], extreme=is_extreme)
    elif word in SIZES and not set(tokens[:start]) & (PHRASE_ENDS - WITHIN_OWN_CLAUSE):
        axis, sign, is_superlative = SIZES[word]
        if is_superlative or not _is_size_trap(tokens, start):
            place = Place("size", word, axis, sign, extreme=is_superlative)
    return None if place is None else (place, start + 1)


def _far_side(tokens: list[str], start: int) -> Found | None:
    """ "far left", "furthest to the left", "far away"."""
    side = next((end for end in range(start + 1, len(tokens)) if tokens[end] not in ("to", "on", "the")), len(tokens))
    if _at(tokens, side) in SIDES and not _is_trap(tokens, side):
        return Place("side", " ".join(tokens[start : side + 1]), *SIDES[tokens[side]], extreme=True), side + 1
    if tokens[start : start + 2] == ["far", "away"]:
        return Place("side", "far away", "depth", -1), start + 2
    return None


def _is_superlative(word: str) -> bool:
    return word.endswith(("most", "est")) and word != "west"


def _is_part(word: str) -> bool:
    return word in BODY_PARTS or word.removesuffix("s") in BODY_PARTS


def _is_size_trap(tokens: list[str], position: int) -> bool:
    """Whether a size is another thing's, or part of a name: "short sleeves", "a little to the left", "lady big hat", "little girl"."""
    after = _at(tokens, position + 1)
    lead = set(tokens[:position])
    is_late = not (lead <= BEFORE_SIZES or lead & {"that", "which"})
    is_of_person = bool(PEOPLE & set(tokens[position + 1 : position + 3]))
    return is_late or is_of_person or _is_part(after) or after in ("bit", "to") or after.startswith("hair")


def _is_depth_trap(tokens: list[str], position: int) -> bool:
    """Whether a word for near or far is none, or not the referent's."""
    word, before, after = (_at(tokens, position + step) for step in (0, -1, 1))
    is_turned = after in ("of", "to", "turned", "facing") and before not in ("in", "at")
    is_of_body = word == "back" and (is_turned or before in WEARING - {"in"})
    is_gaze = before not in ("in", "the", "on", "at") and _is_gazed_at(tokens, position)
    return before in OWNERS or _is_part(after) or is_of_body or is_gaze


def _is_gazed_at(tokens: list[str], position: int) -> bool:
    """Whether a side is where someone looks or goes: "facing left", "walking to the right"."""
    lead = position - 1
    while _at(tokens, lead) in BETWEEN_GAZE_AND_SIDE:
        lead -= 1
    return _at(tokens, lead) in GAZES


def _is_trap(tokens: list[str], position: int) -> bool:
    """Whether a word for a side is none, or not the referent's."""
    word, before, after = (_at(tokens, position + step) for step in (0, -1, 1))
    lead = set(tokens[:position])
    is_part = _is_part(after) and not lead <= ARTICLES | EMPHASIS | {"on", "at", "to"}
    has_part = after == "of" and not IMAGES & set(tokens[position:])
    is_place = after in {*SIDES, *ROWS, *EDGES}
    is_worn = (
        not WEARING.isdisjoint(tokens[max(0, position - 4) : position])
        and before not in BEFORE_SIDES | WEARING | MIDDLES | EMPHASIS | set(SIDES)
        and not is_place
    )
    is_trap_of_word = {
        "left": after in ("over", "overs", "behind", "alone", "handed") or ("only" in lead and not after),
        "right": after == "handed" or (position > 0 and before not in BEFORE_SIDES and after in ADVERB_FOLLOWERS),
        "top": (before in TOP_MODIFIERS and not is_place) or after in ("hat", "hats") or has_part or is_worn,
        "bottom": has_part,
        "upper": after in ("body", "lip"),
        "lower": after in ("body", "case", "lip"),
    }
    return before in OWNERS or is_part or _is_gazed_at(tokens, position) or is_trap_of_word.get(word, False)


def swap_sides(text: str) -> str:
    """
    Say of the mirrored image what a text says of an image: "left" becomes "right" and the other way round, as whole words alone.

    Example:

    ```python
    >>> swap_sides("the leftover on the Left, right-hand side")
    'the leftover on the Right, left-hand side'
    ```
    """
    return MIRRORED_WORD.sub(lambda found: MIRRORED.get(found[1], MIRRORED[found[1].lower()]) + (found[2] or ""), text)


__all__ = ["Place", "read_places", "swap_sides"]
