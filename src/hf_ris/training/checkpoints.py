"""Where a training was left, and whether it can be gone on with."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, SAFE_WEIGHTS_NAME


def find_checkpoints(folders: Sequence[Path], resume: bool) -> list[str | None]:
    """
    The last checkpoint of each stage, if it has any: one that is whole. `Trainer` writes its own state last.

    Raises:
        ValueError: If there is none to resume from, or a new training would mix with one that is there, or overwrite a model.
    """
    whole = [[path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")] for folder in folders]
    checkpoints = [str(max(paths, key=number_of_steps)) if paths else None for paths in whole]
    name = f"output_dir={str(folders[0].parent)!r}"
    if resume and not any(checkpoints):
        raise ValueError(f"{name} holds no checkpoint to resume from")
    if any(checkpoints) and not resume:
        raise ValueError(f"{name} holds checkpoints: resume that run or name another folder")
    if (folders[0].parent / CONFIG_NAME).exists() and not resume:
        raise ValueError(f"{name} holds a model: name another folder")
    return checkpoints


def number_of_steps(checkpoint: Path) -> int:
    """What the last part of `checkpoint-300` says."""
    return int(checkpoint.name.rpartition("-")[2])


def check_checkpoint(model: nn.Module, checkpoint: str, lora: int | None) -> None:
    """
    Raises a ValueError unless a checkpoint's weights are those of this model, by name and shape.

    Of adapters, the rank alone is compared. A checkpoint in several files is left to transformers.
    """
    adapters = Path(checkpoint, ADAPTER_CONFIG_NAME)
    rank = json.loads(adapters.read_text(encoding="utf-8"))["r"] if adapters.exists() else None
    if rank != lora:
        was, now = ("without adapters" if each is None else f"with lora={each}" for each in (rank, lora))
        raise ValueError(f"{checkpoint} is of a training {was}, this one is {now}")
    weights = Path(checkpoint, SAFE_WEIGHTS_NAME)
    if lora is not None or not weights.exists():
        return
    with safe_open(weights, "pt") as file:
        saved = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(saved.keys() | own.keys()):
        if saved.get(name) != own.get(name):
            has, needs = (f"shape {shapes[name]}" if name in shapes else "no such weight" for shapes in (saved, own))
            raise ValueError(f"{checkpoint} is of another architecture: for {name} it has {has}, the model {needs}")


__all__ = ["check_checkpoint", "find_checkpoints", "number_of_steps"]
