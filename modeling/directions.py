"""
What an expression says of where its target is: sides, middles, orders, sizes, depths, and how it stands to other things.

The expression is read word by word, as people point at things in pictures. A word for a place that says nothing of the target's
place is left out: "the right hand" of someone, "a white top", "the only one left", "facing left".
"""

import re
from dataclasses import dataclass


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
EXTREMES = ("nearest to", "furthest from")
PICTURES = _words("picture image photo photograph pic frame screen shot scene view page pict")
GROUPS = _words("group bunch row line pack herd stack pile pair two three four them all both others set couple")
VIEWERS = _words("us camera you viewer me front photographer foreground")
DETERMINERS = _words("the a an this that my your")
POSSESSIVES = _words("his her their its")
EMPHASIS = _words("far very extreme most way furthest farthest")
PARTS = _words(  # of bodies and things: they have a left of their own
    "hand arm leg foot eye ear wing wheel sleeve shoe knee shoulder headlight glove paw elbow thumb finger breast cheek boot sock"
)
CLOTHES = _words(  # before "top", it is a garment or a part of a thing
    "white black red blue green pink yellow purple orange gray grey brown striped tank crop halter dark light tube plaid table counter "
    "desk bench stove hill roof tree mountain box cake carrot her his denim sleeveless"
)
GAZES = _words(
    "facing looking pointing turned turning leaning heading going moving walking running faces looks points"
)
ADVERB_FOLLOWERS = _words("next behind under above below there beside by at near in below outside inside before after")
PLACE_LEADS = _words("the on to at far bottom top upper lower your my from middle very extreme front back")
PEOPLE = _words("boy girl kid child baby brother sister guy man woman lady dude person")  # "little girl" is no size
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
    text = re.sub(r"['\u2019]s\b", "", expression.lower().replace("-", " "))
    text = re.sub(r"\b(left|right|top|bottom|upper|lower) most\b", r"\1most", text)
    text = re.sub(r"\b(left|right) hand (side|corner)\b", r"\1 \2", text)
    text = re.sub(r"\binfront\b", "in front", text)
    return re.findall(r"[^\W_]+|[,.;]", text)


def _ordinal(words: list[str], place: int) -> Taken | None:
    """ "second man from the left", "third from right", "2nd left", "from the left the second"."""
    if words[place] in ORDINALS:
        for other in range(place + 1, min(place + 7, len(words))):
            word = words[other]
            if word in SIDES or word in ("front", "back"):
                axis, sign = SIDES.get(word) or DEPTHS[word]
                return _ordered(words, place, other, axis, sign, ORDINALS[words[place]])
            if word in {",", ".", ";"} or word in ORDINALS:
                break
            if word in ROWS:
                return None, other + 1  # rows are not counted
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
    for pattern, name in RELATIONS:
        after = place + len(pattern)
        if tuple(words[place:after]) != pattern:
            continue
        end = after
        while end < len(words) and words[end] not in ENDS and not (end > after and _starts_relation(words, end)):
            end += 1
        anchors = [words[after:end]]
        if name == "between" and end < len(words) and words[end] == "and":
            second = end + 1
            end = second
            while end < len(words) and words[end] not in ENDS:
                end += 1
            anchors.append(words[second:end])
        said = " ".join(words[place:end])
        phrases = [" ".join(each) for each in anchors if not set(each) <= DETERMINERS]
        if phrases and not any(set(each) & (PICTURES | VIEWERS) or _is_group(each) for each in anchors):
            return Direction("relation", said, name, anchors=tuple(phrases)), end
        if name not in ALONE or pattern == ("over",):
            return None, end
        axis, sign = ALONE[name]
        # "right" and "left" have traps of their own.
        if axis == "x" and _is_trap(words, place + pattern.index("left" if sign < 0 else "right")):
            return None, end
        return Direction("side", said, axis, sign, extreme=name in EXTREMES), end
    return None


def _starts_relation(words: list[str], place: int) -> bool:
    return any(tuple(words[place : place + len(pattern)]) == pattern for pattern, _ in RELATIONS)


def _is_group(words: list[str]) -> bool:
    return bool(words) and words[-1] in GROUPS


def _place_word(words: list[str], place: int) -> Taken | None:
    word = words[place]
    before = words[place - 1] if place else ""
    after = words[place + 1] if place + 1 < len(words) else ""
    is_extreme = word.endswith(("most", "est")) or before in EMPHASIS
    if word in SIDES and not _is_trap(words, place):
        axis, sign = SIDES[word]
        return Direction("side", word, axis, sign, extreme=is_extreme), place + 1
    if word in MIDDLES and not (after in PARTS or before in POSSESSIVES):
        axis = "y" if after in ROWS else "picture" if set(words[place + 1 : place + 4]) & PICTURES else "order"
        return Direction("middle", word, axis), place + 1
    if word in DEPTHS and not (before in POSSESSIVES or after in PARTS or (word == "back" and after in ("of", "to"))):
        axis, sign = DEPTHS[word]
        if after in SIDES and word in EMPHASIS:  # "the farthest left"
            return None
        return Direction("side", word, axis, sign, extreme=is_extreme), place + 1
    if word in SIZES and _is_own(words, place):
        axis, sign, is_superlative = SIZES[word]
        if is_superlative or not set(words[place + 1 : place + 3]) & PEOPLE:
            return Direction("size", word, axis, sign, extreme=is_superlative), place + 1
    return None


def _is_own(words: list[str], place: int) -> bool:
    """Whether a size is the target's: nothing but what may stand within its own phrase comes before, or "the one that is"."""
    return not set(words[:place]) & (ENDS - {"that", "which", "who", "is", ",", ".", ";", "from", "on", "at"})


def _is_trap(words: list[str], place: int) -> bool:
    """Whether a word for a side is none, or not the target's."""
    word = words[place]
    before = words[place - 1] if place else ""
    after = words[place + 1] if place + 1 < len(words) else ""
    lead, rest = set(words[:place]), set(words[place:])
    gazes = set(words[max(0, place - 3) : place]) & GAZES and before in GAZES | {"the", "to", "towards", "toward"}
    part = after in PARTS and not lead <= DETERMINERS | EMPHASIS | {"on", "at", "to"}
    part_of = after == "of" and not rest & PICTURES
    own = {
        "left": after in ("over", "overs", "behind", "alone") or ("only" in lead and not after),
        "right": place > 0 and before not in PLACE_LEADS and after in ADVERB_FOLLOWERS,
        "top": before in CLOTHES or after in ("hat", "hats") or part_of,
        "bottom": part_of,
        "upper": after in ("body", "lip"),
        "lower": after in ("body", "case", "lip"),
    }
    return bool(before in POSSESSIVES or part or gazes or own.get(word, False))


__all__ = ["EXTREMES", "Direction", "read_directions"]
