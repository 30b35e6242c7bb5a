"""Checks on the expressions that a user hands in, shared by all processors and the pipeline."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging


logger = logging.get_logger(f"transformers.{__name__}")  # under transformers' verbosity
MOST_WARNINGS = 20  # of one kind: a training meets thousands of expressions


def as_list(values: Any) -> list[Any] | None:
    """What a list, a tuple, a column of a dataset, an array or any other sequence holds; `None` where `values` is none."""
    if isinstance(values, str | bytes | Mapping) or not (
        hasattr(values, "__len__") and hasattr(values, "__getitem__")
    ):
        return None
    if isinstance(values, np.ndarray):
        return values.tolist() if values.ndim else None
    return list(values)


def check_expressions(text: Any, *, argument: str = "text") -> list[str]:
    """
    Check one expression or a sequence of them.

    Args:
        text (`str`, or a list, array, column or other sequence of `str`):
            What the expressions say. They are returned as they came.
        argument (`str`, *optional*, defaults to `"text"`):
            What to call this input in an error message.

    Returns:
        `list[str]`: At least one expression, each with a letter or a digit.

    Raises:
        ValueError: If there is no expression, or one is not a string or has neither letter nor digit.
    """
    expressions = [text] if isinstance(text, str) else as_list(text)
    if expressions is None:
        raise ValueError(f"`{argument}` must be a string or a list of strings, got {type(text).__name__}.")
    if not expressions:
        raise ValueError(f"`{argument}` is an empty list; at least one expression is needed.")
    for index, expression in enumerate(expressions):
        name = argument if isinstance(text, str) else f"{argument}[{index}]"
        if not isinstance(expression, str):
            raise ValueError(f"`{name}` must be a string, got {type(expression).__name__}: {expression!r:.80}.")
        # Punctuation, spaces and accents alone name nothing.
        if not any(unicodedata.category(character)[0] in "LN" for character in expression):
            raise ValueError(
                f"`{name}` must say what to look for in words, got {expression!r:.80}, without a letter or digit."
            )
        if any("\ud800" <= character <= "\udfff" for character in expression):
            raise ValueError(f"`{name}` must be Unicode text, got half a surrogate pair in {expression!r:.80}.")
    return expressions


def expressions_per_image(expressions: int, images: int) -> int:
    """
    How many expressions each image has: k of N = B * k.

    Raises:
        ValueError: If they cannot be shared out evenly.
    """
    if not images or expressions % images:
        raise ValueError(
            f"`text` holds {expressions} expressions for {images} images; every image needs the same number, the expressions of "
            "the first image first."
        )
    return expressions // images


class TextWarnings:
    """Warns of what a model cannot read: of each thing once, and of `MOST_WARNINGS` of a kind at most."""

    def __init__(self) -> None:
        self._given: dict[str, set[str]] = {}

    def unknown_words(self, tokenizer: PreTrainedTokenizerBase, expressions: Sequence[str]) -> None:
        """Names the words that a vocabulary does not have."""
        if len(self._given.get("unknown", ())) >= MOST_WARNINGS:
            return
        for word in find_unknown_words(tokenizer, expressions):
            self._warn(
                "unknown",
                word,
                f"The vocabulary of this model lacks the word {word!r}: what it answers may mean nothing.",
            )

    def too_long(self, expression: str, tokens: int, limit: int, rest: str) -> None:
        """Names an expression of which only `limit` of its `tokens` are read, and what they say."""
        self._warn(
            "long",
            expression,
            f"The expression {expression!r:.200} has {tokens} tokens; only {limit} are read: {rest!r}.",
        )

    def _warn(self, kind: str, what: str, message: str) -> None:
        given = self._given.setdefault(kind, set())
        if what in given or len(given) >= MOST_WARNINGS:
            return
        given.add(what)
        end = " There will be no more warnings of this kind." if len(given) == MOST_WARNINGS else ""
        logger.warning(message + end)


def find_unknown_words(tokenizer: PreTrainedTokenizerBase, expressions: Sequence[str]) -> Iterable[str]:
    """
    Words that a tokenizer replaces by its unknown token, or spells out letter by letter.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): One that tells where tokens are from; of others nothing is known.
        expressions (`Sequence[str]`): The texts.

    Returns:
        The words, each once.
    """
    if not tokenizer.is_fast:
        return []
    encoded = tokenizer(list(expressions), verbose=False, return_offsets_mapping=True)
    unknown: dict[str, None] = {}
    for number, expression in enumerate(expressions):
        spans: dict[int, list[tuple[int, int]]] = {}
        replaced = set()
        places = zip(
            encoded.word_ids(number), encoded["offset_mapping"][number], encoded["input_ids"][number], strict=True
        )
        for word, span, token in places:
            if word is not None:  # not a special token
                spans.setdefault(word, []).append(span)
                if token == tokenizer.unk_token_id:
                    replaced.add(word)
        for word, pieces in spans.items():
            is_spelled = len(pieces) > 1 and all(end - start <= 1 for start, end in pieces)
            if is_spelled or word in replaced:
                unknown[expression[pieces[0][0] : pieces[-1][1]]] = None
    return unknown


__all__ = ["TextWarnings", "as_list", "check_expressions", "expressions_per_image", "find_unknown_words"]
