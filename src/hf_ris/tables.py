"""Reads tables that users write: CSV with a header, or JSON lines."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def read_table(path: Path, needed: Sequence[str] = ()) -> Iterator[tuple[int, Any]]:
    """
    Read the rows of a table. Everything in CSV is text.

    Args:
        path (`Path`): A file whose name ends in .csv; any other holds JSON lines.
        needed (`Sequence[str]`, *optional*): Columns that the first line of CSV must name.

    Yields:
        `tuple[int, Any]`: The number of the line on which a row ends, and the row: of CSV a dictionary, in which values beyond the
        columns stand under `None`; of JSON whatever the line holds.

    Raises:
        ValueError: If a column is missing, or a line is no JSON or no UTF-8.
        OSError, csv.Error: If the file cannot be read.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".csv":
            reader = csv.DictReader(file, strict=True)
            missing = set(needed) - set(reader.fieldnames or ())
            if missing:
                raise ValueError(f"its first line lacks the columns {', '.join(sorted(missing))}")
            for row in reader:
                yield reader.line_num, row
            return
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} is no JSON: {error}") from error
            yield number, row


__all__ = ["read_table"]
