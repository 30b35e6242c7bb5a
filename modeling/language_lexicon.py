"""
The words by which expressions point at things: sides, depths, sizes, orders, relations, and the nouns that go with them.

Every word list that more than one reader needs stands here once. Lists of one reader's grammar stand beside it. The lists of TAS's
released code are in `as_published`.
"""

import re


def words(text: str) -> frozenset[str]:
    """Words of a text that are separated by spaces."""
    return frozenset(text.split())


# Sides, as (axis, sign): "x" and "y" are columns and rows, counted from the upper left corner.
SIDES = {
    **dict.fromkeys(("left", "leftmost", "lefthand", "west", "western"), ("x", -1)),
    **dict.fromkeys(("right", "rightmost", "righthand", "east", "eastern"), ("x", 1)),
    **dict.fromkeys(("top", "topmost", "upper", "uppermost", "higher", "highest", "north", "northern"), ("y", -1)),
    **dict.fromkeys(("bottom", "bottommost", "lower", "lowest", "lowermost", "south", "southern"), ("y", 1)),
}
DEPTHS = {
    **dict.fromkeys(
        ("front", "frontmost", "foreground", "near", "closest", "nearest", "closer", "nearer"), ("depth", 1)
    ),
    **dict.fromkeys(
        ("back", "backmost", "background", "rear", "furthest", "farthest", "further", "farther"), ("depth", -1)
    ),
}
MIDDLES = words("middle center centre central mid")
SIDE_ADJECTIVES = words("left right upper lower leftmost rightmost")  # those that are no nouns: "top" may be a shirt
COMMON_PLACES = SIDE_ADJECTIVES | words("top bottom middle center centre back front corner")
MIRRORED = {
    write(word): write(opposite)
    for word, opposite in (("left", "right"), ("right", "left"))
    for write in (str.lower, str.capitalize, str.upper)
}
MIRRORED_WORD = re.compile(r"\b(left|right)(most|hand)?\b", re.IGNORECASE)

# Sizes, as (axis, sign, whether it is a superlative): "the big one" need not be the biggest.
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

FIRST_ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]
ORDINALS = {
    **{word: rank for rank, word in enumerate(FIRST_ORDINALS, start=1)},
    **{word: rank for rank, word in enumerate(["1st", "2nd", "3rd", *(f"{n}th" for n in range(4, 21))], start=1)},
    "last": -1,
}
# "one" is left out: "the one from the left" counts nothing.
NUMBERS = {
    **{word: number for number, word in enumerate(["two", "three", "four", "five", "six", "seven", "eight"], start=2)},
    **{str(number): number for number in range(1, 21)},
}

# What relates two things, by relation. A longer pattern stands before one that it begins with.
RELATIONS = {
    tuple(pattern.split()): relation
    for relation, patterns in {
        "left of": ("to the left of", "on the left of", "left side of", "left of"),
        "right of": ("to the right of", "on the right of", "right side of", "right of"),
        "above": ("on top of", "above", "higher than", "over"),
        "below": ("lower than", "below", "beneath", "under", "underneath"),
        "in front of": ("covering", "in front of"),
        "behind": ("hidden by", "covered by", "behind", "in back of"),
        "near": ("next to", "close to", "beside", "near", "by"),
        "nearest to": ("closest to", "nearest to", "nearest", "closer to"),
        "furthest from": ("furthest from", "farthest from"),
        "far from": ("far from", "away from"),
        "between": ("between",),
    }.items()
    for pattern in patterns
}
SUPERLATIVE_RELATIONS = ("nearest to", "furthest from")
# The side or depth that a relation means where nothing follows it ("the one behind"), and where a viewer does ("near us").
RELATIONS_TO_NOTHING = {
    "left of": ("x", -1),
    "right of": ("x", 1),
    "above": ("y", -1),
    "below": ("y", 1),
    "in front of": ("depth", 1),
    "nearest to": ("depth", 1),
    "behind": ("depth", -1),
    "furthest from": ("depth", -1),
}
RELATIONS_TO_VIEWERS = {**RELATIONS_TO_NOTHING, "near": ("depth", 1), "far from": ("depth", -1)}

# What is not meant follows them, up to the end of the clause or a "but".
EXCLUSIONS = tuple(
    tuple(pattern.split())
    for pattern in (
        "not",
        "neither",
        "except",
        "excluding",
        "all but",
        "everything but",
        "anything but",
        "other than",
        "rather than",
        "instead of",
    )
)

ARTICLES = words("the a an this that my your")
POSSESSIVES = words("his her their its")
OWNERS = POSSESSIVES | words("whose 's")  # what follows them has places of its own
REFLEXIVES = words("himself herself itself themselves")
EMPHASIS = words("far very extreme most way furthest farthest")
PLAIN_COLOURS = words("red green blue yellow orange purple pink brown black white gray grey")
COLOURS = PLAIN_COLOURS | words("tan gold silver beige maroon teal dark light striped plaid")

IMAGE_NOUNS = words("picture image photo photograph pic frame screen shot scene")
IMAGES = IMAGE_NOUNS | words("view page pict")
EDGES = words("side edge corner end half part section border")  # of the image, where nothing else is said
ROWS = words("row shelf rack tier layer level line")
GROUPS = words(
    "group bunch row line pack herd stack pile pair two three four five six them all both other others rest set couple"
)
GROUP_LEADS = GROUPS - words("row line them other others rest")  # "the three dogs", "the pair of dogs"
VIEWERS = words("us camera you viewer me front photographer foreground")
PEOPLE = words("boy girl kid child baby brother sister guy man woman lady dude person")  # "little girl" is no size
BODY_PARTS = words(  # and those of things: they have a left of their own
    "hand arm leg foot feet eye ear wing wheel sleeve shoe knee shoulder headlight glove paw elbow thumb finger breast cheek boot sock "
    "tooth teeth tire tyre"
)
NOT_NAMES = words("one thing object item it this that side corner far nearest most")  # they name no kind of thing
