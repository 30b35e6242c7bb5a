"""
What an expression says, grammatically: its words and what they depend on, its noun chunks, and the phrase that names the target.

A parse comes from spaCy, where it and a model of English are installed, or from rules about how people point at things: what is meant
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


@dataclass(frozen=True)
class Word:
    """
    Attributes:
        text (`str`): As it stands in the expression, in lower case.
        tag (`str`): Part of speech, as in Universal Dependencies: "NOUN", "ADJ", …
        dependency (`str`): How it depends on its head, in spaCy's terms; "ROOT" for the head of a sentence.
        head (`int`): Position of the word it depends on; its own for a root.
    """

    text: str
    tag: str
    dependency: str
    head: int


@dataclass(frozen=True)
class Chunk:
    """
    A noun with what stands before it: "the little dog". Chunks do not overlap.

    Attributes:
        start, end (`int`): Positions of its first word and of the one after its last.
        root (`int`): Position of the noun.
    """

    start: int
    end: int
    root: int


@dataclass(frozen=True)
class Parse:
    """
    Attributes:
        source (`str`): What was parsed.
        words (`tuple[Word, ...]`): Of the expression, or of several sentences.
        chunks (`tuple[Chunk, ...]`): Its noun chunks, in order.
    """

    source: str
    words: tuple[Word, ...]
    chunks: tuple[Chunk, ...]

    def text(self, start: int, end: int) -> str:
        """Words from `start` to before `end`, joined by single spaces."""
        return " ".join(word.text for word in self.words[start:end])

    def roots(self) -> list[int]:
        """The head of each sentence."""
        return [position for position, word in enumerate(self.words) if word.head == position]

    def children(self, position: int) -> list[int]:
        """The words that depend on one, from left to right."""
        return [other for other, word in enumerate(self.words) if word.head == position != other]

    def ancestors(self, position: int) -> list[int]:
        """What a word depends on, directly and over others."""
        found = []
        while self.words[position].head != position:
            position = self.words[position].head
            found.append(position)
        return found

    def chunk_of(self, position: int) -> Chunk | None:
        """The chunk that a word lies in."""
        return next((chunk for chunk in self.chunks if chunk.start <= position < chunk.end), None)


def read_doc(doc: Any) -> Parse:
    """The parse that spaCy made of a text; tokens that are one space are no words."""
    kept = [token for token in doc if token.text != " "]
    places = {token.i: place for place, token in enumerate(kept)}
    words = tuple(Word(token.text, token.pos_, token.dep_, places[token.head.i]) for token in kept)
    chunks = tuple(
        Chunk(places[chunk.start], places[chunk.end - 1] + 1, places[chunk.root.i]) for chunk in doc.noun_chunks
    )
    return Parse(doc.text, words, chunks)


def find_target(parse: Parse) -> Chunk | None:
    """
    The chunk that names what an expression refers to (Global-Local, section 3.3, as its code does it): that of the root of the last
    sentence, or of the root's first child; `None` where neither lies in a chunk.
    """
    roots = parse.roots()
    if not roots:
        return None
    chunk = parse.chunk_of(roots[-1])
    if chunk is None:
        children = parse.children(roots[-1])
        chunk = parse.chunk_of(children[0]) if children else None
    return chunk


def target_phrase(parse: Parse) -> str:
    """The words of [`find_target`], or the whole text where there is none."""
    chunk = find_target(parse)
    return parse.source if chunk is None else parse.text(chunk.start, chunk.end)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PREPOSITIONS = _words(
    "in on at of with from to by near behind beside besides above below under underneath beneath over next between against along "
    "around across inside outside into onto off up down toward towards for without about through like as per beyond within out away "
    "infront inbetween ontop thru except iwth eith wih wth"
)
# Pronouns, auxiliary verbs, conjunctions and adverbs.
LINKS = _words(
    "or but that who which whose whom what where when while w wit is are was were has have having isnt not s he she it they we you i "
    "whos thats its can cant all just almost partially partly mostly directly straight there here no any sorry lol haha please again "
    "barely after facing"
)
VERBS = _words(
    "flipped crossed marked surround had cut took wear wears hold holds sit sits stand stands look looks eats says ridden go bent laying lying hidden shown seen made"
)
NOUNS_IN_ING = _words(
    "building painting railing awning ceiling clothing string thing ring king wing morning evening something anything everything "
    "nothing icing stuffing frosting pudding siding swing wedding parking bowling ending earring covering topping serving paneling "
    "landing opening lighting darling sibling sting spring bling sling outing drawing"
)
NOT_PARTICIPLES = _words("red bed sled shed seed weed striped checkered polka")
DISTANCES = _words("nearest closest furthest farthest nearer closer further farther far")
SIDES = _words("left right upper lower leftmost rightmost far")
PLACES = _words("left right top bottom middle center centre back front upper lower corner leftmost rightmost")
TRAILING = _words("left right back far upper lower leftmost rightmost")  # of a chunk, they tell its place
ORDINALS = _words("second third fourth fifth first 2nd 3rd 4th")
DETERMINERS = _words("the a an this that my your his her one two")
STATES = _words("empty full tall only visible stacked")
AFTERTHOUGHTS = _words(
    "close together tiny upside yet creepily anywhere thanks high highest very smack either okay last pic partially curly gloves "
    "sunglasses slanted"
)
MISSPELT = _words(
    "frt frm let thrid direcly closes cloestest onright farleft picleft whands wfolded shes"
)  # of such words
COLOURS = _words(
    "red green blue yellow orange purple pink brown black white gray grey tan gold silver beige maroon teal dark light striped plaid"
)


def parse_by_rules(text: str) -> Parse:
    """
    Finds the noun chunks of an expression or a caption.

    Args:
        text (`str`): In lower case.

    Returns:
        `Parse`: The first chunk's noun is the root of all; where nothing is a noun, the last word is.
    """
    words = re.findall(r"[^\s,.;]+|[,.;]", text)
    chunks: list[Chunk] = []
    start = 0
    while start < len(words):
        if _ends(words, start, start):
            start += 1
            continue
        end = next((place for place in range(start + 1, len(words)) if _ends(words, start, place)), len(words))
        last = _trim(words, start, end)
        chunks.append(Chunk(start, last, last - 1))
        start = end
    root = chunks[0].root if chunks else len(words) - 1
    heads = [root] * len(words)
    for chunk in chunks:
        heads[chunk.start : chunk.end] = [chunk.root] * (chunk.end - chunk.start)
        heads[chunk.root] = root
    roles = ["ROOT" if place == root else "dep" for place in range(len(words))]
    return Parse(
        text,
        tuple(Word(word, "", role, head) for word, role, head in zip(words, roles, heads, strict=True)),
        tuple(chunks),
    )


def _ends(words: list[str], start: int, place: int) -> bool:
    """Whether a chunk that began at `start` ends before the word at `place`; at `start` itself, whether none begins."""
    word = words[place]
    following = words[place + 1] if place + 1 < len(words) else ""
    before = words[start:place]
    is_verb = word in VERBS or (word.endswith("ing") and word not in NOUNS_IN_ING)
    is_participle = word.endswith("ed") and word not in COLOURS | NOT_PARTICIPLES
    if word in ",.;" or word in PREPOSITIONS or word in LINKS:
        return True
    if word == "and":  # "black and white" is one look
        return not (before and before[-1] in COLOURS and following in COLOURS)
    if not before:
        return start > 0 and (is_verb or is_participle)
    previous = before[-1]
    is_last = not following or following in PREPOSITIONS
    modifies = previous in DETERMINERS | ORDINALS | PLACES  # "the standing man", but "the man standing"
    return (
        (word in AFTERTHOUGHTS | MISSPELT and previous not in DETERMINERS | PLACES | COLOURS)
        or (word in DISTANCES and previous not in DETERMINERS)
        or (is_verb and (not modifies or is_last or following in PLACES | DETERMINERS))
        or (word in SIDES and not modifies and previous not in DISTANCES | {"very", "most", "extreme"})
        or (word in ("the", "a", "an", "my") and previous not in ("all", "half"))
        # "top row second from left", but "top row second donut"
        or (word in ORDINALS and (is_last if previous == "row" else not set(before) <= DETERMINERS | PLACES))
        or ((is_participle or word in STATES) and is_last)
    )


def _trim(words: list[str], start: int, end: int) -> int:
    """Where a chunk ends without the numbers and places that follow its noun."""
    while end - start > 1 and words[end - 1].isdigit():
        end -= 1
    while end - start > 1 and words[end - 1] in TRAILING:
        if all(word in PLACES | DETERMINERS for word in words[start : end - 1]):
            break
        end -= 1
    return end


try:
    import spacy
except ImportError:
    spacy = None  # type: ignore[assignment]


# What the papers used, and what is smaller; nothing is downloaded.
SPACY_MODELS = ("en_core_web_trf", "en_core_web_lg", "en_core_web_md", "en_core_web_sm")

_one_at_a_time = threading.Lock()  # a zone is the whole model's, whichever thread opens it


@cache
def load_parser(name: str = "auto") -> Callable[[str], Parse]:
    """
    Args:
        name (`str`, *optional*, defaults to `"auto"`): `"rules"`, a model of spaCy, or `"auto"` for the best that is installed.

    Returns:
        A function that parses texts; case does not matter to it.

    Raises:
        ValueError: If spaCy or its model is not installed.
    """
    name = parser_name(name)
    if name == "rules":
        return _parse_by_rules
    if spacy is None:
        raise ValueError(f"parser={name!r} needs spaCy: pip install 'hf_ris[zero-shot]'")
    try:
        return partial(parse_with_spacy, spacy.load(name))
    except OSError as error:
        raise ValueError(
            f"parser must be 'auto', 'rules' or an installed model of spaCy, got {name!r}: {error}"
        ) from error


@cache
def parser_name(name: str) -> str:
    """Which parser this is here: for "auto", the best that is installed."""
    if name != "auto":
        return name
    return next((model for model in SPACY_MODELS if spacy is not None and spacy.util.is_package(model)), "rules")


def parse_with_spacy(nlp: Any, text: str) -> Parse:
    """
    In lower case, words apart, as both papers' code parses.

    Args:
        nlp (`spacy.language.Language`): With a parser.
        text (`str`): An expression or a caption.
    """
    with _one_at_a_time, _forgetting(nlp):
        words = [token.text for token in nlp.make_doc(text.lower()) if token.text != " "]
        return read_doc(nlp(" ".join(words)))


def _forgetting(nlp: Any) -> AbstractContextManager[Any]:
    """Within it spaCy forgets new words at the end; otherwise it keeps every word that it ever read."""
    if not hasattr(nlp, "memory_zone") or nlp.vocab.in_memory_zone:  # it came with spaCy 3.8; zones do not nest
        return nullcontext()
    return nlp.memory_zone()


def _parse_by_rules(text: str) -> Parse:
    return parse_by_rules(text.lower())


__all__ = [
    "Chunk",
    "Parse",
    "Word",
    "find_target",
    "load_parser",
    "parse_by_rules",
    "parse_with_spacy",
    "parser_name",
    "read_doc",
    "target_phrase",
]
