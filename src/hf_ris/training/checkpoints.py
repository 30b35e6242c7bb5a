"""Checkpoints that a training can be resumed from."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, SAFE_WEIGHTS_NAME


def find_checkpoints(folders: Sequence[Path], resume: bool) -> list[str | None]:
    """
    Find the last complete checkpoint of each stage, or None.

    Raises:
        ValueError: If there is none to resume from, or a new training would mix with an old one or overwrite a model.
    """
    # `Trainer` writes its state last, so a checkpoint that has it is complete.
    complete = [[path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")] for folder in folders]
    checkpoints = [str(max(paths, key=number_of_steps)) if paths else None for paths in complete]
    output_dir = folders[0].parent
    if resume and not any(checkpoints):
        raise ValueError(
            f"`output_dir` must hold a checkpoint to resume from, got {str(output_dir)!r}, which has none."
        )
    if any(checkpoints) and not resume:
        raise ValueError(f"{str(output_dir)!r} holds checkpoints: set `resume`, or give another `output_dir`.")
    if (output_dir / CONFIG_NAME).exists() and not resume:
        raise ValueError(f"{str(output_dir)!r} holds a model: give another `output_dir`.")
    return checkpoints


def number_of_steps(checkpoint: Path) -> int:
    """Read the number of `checkpoint-300`."""
    return int(checkpoint.name.rpartition("-")[2])


def check_checkpoint(model: nn.Module, checkpoint: str, lora: int | None) -> None:
    """
    Raise a ValueError unless a checkpoint has this model's weights, by name and shape.

    Adapters are compared by rank alone. A checkpoint in several files is left to transformers.
    """
    adapters = Path(checkpoint, ADAPTER_CONFIG_NAME)
    rank = json.loads(adapters.read_text(encoding="utf-8"))["r"] if adapters.exists() else None
    if rank != lora:
        was, now = ("without `lora`" if each is None else f"with lora={each}" for each in (rank, lora))
        raise ValueError(f"{checkpoint} was trained {was}, and this training is {now}.")
    weights = Path(checkpoint, SAFE_WEIGHTS_NAME)
    if lora is not None or not weights.exists():
        return
    with safe_open(weights, "pt") as file:
        saved = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    needed = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(saved.keys() | needed.keys()):
        if saved.get(name) != needed.get(name):
            has, needs = (
                f"shape {shapes[name]}" if name in shapes else "no such weight" for shapes in (saved, needed)
            )
            raise ValueError(f"{checkpoint} is of another architecture: for {name} it has {has}, the model {needs}.")


__all__ = ["check_checkpoint", "find_checkpoints", "number_of_steps"]
