"""
Reads the weights of a TorchScript archive, as OpenAI published its CLIPs, and leaves the program in it alone.

Such an archive is a zip file: a pickle of the modules, in which storages are named, and a file for each storage.
"""

import pickle
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch


STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Module:
    """A module of the program: its attributes, and none of its methods."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, attributes: Any) -> None:
        self.attributes = attributes if isinstance(attributes, dict) else {}


class _Unpickler(pickle.Unpickler):
    """Makes tensors and modules without methods; every other class is refused."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(BytesIO(_read(archive, f"{root}/data.pkl")))
        self.archive = archive
        self.root = root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch.jit._pickle":  # typed lists
            return _first
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is no weight")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _, dtype, key, *_ = pid
        content = bytearray(_read(self.archive, f"{self.root}/data/{key}"))
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """What torch wrote is stored as it is; what is compressed could be a thousand times as large as the file."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError(f"{name} is compressed, which torch does not do")
    return archive.read(name)


def _rebuild(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> torch.Tensor:
    return storage.as_strided(size, stride, offset)


def _first(content: Any, *_: Any) -> Any:
    return content


def is_torchscript(path: Path) -> bool:
    """Whether a zip file is such an archive: a state dict has no constants."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """
    Args:
        path (`Path`): The archive.

    Returns:
        `dict[str, torch.Tensor]`: Parameters and buffers, under the names that a state dict has.

    Raises:
        pickle.UnpicklingError: If there is something else than tensors, plain values and modules in it.
        KeyError, zipfile.BadZipFile: If it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).split("/")[0]
        content = _Unpickler(archive, root).load()
    found: dict[str, torch.Tensor] = {}

    def walk(module: Any, prefix: str) -> None:
        for name, value in module.attributes.items():
            if isinstance(value, torch.Tensor):
                found[prefix + name] = value
            elif isinstance(value, _Module):
                walk(value, f"{prefix}{name}.")

    if isinstance(content, _Module):
        walk(content, "")
    return found


__all__ = ["is_torchscript", "read_torchscript"]
