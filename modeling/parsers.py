"""Who parses expressions and captions: spaCy, where it is installed with a model of English, or else our own rules."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any

from .expression_parsing import Parse, read_doc
from .noun_chunks import parse_by_rules


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


__all__ = ["load_parser", "parse_with_spacy", "parser_name"]
