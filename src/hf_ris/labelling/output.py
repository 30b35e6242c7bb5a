"""The folder that labels go to: a Parquet file for each partition, whole or not at all; here, or anywhere that fsspec writes."""

import json
import os
import posixpath
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.labels import LABEL_FEATURES, LABELS
from ..output_folder import SETTINGS, compare_settings, hold_folder
from ..rows import Row


MARKS = ".marks"  # the folder of marks that partitions were begun; there are as many as workers
ROWS_AT_ONCE = 100  # images of a row group, which is written while others are asked about
BYTES_AT_ONCE = 2**26  # or their size, an image of several expressions counted for each
CARD = """---
task_categories:
- image-segmentation
configs:
- config_name: default
  data_files: labels/*.parquet
---

Masks that hf-ris label found; settings.json says with which model.
"""


class LabelFolder:
    """
    Labels on disk or elsewhere.

    Args:
        url (`str` or `Path`): The folder, such as "labels" or "s3://bucket/labels"; made if missing.
        partitions (`int`): Number of partitions.
        with_images (`bool`): Whether the files hold the images, too.
    """

    def __init__(self, url: str | Path, partitions: int, with_images: bool) -> None:
        url = str(url).removeprefix("file://")
        self.url = url if "://" in url else str(Path(url).expanduser().absolute())
        self.partitions = partitions
        self.with_images = with_images
        self.system, self.path = fsspec.url_to_fs(self.url)
        self.run = uuid.uuid4().hex[:12]  # whose marks count

    @property
    def features(self) -> datasets.Features:
        return datasets.Features({"image": datasets.Image(), **LABEL_FEATURES}) if self.with_images else LABEL_FEATURES

    @property
    def is_local(self) -> bool:
        return "://" not in self.url

    def hold(self) -> AbstractContextManager[None]:
        """Keep other runs out of a folder on this machine. Elsewhere there is no lock."""
        return hold_folder(Path(self.path)) if self.is_local else nullcontext()

    def claim(self, settings: dict[str, Any]) -> None:
        """
        Write down what the labels depend on, or compare it with what an earlier run wrote.

        Raises:
            ValueError: If the folder holds labels of another run, or of an unknown one.
        """
        self.system.makedirs(posixpath.join(self.path, LABELS), exist_ok=True)
        path = posixpath.join(self.path, SETTINGS)
        if self.system.exists(path):
            try:
                before = json.loads(self.system.cat_file(path))
            except ValueError as error:
                raise ValueError(f"{path} is damaged: {error}.") from error
            compare_settings(self.url, before, json.loads(json.dumps(settings)))
        elif self._list():
            raise ValueError(f"`output` {self.url!r} holds labels of unknown origin; name another folder.")
        else:
            with self.create("README.md") as file:
                file.write(CARD.encode())
            with self.create(SETTINGS) as file:
                file.write(json.dumps(settings, indent=2).encode())
        if self.is_local:  # where no other run is: these are of one that was killed
            for name in self._list():
                if name.startswith("."):
                    self.system.rm_file(posixpath.join(self.path, LABELS, name))
            if self.system.exists(posixpath.join(self.path, MARKS)):
                self.system.rm(posixpath.join(self.path, MARKS), recursive=True)

    def _list(self, folder: str = LABELS) -> list[str]:
        try:
            found = self.system.ls(posixpath.join(self.path, folder), detail=False, refresh=True)
        except FileNotFoundError:  # object stores have no empty folders
            return []
        return sorted(name for path in found if (name := posixpath.basename(path)))

    def name(self, number: int) -> str:
        """Name the file of a partition."""
        return f"{LABELS}/{number:05d}-of-{self.partitions:05d}.parquet"

    def done(self) -> list[int]:
        """List the partitions that are written."""
        present = set(self._list())
        return [number for number in range(self.partitions) if posixpath.basename(self.name(number)) in present]

    def has(self, number: int) -> bool:
        return self.system.exists(posixpath.join(self.path, self.name(number)))

    def counts(self, numbers: Iterable[int]) -> dict[int, dict[str, int]]:
        """Read how many rows partitions have, and how many of these failed: by their number, `number`, `rows` and `failed`."""
        with ThreadPoolExecutor(32) as pool:  # object stores answer slowly, but many at once
            return {found["number"]: found for found in pool.map(self._count, numbers)}

    def _count(self, number: int) -> dict[str, int]:
        path = posixpath.join(self.path, self.name(number))
        try:
            with self.system.open(path, "rb") as file:
                found = pq.read_metadata(file).metadata
            return {"number": number, **{name: int(found[name.encode()]) for name in ("rows", "failed")}}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}; delete it, and it is labelled again.") from error

    def remove(self, number: int) -> None:
        self.system.rm_file(posixpath.join(self.path, self.name(number)))

    def read(self, number: int, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Read a partition's rows."""
        with self.system.open(posixpath.join(self.path, self.name(number)), "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
                yield from batch.to_pylist()

    def write(
        self, number: int, answers: Iterable[tuple[Row, list[dict[str, Any]]]], model: dict[str, str | None]
    ) -> dict[str, int]:
        """
        Write a partition.

        Args:
            number (`int`): The partition's.
            answers (`Iterable[tuple[Row, list[dict]]]`): See [`answer_rows`].
            model (`dict`): Its name and its revision, under `model` and `revision`.

        Returns:
            `dict[str, int]`: Its `number`, and how many `rows` it has and how many of these `failed`.
        """
        schema = self.features.arrow_schema
        counts = {"rows": 0, "failed": 0}
        # The image of several expressions is stored once in a row group.
        with (
            self.create(self.name(number)) as file,
            pq.ParquetWriter(file, schema, dictionary_pagesize_limit=2**30) as writer,
        ):
            for group in self._row_groups(answers):
                counts["rows"] += len(group)
                counts["failed"] += sum("error" in row for row in group)
                writer.write_table(pa.Table.from_pylist([{**row, **model} for row in group], schema))
            writer.add_key_value_metadata({name: str(count) for name, count in counts.items()})
        return {"number": number, **counts}

    def _row_groups(self, answers: Iterable[tuple[Row, list[dict[str, Any]]]]) -> Iterator[list[dict[str, Any]]]:
        """Yield rows in groups that fit into memory."""
        group: list[dict[str, Any]] = []
        images = size = 0
        for row, lines in answers:
            image = self._encode_image(row, lines) if self.with_images else None
            images += 1
            for line in lines:
                group.append({"image": image, **_plain({"file_name": row.name, **line})})
                size += len(image["bytes"] or b"") if image else 0
                if size >= BYTES_AT_ONCE or (images >= ROWS_AT_ONCE and line is lines[-1]):
                    yield group
                    group, images, size = [], 0, 0
        if group:
            yield group

    def count_attempt(self, number: int) -> int:
        """Leave a mark that this run begins a partition, and count its marks."""
        self.system.makedirs(posixpath.join(self.path, MARKS), exist_ok=True)
        self.system.touch(posixpath.join(self.path, MARKS, f"{self._mark(number)}{uuid.uuid4().hex[:12]}"))
        return len(self._marks(self._mark(number)))

    def forget_attempts(self, number: int | None = None) -> None:
        """Remove this run's marks of a partition, or all of them."""
        for name in self._marks(self.run if number is None else self._mark(number)):
            self.system.rm_file(posixpath.join(self.path, MARKS, name))

    def _mark(self, number: int) -> str:
        return f"{self.run}-{number:05d}-"

    def _marks(self, begin: str) -> list[str]:
        return [name for name in self._list(MARKS) if name.startswith(begin)]

    @staticmethod
    def _encode_image(row: Row, lines: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Encode an image as the dataset's column holds it; none where all of its expressions failed, as it may be no image."""
        if all("error" in line for line in lines):
            return None
        name = _escape(posixpath.basename(row.name))
        if isinstance(row.image, str):  # the address that it came from
            return {"bytes": None, "path": _escape(row.image)}
        if isinstance(row.image, bytes):
            return {"bytes": row.image, "path": name}
        buffer = BytesIO()
        row.image.save(buffer, format="PNG", compress_level=2)
        return {"bytes": buffer.getvalue(), "path": name}

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for writing that appears once it is whole."""
        path = posixpath.join(self.path, name)
        unfinished = posixpath.join(posixpath.dirname(path), f".{posixpath.basename(path)}-{uuid.uuid4().hex[:12]}")
        try:
            with self.system.open(unfinished, "wb") as file:
                yield file
            if self.is_local:
                os.replace(unfinished, path)
            else:
                self.system.cp_file(unfinished, path)
                self.system.rm_file(unfinished)
        except BaseException:
            if self.system.exists(unfinished):
                self.system.rm_file(unfinished)
            raise


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _escape(value) if isinstance(value, str) else value for key, value in values.items()}


def _escape(text: str) -> str:
    """Write half of a surrogate pair, as in names that are no Unicode, as Python's escape: Parquet holds Unicode alone."""
    return text.encode("utf-8", "backslashreplace").decode()


__all__ = ["LabelFolder"]
