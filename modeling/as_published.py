"""
The spatial rectifier of TAS ("Text Augmented Spatial-aware Zero-shot Referring Image Segmentation", EMNLP Findings 2023,
section 3.4), as its released code decides, defects included; `tas_rectifier` mends them.

It splits the regions by the median of their centres into four quadrants, and where the expression says "left", "top" and the
like of its target, takes the best region of the quadrants that this allows. Whether it says so of the target is read off a
dependency parse.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .language_parsing import Chunk, Parse


LEFT, RIGHT = {"left", "west"}, {"right", "east"}
ABOVE, BELOW = {"above", "north", "top"}, {"below", "south", "under"}
PLACES = (("", "left", LEFT), ("", "right", RIGHT), ("top", "", ABOVE), ("bottom", "", BELOW))  # (height, side, words)
# Words that tell how things stand to each other, words for parts of a picture, and words that tell one thing from all others.
RELATIONS = (
    LEFT | RIGHT | ABOVE | BELOW | {"bigger", "larger", "closer", "smaller", "tinier", "further", "inside", "between"}
)
NULL_WORDS = {"part", "image", "side", "picture", "half", "region", "section"}
SUPERLATIVES = (
    ((LEFT | RIGHT | ABOVE | BELOW) - {"under"})
    | {"leftmost", "western", "rightmost", "eastern", "underneath"}
    | {"bigger", "biggest", "larger", "largest", "closer", "closest"}
    | {"smaller", "smallest", "tinier", "tiniest", "further", "furthest"}
)


@dataclass(frozen=True)
class Mention:
    """
    Something that an expression speaks of.

    Attributes:
        phrase (`str`): Its noun chunk, with modifiers that follow it.
        superlatives (`tuple[tuple[int, ...], ...]`): Chains of words that tell it from others.
        relations (`tuple[tuple[tuple[int, ...], Mention], ...]`): Chains of words that lead to something else, and that.
    """

    phrase: str
    superlatives: tuple[tuple[int, ...], ...]
    relations: tuple[tuple[tuple[int, ...], "Mention"], ...]


def widen_chunks(parse: Parse) -> dict[int, tuple[int, int]]:
    """(start, end) of the chunk that each word of a chunk lies in, with the modifiers that follow it and hold no other chunk."""
    inside = {position for chunk in parse.chunks for position in range(chunk.start, chunk.end)}
    blocked = inside | {above for position in inside for above in parse.ancestors(position)}

    def end_of(chunk: Chunk) -> int:
        own = set(range(chunk.start, chunk.end))
        for position in range(chunk.end, len(parse.words)):
            if position in blocked or own.isdisjoint(parse.ancestors(position)):
                return position
        return len(parse.words)

    return {
        position: (chunk.start, end_of(chunk)) for chunk in parse.chunks for position in range(chunk.start, chunk.end)
    }


def read_mention(parse: Parse) -> Mention | None:
    """What the first sentence of an expression is about, or else its first chunk's head; `None` where neither is in a chunk."""
    if not parse.chunks:
        return None
    chunks = widen_chunks(parse)
    mention = _mention_at(parse.roots()[0], parse, chunks)
    return mention or _mention_at(parse.words[parse.chunks[0].root].head, parse, chunks)


def _mention_at(position: int, parse: Parse, chunks: dict[int, tuple[int, int]]) -> Mention | None:
    if position not in chunks:
        children = parse.children(position)
        if not children or children[0] not in chunks:
            return None
        position = children[0]
    relations: list[tuple[tuple[int, ...], Mention]] = []
    superlatives: list[tuple[int, ...]] = []

    def follow(word: int, chain: tuple[int, ...]) -> None:
        text = parse.words[word].text
        # Any other word of the target's own chunk counts as another thing, unless it is one of these.
        if word in chunks and word != position and text not in RELATIONS | NULL_WORDS:
            other = _mention_at(word, parse, chunks)
            assert other is not None, "it lies in a chunk"
            relations.append((tuple(sorted(chain)), other))
            return
        children = parse.children(word)
        if not children and any(parse.words[each].text in SUPERLATIVES for each in (*chain, word)):
            superlatives.append((*chain, word))
        if word not in chunks or text in RELATIONS | NULL_WORDS | SUPERLATIVES:
            chain = (*chain, word)
        for child in children:
            follow(child, chain)

    follow(position, ())
    return Mention(parse.text(*chunks[position]), tuple(superlatives), tuple(relations))


def rectify_as_published(parse: Parse, target: str, centres: Sequence[Sequence[int]], weights: Sequence[float]) -> int:
    """
    Chooses a region.

    Args:
        parse (`Parse`): Of the expression in lower case, with dependencies.
        target (`str`): The phrase that names what it refers to.
        centres (`Sequence`): (row, column) of each region's centre, whole pixels.
        weights (`Sequence[float]`): How well each region fits, softmax over the regions.

    Returns:
        `int`: Number of the region.
    """
    start = int(np.argmax(weights))
    mention = read_mention(parse)
    if mention is None or mention.phrase != target or bool(mention.superlatives) == bool(mention.relations):
        return start
    quadrants = Quadrants(centres, weights, start)
    text = parse.source.lower()

    def says(*words: str) -> bool:
        return any(word in text for word in words)  # inside of other words, too

    def said_height(below: Iterable[str]) -> str:
        return "top" if says(*ABOVE) else "bottom" if says(*below) else ""

    said_side = "left" if says(*LEFT) else "right" if says(*RIGHT) else ""
    if mention.superlatives:
        height = said_height(("below", "south", "underneath"))
        return quadrants.best(height, said_side) if height or said_side else start

    choice = start
    for chain, other in mention.relations:
        words = {parse.words[position].text for position in chain}
        for height, side, meaning in PLACES:
            if words.isdisjoint(meaning):
                continue
            # "on the left side" leads to the left side, and nothing else.
            if other.phrase == mention.phrase or any(word in other.phrase for word in meaning & words):
                choice = quadrants.best(height or said_height(BELOW), side or said_side)
            break
    return choice


class Quadrants:
    """
    Regions by the median of their centres: in row and column below it, or not.

    Args:
        centres (`Sequence`): (row, column) of each region's centre.
        weights (`Sequence[float]`): How well each fits.
        fallback (`int`): What an empty quadrant points to, with weight 0.
    """

    def __init__(self, centres: Sequence[Sequence[int]], weights: Sequence[float], fallback: int) -> None:
        places = np.asarray(centres)
        is_top, is_left = (places < np.median(places, axis=0)).T
        self.fits = np.asarray(weights)
        self.fallback = fallback
        self.members = {
            (height, side): np.flatnonzero((is_top == (height == "top")) & (is_left == (side == "left")))
            for side in ("left", "right")
            for height in ("top", "bottom")
        }

    def best(self, height: str, side: str) -> int:
        """The best region of a quadrant, or of two where one word is empty; of equal ones, the bottom or right quadrant's."""
        found = []
        for of_quadrant in (
            members
            for (top_or_bottom, left_or_right), members in self.members.items()
            if height in ("", top_or_bottom) and side in ("", left_or_right)
        ):
            if len(of_quadrant):
                number = int(of_quadrant[np.argmax(self.fits[of_quadrant])])
                found.append((float(self.fits[number]), number))
            else:
                found.append((0.0, self.fallback))
        return max(reversed(found), key=lambda each: each[0])[1]


__all__ = ["Mention", "read_mention", "rectify_as_published", "widen_chunks"]
