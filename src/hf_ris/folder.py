"""Segments a folder of pictures, so that a stopped run goes on where it was and ends with the same file."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Pipeline

from .modeling.inputs import check_expressions
from .output_folder import claim_folder, describe_model, hold_folder


RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Request:
    """
    What to look for in one picture.

    Attributes:
        image (`str`): Its path, relative to the folder.
        text (`list[str]`): The expressions.
    """

    image: str
    text: list[str]


def read_requests(path: str | Path) -> list[Request]:
    """
    Reads which expressions belong to which picture.

    Args:
        path (`str` or `Path`): A CSV file with the columns `image` and `text`, or a file of JSON lines with these keys, where
            `text` may also be a list. The expressions of a picture may stand apart; they are brought together.

    Returns:
        `list[Request]`: One for each picture, in the order in which pictures first occur.

    Raises:
        ValueError: If the file cannot be read, or a line of it; the message names the line.
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".jsonl": _read_json_lines}
    if path.suffix.lower() not in readers:
        raise ValueError(f"expressions={str(path)!r} must end in one of {', '.join(readers)}")
    texts: dict[str, list[str]] = {}
    try:
        for number, image, text in readers[path.suffix.lower()](path):
            if not isinstance(image, str) or not image:
                raise ValueError(f"line {number} names no image")
            wanted = text if isinstance(text, list) else [text]
            if not wanted or not all(isinstance(each, str) for each in wanted):
                raise ValueError(f"line {number} has no text, or something else than text: {text!r:.80}")
            texts.setdefault(image, []).extend(wanted)
    except (OSError, ValueError, csv.Error) as error:  # UnicodeDecodeError and JSONDecodeError are among ValueErrors
        raise ValueError(f"expressions={str(path)!r} cannot be read: {error}") from error
    if not texts:
        raise ValueError(f"expressions={str(path)!r} holds no line with an image and its text")
    return [Request(image, text) for image, text in texts.items()]


def segment_folder(
    ris: Pipeline,
    folder: str | Path,
    requests: list[Request],
    output: str | Path,
    batch_size: int = 1,
    **options: Any,
) -> Iterator[list[dict[str, Any]]]:
    """
    Segments picture after picture, and writes a line for each expression to `results.jsonl`.

    A line holds `image`, `label`, `score`, `mask` (COCO run-length code) and `box`, or `image`, `label` and `error` where
    something was wrong with the picture or its expressions. Lines that are there already are kept, not computed again: a
    run that was stopped, by whatever, ends with the same bytes as one that was not.

    Args:
        ris (`Pipeline`): A referring segmentation pipeline.
        folder (`str` or `Path`): Where the pictures lie.
        requests (`list[Request]`): What to look for in which.
        output (`str` or `Path`): Folder for the results; made if missing.
        batch_size (`int`, *optional*, defaults to 1): Pictures in one forward pass.
        options: Options of the pipeline's call, such as `threshold`.

    Yields:
        `list[dict]`: The lines of each picture, in order, those that were there already included.

    Raises:
        ValueError: If `output` holds results of another run, or another run is writing there.
    """
    folder, output = Path(folder), Path(output)
    settings = {
        **describe_model(ris),
        "folder": str(folder.resolve()),
        "batch_size": batch_size,
        **options,
    }
    batches = [requests[start : start + batch_size] for start in range(0, len(requests), batch_size)]

    with hold_folder(output):
        claim_folder(output, settings, RESULTS)
        yield from _segment_batches(ris, folder, batches, output, options)


def _segment_batches(
    ris: Pipeline, folder: Path, batches: list[list[Request]], output: Path, options: dict[str, Any]
) -> Iterator[list[dict[str, Any]]]:
    with open(output / RESULTS, "a+b") as file:
        file.seek(0)
        for batch in batches:
            place = file.tell()
            lines = [file.readline() for request in batch for _ in request.text]
            if not all(line.endswith(b"\n") for line in lines):  # not there yet, or cut off in the middle
                file.truncate(place)
                lines = _segment(ris, folder, batch, options)
                file.write(b"".join(lines))
                file.flush()
            yield from _by_picture(batch, lines, output)
        if file.read(1):
            raise ValueError(f"output={str(output)!r} holds more results than were asked for; name another folder")


def _segment(ris: Pipeline, folder: Path, batch: list[Request], options: dict[str, Any]) -> list[bytes]:
    """The lines of a batch. What is wrong with one picture, or one expression, stands in its own lines."""
    errors = [
        {text: _find_fault(folder, request.image) or _complaint(text) for text in request.text} for request in batch
    ]
    asked = [[text for text in request.text if not own[text]] for request, own in zip(batch, errors, strict=True)]
    inputs = (
        {"image": str(folder / request.image), "text": texts}
        for request, texts in zip(batch, asked, strict=True)
        if texts
    )
    answers = ris(inputs, batch_size=len(batch), output_format="rle", on_error="report", **options)
    lines = []
    for request, own, texts in zip(batch, errors, asked, strict=True):
        found = next(answers) if texts else []
        results = iter([found] * len(texts) if isinstance(found, dict) else found)
        for text in request.text:
            line = {"label": text, **({"error": own[text]} if own[text] else next(results))}
            # Half a surrogate pair, as in names that are no Unicode, is written as JSON's own escape.
            written = json.dumps({"image": request.image, **line}, ensure_ascii=False)
            lines.append(written.encode("utf-8", "backslashreplace") + b"\n")
    return lines


def _find_fault(folder: Path, image: str) -> str | None:
    """What is wrong with a picture's name, if anything: it may lead nowhere but into the folder."""
    try:
        stays = Path(folder, image).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # of no file: that is said when it is read
        return None
    return None if stays else f"{image!r} leads out of the folder {str(folder)!r}"


def _complaint(text: str) -> str | None:
    """What is wrong with an expression, if anything."""
    try:
        check_expressions(text)
    except ValueError as error:
        return str(error)
    return None


def _by_picture(batch: list[Request], lines: list[bytes], output: Path) -> Iterator[list[dict[str, Any]]]:
    results = iter([_read_line(line, output) for line in lines])
    for request in batch:
        own = [next(results) for _ in request.text]
        if [(each["image"], each["label"]) for each in own] != [(request.image, text) for text in request.text]:
            raise ValueError(
                f"output={str(output)!r} holds results for other expressions: expected {request.image!r} with "
                f"{request.text}, found {own[0]['image']!r} with {[each['label'] for each in own]}; name another folder"
            )
        yield own


def _read_line(line: bytes, output: Path) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{output / RESULTS} is damaged: {line[:80]!r} is no JSON; delete it, or name another folder"
        ) from error


def _read_csv(path: Path) -> Iterator[tuple[int, Any, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        missing = {"image", "text"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"its first line lacks the columns {', '.join(sorted(missing))}")
        for row in reader:
            if None in row:
                raise ValueError(
                    f"line {reader.line_num} has more columns than the first; is a text with a comma unquoted?"
                )
            yield reader.line_num, row["image"], row["text"]


def _read_json_lines(path: Path) -> Iterator[tuple[int, Any, Any]]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no dictionary with image and text")
            yield number, row.get("image"), row.get("text")


__all__ = ["Request", "read_requests", "segment_folder"]
