"""An evaluation's answers on disk: lines of JSON, masks as COCO run-length code, a file for each process."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .output_folder import write_whole


SHARDS = "predictions-*.jsonl"
Key = tuple[int, int]  # the number of a row, and of an expression in it


class Shard:
    """The file in `folder` that the process of this number writes its answers to."""

    def __init__(self, folder: Path, process: int) -> None:
        self.path = _path(folder, process)
        if self.path.exists():  # a line that was cut off when the process was killed
            with open(self.path, "r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)

    def append(self, answers: Iterable[dict[str, Any]]) -> None:
        """Writes answers, so that they are on disk when this returns."""
        with open(self.path, "ab") as file:
            file.write(_lines(answers).encode())


def read_shards(folder: Path, with_misses: bool = False) -> dict[Key, dict[str, Any]]:
    """
    Read the answers of all processes of all runs so far, but not those with an error: their questions are asked again.

    Args:
        folder (`Path`): The run's folder.
        with_misses (`bool`, *optional*, defaults to `False`): Also read those with an error, where there is no other.

    Raises:
        ValueError: If a line is damaged; the message names it.
    """
    answers: dict[Key, dict[str, Any]] = {}
    misses: dict[Key, dict[str, Any]] = {}
    for path in sorted(folder.glob(SHARDS)):
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):  # the last one of a killed process
                continue
            try:
                answer = json.loads(line)
                key = key_of(answer)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}: line {number} is damaged; delete it, and it is asked again.") from error
            (misses if "error" in answer else answers)[key] = answer
    return misses | answers if with_misses else answers


def write_answers(folder: Path, answers: Iterable[dict[str, Any]]) -> None:
    """Write a finished run's answers to one file, instead of those of all processes of all runs so far."""
    path = _path(folder, 0)
    write_whole(path, _lines(answers))
    for other in folder.glob(SHARDS):
        if other != path:
            other.unlink()


def _path(folder: Path, process: int) -> Path:
    return folder / SHARDS.replace("*", f"{process:05d}")


def _lines(answers: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)


def key_of(answer: dict[str, Any]) -> Key:
    return answer["row"], answer["expression"]


__all__ = ["SHARDS", "Key", "Shard", "key_of", "read_shards", "write_answers"]
