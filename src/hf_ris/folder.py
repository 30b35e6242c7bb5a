"""Segments a folder of images, so that a stopped run goes on where it was and ends with the same file."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Pipeline

from .output_folder import claim_folder, describe_model, hold_folder
from .rows import Row, answer_rows, leads_out
from .tables import read_table


RESULTS = "results.jsonl"


@dataclass(frozen=True)
class FolderEntry:
    """
    An image of a folder, and what is asked about it.

    Attributes:
        image (`str`): Path relative to the folder.
        text (`list[str]`): The expressions.
    """

    image: str
    text: list[str]


def read_entries(path: str | Path) -> list[FolderEntry]:
    """
    Read which expressions belong to which image.

    Args:
        path (`str` or `Path`): A CSV file with the columns `image` and `text`, or a file of JSON lines with these keys, where
            `text` may also be a list. Lines of the same image may stand apart; they are brought together.

    Returns:
        `list[FolderEntry]`: One for each image, in the order in which images first occur.

    Raises:
        ValueError: If the file or a line of it cannot be read; the message names the line.
    """
    path = Path(path)
    if path.suffix.lower() not in (endings := [".csv", ".jsonl"]):
        raise ValueError(f"`expressions` must be a file whose name ends in one of {endings}, got {str(path)!r}.")
    texts: dict[str, list[str]] = {}
    try:
        for number, row in read_table(path, needed=("image", "text")):
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no dictionary with image and text")
            if None in row:
                raise ValueError(f"line {number} has more columns than the first; is a text with a comma unquoted?")
            image: Any = row.get("image")
            text: Any = row.get("text")
            if not isinstance(image, str) or not image:
                raise ValueError(f"line {number} names no image")
            added = text if isinstance(text, list) else [text]
            if not added or not all(isinstance(each, str) for each in added):
                raise ValueError(f"line {number} has no text, or something else than text: {text!r:.80}")
            texts.setdefault(image, []).extend(added)
    except (OSError, ValueError, csv.Error) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"`expressions` {str(path)!r} cannot be read: {error}.") from error
    if not texts:
        raise ValueError(f"`expressions` {str(path)!r} holds no line with an image and its text.")
    return [FolderEntry(image, text) for image, text in texts.items()]


def segment_folder(
    ris: Pipeline,
    folder: str | Path,
    entries: list[FolderEntry],
    output: str | Path,
    batch_size: int = 1,
    **options: Any,
) -> Iterator[list[dict[str, Any]]]:
    """
    Segment image after image, and write a line for each expression to `results.jsonl`.

    A line holds `image`, `label`, `score`, `mask` (COCO run-length code) and `box`, or `image`, `label` and `error` where the
    image or the expression is unfit. Lines of an earlier run are kept: a run that was stopped ends with the same bytes as one
    that was not.

    Args:
        ris (`Pipeline`): A referring segmentation pipeline.
        folder (`str` or `Path`): The folder of the images.
        entries (`list[FolderEntry]`): Images and their expressions.
        output (`str` or `Path`): Folder for the results; made if missing.
        batch_size (`int`, *optional*, defaults to 1): Images in one forward pass.
        options: Options of the pipeline's call, such as `threshold`.

    Yields:
        `list[dict]`: The lines of each image, in order, those of earlier runs included.

    Raises:
        ValueError: If `output` holds results of another run, or another run is writing there.
    """
    folder, output = Path(folder), Path(output)
    settings = {**describe_model(ris), "folder": str(folder.resolve()), "batch_size": batch_size, **options}
    with hold_folder(output):
        claim_folder(output, settings, RESULTS)
        with open(output / RESULTS, "a+b") as file:
            file.seek(0)
            for start in range(0, len(entries), batch_size):
                batch = entries[start : start + batch_size]
                place = file.tell()
                lines = [file.readline() for entry in batch for _ in entry.text]
                if not all(line.endswith(b"\n") for line in lines):  # missing, or cut off in the middle
                    file.truncate(place)
                    lines = _segment_batch(ris, folder, batch, options)
                    file.write(b"".join(lines))
                    file.flush()
                yield from _group_by_entry(batch, lines, output)
            if file.read(1):
                raise ValueError(
                    f"`output` must be another folder: {str(output)!r} holds more results than were asked for."
                )


def _segment_batch(ris: Pipeline, folder: Path, batch: list[FolderEntry], options: dict[str, Any]) -> list[bytes]:
    """The lines of a batch. What is unfit about an image, or an expression, stands in its own lines."""
    rows = []
    for entry in batch:
        is_outside = leads_out(folder, entry.image)
        error = f"{entry.image!r} leads out of the folder {str(folder)!r}" if is_outside else None
        rows.append(Row(entry.image, str(folder / entry.image), entry.text, error))
    lines = []
    for row, answers in answer_rows(ris, rows, len(batch), **options):
        for answer in answers:
            line = json.dumps({"image": row.name, **answer}, ensure_ascii=False)
            # Half a surrogate pair, as in names that are no Unicode, is written as JSON's own escape.
            lines.append(line.encode("utf-8", "backslashreplace") + b"\n")
    return lines


def _group_by_entry(batch: list[FolderEntry], lines: list[bytes], output: Path) -> Iterator[list[dict[str, Any]]]:
    results = iter([_read_line(line, output) for line in lines])
    for entry in batch:
        found = [next(results) for _ in entry.text]
        if [(line["image"], line["label"]) for line in found] != [(entry.image, text) for text in entry.text]:
            raise ValueError(
                f"`output` must be another folder: {str(output)!r} holds results for other expressions, "
                f"{found[0]['image']!r} with {[line['label'] for line in found]} in place of {entry.image!r} with {entry.text}."
            )
        yield found


def _read_line(line: bytes, output: Path) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{output / RESULTS} is damaged: {line[:80]!r} is no JSON; delete it, or name another folder."
        ) from error


__all__ = ["FolderEntry", "read_entries", "segment_folder"]
