"""
The grammar of an expression or a caption: its words, what they depend on, and its noun chunks.

A parse comes from spaCy, where it and a model of English are installed, or from rules about how people point at things: the referent
comes first ("left guy in the blue shirt", "the bear closest to us"), and ends where a preposition, a verb or a place begins. The rules
were fitted on half of RefCOCO's expressions.
"""

import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from .language_lexicon import ARTICLES, COLOURS, COMMON_PLACES, ORDINALS, SIDE_ADJECTIVES, words


@dataclass(frozen=True)
class Word:
    """A word of a parse."""

    text: str  # in lower case
    tag: str  # part of speech, as in Universal Dependencies: "NOUN", "ADJ", …; empty where rules parsed
    head: int  # position of the word it depends on; a root depends on itself


@dataclass(frozen=True)
class Chunk:
    """A noun with what stands before it, "the little dog", from `start` to before `end`; `root` is the noun. Chunks do not overlap."""

    start: int
    end: int
    root: int


@dataclass(frozen=True)
class Parse:
    """The words of a text, of one or several sentences, and its noun chunks in order."""

    source: str
    words: tuple[Word, ...]
    chunks: tuple[Chunk, ...]

    def text(self, start: int, end: int) -> str:
        """Words from `start` to before `end`, joined by single spaces."""
        return " ".join(word.text for word in self.words[start:end])

    def roots(self) -> list[int]:
        """Position of the head of each sentence."""
        return [position for position, word in enumerate(self.words) if word.head == position]

    def children(self, position: int) -> list[int]:
        """Positions of the words that depend on one, from left to right."""
        return [other for other, word in enumerate(self.words) if word.head == position != other]

    def ancestors(self, position: int) -> list[int]:
        """Positions of the words that one depends on, directly and over others."""
        found = []
        while self.words[position].head != position:
            position = self.words[position].head
            found.append(position)
        return found

    def chunk_at(self, position: int) -> Chunk | None:
        """The chunk that a word lies in."""
        return next((chunk for chunk in self.chunks if chunk.start <= position < chunk.end), None)


PREPOSITIONS = words(
    "in on at of with from to by near behind beside besides above below under underneath beneath over next between against along "
    "around across inside outside into onto off up down toward towards for without about through like as per beyond within out away "
    "infront inbetween ontop thru except iwth eith wih wth"
)
# Pronouns, auxiliary verbs, conjunctions and adverbs.
LINKS = words(
    "or but that who which whose whom what where when while w wit is are was were has have having isnt not s he she it they we you i "
    "whos thats its can cant all just almost partially partly mostly directly immediately straight there here no any sorry lol haha "
    "please again barely after facing"
)
VERBS = words(
    "flipped crossed marked surround had cut took wear wears hold holds sit sits stand stands look looks eats says ridden go bent laying lying hidden shown seen made"
)
NOUNS_IN_ING = words(
    "building painting railing awning ceiling clothing string thing ring king wing morning evening something anything everything "
    "nothing icing stuffing frosting pudding siding swing wedding parking bowling ending earring covering topping serving paneling "
    "landing opening lighting darling sibling sting spring bling sling outing drawing"
)
NOT_PARTICIPLES = words("red bed sled shed seed weed striped checkered polka") | COLOURS
DISTANCES = words("nearest closest furthest farthest nearer closer further farther far")
COUNTED_ORDINALS = frozenset(ORDINALS) - {"last"}
POSSESSIVE = "'s"  # a word of its own, as in spaCy's parses
DETERMINERS = ARTICLES | words("his her one two") | {POSSESSIVE}
TRAILING_PLACES = SIDE_ADJECTIVES | words("far back")  # they follow a noun
STATES = words("empty full tall only visible stacked")
# Words that follow a noun and belong to no other class, some of them misspelt.
AFTERTHOUGHTS = words(
    "close together tiny upside yet creepily anywhere thanks high highest very smack either okay last pic partially curly gloves "
    "sunglasses slanted frt frm let thrid direcly closes cloestest onright farleft picleft whands wfolded shes way"
)
MARKS = words(", . ; : ! ? ( [ - \u2013 \u2014")  # they end a chunk; a hyphen does so between spaces
NO_WORDS = re.compile(  # quotes, closing brackets, and those within a chunk: "the (red) dog", "left - most"
    r"(?<=\bthe )[(\[]|[)\]\"\u201c\u201d]|(?<!\w)['\u2018\u2019]|['\u2019](?!\w)|-(?=\s+most\b)"
)


def parse_by_rules(text: str) -> Parse:
    """Find the noun chunks of a text, in lower case. All depend on the first chunk's noun; where there is none, on the last word."""
    text = text.lower()
    tokens = _split(text)
    chunks: list[Chunk] = []
    start = 0
    while start < len(tokens):
        if _ends(tokens, start, start):
            start += 1
            continue
        end = next((place for place in range(start + 1, len(tokens)) if _ends(tokens, start, place)), len(tokens))
        last = _trim(tokens, start, end)
        chunks.append(Chunk(start, last, last - 1))
        start = end
    root = chunks[0].root if chunks else len(tokens) - 1
    heads = [root] * len(tokens)
    for chunk in chunks:
        heads[chunk.start : chunk.end] = [chunk.root] * (chunk.end - chunk.start)
        heads[chunk.root] = root
    return Parse(text, tuple(Word(token, "", head) for token, head in zip(tokens, heads, strict=True)), tuple(chunks))


def _split(text: str) -> list[str]:
    """Words, possessive endings and marks."""
    text = re.sub(r"['\u2019]s\b", f" {POSSESSIVE}", NO_WORDS.sub(" ", text))
    return re.findall(r"[^\s,.;:!?(\[\u2014]+|[,.;:!?(\[\u2014]", text)


def _ends(tokens: list[str], start: int, place: int) -> bool:
    """Whether a chunk that began at `start` ends before the word at `place`; at `start` itself, whether none begins."""
    word = tokens[place]
    following = tokens[place + 1] if place + 1 < len(tokens) else ""
    before = tokens[start:place]
    is_verb = word in VERBS or (word.endswith("ing") and word not in NOUNS_IN_ING)
    is_participle = word.endswith("ed") and word not in NOT_PARTICIPLES
    is_adjective = bool(before) and before[-1] in ("the", "a", "an")  # "the near zebra"
    if word in MARKS or word in LINKS or (word in PREPOSITIONS and not is_adjective):
        return True
    if word == "and":  # "black and white" is one look
        return not (before and before[-1] in COLOURS and following in COLOURS)
    if not before:
        return word == POSSESSIVE or (start > 0 and (is_verb or is_participle))
    previous = before[-1]
    is_last = not following or following in PREPOSITIONS
    modifies = previous in DETERMINERS | COUNTED_ORDINALS | COMMON_PLACES  # "the standing man", but "the man standing"
    return (
        (word in AFTERTHOUGHTS and previous not in DETERMINERS | COMMON_PLACES | COLOURS)
        or (word in DISTANCES and previous not in DETERMINERS | COUNTED_ORDINALS)
        or (is_verb and (not modifies or is_last or following in COMMON_PLACES | DETERMINERS - {"one", "two"}))
        or (
            word in TRAILING_PLACES - {"back"}
            and not modifies
            and previous not in DISTANCES | {"very", "most", "extreme"}
        )
        or (word in ("the", "a", "an", "my") and previous not in ("all", "half"))
        # "top row second from left", but "top row second donut"
        or (
            word in COUNTED_ORDINALS
            and (is_last if previous == "row" else not set(before) <= DETERMINERS | COMMON_PLACES)
        )
        or ((is_participle or word in STATES) and is_last)
    )


def _trim(tokens: list[str], start: int, end: int) -> int:
    """Where a chunk ends without the numbers and places that follow its noun."""
    while end - start > 1 and tokens[end - 1].removeprefix("#").isdigit():
        end -= 1
    while end - start > 1 and tokens[end - 1] in TRAILING_PLACES:
        if all(word in COMMON_PLACES | DETERMINERS for word in tokens[start : end - 1]):
            break
        end -= 1
    if end - start > 1 and tokens[end - 1] == POSSESSIVE:
        end -= 1
    return end


try:
    import spacy
except ImportError:
    spacy = None  # type: ignore[assignment]


SPACY_MODELS = (
    "en_core_web_trf",
    "en_core_web_lg",
    "en_core_web_md",
    "en_core_web_sm",
)  # the best first; none is downloaded

_spacy_lock = threading.Lock()  # a memory zone is the whole model's, whichever thread opens it


@cache
def load_parser(name: str = "auto") -> Callable[[str], Parse]:
    """
    Load what reads expressions and captions.

    Args:
        name (`str`, *optional*, defaults to `"auto"`): `"rules"`, a model of spaCy, or `"auto"` for the best that is installed.

    Returns:
        A function that parses texts; case does not matter to it.

    Raises:
        ValueError: If spaCy or its model is not installed.
    """
    name = parser_name(name)
    if name == "rules":
        return parse_by_rules
    if spacy is None:
        raise ValueError(f"`parser={name!r}` needs spaCy: pip install 'hf_ris[zero-shot]'.")
    try:
        return partial(parse_with_spacy, spacy.load(name))
    except Exception as error:  # any installed package is loaded by that name, spacy itself too
        raise ValueError(
            f"`parser` must be 'auto', 'rules' or an installed model of spaCy, got {name!r}: {error}"
        ) from error


@cache
def parser_name(name: str) -> str:
    """The parser that a name stands for on this machine: for "auto", the best that is installed."""
    if name != "auto":
        return name
    return next((model for model in SPACY_MODELS if spacy is not None and spacy.util.is_package(model)), "rules")


def parse_with_spacy(nlp: Any, text: str) -> Parse:
    """Parse by a pipeline of spaCy in lower case, words apart, as both papers' code does."""
    with _spacy_lock, _memory_zone(nlp):
        tokens = [token.text for token in nlp.make_doc(text.lower()) if token.text != " "]
        return read_doc(nlp(" ".join(tokens)))


def read_doc(doc: Any) -> Parse:
    """Read the parse that spaCy made of a text; tokens that are one space are no words."""
    kept = [token for token in doc if token.text != " "]
    positions = {token.i: position for position, token in enumerate(kept)}
    tokens = tuple(Word(token.text, token.pos_, positions[token.head.i]) for token in kept)
    chunks = tuple(
        Chunk(positions[chunk.start], positions[chunk.end - 1] + 1, positions[chunk.root.i])
        for chunk in doc.noun_chunks
    )
    return Parse(doc.text, tokens, chunks)


def _memory_zone(nlp: Any) -> AbstractContextManager[Any]:
    """A zone at whose end spaCy forgets new words; without one it keeps every word that it ever read."""
    if not hasattr(nlp, "memory_zone") or nlp.vocab.in_memory_zone:  # it came with spaCy 3.8; zones do not nest
        return nullcontext()
    return nlp.memory_zone()


__all__ = ["Chunk", "Parse", "Word", "load_parser", "parse_by_rules", "parse_with_spacy", "parser_name", "read_doc"]
