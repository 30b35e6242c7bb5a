"""Refuses misspelt fields of a configuration, which takes any keyword in silence."""

from collections.abc import Iterable
from difflib import get_close_matches


def check_fields(given: Iterable[str], allowed: Iterable[str], owner: str) -> None:
    """
    Raise a ValueError that names the first given field that is not allowed, and those that are.

    Args:
        given, allowed (`Iterable[str]`): Names of fields.
        owner (`str`): The configuration's name in the message.
    """
    names = sorted(allowed)
    for name in sorted(given):
        if name not in names:
            near = get_close_matches(name, names) or names
            raise ValueError(f"{owner} has no field {name!r}; allowed are {', '.join(near)}.")


__all__ = ["check_fields"]
