"""
Models that a demo's visitors name: public ones of this library, refused by their configuration before a weight is read, and kept on
the disk within a bound.
"""

import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, hf_hub_download, model_info, scan_cache_dir, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
from transformers import AutoConfig, PreTrainedConfig

from .auto import AutoModelForReferringSegmentation
from .registration import SYSTEMS, TASK, ZERO_SHOT_TASK


HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FETCHED = (".safetensors", ".json", ".txt", ".model", ".jinja")
LARGEST_MODEL = 4 * 10**9  # bytes of weights, on the disk and, in float32, in memory
LARGEST_CACHE = 3 * LARGEST_MODEL  # bytes of all visitors' models on the disk
LARGEST_CONFIG = 10**6  # bytes of a file
CONFIGS = ("config.json", "processor_config.json", "preprocessor_config.json")  # of a model and of its parts
# The largest whole number that a field may hold, by what stands in its name; the first that fits counts. What none names may be
# 100,000: identifiers of tokens, rows of a position table.
BOUNDS = (
    (re.compile(r"vocab|_token_?id|token_index"), 1_000_000),
    (re.compile(r"layers|depths|blocks|stages"), 128),
    (re.compile(r"points_per_side|num_points|points_per_batch"), 64),
    (re.compile(r"cache_bytes"), 2**31),
    (re.compile(r"cache_size|batch_size|heads|num_labels"), 256),
    (re.compile(r"image_size|height|width|edge|max_size"), 2048),
    (re.compile(r"text_length|max_length|max_new_tokens|position"), 4096),
    (re.compile(r"size|dim|channels|features"), 16_384),
    (re.compile(r""), 100_000),
)


class VisitorModels:
    """
    A folder of public models, the least recently asked of which go where room is needed.

    Args:
        folder (`str` or `Path`, *optional*): Where they are kept; by default beside huggingface_hub's own cache.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder or Path(constants.HF_HOME) / "hf-ris-visitors")
        self._guard = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}
        self._asked: dict[str, None] = {}  # the most recently asked last

    def fetch(self, name: str) -> Path:
        """
        The folder of a model. Who asks for another one meanwhile does not wait; who asks for the same is given the same.

        Args:
            name (`str`): Its Hub id.

        Raises:
            ValueError: If this is no id of a model that everyone can see, or of something else than this library, or of sizes beyond
                bounds.
            OSError: If it cannot be fetched.
        """
        if not HUB_ID.fullmatch(name) or Path(name).exists():
            raise ValueError(f"{name!r} is no model on the Hub; ids look like user/name.")
        with self._guard:
            lock = self._fetching.setdefault(name, threading.Lock())
            self._asked.pop(name, None)
            self._asked[name] = None
        try:
            with lock:
                return self._fetch(name)
        finally:
            with self._guard:
                self._fetching.pop(name, None)

    def _fetch(self, name: str) -> Path:
        try:
            found = model_info(name, files_metadata=True, token=False)
        except RepositoryNotFoundError as error:
            raise ValueError(f"{name} is no model that everyone can see on the Hub.") from error
        sizes = {file.rfilename: file.size or 0 for file in found.siblings or [] if file.rfilename.endswith(FETCHED)}
        size = sum(sizes.values())
        if size > LARGEST_MODEL:
            raise ValueError(
                f"{name} has {size / 1e9:.1f} GB of weights; this page takes up to {LARGEST_MODEL / 1e9:.0f} GB."
            )
        source: dict[str, Any] = {"revision": found.sha, "cache_dir": self.folder, "token": False}
        for file, length in sizes.items():
            if file.rpartition("/")[2] in CONFIGS:
                if length > LARGEST_CONFIG:
                    raise ValueError(
                        f"{name}: {file} has {length} bytes; a configuration has {LARGEST_CONFIG} at most."
                    )
                check_bounds(
                    json.loads(Path(hf_hub_download(name, file, **source)).read_text("utf-8")), f"{name}: {file}"
                )
        config = hf_hub_download(name, "config.json", **source)
        check_config(Path(config).parent, name)
        self._make_room(name, size)
        return Path(snapshot_download(name, allow_patterns=[f"*{ending}" for ending in FETCHED], **source))

    def _make_room(self, name: str, size: int) -> None:
        """Removes the least recently asked models until another one fits; none that is being fetched."""
        with self._guard:
            kept = {repo.repo_id: repo for repo in scan_cache_dir(self.folder).repos}
            total = size + sum(repo.size_on_disk for key, repo in kept.items() if key != name)
            order = sorted(kept, key=lambda key: list(self._asked).index(key) if key in self._asked else -1)
            for key in order:
                if total <= LARGEST_CACHE:
                    break
                if key != name and key not in self._fetching:
                    shutil.rmtree(kept[key].repo_path)
                    total -= kept[key].size_on_disk


def check_bounds(values: Any, where: str) -> None:
    """
    Refuses a configuration that would make a model, or its input, very large.

    Args:
        values: What a file of JSON holds.
        where (`str`): What to call it in an error message.

    Raises:
        ValueError: If a whole number in it is beyond what its name allows.
    """
    for name, value in _numbers(values, ""):
        bound = next(bound for pattern, bound in BOUNDS if pattern.search(name.rpartition(".")[2]))
        if abs(value) > bound:
            raise ValueError(f"{where} has {name}={value}; this page takes up to {bound}.")


def _numbers(values: Any, name: str) -> Iterator[tuple[str, int]]:
    """The whole numbers of nested dictionaries and lists, each with where it stands."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list):
        for value in values:
            yield from _numbers(value, name)
    elif isinstance(values, int) and not isinstance(values, bool):
        yield name, values


def check_config(source: str | Path, name: str) -> None:
    """
    Refuses a model by its configuration: one of something else, or with too many parameters, which are counted without memory.

    Args:
        source (`str` or `Path`): The folder.
        name (`str`): What to call the model in an error message.

    Raises:
        ValueError: If it is none of this library's, or too large.
    """
    task_of(str(source), name)
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForReferringSegmentation.from_config(config)
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size > LARGEST_MODEL:
        raise ValueError(
            f"{name} has {size / 4e6:.0f} million parameters; this page takes up to {LARGEST_MODEL / 4e6:.0f} million."
        )


def task_of(source: str, name: str | None = None, **options: Any) -> str:
    """
    Which task a model is loaded for; options of `from_pretrained`.

    Raises:
        ValueError: If it is of something else than this library, or brings a parser of its own.
        OSError: If there is none.
    """
    name = name or source
    try:
        values, _ = PreTrainedConfig.get_config_dict(source, **options)
    except OSError as error:
        raise OSError(f"{name} cannot be loaded: {error}") from error
    systems = {system.model_type: system for system in SYSTEMS}
    if values.get("model_type") not in systems:
        raise ValueError(
            f"{name} is a {values.get('model_type')!r}; this page takes models of hf_ris: {', '.join(systems)}."
        )
    if values.get("parser", "auto") not in ("auto", "rules"):
        raise ValueError(f"{name} wants a parser of its own, {values['parser']!r}; this page takes auto or rules.")
    return ZERO_SHOT_TASK if systems[values["model_type"]].is_zero_shot else TASK


__all__ = ["LARGEST_MODEL", "VisitorModels", "check_bounds", "check_config", "task_of"]
