"""Configurations take any keyword: a misspelt field would say nothing."""

from collections.abc import Iterable
from difflib import get_close_matches


def check_fields(given: Iterable[str], allowed: Iterable[str], owner: str) -> None:
    """
    Raises a ValueError that names the first given field that is not allowed, and what is.

    Args:
        given, allowed (`Iterable[str]`): Names of fields.
        owner (`str`): What has them, for the message.
    """
    names = sorted(allowed)
    for name in sorted(given):
        if name not in names:
            near = get_close_matches(name, names) or names
            raise ValueError(f"{owner} has no field {name!r}; allowed are {', '.join(near)}")


__all__ = ["check_fields"]
