"""Checks on the expressions that a user hands in, shared by all processors and the pipeline."""

import unicodedata
from typing import Any


def check_expressions(text: Any, *, argument: str = "text") -> list[str]:
    """
    Check one expression or a sequence of them.

    Args:
        text (`str`, `list[str]` or `tuple[str, ...]`):
            What the expressions say. They are returned as they came.
        argument (`str`, *optional*, defaults to `"text"`):
            What to call this input in an error message.

    Returns:
        `list[str]`: At least one expression, none of them blank.

    Raises:
        ValueError: If there is no expression, or one is blank or not a string.
    """
    expressions = [text] if isinstance(text, str) else text
    if not isinstance(expressions, list | tuple):
        raise ValueError(f"`{argument}` must be a string or a list of strings, got {type(text).__name__}.")
    if not expressions:
        raise ValueError(f"`{argument}` is an empty list; at least one expression is needed.")
    for index, expression in enumerate(expressions):
        name = argument if isinstance(text, str) else f"{argument}[{index}]"
        if not isinstance(expression, str):
            raise ValueError(f"`{name}` must be a string, got {type(expression).__name__}: {expression!r:.80}.")
        # Spaces, control characters and accents without a letter say nothing, and tokenizers drop them.
        if not any(unicodedata.category(character)[0] in "LNPS" for character in expression):
            raise ValueError(f"`{name}` must say what to look for, got the blank expression {expression!r:.80}.")
        if any("\ud800" <= character <= "\udfff" for character in expression):
            raise ValueError(f"`{name}` must be Unicode text, got half a surrogate pair in {expression!r:.80}.")
    return list(expressions)


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
