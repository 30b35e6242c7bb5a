"""
Read the weights of a TorchScript archive, as OpenAI published its CLIPs, without its program.

`torch.load(weights_only=True)` refuses such archives and `torch.jit.load` builds the program, hence this reader. An archive is a
zip file: a pickle of the modules, which names storages, and a file for each storage.
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
    """A module of the program: its attributes without its methods."""

    attributes: dict[str, Any] = {}

    def __setstate__(self, attributes: Any) -> None:
        self.attributes = attributes if isinstance(attributes, dict) else {}

    def tensors(self, prefix: str = "") -> dict[str, torch.Tensor]:
        found = {}
        for name, value in self.attributes.items():
            if isinstance(value, torch.Tensor):
                found[prefix + name] = value
            elif isinstance(value, _Module):
                found |= value.tensors(f"{prefix}{name}.")
        return found


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
            return lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset)
        if module == "torch.jit._pickle":  # typed lists
            return lambda content, *_: content
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is no weight.")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _, dtype, key, *_ = pid
        content = bytearray(_read(self.archive, f"{self.root}/data/{key}"))
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a file that is stored as torch does; a compressed one could be a thousand times as large as the archive."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError(f"{name} is compressed, which torch does not do.")
    return archive.read(name)


def is_torchscript(path: Path) -> bool:
    """Whether a zip file is such an archive: a state dict has no constants."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """
    Read parameters and buffers, under the names that a state dict has.

    Raises:
        pickle.UnpicklingError: If the archive holds something else than tensors, plain values and modules.
        KeyError, zipfile.BadZipFile: If it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).split("/")[0]
        content = _Unpickler(archive, root).load()
    return content.tensors() if isinstance(content, _Module) else {}


__all__ = ["is_torchscript", "read_torchscript"]
