"""
What an expression says of where its target is: sides, middles, orders, sizes, depths, and how it stands to other things.

The expression is read word by word, as people point at things in pictures. A word for a place that says nothing of the target's
place is left out: "the right hand" of someone, "a white top", "the only one left", "facing left".
"""

import re
from dataclasses import dataclass

from .language_parsing import Parse, find_target


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# (axis, sign): "x" and "y" are columns and rows, counted from the upper left corner.
SIDES = {
    **dict.fromkeys(("left", "leftmost", "lefthand", "west", "western"), ("x", -1)),
    **dict.fromkeys(("right", "rightmost", "righthand", "east", "eastern"), ("x", 1)),
    **dict.fromkeys(("top", "topmost", "upper", "uppermost", "highest", "north", "northern"), ("y", -1)),
    **dict.fromkeys(("bottom", "bottommost", "lower", "lowest", "lowermost", "south", "southern"), ("y", 1)),
}
DEPTHS = {
    **dict.fromkeys(("front", "foreground", "closest", "nearest", "closer", "nearer"), ("depth", 1)),
    **dict.fromkeys(("back", "background", "rear", "furthest", "farthest", "further", "farther"), ("depth", -1)),
}
MIDDLES = _words("middle center centre central mid")
# (axis, sign, whether it is a superlative: "the big one" need not be the biggest)
SIZES = {
    **dict.fromkeys(("biggest", "largest", "bigger", "larger"), ("area", 1, True)),
    **dict.fromkeys(("smallest", "tiniest", "littlest", "smaller", "tinier"), ("area", -1, True)),
    **dict.fromkeys(("big", "large", "huge", "giant"), ("area", 1, False)),
    **dict.fromkeys(("small", "tiny", "little", "mini"), ("area", -1, False)),
    **dict.fromkeys(("tallest", "taller"), ("height", 1, True)),
    **dict.fromkeys(("shortest", "shorter"), ("height", -1, True)),
    "tall": ("height", 1, False),
    "short": ("height", -1, False),
    **dict.fromkeys(("widest", "wider"), ("width", 1, True)),
    **dict.fromkeys(("narrowest", "narrower", "thinnest", "thinner"), ("width", -1, True)),
    **dict.fromkeys(("longest", "longer"), ("length", 1, True)),
}
ORDINALS = {
    **{
        word: rank
        for rank, word in enumerate(
            ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"], start=1
        )
    },
    **{word: rank for rank, word in enumerate(["1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th"], start=1)},
    "last": -1,
}
RELATIONS = (
    (("to", "the", "left", "of"), "left of"),
    (("on", "the", "left", "of"), "left of"),
    (("left", "side", "of"), "left of"),
    (("left", "of"), "left of"),
    (("to", "the", "right", "of"), "right of"),
    (("on", "the", "right", "of"), "right of"),
    (("right", "side", "of"), "right of"),
    (("right", "of"), "right of"),
    (("on", "top", "of"), "above"),
    (("above",), "above"),
    (("higher", "than"), "above"),
    (("lower", "than"), "below"),
    (("covering",), "in front of"),
    (("hidden", "by"), "behind"),
    (("covered", "by"), "behind"),
    (("over",), "above"),
    (("below",), "below"),
    (("beneath",), "below"),
    (("under",), "below"),
    (("underneath",), "below"),
    (("in", "front", "of"), "in front of"),
    (("behind",), "behind"),
    (("in", "back", "of"), "behind"),
    (("next", "to"), "near"),
    (("close", "to"), "near"),
    (("closest", "to"), "nearest to"),
    (("nearest", "to"), "nearest to"),
    (("nearest",), "nearest to"),
    (("closer", "to"), "nearest to"),
    (("beside",), "near"),
    (("near",), "near"),
    (("by",), "near"),
    (("furthest", "from"), "furthest from"),
    (("farthest", "from"), "furthest from"),
    (("far", "from"), "far from"),
    (("away", "from"), "far from"),
    (("between",), "between"),
)
# What a relation says where nothing follows it that it could be to.
ALONE = {
    "left of": ("x", -1),
    "right of": ("x", 1),
    "above": ("y", -1),
    "below": ("y", 1),
    "in front of": ("depth", 1),
    "nearest to": ("depth", 1),
    "behind": ("depth", -1),
    "furthest from": ("depth", -1),
}
TO_VIEWERS = {"near": ("depth", 1), "far from": ("depth", -1)}
EXTREMES = ("nearest to", "furthest from")
PICTURES = _words("picture image photo photograph pic frame screen shot scene view page pict")
GROUPS = _words(
    "group bunch row line pack herd stack pile pair two three four them all both other others rest set couple"
)
EDGES = _words("side edge corner end half part section border")  # of the picture, where nothing else is said
REFLEXIVES = _words("himself herself itself themselves")
VIEWERS = _words("us camera you viewer me front photographer foreground")
DETERMINERS = _words("the a an this that my your")
NO_NOUNS = {"one", "thing", "object", "item", "it", "this", "that", "side", "corner", "far", "nearest", "most"}
POSSESSIVES = _words("his her their its")
EMPHASIS = _words("far very extreme most way furthest farthest")
PARTS = _words(  # of bodies and things: they have a left of their own
    "hand arm leg foot feet eye ear wing wheel sleeve shoe knee shoulder headlight glove paw elbow thumb finger breast cheek boot sock "
    "tooth teeth tire tyre"
)
TOPS = _words(  # "tank top", "white top" are no sides
    "tank crop halter tube table counter desk bench stove hill roof tree mountain white black red blue green pink yellow purple orange "
    "gray grey brown striped plaid floral denim sleeveless"
)
WEARING = _words("in wearing with wears")
GAZES = _words(
    "facing looking pointing turned turning leaning heading going moving walking running faces looks points"
)
ADVERB_FOLLOWERS = _words("next behind under above below there beside by at near in below outside inside before after")
PLACE_LEADS = _words("the on to at far bottom top upper lower your my from middle very extreme front back")
PEOPLE = _words("boy girl kid child baby brother sister guy man woman lady dude person")  # "little girl" is no size
REQUESTS = _words("find show me where is point to look for select click")
BEFORE_SIZES = (
    DETERMINERS
    | EMPHASIS
    | MIDDLES
    | TOPS
    | REQUESTS
    | {*SIDES, *DEPTHS, *ORDINALS, *SIZES, ",", "on", "one", "two", "three"}
)
BETWEEN_GAZE_AND_SIDE = _words("the to towards toward slightly off his her")
ENDS = _words("with wearing in holding who that which at on from and is are has having carrying whose") | {
    ",",
    ".",
    ";",
}
ROWS = _words("row shelf rack tier layer level line")


@dataclass(frozen=True)
class Direction:
    """
    One thing that an expression says of its target's place.

    Attributes:
        kind (`str`): "side", "middle", "ordinal", "size" or "relation".
        words (`str`): As the expression says it.
        axis (`str`): What is compared: "x", "y", "depth", "area", "height", "width", "length"; of a relation, which one.
        sign (`int`, *optional*, defaults to 1): 1 if more of it is meant, -1 if less.
        rank (`int`, *optional*, defaults to 0): Of an ordinal, counted from the end that `sign` tells; the last is -1.
        extreme (`bool`, *optional*, defaults to `False`): Whether nothing lies beyond the target.
        anchors (`tuple[str, ...]`, *optional*): What a relation is to.
    """

    kind: str
    words: str
    axis: str
    sign: int = 1
    rank: int = 0
    extreme: bool = False
    anchors: tuple[str, ...] = ()


def read_directions(expression: str) -> tuple[Direction, ...]:
    """
    Args:
        expression (`str`): As a user writes it.

    Returns:
        `tuple[Direction, ...]`: In the order in which they are said; what is said of other things is left out.
    """
    words = _split(expression)
    found: list[Direction] = []
    place = 0
    is_of_anchor = False  # "the dog next to the man on the left": it is the man who stands there
    while place < len(words):
        if words[place] in {",", ".", ";"}:
            is_of_anchor = False
        if words[place] == "not":  # says what is not meant, up to the next clause
            place = next((end for end in range(place, len(words)) if words[end] in {",", ".", ";"}), len(words))
            continue
        taken = _ordinal(words, place) or _relation(words, place) or _place_word(words, place)
        if taken is None:
            place += 1
            continue
        direction, place = taken
        if direction is None or (is_of_anchor and direction.kind != "relation"):
            continue
        is_of_anchor = direction.kind == "relation"
        found.append(direction)
    return tuple(found)


Taken = tuple[Direction | None, int]  # what was read, if it says something, and where to go on


def _split(expression: str) -> list[str]:
    text = re.sub(r"['\u2019]s\b", "", " ".join(expression.lower().replace("-", " ").split()))
    text = re.sub(r"\b(left|right|top|bottom|upper|lower) most\b", r"\1most", text)
    text = re.sub(r"\b(left|right) hand (side|corner)\b", r"\1 \2", text)
    text = re.sub(r"\binfront\b", "in front", text)
    return re.findall(r"[^\W_]+|[,.;]", text)


def _ordinal(words: list[str], place: int) -> Taken | None:
    """ "second man from the left", "third from right", "2nd left", "second to last", "from the left the second"."""
    if words[place] in {"second", "2nd", "next"} and words[place + 1 : place + 3] == ["to", "last"]:
        last = next((other for other in range(place + 3, min(place + 9, len(words))) if words[other] in SIDES), None)
        if last is None:  # of an order that is not said
            return None, place + 3
        axis, sign = SIDES[words[last]]
        return Direction("ordinal", " ".join(words[place : last + 1]), axis, sign, -2), last + 1
    if words[place] in ORDINALS:
        for other in range(place + 1, min(place + 9, len(words))):
            word, after = words[other], words[other + 1] if other + 1 < len(words) else ""
            if other == place + 1 and word in ROWS:  # rows are not counted
                ends = (
                    end for end in range(other, min(other + 4, len(words))) if words[end] in {*SIDES, "front", "back"}
                )
                return None, (next(ends, other) if after == "from" else other) + 1
            is_end = word in ("front", "back") or (word in SIDES and not _is_trap(words, other))
            if is_end and after not in ROWS:
                axis, sign = SIDES.get(word) or DEPTHS[word]
                return _ordered(words, place, other, axis, sign, ORDINALS[words[place]])
            if word in {",", ".", ";"} or word in ORDINALS:
                break
    if words[place] == "from":
        for other in range(place + 1, min(place + 6, len(words))):
            if words[other] in ORDINALS and (side := next((w for w in words[place:other] if w in SIDES), None)):
                return _ordered(words, place, other, *SIDES[side], ORDINALS[words[other]])
    return None


def _ordered(words: list[str], start: int, last: int, axis: str, sign: int, rank: int) -> Taken:
    if rank == -1 and "from" not in words[start:last]:  # "the last one on the right"
        rank = 1
    return Direction("ordinal", " ".join(words[start : last + 1]), axis, sign, rank), last + 1


def _relation(words: list[str], place: int) -> Taken | None:
    """A relation to something, or to the picture or whoever looks at it, which is a side."""
    for pattern, name in RELATIONS:
        after = place + len(pattern)
        if tuple(words[place:after]) == pattern:
            following = words[after] if after < len(words) else ""
            is_leading = not place or words[place - 1] in DETERMINERS
            if pattern == ("nearest",) and following not in DETERMINERS and is_leading:
                continue  # "the nearest car" is near to whoever looks
            is_adverb = pattern == ("over",) and following in ("there", "here", "by", "on", "in", "to", "")
            if is_adverb or (pattern == ("behind",) and words[place - 1 : place] == ["from"]):  # "seen from behind"
                return None, after
            return _resolve_relation(words, place, pattern, name)
    return None


def _resolve_relation(words: list[str], place: int, pattern: tuple[str, ...], name: str) -> Taken:
    after = place + len(pattern)
    anchors, end = _read_anchors(words, after, name)
    said = " ".join(words[place:end])
    bare = [set(each) - DETERMINERS for each in anchors]
    sides = bare[0] & set(SIDES)
    if name in ("near", "nearest to") and bare[0] and bare[0] <= EDGES | MIDDLES | sides:
        return None, after  # "near the top" is at the top
    if name in ("far from", "furthest from") and len(sides) == 1 and bare[0] <= EDGES | sides:
        axis, sign = SIDES[sides.pop()]
        return Direction("side", said, axis, -sign, extreme=name in EXTREMES), end
    if any(each & REFLEXIVES or (each & POSSESSIVES and any(map(_is_part, each))) for each in bare):
        return None, end  # "by himself", "a bag over her shoulder"
    is_viewer = bool(bare[0]) and bare[0] <= VIEWERS
    is_picture = is_viewer or any(each & (PICTURES | VIEWERS) or (each and each <= MIDDLES) for each in bare)
    phrases = [" ".join(each) for each, own in zip(anchors, bare, strict=True) if own]
    if phrases and not is_picture and not _is_group(anchors[0]):
        return Direction("relation", said, name, anchors=tuple(phrases)), end
    axis, sign = (TO_VIEWERS | ALONE if is_viewer else ALONE).get(name, ("", 0))
    # "right" and "left" have traps of their own.
    if not axis or (axis == "x" and _is_trap(words, place + pattern.index("left" if sign < 0 else "right"))):
        return None, end
    return Direction("side", said, axis, sign, extreme=name in EXTREMES), end


def _read_anchors(words: list[str], start: int, name: str) -> tuple[list[list[str]], int]:
    """What a relation is to, one thing or of "between" two, and where its words end."""
    anchors: list[list[str]] = []
    end = start
    while True:
        first = end
        while end < len(words) and words[end] not in ENDS and not (end > first and _starts_relation(words, end)):
            if (
                end > first
                and words[end] in SIDES
                and words[end - 1] not in DETERMINERS
                and (end + 1 == len(words) or words[end + 1] in ENDS)
            ):
                break  # "the fence left": a place at its end is none of its own
            end += 1
        anchors.append(words[first:end])
        if name != "between" or len(anchors) == 2 or end >= len(words) or words[end] != "and":
            return anchors, end
        end += 1


def _starts_relation(words: list[str], place: int) -> bool:
    return any(tuple(words[place : place + len(pattern)]) == pattern for pattern, _ in RELATIONS)


def _is_group(words: list[str]) -> bool:
    return bool(words) and (words[-1] in GROUPS or words[-2:] == ["other", "one"])


def _place_word(words: list[str], place: int) -> Taken | None:
    word = words[place]
    before = words[place - 1] if place else ""
    after = words[place + 1] if place + 1 < len(words) else ""
    is_extreme = word.endswith(("most", "est")) or before in EMPHASIS
    found: Direction | None = None
    if word in SIDES and not _is_trap(words, place):
        found = Direction("side", word, *SIDES[word], extreme=is_extreme)
    elif word in MIDDLES and not (_is_part(after) or before in POSSESSIVES or after in ("aged", "air", "swing")):
        axis = "y" if after in ROWS else "picture" if set(words[place + 1 : place + 4]) & PICTURES else "order"
        found = Direction("middle", word, axis)
    elif word in EMPHASIS and (far := _far_side(words, place)):
        return far
    elif word in DEPTHS and not _is_depth_trap(words, place):
        found = Direction("side", word, *DEPTHS[word], extreme=is_extreme)
    elif word in SIZES and _is_own(words, place):
        axis, sign, is_superlative = SIZES[word]
        is_other = (
            _is_part(after) or after in ("bit", "to") or after.startswith("hair")
        )  # "short sleeves", "a little to the left"
        lead = set(words[:place])
        is_late = not (lead <= BEFORE_SIZES or lead & {"that", "which"})  # "lady big hat"
        if is_superlative or not (is_other or is_late or set(words[place + 1 : place + 3]) & PEOPLE):
            found = Direction("size", word, axis, sign, extreme=is_superlative)
    return None if found is None else (found, place + 1)


def _far_side(words: list[str], place: int) -> Taken | None:
    """ "far left", "furthest to the left", "far away"."""
    side = next((end for end in range(place + 1, len(words)) if words[end] not in ("to", "on", "the")), len(words))
    if side < len(words) and words[side] in SIDES and not _is_trap(words, side):
        return Direction("side", " ".join(words[place : side + 1]), *SIDES[words[side]], extreme=True), side + 1
    if words[place : place + 2] == ["far", "away"]:
        return Direction("side", "far away", "depth", -1), place + 2
    return None


def _is_part(word: str) -> bool:
    return word in PARTS or word.removesuffix("s") in PARTS


def _is_depth_trap(words: list[str], place: int) -> bool:
    """Whether a word for near or far is none, or not the target's."""
    word = words[place]
    before = words[place - 1] if place else ""
    after = words[place + 1] if place + 1 < len(words) else ""
    turned = after in ("of", "to", "turned", "facing") and before not in ("in", "at")
    of_body = word == "back" and (turned or before in WEARING - {"in"})
    is_gaze = before not in ("in", "the", "on", "at") and _is_gazed_at(words, place)
    return bool(before in POSSESSIVES or _is_part(after) or of_body or is_gaze)


def _is_gazed_at(words: list[str], place: int) -> bool:
    """Whether a side is where someone looks or goes: "facing left", "walking to the right"."""
    lead = place - 1
    while lead >= 0 and words[lead] in BETWEEN_GAZE_AND_SIDE:
        lead -= 1
    return lead >= 0 and words[lead] in GAZES


def _is_own(words: list[str], place: int) -> bool:
    """Whether a size is the target's: nothing but what may stand within its own phrase comes before, or "the one that is"."""
    return not set(words[:place]) & (ENDS - {"that", "which", "who", "is", ",", ".", ";", "from", "on", "at"})


def _is_trap(words: list[str], place: int) -> bool:
    """Whether a word for a side is none, or not the target's."""
    word = words[place]
    before = words[place - 1] if place else ""
    after = words[place + 1] if place + 1 < len(words) else ""
    lead, rest = set(words[:place]), set(words[place:])
    part = _is_part(after) and not lead <= DETERMINERS | EMPHASIS | {"on", "at", "to"}
    part_of = after == "of" and not rest & PICTURES
    is_place = after in {*SIDES, *ROWS, *EDGES}
    leads = {*SIDES, *MIDDLES, *EMPHASIS, *PLACE_LEADS, *WEARING}
    worn = bool(set(words[max(0, place - 4) : place]) & WEARING) and before not in leads and not is_place
    own = {
        "left": after in ("over", "overs", "behind", "alone", "handed") or ("only" in lead and not after),
        "right": after == "handed" or (place > 0 and before not in PLACE_LEADS and after in ADVERB_FOLLOWERS),
        "top": (before in TOPS and not is_place) or after in ("hat", "hats") or part_of or worn,
        "bottom": part_of,
        "upper": after in ("body", "lip"),
        "lower": after in ("body", "case", "lip"),
    }
    return bool(before in POSSESSIVES or part or _is_gazed_at(words, place) or own.get(word, False))


def names_target(parse: Parse) -> bool:
    """Whether an expression says what its target is, and not only where ("the left one")."""
    chunk = find_target(parse)
    if chunk is None:
        return False
    return parse.words[chunk.root].text not in NO_NOUNS | MIDDLES | {*SIDES, *DEPTHS, *SIZES, *ORDINALS}


__all__ = ["DEPTHS", "Direction", "EXTREMES", "MIDDLES", "ORDINALS", "SIDES", "names_target", "read_directions"]
