"""`TrainingArguments` from a command line."""

import argparse
from collections.abc import Sequence
from typing import Any

from transformers import HfArgumentParser, TrainingArguments


RENAMED = {"output_dir": "--output-dir", "resume_from_checkpoint": "--resume"}


class _Parser(HfArgumentParser):
    def error(self, message: str) -> Any:
        raise ValueError(message)


def read_arguments(words: Sequence[str]) -> dict[str, Any]:
    """
    Read options of `TrainingArguments`, such as `--max-steps 100 --bf16`, with hyphens or underscores.

    Args:
        words (`Sequence[str]`): A command line.

    Returns:
        `dict[str, Any]`: The given options by field, without the defaults of the others.

    Raises:
        ValueError: If an option or a value is unknown, or `hf-ris train` has another option for it.
    """
    parser = _Parser(TrainingArguments, allow_abbrev=False, add_help=False)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    known, unknown = parser.parse_known_args(list(words))
    if unknown:
        raise ValueError(f"unknown option: {' '.join(unknown)}.")
    for name, option in RENAMED.items():
        if hasattr(known, name):
            raise ValueError(f"--{name.replace('_', '-')} must be given as {option}.")
    return vars(known)


__all__ = ["read_arguments"]
