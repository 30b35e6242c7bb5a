"""
Models that a demo's visitors name: public models that this library asks. Unfit ones are refused by their configuration before a weight is
read; the others are kept on the disk within a bound.
"""

import json
import os
import re
import shutil
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

import filelock
import torch
from huggingface_hub import constants, hf_hub_download, model_info, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.file_download import repo_folder_name
from transformers import AutoConfig, PreTrainedConfig

from .auto import AutoModelForReferringSegmentation
from .output_folder import LOCK
from .systems import HUB_MODELS, SYSTEMS, TASK


HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FETCHED = (".safetensors", ".json", ".txt", ".model", ".jinja")
LARGEST_MODEL = 4 * 10**9  # bytes of weights, on the disk and, in float32, in memory
LARGEST_CACHE = 3 * LARGEST_MODEL  # bytes of all visitors' models on the disk
LARGEST_CONFIG = 10**6  # bytes of a configuration
LARGEST_TEXT = 64 * 10**6  # bytes of any other file without weights, such as a tokenizer's
MOST_FILES = 256
LONGEST_LIST = 256  # numbers in a list of a configuration
CONFIGS = ("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json")
# The largest number that a configuration may hold under a name; the first pattern that the name contains counts.
DEPTHS = re.compile(r"layers|depth|blocks|stages")  # a list of these counts by its sum
BOUNDS = (
    (re.compile(r"vocab|_token_?id|token_index"), 1_000_000),
    (DEPTHS, 128),
    (re.compile(r"points_per_side|encoder_num_points|points_per_batch|num_beams|grids|multimask"), 64),
    (re.compile(r"cache_bytes"), 2**31),
    (re.compile(r"cache_size|batch_size|heads|num_labels"), 256),
    (re.compile(r"queries|query_tokens"), 1024),
    (re.compile(r"image_size|height|width|edge|max_size"), 2048),
    (re.compile(r"text_length|max_length|max_new_tokens|max_position"), 4096),
    (re.compile(r"size|dim|channels|features"), 16_384),
)
LARGEST_INTEGER = 100_000  # under any other name
MOST_PATCHES = 128  # along a side of a network's input


class VisitorModels:
    """
    A folder of public models. Where room is needed, the least recently asked are removed.

    Args:
        folder (`str` or `Path`, *optional*): The folder; by default beside huggingface_hub's cache. Where another process holds it,
            the next of `folder-2`, `folder-3`, … that is free.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder or Path(constants.HF_HOME) / "hf-ris-visitors")
        self._folder_lock: filelock.FileLock | None = None  # from the first model on
        self._guard = threading.Lock()  # of the fields here, held for moments
        self._users: Counter[str] = Counter()
        self._locks: dict[str, threading.Lock] = {}
        self._promised: dict[str, int] = {}  # bytes that downloads may still bring
        self._accepted: dict[str, str] = {}  # commits whose configuration was checked

    @contextmanager
    def use(self, name: str) -> Iterator[Path]:
        """
        Yield the folder of the model with this Hub id, which stays until the context ends. Requests for other models do not wait
        meanwhile; the same model is downloaded once.

        Raises:
            ValueError: If the model is not public, not of this library, or too large, or there is no room.
            OSError: If it cannot be fetched.
        """
        if not HUB_ID.fullmatch(name) or Path(name).exists():
            raise ValueError(f"{name!r} is no model on the Hub; ids look like user/name.")
        with self._guard:
            if self._folder_lock is None:
                self.folder, self._folder_lock = hold_free_folder(self.folder)
            self._users[name] += 1
            lock = self._locks.setdefault(name, threading.Lock())
        try:
            with lock:
                try:
                    folder = self._fetch(name)
                except RepositoryNotFoundError as error:
                    raise ValueError(f"{name} is no model that everyone can see on the Hub.") from error
                except ValueError:
                    self._remove_unless_used(name)  # the files that were read to refuse it
                    raise
                finally:
                    with self._guard:
                        self._promised.pop(name, None)
            yield folder
        finally:
            with self._guard:
                self._users[name] -= 1
                if not self._users[name]:
                    del self._users[name], self._locks[name]

    def _fetch(self, name: str) -> Path:
        found = model_info(name, files_metadata=True, token=False)
        sizes = {file.rfilename: file.size or 0 for file in found.siblings or [] if file.rfilename.endswith(FETCHED)}
        check_sizes(sizes, name)
        source: dict[str, Any] = {"revision": found.sha, "cache_dir": self.folder, "token": False}
        snapshot = self._model_folder(name) / "snapshots" / str(found.sha)
        if not snapshot.exists():
            self._remove_unless_used(name)  # earlier commits
        if self._accepted.get(name) != found.sha:
            for file in sizes:
                if file.rpartition("/")[2] in CONFIGS:
                    read_config(hf_hub_download(name, file, **source), f"{name}: {file}")
            check_config(Path(hf_hub_download(name, "config.json", **source)).parent, name)
        self._make_room(name, sum(size for file, size in sizes.items() if not (snapshot / file).exists()))
        folder = Path(snapshot_download(name, allow_patterns=[f"*{ending}" for ending in FETCHED], **source))
        with self._guard:
            self._accepted[name] = str(found.sha)
        os.utime(self._model_folder(name))
        return folder

    def _model_folder(self, name: str) -> Path:
        return self.folder / repo_folder_name(repo_id=name, repo_type="model")

    def _remove_unless_used(self, name: str) -> None:
        """Remove a model's files, unless another visitor uses it."""
        with self._guard:
            if self._users[name] == 1:
                self._remove(self._model_folder(name))

    def _make_room(self, name: str, size: int) -> None:
        """Remove the least recently asked models, but none that is used, until `size` bytes more have room."""
        with self._guard:
            kept = {path: disk_usage(path) for path in self.folder.glob("models--*")}
            used = {self._model_folder(each) for each in self._users}
            total = sum(kept.values()) + sum(self._promised.values()) + size
            for path in sorted(kept.keys() - used, key=lambda path: path.stat().st_mtime):
                if total > LARGEST_CACHE:
                    self._remove(path)
                    total -= kept[path]
            if total > LARGEST_CACHE:
                raise ValueError(f"There is no room for {name} beside what others use just now; ask again in a while.")
            self._promised[name] = size

    def _remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self._accepted = {name: sha for name, sha in self._accepted.items() if self._model_folder(name) != folder}


def hold_free_folder(folder: Path) -> tuple[Path, filelock.FileLock]:
    """Lock a folder for this process, or the first of `folder-2`, `folder-3`, … that no other process holds."""
    for number in count(1):
        path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path / LOCK, thread_local=False)
        with suppress(filelock.Timeout):
            lock.acquire(timeout=0)
            return path, lock
    raise AssertionError("not reached")


def disk_usage(folder: Path) -> int:
    """Count the bytes of the files below a folder, unfinished downloads included."""
    total = 0
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:  # a download that has just ended
            continue
        total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def check_sizes(sizes: dict[str, int], name: str) -> None:
    """Refuse a repository with too many files or too large ones; `sizes` are their bytes, `name` is the model's in messages."""
    if "config.json" not in sizes:
        raise ValueError(f"{name} has no config.json; this page takes models of hf_ris and of transformers.")
    if not any(file.endswith(".safetensors") for file in sizes):
        raise ValueError(f"{name} has no safetensors; this page reads weights from no other files.")
    if len(sizes) > MOST_FILES:
        raise ValueError(f"{name} has {len(sizes)} files; this page takes up to {MOST_FILES}.")
    total = sum(sizes.values())
    if total > LARGEST_MODEL:
        raise ValueError(
            f"{name} has {total / 1e9:.1f} GB of weights; this page takes up to {LARGEST_MODEL / 1e9:.0f} GB."
        )
    for file, size in sizes.items():
        bound = LARGEST_CONFIG if file.rpartition("/")[2] in CONFIGS else LARGEST_TEXT
        if size > bound and not file.endswith(".safetensors"):
            raise ValueError(f"{name}: {file} has {size} bytes; this page takes up to {bound}.")


def read_config(path: str, where: str) -> None:
    """Refuse a configuration file that is no JSON, or whose numbers are out of bounds; `where` is its name in messages."""
    try:
        values = json.loads(Path(path).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON: {error}") from error
    check_bounds(values, where)


def check_bounds(values: Any, where: str, name: str = "") -> None:
    """
    Refuse a configuration that would make a model, or its input, very large: a number out of the bounds of its name, or a long list.

    Args:
        values: The content of a JSON file, or a part of it.
        where (`str`): The file's name in messages.
        name (`str`, *optional*, defaults to `""`): Path of the part within the file.
    """
    key_name = name.rpartition(".")[2]
    bound = next((bound for pattern, bound in BOUNDS if pattern.search(key_name)), None)
    if isinstance(values, dict):
        for key, value in values.items():
            check_bounds(value, where, f"{name}.{key}" if name else str(key))
        image, patch = values.get("image_size"), values.get("patch_size")
        if isinstance(image, int) and isinstance(patch, int) and image > MOST_PATCHES * patch:
            raise ValueError(
                f"{where} has {image} / {patch} patches a side ({name or 'its'} image_size and patch_size); "
                f"this page takes up to {MOST_PATCHES}."
            )
    elif isinstance(values, list):
        if len(values) > LONGEST_LIST:
            raise ValueError(f"{where} has {len(values)} entries of {name}; this page takes up to {LONGEST_LIST}.")
        for value in values:
            check_bounds(value, where, name)
        numbers = [value for value in values if isinstance(value, int | float)]
        if bound is not None and DEPTHS.search(key_name) and sum(numbers) > bound:
            raise ValueError(f"{where} has {name} of {sum(numbers)} together; this page takes up to {bound}.")
    elif isinstance(values, int | float) and not isinstance(values, bool):
        if bound is None and isinstance(values, int):
            bound = LARGEST_INTEGER
        if bound is not None and abs(values) > bound:
            raise ValueError(f"{where} has {name}={values}; this page takes up to {bound}.")


def check_config(source: str | Path, name: str) -> None:
    """Refuse the model in a folder by its configuration: one of something else, or too large. Nothing is allocated to count."""
    task_of(str(source), name)
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForReferringSegmentation.from_config(config)
    size = 4 * sum(tensor.numel() for tensor in chain(model.parameters(), model.buffers()))
    if size > LARGEST_MODEL:
        raise ValueError(
            f"{name} has {size / 4e6:.0f} million parameters; this page takes up to {LARGEST_MODEL / 4e6:.0f} million."
        )


def task_of(source: str, name: str | None = None, **options: Any) -> str:
    """
    Find the task that a model is loaded for; options of `from_pretrained`.

    Raises:
        ValueError: If neither this library nor `HUB_MODELS` has its kind, or it asks for a spaCy parser.
        OSError: If there is no such model.
    """
    name = name or source
    try:
        values, _ = PreTrainedConfig.get_config_dict(source, **options)
    except OSError as error:
        raise OSError(f"{name} cannot be loaded: {error}") from error
    kind = values.get("model_type")
    if kind not in SYSTEMS and kind not in HUB_MODELS:
        raise ValueError(f"{name} is a {kind!r}; this page takes {', '.join((*SYSTEMS, *HUB_MODELS))}.")
    if values.get("parser", "auto") not in ("auto", "rules"):
        raise ValueError(f"{name} asks for the parser {values['parser']!r}; this page takes auto or rules.")
    return SYSTEMS[kind].task if kind in SYSTEMS else TASK


__all__ = ["LARGEST_MODEL", "VisitorModels", "check_bounds", "check_config", "check_sizes", "task_of"]
