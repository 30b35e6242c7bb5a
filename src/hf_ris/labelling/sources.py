"""
Sources of images and expressions: a folder, Parquet files, WebDataset shards, a dataset of the Hub, drawn scenes.

A source is divided into partitions. Each is read by itself, in whatever process, and gives the same rows in the same order every time.
"""

import json
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import fsspec

from ..data.refshapes import NAMES
from ..folder import FolderEntry
from ..modeling.without_torch import MAX_DOWNLOAD_BYTES, check_expressions
from ..rows import Row


IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
PARQUET_SUFFIXES = (".parquet",)
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
FETCHED_AT_ONCE = 16  # images of a folder, which may lie elsewhere
TOO_LARGE = f"holds more than the {MAX_DOWNLOAD_BYTES} bytes that an image may hold"
# What tells versions of a file apart, as file systems call it.
VERSIONS = ("ETag", "etag", "sha256", "blob_id", "checksum", "md5Hash", "mtime", "LastModified", "last_modified")


@dataclass(frozen=True)
class Source:
    """
    Images and expressions in partitions.

    Attributes:
        name (`str`): What the user called it.
        partitions (`list`): What each partition consists of; small, and can be pickled.
        read (`Callable`): Reads the rows of a partition; can be pickled, too.
        fingerprint (`str`): Hash of the files' names, sizes and versions, and of what is read of them.
        fixed (`tuple[str, ...]`): The expressions, where every row has the same.
    """

    name: str
    partitions: list[Any]
    read: Callable[[Any], Iterator[Row]]
    fingerprint: str
    fixed: tuple[str, ...] = ()


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

    def expressions(self, value: Any) -> list[Any]:
        """Read a column's value: text, several, or RefCOCO's, each with `sent` and `raw`."""
        if self.fixed:
            return list(self.fixed)
        values = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
        return [(each.get("sent") or each.get("raw")) if isinstance(each, dict) else each for each in values]


def find_source(
    source: str | Path,
    expressions: Sequence[str] = (),
    entries: Sequence[FolderEntry] | None = None,
    *,
    image_column: str = "image",
    text_column: str = "text",
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
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
        split (`str`, *optional*, defaults to `"train"`): Of a dataset of the Hub, or of drawn scenes.
        subset, revision (`str`, *optional*): Of a dataset of the Hub.
        num_rows (`int`, *optional*): Number of drawn scenes.
        partition_rows (`int`, *optional*, defaults to 200):
            Images of a partition. A shard, or a row group of a Parquet file, is never divided.

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
    if name in NAMES:
        return _drawn(name, split, num_rows, partition_rows, columns, entries)
    if num_rows is not None:
        raise ValueError(f"`num_rows` must be left out for {name!r}: it is the number of scenes to draw.")
    if "://" in name or any(sign in name for sign in "*{") or Path(name).expanduser().exists():
        files = _list_files(name)
        kinds = {
            kind: {url: info for url, info in files.items() if url.lower().endswith(suffixes)}
            for kind, suffixes in (
                ("images", IMAGE_SUFFIXES),
                ("parquet", PARQUET_SUFFIXES),
                ("shards", SHARD_SUFFIXES),
            )
        }
        if entries is not None or not (kinds["parquet"] or kinds["shards"]):
            return _folder(name, kinds["images"], entries, partition_rows, columns)
        return _files(name, kinds, partition_rows, columns, entries)
    return _dataset(name, split, subset, revision, partition_rows, columns, entries)


# Folders


@dataclass(frozen=True)
class FolderReader:
    """Reads images below `root`. A partition is a tuple of (name, expressions)."""

    root: str

    def __call__(self, partition: tuple[tuple[str, tuple[str, ...]], ...]) -> Iterator[Row]:
        system, root = fsspec.url_to_fs(self.root)
        with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
            for entries in _chunks(partition, FETCHED_AT_ONCE):
                contents = pool.map(lambda entry: _read_below(system, root, entry[0]), entries)
                for (name, text), content in zip(entries, contents, strict=True):
                    yield _row_of_file(name, content, text)


def _row_of_file(name: str, content: bytes | str, text: Sequence[str]) -> Row:
    return Row(name, text=text, error=content) if isinstance(content, str) else Row(name, content, text)


def _read_below(system: Any, root: str, name: str) -> bytes | str:
    """Read a file of a folder, or say why it cannot be read."""
    if _leads_out(system, root, name):
        return f"{name!r} leads out of the folder {root!r}"
    try:
        content = system.cat_file(posixpath.normpath(posixpath.join(root, name)), 0, MAX_DOWNLOAD_BYTES + 1)
    except Exception as error:  # file systems raise anything
        return f"{name!r} cannot be read: {_reason(error)}"
    if len(content) > MAX_DOWNLOAD_BYTES:
        return f"{name!r} {TOO_LARGE}"
    return content


def _reason(error: Any) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _leads_out(system: Any, root: str, name: str) -> bool:
    """Whether the name of an image leads out of its folder, by dots or by links."""
    joined = posixpath.normpath(posixpath.join(root, name))
    if "\0" in name or not joined.startswith(posixpath.normpath(root) + "/"):
        return True
    return "file" in _protocols(system) and not Path(joined).resolve().is_relative_to(Path(root).resolve())


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _folder(
    name: str,
    images: dict[str, Any],
    entries: Sequence[FolderEntry] | None,
    partition_rows: int,
    columns: Columns,
) -> Source:
    system, root = fsspec.url_to_fs(_local_url(name))
    if any(sign in name for sign in "*{") or not system.isdir(root):
        raise ValueError(
            f"`source` must be a folder, Parquet files or shards, got {name!r}, which holds neither of these."
        )
    url = system.unstrip_protocol(root)
    base = (root if "file" in _protocols(system) else url).rstrip("/") + "/"
    listed = {each.removeprefix(base): info for each, info in images.items()}
    if entries is not None:
        rows = tuple((entry.image, tuple(entry.text)) for entry in entries)
        versions = [(image, _version(listed.get(posixpath.normpath(image), {})), text) for image, text in rows]
    elif not columns.fixed:
        raise ValueError(
            "`expressions` must be given for a folder of images: texts, or a .csv or .jsonl file that names each image and its text."
        )
    else:
        rows = tuple((image, columns.fixed) for image in sorted(listed))
        versions = [(image, _version(listed[image]), text) for image, text in rows]
    if not rows:
        raise ValueError(f"`source` must hold images, Parquet files or shards, got {name!r}, which holds none.")
    partitions = _chunks(rows, partition_rows)
    return Source(name, partitions, FolderReader(url), _hash(versions), columns.fixed)


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
        wanted = [self.columns.image] + ([] if self.columns.fixed else [self.columns.text])
        system, path = fsspec.url_to_fs(partition.url)
        try:
            with system.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
                groups = range(partition.start, partition.stop)
                for batch in parquet.iter_batches(batch_size=16, row_groups=list(groups), columns=wanted):
                    for values in batch.to_pylist():
                        name = f"{partition.name}/{number}"
                        yield _make_row(
                            name, values[self.columns.image], values, self.columns, posixpath.dirname(path), system
                        )
                        number += 1
        except Exception as error:  # damaged pages, a connection that ends
            yield Row(partition.name, error=f"its rows from {number} on cannot be read: {_reason(error)}")


def _make_row(name: str, image: Any, values: dict[str, Any], columns: Columns, folder: str | None, system: Any) -> Row:
    """Make a row of a table; an image is bytes, a dictionary with `bytes` or `path`, a URL, or a path below the table's folder."""
    text = columns.expressions(values.get(columns.text))
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if image is None:
        return Row(name, text=text, error="it has no image")
    if isinstance(image, str) and not image.startswith(("http://", "https://")):
        if folder is None:
            return Row(name, text=text, error=f"its image {image!r} is a path, which a dataset of the Hub has none of")
        return _row_of_file(name, _read_below(system, folder, image), text)
    return Row(name, image, text)


def _parquet(name: str, files: dict[str, Any], partition_rows: int, columns: Columns) -> Source:
    import pyarrow.parquet as pq

    def read_footer(url: str) -> tuple[Any, Any]:
        system, path = fsspec.url_to_fs(url)
        try:
            with system.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
                return parquet.metadata, parquet.schema_arrow.names
        except Exception as error:
            raise ValueError(f"`source` {url!r} cannot be read as a Parquet file: {_reason(error)}") from error

    partitions = []
    names = _short_names(files)
    with ThreadPoolExecutor(16) as pool:
        for url, (metadata, found) in zip(files, pool.map(read_footer, files), strict=True):
            for column in [columns.image] + ([] if columns.fixed else [columns.text]):
                if column not in found:
                    raise ValueError(
                        f"`{'image' if column == columns.image else 'text'}_column` must be one of {found}, the columns of {url!r}, "
                        f"got {column!r}."
                    )
            start, first, rows = 0, 0, 0
            for group in range(metadata.num_row_groups):
                rows += metadata.row_group(group).num_rows
                if rows >= partition_rows or group + 1 == metadata.num_row_groups:
                    partitions.append(ParquetPart(url, names[url], start, group + 1, first))
                    start, first, rows = group + 1, first + rows, 0
    return Source(name, partitions, ParquetReader(columns), _hash([_versions(files), columns]), columns.fixed)


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
    """Reads a shard from its beginning to its end; consecutive files whose names are equal up to the first dot are a row."""

    columns: Columns

    def __call__(self, partition: tuple[str, str]) -> Iterator[Row]:
        url, name = partition
        key, last = None, None
        values: dict[str, bytes | None] = {}
        try:
            with fsspec.open(url, "rb") as shard, tarfile.open(fileobj=shard, mode="r|*", tarinfo=_Member) as archive:
                for member in archive:
                    if not member.isfile():
                        continue
                    folder, _, base = member.name.rpartition("/")
                    stem, _, suffix = base.partition(".")
                    if (folder, stem) != key:
                        if key is not None:
                            yield self._row(name, key, values)
                        key, values = (folder, stem), {}
                    if self._is_wanted(suffix.lower(), values):
                        file = archive.extractfile(member) if member.size <= MAX_DOWNLOAD_BYTES else None
                        values[suffix.lower()] = None if file is None else file.read()
                    last = member.name
                if not getattr(archive, "is_whole", False):
                    raise tarfile.ReadError("its end is missing")
        except Exception as error:  # a damaged archive or compression, a connection that ends
            after = f" after {last!r}" if last else ""
            yield Row(name, error=f"the shard cannot be read{after}; it may be cut off: {_reason(error)}")
            return
        if key is not None:
            yield self._row(name, key, values)

    def _is_wanted(self, suffix: str, values: dict[str, Any]) -> bool:
        if suffix == self.columns.image or (self.columns.image == "image" and f".{suffix}" in IMAGE_SUFFIXES):
            return not any(f".{each}" in IMAGE_SUFFIXES for each in values)
        return not self.columns.fixed and suffix in {self.columns.text, "txt", "json"}

    def _row(self, shard: str, key: tuple[str, str], values: dict[str, bytes | None]) -> Row:
        """Make a row of its files by their suffix; `None` is one that is too large."""
        name = f"{shard}/{'/'.join(filter(None, key))}"
        columns = self.columns
        if too_large := [suffix for suffix, content in values.items() if content is None]:
            return Row(name, error=f"its file .{too_large[0]} {TOO_LARGE}")
        image = next((values[each] for each in values if each == columns.image or f".{each}" in IMAGE_SUFFIXES), None)
        text: Any = values.get(columns.text, values.get("txt") if columns.text == "text" else None)
        try:
            if text is not None:
                text = text.decode("utf-8-sig").strip()
            elif (described := values.get("json")) and not columns.fixed:
                text = json.loads(described).get(columns.text)
        except (ValueError, AttributeError) as error:
            return Row(name, error=f"its text cannot be read: {_reason(error)}")
        return Row(name, image, columns.expressions(text), None if image else "it has no image")


def _shards(name: str, files: dict[str, Any], columns: Columns) -> Source:
    names = _short_names(files)
    partitions = [(url, names[url]) for url in files]
    return Source(name, partitions, ShardReader(columns), _hash([_versions(files), columns]), columns.fixed)


# Datasets of the Hub


@dataclass(frozen=True)
class StreamReader:
    """Reads a shard of a dataset that `datasets` streams. A partition is (shard, number of shards)."""

    path: str
    subset: str | None
    split: str
    revision: str | None
    columns: Columns

    def open(self) -> Any:
        import datasets

        rows = datasets.load_dataset(self.path, self.subset, split=self.split, revision=self.revision, streaming=True)
        return rows.cast_column(self.columns.image, datasets.Image(decode=False))

    def __call__(self, partition: tuple[int, int]) -> Iterator[Row]:
        shard, shards = partition
        number = 0
        try:
            for values in self.open().shard(shards, shard):
                name = f"{self.split}-{shard:05d}/{number}"
                image = values[self.columns.image]
                if isinstance(image, dict) and image.get("bytes") is None and image.get("path"):
                    image = _read_url(image["path"])
                row = _make_row(name, image, values, self.columns, None, None)
                yield row
                number += 1
        except Exception as error:
            yield Row(f"{self.split}-{shard:05d}", error=f"its rows from {number} on cannot be read: {_reason(error)}")


def _read_url(url: str) -> bytes:
    with fsspec.open(url, "rb") as file:
        return file.read()


def _dataset(
    name: str,
    split: str,
    subset: str | None,
    revision: str | None,
    partition_rows: int,
    columns: Columns,
    entries: Sequence[FolderEntry] | None,
) -> Source:
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    if entries is not None:
        raise ValueError(
            f"`expressions` must be texts or a column for {name!r}: a file of expressions goes with a folder."
        )
    try:
        builder = datasets.load_dataset_builder(name, subset, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`source` must be a folder, files, the id of a dataset or one of {list(NAMES)}, got {name!r}: {error}"
        ) from error
    splits = builder.config.data_files or {}
    if split not in splits:
        raise ValueError(f"`split` must be one of {list(splits)}, the splits of {name!r}, got {split!r}.")
    if isinstance(builder, Parquet | WebDataset):
        files: dict[str, Any] = {str(url): {} for url in sorted(splits[split])}  # their URLs name the commit
        if isinstance(builder, Parquet):
            return _parquet(name, files, partition_rows, columns)
        return _shards(name, files, columns)
    reader = StreamReader(name, subset, split, revision, columns)
    rows = reader.open()
    for column in [columns.image] + ([] if columns.fixed else [columns.text]):
        if rows.column_names is not None and column not in rows.column_names:
            raise ValueError(
                f"`{'image' if column == columns.image else 'text'}_column` must be one of {rows.column_names}, the columns of "
                f"{name!r}, got {column!r}."
            )
    shards = rows.num_shards
    partitions = [(shard, shards) for shard in range(shards)]
    fingerprint = _hash([[str(url) for url in splits[split]], builder.hash, columns])
    return Source(name, partitions, reader, fingerprint, columns.fixed)


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


def _drawn(
    name: str,
    split: str,
    num_rows: int | None,
    partition_rows: int,
    columns: Columns,
    entries: Sequence[FolderEntry] | None,
) -> Source:
    from ..data.features import plain_split
    from ..data.refshapes.dataset import source_hash
    from ..data.refshapes.rows import check_arguments

    check_arguments(name, plain_split(split), 0.0)
    if entries is not None:
        raise ValueError(f"`expressions` must be texts for {name!r}, which has expressions of its own.")
    if num_rows is None or num_rows < 1:
        raise ValueError(f"`num_rows` must be the number of scenes to draw for {name!r}, got {num_rows}.")
    partitions = [(first, min(first + partition_rows, num_rows)) for first in range(0, num_rows, partition_rows)]
    reader = DrawnReader(name, plain_split(split), columns.fixed)
    return Source(name, partitions, reader, _hash([reader, num_rows, source_hash()]), columns.fixed)


# Files


def _list_files(name: str) -> dict[str, Any]:
    """List the files that a name, pattern or folder stands for: URL and what the file system knows, in the order of their URLs."""
    found: dict[str, Any] = {}
    for each in _expand_braces(_local_url(name)):
        try:
            system, path = fsspec.url_to_fs(each)
            if any(sign in path for sign in "*?["):
                matches = system.glob(path, detail=True)
            else:
                matches = system.find(path, detail=True)  # a file is found in itself
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(f"`source` {name!r} cannot be read: {_reason(error)}") from error
        files = {path: info for path, info in matches.items() if info["type"] == "file"}
        if not files:
            raise ValueError(f"`source` {each!r} must be a file or a folder with files in it; there is none.")
        is_local = "file" in _protocols(system)
        found |= {path if is_local else system.unstrip_protocol(path): info for path, info in files.items()}
    return dict(sorted(found.items()))


def _local_url(name: str) -> str:
    return name if "://" in name else str(Path(name).expanduser().absolute())


def _expand_braces(name: str) -> list[str]:
    """Expand {000..099} and {a,b} as a shell does."""
    braces = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", name)
    if braces is None:
        return [name]
    first, last, choices = braces.groups()
    if choices is None:
        middles = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        middles = choices.split(",")
    start, end = name[: braces.start()], name[braces.end() :]
    return [each for middle in middles for each in _expand_braces(start + middle + end)]


def _files(
    name: str,
    kinds: dict[str, dict[str, Any]],
    partition_rows: int,
    columns: Columns,
    entries: Sequence[FolderEntry] | None,
) -> Source:
    if entries is not None:
        raise ValueError(
            f"`expressions` must be texts or a column for {name!r}: a file of expressions goes with a folder."
        )
    if kinds["parquet"] and kinds["shards"]:
        raise ValueError(f"`source` must hold either Parquet files or shards, got {name!r}, which holds both.")
    if kinds["parquet"]:
        return _parquet(name, kinds["parquet"], partition_rows, columns)
    return _shards(name, kinds["shards"], columns)


def _chunks(rows: tuple[Any, ...], size: int) -> list[tuple[Any, ...]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _short_names(urls: Iterable[str]) -> dict[str, str]:
    """Names of files without what all of them begin with."""
    urls = list(urls)
    common = posixpath.commonpath([posixpath.dirname(url.partition("://")[2] or url) for url in urls])
    return {url: (url.partition("://")[2] or url).removeprefix(common).lstrip("/") for url in urls}


def _version(info: dict[str, Any]) -> str:
    return repr([info.get("size"), *(str(info[key]) for key in VERSIONS if info.get(key) is not None)])


def _versions(files: dict[str, Any]) -> list[tuple[str, str]]:
    return [(url, _version(info)) for url, info in files.items()]


def _hash(content: Any) -> str:
    return blake2b(repr(content).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


__all__ = ["Source", "find_source"]
