"""Rows of images and expressions, and a pipeline's answers to them."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Pipeline

from .modeling.pipeline_referring_segmentation import Unreadable
from .modeling.without_torch import check_expressions, describe


EXPRESSIONS_AT_ONCE = 64  # about one image: more of them would take more memory than a batch of images


@dataclass(frozen=True)
class Row:
    """
    An image and what is asked about it.

    Attributes:
        name (`str`): Names the row in its source, such as "sub/desk.jpg" or "shard-0003.tar/000017".
        image (*optional*): An image file's bytes, or anything else that the pipeline takes.
        text (`Sequence[str]`): The expressions.
        error (`str`, *optional*): Why the row cannot be read.
    """

    name: str
    image: Any = None
    text: Sequence[str] = ()
    error: str | None = None


def answer_rows(
    ris: Pipeline, rows: Iterable[Row], batch_size: int = 1, num_workers: int = 0, **options: Any
) -> Iterator[tuple[Row, list[dict[str, Any]]]]:
    """
    Ask a pipeline about rows. What is unfit about a row, or about one of its expressions, stands in its own answers.

    Args:
        ris (`Pipeline`): A referring segmentation pipeline.
        rows (`Iterable[Row]`): Read while they are asked about.
        batch_size (`int`, *optional*, defaults to 1): Images in one forward pass.
        num_workers (`int`, *optional*, defaults to 0): Threads that load and prepare images, beside one that reads rows ahead.
        options: Options of the pipeline's call, such as `threshold`.

    Yields:
        `tuple[Row, list[dict]]`: Each row, in order, with an answer for each expression: its `label`, and `score`, `mask` (COCO
        run-length code) and `box`, or `error`. A row without an expression has one answer, whose label is `None`.
    """
    waiting: deque[tuple[Row, list[str | None], list[str]]] = deque()

    def inputs() -> Iterator[dict[str, Any] | Unreadable]:
        for row in rows:
            errors = [row.error or _find_error(text) for text in row.text]
            fit = [text for text, error in zip(row.text, errors, strict=True) if error is None]
            waiting.append((row, errors, fit))
            for start in range(0, len(fit), EXPRESSIONS_AT_ONCE):
                yield {"image": row.image, "text": fit[start : start + EXPRESSIONS_AT_ONCE]}
            if not fit:
                yield Unreadable(row.error or "it has no fit expression")

    answers = iter(
        ris(
            inputs(), batch_size=batch_size, num_workers=num_workers, output_format="rle", on_error="report", **options
        )
    )
    for answer in answers:
        row, errors, fit = waiting.popleft()
        found = _share_out(answer, fit[:EXPRESSIONS_AT_ONCE])
        for start in range(EXPRESSIONS_AT_ONCE, len(fit), EXPRESSIONS_AT_ONCE):
            found += _share_out(next(answers), fit[start : start + EXPRESSIONS_AT_ONCE])
        of_fit = iter(found)
        lines = [
            {"label": text if text is None else str(text), **({"error": error} if error else next(of_fit))}
            for text, error in zip(row.text, errors, strict=True)
        ]
        yield row, lines or [{"label": None, "error": row.error or "it has no text"}]


def _share_out(answer: Any, texts: list[str]) -> list[dict[str, Any]]:
    """The answers to an image's expressions; if it cannot be read, there is one error for all of them."""
    return answer if isinstance(answer, list) else [answer] * len(texts)


def _find_error(text: Any) -> str | None:
    if not isinstance(text, str):
        return f"an expression must be text, got {describe(text)}"
    try:
        check_expressions(text)
    except ValueError as error:
        return str(error)
    return None


def leads_out(folder: Path, name: str) -> bool:
    """Whether the name of a file leads out of its folder, by dots or by links. A name of no file does not."""
    try:
        return not Path(folder, name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


__all__ = ["Row", "answer_rows", "leads_out"]
