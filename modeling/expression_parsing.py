"""
What an expression says, grammatically: its words and what they depend on, its noun chunks, and the phrase that names the target.

A parse comes from spaCy, where it and a model of it are installed, or from a few rules about how people point at things.
"""

from dataclasses import dataclass
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


__all__ = ["Chunk", "Parse", "Word", "find_target", "read_doc", "target_phrase"]
