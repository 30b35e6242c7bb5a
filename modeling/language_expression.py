"""An expression, read once for all who ask: its grammar, the noun phrase of its referent, and what it says of places."""

import re
from collections.abc import Callable
from functools import cached_property

from .language_lexicon import DEPTHS, IMAGE_NOUNS, MIDDLES, NOT_NAMES, ORDINALS, SIDES, SIZES
from .language_parsing import Chunk, Parse, parse_by_rules
from .language_places import Place, read_places


RELATION, PLACE, LOOK = "relation", "place", "look"  # kinds of expressions

OF_THE_IMAGE = re.compile(rf"\bof (?:the |this )?(?:{'|'.join(IMAGE_NOUNS)})\b")
RELATING = re.compile(
    r"\b(?:(?:left|right|top|bottom|front|back|side|edge|middle|cent(?:er|re)) of|next to|close(?:st)? to|near(?:est)?|"
    r"beside|behind|between|among|above|below|under(?:neath)?|over|across from|facing|holding|wearing|riding|sitting on|"
    r"standing (?:on|by)|than)\b"
)
LOCATING = re.compile(rf"\b(?:{'|'.join([*SIDES, *DEPTHS, *MIDDLES, *ORDINALS, 'far', 'corner', 'edge', 'side'])})\b")


class Expression:
    """
    An expression. Each of its properties is found when it is first asked for, and once.

    Args:
        text (`str`): The expression as a user writes it.
        parser (`Callable`, *optional*, defaults to [`parse_by_rules`]): Parses a text, such as [`load_parser`] gives.
    """

    def __init__(self, text: str, parser: Callable[[str], Parse] = parse_by_rules) -> None:
        self.text = text
        self.parser = parser

    @cached_property
    def parse(self) -> Parse:
        """Its words and noun chunks."""
        return self.parser(self.text)

    @cached_property
    def chunk(self) -> Chunk | None:
        """
        The chunk that names the referent (Global-Local, section 3.3, as its code finds it): that of the root of the last sentence, or
        of the root's first child; `None` where neither lies in a chunk.
        """
        roots = self.parse.roots()
        if not roots:
            return None
        first_child = self.parse.children(roots[-1])[:1]
        chunks = (self.parse.chunk_at(position) for position in (roots[-1], *first_child))
        return next((chunk for chunk in chunks if chunk is not None), None)

    @cached_property
    def noun_phrase(self) -> str:
        """The words of the referent's chunk, or the whole text where there is none."""
        return self.parse.source if self.chunk is None else self.parse.text(self.chunk.start, self.chunk.end)

    @property
    def noun_phrase_words(self) -> list[str]:
        """The words of the noun phrase, as the parser has them."""
        chunk = self.chunk or Chunk(0, len(self.parse.words), 0)
        return [word.text for word in self.parse.words[chunk.start : chunk.end]]

    @property
    def head(self) -> str | None:
        """The noun of the referent's chunk."""
        return None if self.chunk is None else self.parse.words[self.chunk.root].text

    @property
    def names_referent(self) -> bool:
        """Whether it says what its referent is, and not only where ("the left one")."""
        places = {*SIDES, *DEPTHS, *SIZES, *ORDINALS, *MIDDLES}
        return self.head is not None and self.head not in places | NOT_NAMES

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Where it says that its referent is."""
        return read_places(self.text)

    @property
    def kind(self) -> str:
        """How the referent differs from others: `RELATION` to something, `PLACE` in the image, or `LOOK` alone."""
        text = OF_THE_IMAGE.sub("", self.text.lower())  # the left side of the image is a place
        if RELATING.search(text):
            return RELATION
        return PLACE if LOCATING.search(text) else LOOK


__all__ = ["Expression", "LOOK", "PLACE", "RELATION"]
