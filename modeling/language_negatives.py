"""Negative phrases: the things in an image's caption that an expression does not mean (TAS, section 3.3, "N-score")."""

from functools import cache
from typing import Any

from .language_expression import Expression
from .language_lexicon import DEPTHS, MIDDLES, SIDES, words
from .language_parsing import Parse


try:
    from nltk.corpus import wordnet
except ImportError:
    wordnet = None

PREFIX = "a photo of "
PLACE_NAMES = {*SIDES, *DEPTHS, *MIDDLES, "side", "corner", "edge"}  # "the top of …" is no thing

# By hand: NLTK's lemmatizer needs WordNet's corpus and spaCy's a model, and either may be missing.
IRREGULAR_PLURALS = dict(
    pair.split("/")
    for pair in words(
        "men/man women/woman people/person children/child feet/foot teeth/tooth geese/goose mice/mouse knives/knife wolves/wolf "
        "leaves/leaf shelves/shelf buses/bus glasses/glass"
    )
)
# The first that fits counts; "cookies" may be the plural of "cooky" or "cookie".
PLURAL_ENDINGS = {
    "ies": ("y", "ie"),
    "ches": ("ch", "che"),
    "shes": ("sh",),
    "sses": ("ss",),
    "xes": ("x", "xe"),
    "oes": ("o", "oe"),
    "s": ("",),
}


def negative_phrases(caption: Parse, expression: Expression) -> list[str]:
    """List "a photo of …" for the noun chunks of an image's caption, each once, but for places and for what may be the referent."""
    phrases: dict[str, None] = {}
    for chunk in caption.chunks:
        noun = caption.words[chunk.root].text
        if not lemmas(noun) & PLACE_NAMES and not any(are_near(noun, word) for word in expression.noun_phrase_words):
            phrases[PREFIX + caption.text(chunk.start, chunk.end)] = None
    return list(phrases)


def lemmas(noun: str) -> set[str]:
    """List what a noun may be the plural of, and itself, by the rules of English and its commonest exceptions."""
    found = {noun, IRREGULAR_PLURALS.get(noun, noun)}
    if len(noun) > 3 and not noun.endswith(("ss", "us", "is")):
        ending = next((each for each in PLURAL_ENDINGS if noun.endswith(each)), None)
        if ending is not None:
            found |= {noun.removesuffix(ending) + singular for singular in PLURAL_ENDINGS[ending]}
    return found


def are_near(one: str, other: str) -> bool:
    """Whether two nouns mean the same in their commonest sense, by WordNet where its corpus is installed."""
    if lemmas(one) & lemmas(other):
        return True
    meanings = load_wordnet()
    if meanings is None:
        return False
    first, second = (meanings.synsets(noun, pos="n")[:1] for noun in (one, other))
    return bool(first and second and first[0] == second[0])


@cache
def load_wordnet() -> Any:
    """Load WordNet's corpus; `None` where it is not installed. Nothing is downloaded."""
    if wordnet is None:
        return None
    try:
        wordnet.ensure_loaded()
    except LookupError:
        return None
    return wordnet


def has_wordnet() -> bool:
    """Whether WordNet and its corpus are installed."""
    return load_wordnet() is not None


__all__ = ["PREFIX", "are_near", "has_wordnet", "lemmas", "load_wordnet", "negative_phrases"]
