"""
Put the tensors of a released checkpoint where a model needs them, or name the one that does not fit.

transformers' `WeightRenaming` is not used: it is not public, changes between releases, and does not name what is left over.
"""

import re
from collections.abc import Iterable, Mapping

import torch


def rename(
    key: str,
    rules: Iterable[tuple[re.Pattern[str], str]],
    owner: str,
    stacked: Mapping[str, tuple[str, str, str]] | None = None,
) -> list[str]:
    """
    Rename a released key by the first rule that fits.

    Args:
        key (`str`): The released key.
        rules (`Iterable`): Patterns and their replacements.
        owner (`str`): The system that has such keys, for the message.
        stacked (`Mapping`, *optional*): Part of a stacked matrix's name -> the same of the three matrices that it is cut into.

    Returns:
        `list[str]`: One name, or three for a stacked matrix.

    Raises:
        ValueError: If no rule fits.
    """
    renamed = next((pattern.sub(target, key) for pattern, target in rules if pattern.search(key)), None)
    if renamed is None:
        raise ValueError(f"the checkpoint holds a key that no {owner} has: {key!r}")
    for name, parts in (stacked or {}).items():
        if name in renamed:
            return [renamed.replace(name, part) for part in parts]
    return [renamed]


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
