"""
What an expression does not mean, though the picture shows it: the other things in its caption (TAS, section 3.3, "N-score").
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from transformers.utils import logging

from .language_parsing import Parse
from .language_places import DEPTHS, MIDDLES, SIDES


logger = logging.get_logger(f"transformers.{__name__}")  # under transformers' verbosity

try:
    from nltk.corpus import wordnet
except ImportError:
    wordnet = None

PREFIX = "a photo of "
MIN_PAIRS = 3  # so many pairs of meanings must be this near for two nouns to mean the same
MIN_SIMILARITY = 0.9
IRREGULAR = {
    "men": "man",
    "women": "woman",
    "people": "person",
    "children": "child",
    "feet": "foot",
    "teeth": "tooth",
    "geese": "goose",
    "mice": "mouse",
    "knives": "knife",
    "wolves": "wolf",
    "leaves": "leaf",
    "shelves": "shelf",
    "buses": "bus",
    "glasses": "glass",
}
# The longest that fits counts: "cookies" are of a cookie or a cooky.
ENDINGS = {
    "ies": ("y", "ie"),
    "ches": ("ch", "che"),
    "shes": ("sh",),
    "sses": ("ss",),
    "xes": ("x", "xe"),
    "oes": ("o", "oe"),
    "s": ("",),
}
PLACES = {*SIDES, *DEPTHS, *MIDDLES, "side", "corner", "edge"}


def negatives_as_published(
    caption: Parse,
    target: str,
    nouns_of: Callable[[str], list[str]],
    count_near_pairs: Callable[[str, str], int],
) -> list[str]:
    """
    The released code's phrases: every noun chunk but near-synonyms of the target.

    Args:
        caption (`Parse`): Of the picture's caption.
        target (`str`): The phrase that names what the expression refers to.
        nouns_of (`Callable`): A phrase's nouns, in order.
        count_near_pairs (`Callable`): How many pairs of two nouns' meanings are near, such as [`count_near_pairs`].

    Returns:
        `list[str]`: "a photo of …", for each.
    """
    of_target = nouns_of(target)
    phrases = []
    for chunk in caption.chunks:
        phrase = caption.text(chunk.start, chunk.end)
        nouns = nouns_of(phrase)
        is_near = bool(nouns and of_target) and count_near_pairs(nouns[0], of_target[0]) >= MIN_PAIRS
        if not is_near:
            phrases.append(PREFIX + phrase)
    return phrases


def negative_phrases(caption: Parse, target: Parse) -> list[str]:
    """
    Every noun chunk of a caption but what may be the target, mended: a noun of few meanings is not its own negative, each phrase
    comes once, and a place ("the top of …") is no thing.

    Args:
        caption (`Parse`): Of the picture's caption.
        target (`Parse`): Of the phrase that names what the expression refers to.

    Returns:
        `list[str]`: "a photo of …", for each.
    """
    of_target = [word.text for word in target.words]
    phrases: dict[str, None] = {}
    for chunk in caption.chunks:
        noun = caption.words[chunk.root].text
        if not lemmas(noun) & PLACES and not any(are_near(noun, word) for word in of_target):
            phrases[PREFIX + caption.text(chunk.start, chunk.end)] = None
    return list(phrases)


def lemmas(noun: str) -> set[str]:
    """What a noun may be the plural of, and itself, by the rules of English and its commonest exceptions."""
    found = {noun, IRREGULAR.get(noun, noun)}
    if len(noun) > 3 and not noun.endswith(("ss", "us", "is")):
        for ending, singles in ENDINGS.items():
            if noun.endswith(ending):
                found |= {noun[: -len(ending)] + single for single in singles}
                break
    return found


def are_near(one: str, other: str) -> bool:
    """
    Whether two nouns mean the same in their commonest sense: WordNet's, where its corpus is installed; nothing is downloaded.
    """
    if lemmas(one) & lemmas(other):
        return True
    meanings = _wordnet()
    if meanings is None:
        return False
    first, second = (meanings.synsets(noun, pos="n")[:1] for noun in (one, other))
    return bool(first and second and first[0] == second[0])


def count_near_pairs(one: str, other: str) -> int:
    """
    How many pairs of two words' meanings have a path similarity above 0.9 in WordNet. Where its corpus is not installed, words of
    one lemma are near, and no others.
    """
    meanings = _wordnet()
    if meanings is None:
        logger.warning_once("WordNet is not installed: nouns mean the same only where they are the same.")
        return MIN_PAIRS if lemmas(one) & lemmas(other) else 0
    return sum(
        (meanings.path_similarity(first, second) or 0.0) > MIN_SIMILARITY
        for first in meanings.synsets(one)
        for second in meanings.synsets(other)
    )


def nouns_by_parse(parse: Callable[[str], Parse]) -> Callable[[str], list[str]]:
    """A phrase's nouns as a parser sees them, where the released code asks NLTK's tagger."""

    def nouns_of(phrase: str) -> list[str]:
        parsed = parse(phrase)
        tagged = [word.text for word in parsed.words if word.tag in ("NOUN", "PROPN")]
        return tagged or [parsed.words[chunk.root].text for chunk in parsed.chunks]

    return nouns_of


def has_wordnet() -> bool:
    """Whether WordNet and its corpus are installed."""
    return _wordnet() is not None


@cache
def _wordnet() -> Any:
    """Its corpus, or `None` where it is not installed."""
    if wordnet is None:
        return None
    try:
        wordnet.ensure_loaded()
    except LookupError:
        return None
    return wordnet


__all__ = [
    "are_near",
    "count_near_pairs",
    "has_wordnet",
    "lemmas",
    "negative_phrases",
    "negatives_as_published",
    "nouns_by_parse",
]
