"""
Sources of images and expressions: a folder, Parquet files, WebDataset shards, a dataset of the Hub, drawn scenes.

A source is divided into partitions. Each is read by itself, in whatever process, and gives the same rows in the same order every time.
"""

import json
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import fsspec

from ..data.refshapes import NAMES
from ..folder import FolderEntry
from ..modeling.without_torch import MAX_DOWNLOAD_BYTES, check_expressions
from ..rows import Row
from .files import (
    TOO_LARGE,
    Files,
    common_folder,
    is_local,
    list_files,
    local_url,
    read_below,
    read_url,
    reason,
    short_names,
    version,
    versions,
)


IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SUFFIXES = {"images": IMAGE_SUFFIXES, "Parquet files": (".parquet",), "shards": (".tar", ".tar.gz", ".tgz")}
FETCHED_AT_ONCE = 16  # images of a folder, which may lie elsewhere


@dataclass(frozen=True)
class Source:
    """
    Images and expressions in partitions.

    Attributes:
        name (`str`): What the user called it.
        partitions (`list`): What each partition consists of; small, and can be pickled.
        read (`Callable`): Reads the rows of a partition; can be pickled, too.
        fingerprint (`str`): Hash of the files' names, sizes and versions, of what is read of them, and of the partitions.
        fixed (`tuple[str, ...]`): The expressions, where every row has the same.
        root (`str`): The folder that it is, if it is one of this machine.
    """

    name: str
    partitions: list[Any]
    read: Callable[[Any], Iterator[Row]]
    fingerprint: str
    fixed: tuple[str, ...] = ()
    root: str = ""


@dataclass(frozen=True)
class Columns:
    """
    Where a row's image and expressions are.

    Attributes:
        image (`str`): Name of a column; in shards, suffix of a file, or "image" for the first one that is an image.
        text (`str`): Name of a column; in shards, suffix of a file, or a key of its JSON.
        fixed (`tuple[str, ...]`): The expressions of every row, instead of a column.
    """

    image: str = "image"
    text: str = "text"
    fixed: tuple[str, ...] = ()

    @property
    def needed(self) -> list[str]:
        return [self.image] if self.fixed else [self.image, self.text]

    def expressions(self, value: Any) -> list[Any]:
        """Read a column's value: text, several, or RefCOCO's, each with `sent` and `raw` (or lists of these)."""
        if self.fixed:
            return list(self.fixed)
        value = _sent(value)
        values = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
        return [_sent(each) for each in values]

    def check(self, found: Sequence[str], where: str) -> None:
        """Raise a ValueError that names a column that is not among those found."""
        for option, column in zip(("image_column", "text_column"), self.needed, strict=False):
            if column not in found:
                raise ValueError(f"`{option}` must be one of {list(found)}, the columns of {where!r}, got {column!r}.")


def _sent(value: Any) -> Any:
    return (value.get("sent") or value.get("raw")) if isinstance(value, dict) else value


def find_source(
    source: str | Path,
    expressions: Sequence[str] = (),
    entries: Sequence[FolderEntry] | None = None,
    *,
    image_column: str = "image",
    text_column: str = "text",
    split: str | None = None,
    subset: str | None = None,
    source_revision: str | None = None,
    num_rows: int | None = None,
    partition_rows: int = 200,
) -> Source:
    """
    Find images and expressions, and divide them into partitions.

    Args:
        source (`str` or `Path`):
            A folder of images, of Parquet files or of WebDataset shards; such a file, or several (`data/*.parquet`,
            `shard-{000..099}.tar`); here, or anywhere that fsspec reads (`hf://datasets/…`, `s3://…`); or the id of a dataset of the
            Hub; or "refshapes", "refshapes+" or "refshapesg", which are drawn while they are read.
        expressions (`Sequence[str]`, *optional*): What is asked about every image.
        entries (`Sequence[FolderEntry]`, *optional*): The images of a folder and what is asked about each; see
            [`~hf_ris.folder.read_entries`].
        image_column, text_column (`str`, *optional*, defaults to `"image"` and `"text"`): See [`Columns`]. The text is not read if
            `expressions` are given.
        split (`str`, *optional*): Of a dataset of the Hub, or of drawn scenes; by default "train".
        subset, source_revision (`str`, *optional*): Of a dataset of the Hub.
        num_rows (`int`, *optional*): Number of drawn scenes.
        partition_rows (`int`, *optional*, defaults to 200):
            Images of a partition. A shard, a row group of a Parquet file, or a file of a dataset that is streamed, is never divided.

    Returns:
        [`Source`]: Its partitions in the order of their names.

    Raises:
        ValueError: If there is no such source, it holds nothing to label, or nothing is asked about it.
    """
    name = str(source)
    columns = Columns(image_column, text_column, tuple(expressions))
    if expressions and entries is not None:
        raise ValueError("`expressions` must be texts or a file, not both.")
    if expressions:
        check_expressions(list(expressions), argument="expressions")
    if partition_rows < 1:
        raise ValueError(f"`partition_rows` must be at least 1, got {partition_rows}.")
    is_drawn = name in NAMES
    is_here = not is_drawn and Path(name).expanduser().exists()
    is_dataset = not is_drawn and not is_here and "://" not in name and not any(sign in name for sign in "*{")
    for argument, value, is_fit in (
        ("num_rows", num_rows, is_drawn),
        ("subset", subset, is_dataset),
        ("source_revision", source_revision, is_dataset),
        ("split", split, is_dataset or is_drawn),
    ):
        if value is not None and not is_fit:
            raise ValueError(f"`{argument}` must be left out for {name!r}.")
    if is_drawn:
        found = _drawn(name, split or "train", num_rows, partition_rows, columns)
    elif is_dataset:
        found = _dataset(name, split or "train", subset, source_revision, partition_rows, columns)
    else:
        found = _choose_files(name, list_files(name, is_here), entries, partition_rows, columns)
    if entries is not None and not isinstance(found.read, FolderReader):
        raise ValueError(
            f"`expressions` must be texts or a column for {name!r}: a file of expressions goes with a folder."
        )
    if not found.partitions:
        raise ValueError(f"`source` must hold images, got {name!r}, which holds none.")
    is_folder = is_here and Path(name).expanduser().is_dir()
    return replace(found, root=str(Path(name).expanduser().absolute())) if is_folder else found


def _make_source(
    name: str, partitions: list[Any], read: Callable[[Any], Iterator[Row]], columns: Columns, versions: Any
) -> Source:
    digest = blake2b(repr([versions, columns]).encode("utf-8", "surrogatepass"), digest_size=8)
    for partition in partitions:
        digest.update(repr(partition).encode("utf-8", "surrogatepass"))
    return Source(name, partitions, read, digest.hexdigest(), columns.fixed)


def _choose_files(
    name: str, files: Files, entries: Sequence[FolderEntry] | None, partition_rows: int, columns: Columns
) -> Source:
    kinds = {
        kind: {url: info for url, info in files.items() if url.lower().endswith(suffixes)}
        for kind, suffixes in SUFFIXES.items()
    }
    found = [kind for kind, urls in kinds.items() if urls]
    if entries is not None:
        return _folder(name, files, entries, partition_rows, columns)
    if len(found) != 1:
        raise ValueError(
            f"`source` must hold images, Parquet files or shards, got {name!r}, which holds {' and '.join(found) or 'none of these'}"
            f"{'; name those that are meant, such as photos/*.jpg' if found else ''}."
        )
    if found == ["images"]:
        if not columns.fixed:
            raise ValueError(
                "`expressions` must be given for images: texts, or a .csv or .jsonl file that names each image of a folder and its text."
            )
        return _folder(name, kinds["images"], None, partition_rows, columns)
    if found == ["shards"]:
        return _shards(name, kinds["shards"], columns)
    return _parquet(name, kinds["Parquet files"], partition_rows, columns)


# Folders


@dataclass(frozen=True)
class FolderReader:
    """Reads images below `root`. A partition is a tuple of (name, expressions). Listed ones may be links to anywhere."""

    root: str
    is_listed: bool

    def __call__(self, partition: tuple[tuple[str, tuple[str, ...]], ...]) -> Iterator[Row]:
        system, root = fsspec.url_to_fs(self.root)
        with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
            for entries in _chunks(partition, FETCHED_AT_ONCE):
                contents = pool.map(lambda entry: read_below(system, root, entry[0], self.is_listed), entries)
                for (name, text), content in zip(entries, contents, strict=True):
                    yield _row_of_file(name, content, text)


def _chunks(rows: tuple[Any, ...], size: int) -> list[tuple[Any, ...]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _row_of_file(name: str, content: bytes | str, text: Sequence[str]) -> Row:
    return Row(name, text=text, error=content) if isinstance(content, str) else Row(name, content, text)


def _folder(
    name: str, files: Files, entries: Sequence[FolderEntry] | None, partition_rows: int, columns: Columns
) -> Source:
    root = name if entries is not None else common_folder(files)
    system, path = fsspec.url_to_fs(local_url(root))
    if entries is not None and not system.isdir(path):
        raise ValueError(f"`source` must be a folder where a file names its images, got {name!r}.")
    url = path if is_local(system) else system.unstrip_protocol(path)
    listed = {each.removeprefix(url.rstrip("/") + "/"): info for each, info in files.items()}
    if entries is None:
        rows = tuple((image, columns.fixed) for image in sorted(listed))
    else:
        rows = tuple((entry.image, tuple(entry.text)) for entry in entries)
    versions = [version(listed.get(posixpath.normpath(image), {})) for image, _ in rows]
    reader = FolderReader(url, is_listed=entries is None)
    return _make_source(name, _chunks(rows, partition_rows), reader, columns, versions)


# Parquet files


@dataclass(frozen=True)
class ParquetPart:
    """Row groups of a file: from `start` to before `stop`; `first` is the number of their first row in the file."""

    url: str
    name: str
    start: int
    stop: int
    first: int


@dataclass(frozen=True)
class ParquetReader:
    """Reads row groups, a few rows at a time. What cannot be read of them is one row with an error."""

    columns: Columns

    def __call__(self, partition: ParquetPart) -> Iterator[Row]:
        import pyarrow.parquet as pq

        number = partition.first
        system, path = fsspec.url_to_fs(partition.url)
        try:
            with system.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
                groups = list(range(partition.start, partition.stop))
                for batch in parquet.iter_batches(batch_size=16, row_groups=groups, columns=self.columns.needed):
                    for values in batch.to_pylist():
                        name = f"{partition.name}/{number}"
                        yield _make_row(name, values, self.columns, system, posixpath.dirname(path))
                        number += 1
        except Exception as error:  # damaged pages, a connection that ends
            yield Row(partition.name, error=f"its rows from {number} on cannot be read: {reason(error)}")


def _make_row(name: str, values: dict[str, Any], columns: Columns, system: Any = None, folder: str = "") -> Row:
    """
    Make a row of a table. Its image is bytes, a dictionary with `bytes` or `path`, a URL, or a path below the table's folder. A
    web address is left to the pipeline.
    """
    text = columns.expressions(values.get(columns.text))
    image = values.get(columns.image)
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if image is None:
        return Row(name, text=text, error="it has no image")
    if not isinstance(image, str) or image.lower().startswith(("http://", "https://")):
        return Row(name, image, text)
    if "://" in image:
        return _row_of_file(name, read_url(image), text)
    if system is None:
        return Row(name, text=text, error=f"its image {image!r} is no address that can be read")
    return _row_of_file(name, read_below(system, folder, image), text)


def _parquet(name: str, files: Files, partition_rows: int, columns: Columns) -> Source:
    import pyarrow.parquet as pq

    def read_footer(url: str) -> tuple[Any, list[str]]:
        system, path = fsspec.url_to_fs(url)
        try:
            with system.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
                return parquet.metadata, parquet.schema_arrow.names
        except Exception as error:
            raise ValueError(f"`source` {url!r} cannot be read as a Parquet file: {reason(error)}") from error

    partitions = []
    names = short_names(files)
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        for url, (metadata, found) in zip(files, pool.map(read_footer, files), strict=True):
            columns.check(found, url)
            start, first, rows = 0, 0, 0
            for group in range(metadata.num_row_groups):
                rows += metadata.row_group(group).num_rows
                if rows >= partition_rows or (rows and group + 1 == metadata.num_row_groups):
                    partitions.append(ParquetPart(url, names[url], start, group + 1, first))
                    start, first, rows = group + 1, first + rows, 0
    return _make_source(name, partitions, ParquetReader(columns), columns, versions(files))


# WebDataset shards


class _Member(tarfile.TarInfo):
    """Tells the archive that its end was reached: tarfile takes a damaged or missing header for the end, too."""

    @classmethod
    def fromtarfile(cls, archive: Any) -> Any:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            archive.is_whole = True
            raise


@dataclass(frozen=True)
class ShardReader:
    """
    Reads a shard from its beginning to its end. Consecutive files whose names are equal up to the first dot are a row; files whose
    name begins or ends there are none of it.
    """

    columns: Columns

    def __call__(self, partition: tuple[str, str]) -> Iterator[Row]:
        url, name = partition
        key, last = None, None
        values: dict[str, bytes | None] = {}
        problem = None
        try:
            with (
                fsspec.open(url, "rb") as shard,
                tarfile.open(fileobj=shard, mode="r|*", tarinfo=_Member) as archive,
            ):
                for member in archive:
                    folder, _, base = posixpath.normpath(member.name).rpartition("/")
                    stem, _, suffix = base.partition(".")
                    if not member.isfile() or not stem or not suffix:
                        continue
                    if (folder, stem) != key:
                        if key is not None:
                            yield self._row(name, key, values, problem)
                        key, values, problem = (folder, stem), {}, None
                    suffix = suffix.lower()
                    if suffix in values:
                        problem = f"it has several files .{suffix}"
                    elif self._is_wanted(suffix, values) and member.size > MAX_DOWNLOAD_BYTES:
                        problem = f"its file .{suffix} {TOO_LARGE}"
                    elif self._is_wanted(suffix, values):
                        file = archive.extractfile(member)
                        values[suffix] = file.read() if file else b""
                    last = member.name
                if not getattr(archive, "is_whole", False):
                    raise tarfile.ReadError("its end is missing")
        except Exception as error:  # a damaged archive or compression, a connection that ends
            after = f" after {last!r}" if last else ""
            yield Row(name, error=f"the shard cannot be read{after}; it may be cut off: {reason(error)}")
            return
        if key is not None:
            yield self._row(name, key, values, problem)

    def _is_wanted(self, suffix: str, values: dict[str, Any]) -> bool:
        image = self.columns.image.lower()
        if suffix == image or (image == "image" and f".{suffix}" in IMAGE_SUFFIXES):
            return not any(f".{each}" in IMAGE_SUFFIXES for each in values)
        return not self.columns.fixed and suffix in {self.columns.text.lower(), "txt", "json"}

    def _row(self, shard: str, key: tuple[str, str], values: dict[str, Any], problem: str | None) -> Row:
        """Make a row of its files by their suffix."""
        name = f"{shard}/{'/'.join(filter(None, key))}"
        if problem:
            return Row(name, error=problem)
        columns = self.columns
        wanted = columns.image.lower()
        image = next((values[each] for each in values if each == wanted or f".{each}" in IMAGE_SUFFIXES), None)
        text = values.get(columns.text.lower(), values.get("txt") if columns.text == "text" else None)
        try:
            if text is not None:
                text = text.decode("utf-8-sig").strip()
            elif "json" in values and not columns.fixed:
                text = json.loads(values["json"]).get(columns.text)
        except (ValueError, AttributeError) as error:
            return Row(name, error=f"its text cannot be read: {reason(error)}")
        return Row(name, image, columns.expressions(text), None if image else "it has no image")


def _shards(name: str, files: Files, columns: Columns) -> Source:
    partitions = list(short_names(files).items())
    return _make_source(name, partitions, ShardReader(columns), columns, versions(files))


# Datasets of the Hub


@dataclass(frozen=True)
class StreamReader:
    """Reads a file of a dataset that `datasets` streams. A partition is (number of the file, number of files)."""

    path: str
    subset: str | None
    split: str
    revision: str | None
    columns: Columns

    def open(self) -> Any:
        import datasets

        rows = datasets.load_dataset(self.path, self.subset, split=self.split, revision=self.revision, streaming=True)
        if rows.features and isinstance(rows.features.get(self.columns.image), datasets.Image):
            rows = rows.cast_column(self.columns.image, datasets.Image(decode=False))
        return rows

    def __call__(self, partition: tuple[int, int]) -> Iterator[Row]:
        shard, shards = partition
        name = f"{self.split}-{shard:05d}"
        number = 0
        try:
            for values in self.open().shard(shards, shard):
                yield self._row(f"{name}/{number}", values)
                number += 1
        except Exception as error:
            yield Row(name, error=f"its rows from {number} on cannot be read: {reason(error)}")

    def _row(self, name: str, values: dict[str, Any]) -> Row:
        image = values[self.columns.image]
        is_path = isinstance(image, dict) and not image.get("bytes") and image.get("path")
        if is_path and Path(self.path).is_dir():  # `datasets` found the file below the folder
            system, path = fsspec.url_to_fs(image["path"])
            content = read_below(system, posixpath.dirname(path), posixpath.basename(path), is_listed=True)
            return _row_of_file(name, content, self.columns.expressions(values.get(self.columns.text)))
        return _make_row(name, values, self.columns)


def _dataset(
    name: str, split: str, subset: str | None, revision: str | None, partition_rows: int, columns: Columns
) -> Source:
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    try:
        builder = datasets.load_dataset_builder(name, subset, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`source` must be a folder, files, the id of a dataset or one of {list(NAMES)}, got {name!r}: {error}"
        ) from error
    splits = builder.config.data_files or {}
    if split not in splits:
        raise ValueError(f"`split` must be one of {list(splits)}, the splits of {name!r}, got {split!r}.")
    urls = sorted(map(str, splits[split]))
    files: Files = {url: {} for url in urls}  # their URLs name the commit
    if isinstance(builder, Parquet):
        return _parquet(name, files, partition_rows, columns)
    if isinstance(builder, WebDataset):
        return _shards(name, files, columns)
    commit = re.search(r"@([0-9a-f]{40})/", urls[0])
    reader = StreamReader(name, subset, split, commit[1] if commit else revision, columns)
    rows = reader.open()
    columns.check(rows.column_names or list(next(iter(rows), {})), name)
    partitions = [(shard, rows.num_shards) for shard in range(rows.num_shards)]
    return _make_source(name, partitions, reader, columns, [urls, builder.hash])


# Drawn scenes


@dataclass(frozen=True)
class DrawnReader:
    """Draws scenes. A partition is (first, last + 1); a row has all expressions of its scene."""

    variant: str
    split: str
    fixed: tuple[str, ...]

    def __call__(self, partition: tuple[int, int]) -> Iterator[Row]:
        from ..data.refshapes.rows import scene_rows

        for index in range(*partition):
            rows = scene_rows(self.variant, self.split, index)
            text = self.fixed or tuple(each["sent"] for row in rows for each in row["expressions"])
            yield Row(rows[0]["file_name"], rows[0]["image"], text)


def _drawn(name: str, split: str, num_rows: int | None, partition_rows: int, columns: Columns) -> Source:
    from ..data.features import plain_split
    from ..data.refshapes.dataset import source_hash
    from ..data.refshapes.rows import check_arguments

    check_arguments(name, plain_split(split), 0.0)
    if num_rows is None or num_rows < 1:
        raise ValueError(f"`num_rows` must be the number of scenes to draw for {name!r}, got {num_rows}.")
    partitions = [(first, min(first + partition_rows, num_rows)) for first in range(0, num_rows, partition_rows)]
    reader = DrawnReader(name, plain_split(split), columns.fixed)
    return _make_source(name, partitions, reader, columns, [reader, source_hash()])


__all__ = ["Source", "find_source"]
