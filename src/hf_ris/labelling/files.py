"""Files of sources, here or anywhere that fsspec reads: listing them, telling their versions apart, reading one."""

import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec

from ..modeling.without_torch import MAX_DOWNLOAD_BYTES
from ..rows import leads_out


TOO_LARGE = f"holds more than the {MAX_DOWNLOAD_BYTES} bytes that an image may hold"
# What tells versions of a file apart, as file systems call it.
VERSIONS = (
    *("ETag", "etag", "sha256", "blob_id", "checksum", "md5Hash"),
    *("mtime", "LastModified", "last_modified", "modificationTime"),
)
Files = dict[str, dict[str, Any]]  # by URL, or path on this machine: what the file system knows


def list_files(name: str, is_here: bool) -> Files:
    """List the files that a name, pattern or folder stands for, in the order of their names."""
    if is_here:  # taken literally, whatever signs are in it
        return dict(sorted(_list_here(Path(name).expanduser().absolute(), set()).items()))
    found: Files = {}
    for each in _expand_braces(local_url(name)):
        try:
            system, path = fsspec.url_to_fs(each)
            if any(sign in path for sign in "*?["):
                matches = system.glob(path, detail=True)
            else:
                matches = system.find(path, detail=True)  # a file is found in itself
            infos = {path: info or system.info(path) for path, info in matches.items()}
        except Exception as error:  # file systems raise anything
            raise ValueError(f"`source` {name!r} cannot be read: {reason(error)}") from error
        is_plain = is_local(system)
        files = {
            path if is_plain else system.unstrip_protocol(path): info
            for path, info in infos.items()
            if (os.path.isfile(path) if is_plain else info["type"] == "file")
        }
        if not files:
            raise ValueError(f"`source` {each!r} must be a file or a folder with files in it; there is none.")
        found |= files
    return dict(sorted(found.items()))


def _list_here(path: Path, seen: set[Path]) -> Files:
    """List files of this machine. Links are followed, to each folder once."""
    if path.is_file():
        status = path.stat()
        return {str(path): {"size": status.st_size, "mtime": status.st_mtime_ns}}
    if not path.is_dir() or (real := path.resolve()) in seen:
        return {}
    seen.add(real)
    return {file: info for each in path.iterdir() for file, info in _list_here(each, seen).items()}


def local_url(name: str) -> str:
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


def common_folder(urls: Iterable[str]) -> str:
    """The folder, as URL or path, that files lie in or below."""
    protocols, paths = zip(*(url.rpartition("://")[::2] for url in urls), strict=True)
    common = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    return f"{protocols[0]}://{common}" if protocols[0] else common


def short_names(urls: Iterable[str]) -> dict[str, str]:
    """Names of files, by URL, without what all of them begin with."""
    urls = list(urls)
    common = common_folder(urls)
    return {url: url.removeprefix(common).lstrip("/") for url in urls}


def version(info: dict[str, Any]) -> str:
    found = [str(info[key]) for key in VERSIONS if info.get(key) is not None]
    return repr([info.get("size"), *(found or [str(info.get("created"))])])


def versions(files: Files) -> list[tuple[str, str]]:
    return [(url, version(info)) for url, info in files.items()]


def read_below(system: Any, root: str, name: str, is_listed: bool = False) -> bytes | str:
    """Read a file of a folder, or say why it cannot be read."""
    try:
        path = posixpath.normpath(posixpath.join(root, name))
        is_inside = path.startswith(posixpath.normpath(root) + "/")
        if not is_listed and (not is_inside or (is_local(system) and leads_out(Path(root), name))):
            return f"{name!r} leads out of the folder {root!r}"
        return _read(system, path)
    except Exception as error:  # file systems raise anything
        return f"{name!r} cannot be read: {reason(error)}"


def _read(system: Any, path: str) -> bytes:
    """
    Raises:
        ValueError: If the file is too large.
    """
    with system.open(path, "rb") as file:
        content = file.read(MAX_DOWNLOAD_BYTES + 1)
    if len(content) > MAX_DOWNLOAD_BYTES:
        raise ValueError(f"it {TOO_LARGE}")
    return content


def reason(error: Any) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def is_local(system: Any) -> bool:
    return "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)


def read_url(url: str) -> bytes | str:
    """Read what a table names, which must not be a file of this machine, or say why it cannot be read."""
    try:
        system, path = fsspec.url_to_fs(url)
        return f"{url!r} is a file of this machine" if is_local(system) else _read(system, path)
    except Exception as error:
        return f"{url!r} cannot be read: {reason(error)}"


__all__ = [
    "Files",
    "TOO_LARGE",
    "common_folder",
    "is_local",
    "list_files",
    "local_url",
    "read_below",
    "read_url",
    "reason",
    "short_names",
    "version",
    "versions",
]
