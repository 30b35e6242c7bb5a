"""`TrainingArguments` from a command line."""

import argparse
from collections.abc import Sequence
from typing import Any

from transformers import HfArgumentParser, TrainingArguments


TAKEN = {"output_dir": "--output-dir", "resume_from_checkpoint": "--resume"}


class _Parser(HfArgumentParser):
    def error(self, message: str) -> Any:
        raise ValueError(message)


def read_arguments(words: Sequence[str]) -> dict[str, Any]:
    """
    Reads options of `TrainingArguments`: `--max-steps 100 --bf16`, with hyphens or, as in Python, with underscores.

    Args:
        words (`Sequence[str]`): A command line.

    Returns:
        `dict[str, Any]`: What was given, by field; nothing of what was not.

    Raises:
        ValueError: If an option or a value is unknown, or the training itself decides it.
    """
    parser = _Parser(TrainingArguments, allow_abbrev=False, add_help=False)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    known, unknown = parser.parse_known_args(list(words))
    if unknown:
        raise ValueError(f"unknown option: {' '.join(unknown)}")
    for name, instead in TAKEN.items():
        if hasattr(known, name):
            raise ValueError(f"unknown option: --{name.replace('_', '-')}; use {instead}")
    return vars(known)


__all__ = ["read_arguments"]
