"""Find checkpoint files that authors published and read their weights; code in them is never run."""

import argparse
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file

from .torchscript import is_torchscript, read_torchscript


CLIP_TOKENIZER = "openai/clip-vit-base-patch32"  # all of OpenAI's CLIPs have the same
WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """
    A published file, on disk.

    Attributes:
        path (`Path`): The file.
        origin (`str`): The source that the user gave: a path, or `hub-id::file`.
        revision (`str`, *optional*): The commit of the Hub repository it was taken from.
    """

    path: Path
    origin: str
    revision: str | None = None


def locate(source: str, revision: str | None = None) -> Checkpoint:
    """
    Find a checkpoint, and download it if `source` names a Hub repository.

    Args:
        source (`str`): A local file, or `hub-id::file`.
        revision (`str`, *optional*): Branch, tag or commit of the Hub repository.

    Raises:
        ValueError: If there is no such file, or a revision is given for a local file.
        OSError: If it cannot be downloaded.
    """
    repository, separator, name = source.partition("::")
    if separator and not (repository and name):
        raise ValueError(f"`source` must be a file, or hub-id::file, got {source!r}.")
    if separator:
        try:
            path = Path(hf_hub_download(repository, name, revision=revision))
        except (OSError, ValueError):
            raise
        except Exception as error:  # a broken connection: its class depends on the Hub's HTTP library
            raise OSError(f"{source!r} could not be downloaded: {error}") from error
        return Checkpoint(path, source, path.parents[len(Path(name).parts) - 1].name)
    if revision is not None:
        raise ValueError(f"`revision` must be left out: {source!r} is a local file.")
    path = Path(source).expanduser()
    if not path.is_file():
        raise ValueError(f"`source` must be a file, or hub-id::file for one on the Hub; there is no file {source!r}.")
    return Checkpoint(path, source)


def read_state_dict(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """
    Read the tensors of a checkpoint without running any code in it. Where the format allows it, they stay on disk until used.

    Args:
        checkpoint (`Checkpoint`): The file: a state dict, bare or under `"model"` or `"state_dict"`, its names with or
            without `module.` in front.

    Returns:
        `dict[str, torch.Tensor]`: Tensors under their released names.

    Raises:
        ValueError: If the file is damaged, holds other things than tensors and plain values, or no state dict.
    """
    content = _read(checkpoint)
    if isinstance(content, Mapping):
        content = next((content[key] for key in ("model", "state_dict") if key in content), content)
    if not isinstance(content, Mapping):
        raise ValueError(f"{checkpoint.origin!r} must hold a state dict, got a {type(content).__name__}.")
    if not content:
        raise ValueError(f"{checkpoint.origin!r} holds no weights.")
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, torch.Tensor)):
            raise ValueError(
                f"{checkpoint.origin!r} must hold tensors under names, got a {type(value).__name__} under {key!r}."
            )
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}


def _read(checkpoint: Checkpoint) -> Any:
    """Read a file of safetensors, of `torch.save` or of TorchScript."""
    if checkpoint.path.suffix == ".safetensors":
        try:
            return load_file(checkpoint.path)
        except Exception as error:
            raise ValueError(f"{checkpoint.origin!r} is not a complete safetensors file: {error}.") from error
    is_archive = zipfile.is_zipfile(checkpoint.path)
    try:
        if is_archive and is_torchscript(checkpoint.path):
            return read_torchscript(checkpoint.path)
        # Some authors store the training's arguments beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(checkpoint.path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # a damaged pickle can raise nearly anything
        blocked = re.search(r"GLOBAL (\S+) (?:is no weight|was not an allowed|whose module)", str(error))
        if blocked:
            reason = f"holds Python code beside its weights ({blocked[1]}), which is not run."
        else:
            reason = "is not a complete torch checkpoint; was its download cut off?"
        raise ValueError(f"{checkpoint.origin!r} {reason}") from error


def released_clip_file(source: str) -> str:
    """Find the weights of a CLIP, for [`locate`]: a file, `hub-id::file`, or the folder or Hub id of an open_clip."""
    if "::" in source or Path(source).expanduser().suffix in WEIGHTS:
        return source
    folder = Path(source).expanduser()
    return str(folder / OPEN_CLIP_WEIGHTS) if folder.is_dir() else f"{source}::{OPEN_CLIP_WEIGHTS}"
