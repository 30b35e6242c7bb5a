"""
Put the tensors of a released checkpoint where a model needs them, or name the one that does not fit.

transformers' `WeightRenaming` is not used: it is not public, changes between releases, and does not name what is left over.
"""

import re
from collections.abc import Iterable, Mapping

import torch


def rename(key: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str | None:
    """Rename a released key by the first rule that fits; `None` if there is none."""
    for pattern, target in rules:
        renamed, count = pattern.subn(target, key)
        if count:
            return renamed
    return None


def place(
    parts: Iterable[tuple[str, str, torch.Tensor]], expected: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """
    Reshape tensors to the shapes that a model expects. A 1x1 convolution's kernel is dropped where the model has a linear layer.

    Args:
        parts (`Iterable`): Released key, name in the model, and the tensor, or the part of it that goes there.
        expected (`Mapping[str, torch.Tensor]`): The model's tensors by name.

    Returns:
        `dict[str, torch.Tensor]` that `model.load_state_dict` takes strictly. Tensors share memory with those given.

    Raises:
        ValueError: If a name is missing, unexpected, or of the wrong shape.
    """
    placed: dict[str, torch.Tensor] = {}
    for key, target, tensor in parts:
        if target not in expected:
            raise ValueError(f"the checkpoint's {key!r} has no place in the configured model ({target!r})")
        shape = expected[target].shape
        kernel = tensor.shape[len(shape) :]
        if tensor.shape[: len(shape)] != shape or any(side != 1 for side in kernel):
            raise ValueError(
                f"the checkpoint's {key!r} has shape {tuple(tensor.shape)}, {target!r} needs {tuple(shape)}"
            )
        placed[target] = tensor.reshape(shape)
    missing = sorted(set(expected) - set(placed))
    if missing:
        raise ValueError(f"the checkpoint lacks {len(missing)} tensors the model needs, among them {missing[:5]}")
    return placed


__all__ = ["place", "rename"]
