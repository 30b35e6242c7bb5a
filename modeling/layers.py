"""Layers of the trained models: attention through transformers' interface (SDPA, eager or any registered kernel), and pooling."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention on tensors of shape `(batch, heads, length, head_dim)`; `attention_mask` is additive or boolean."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.dropout(scores.softmax(dim=-1), dropout)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def full_precision(states: torch.Tensor) -> AbstractContextManager:
    """Suspends autocast on the device of `states`, for arithmetic on masks that half precision would spoil."""
    if not torch.amp.is_autocast_available(states.device.type):  # the meta device
        return nullcontext()
    return torch.autocast(device_type=states.device.type, enabled=False)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    num_heads: int,
    scaling: float,
    attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """
    Multi-head attention on flat tensors.

    Args:
        module (`nn.Module`): The caller; its `config` chooses the kernel, which also reads `is_causal` and `training`.
        query (`torch.Tensor` of shape `(batch, queries, width)`): Queries.
        key, value (`torch.Tensor` of shape `(batch, keys, width)`): Keys and values.
        num_heads (`int`): Heads that the width is split into.
        scaling (`float`): Factor of the scores.
        attention_mask (`torch.BoolTensor`, *optional*): True where a query may look; broadcasts to
            `(batch, heads, queries, keys)`.
        dropout (`float`, *optional*, defaults to 0.0): Share of the weights that are left out.

    Returns:
        `torch.Tensor` of shape `(batch, queries, width)`.
    """
    heads = [states.unflatten(-1, (num_heads, -1)).transpose(1, 2) for states in (query, key, value)]
    kernel = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager_attention_forward)
    attended, _ = kernel(module, *heads, attention_mask, dropout=dropout, scaling=scaling)
    return attended.flatten(2)


class ProjectedAttention(nn.Module):
    """
    Multi-head attention with projections of queries, keys, values and output.

    Args:
        config (`PreTrainedConfig`): The model's configuration, which chooses the kernel.
        width (`int`): Channels of queries and of the output.
        num_heads (`int`): Heads.
        key_width (`int`, *optional*): Channels of keys and values; by default as many as of the queries.
        dropout (`float`, *optional*, defaults to 0.0): Share of the weights that are left out in training.
    """

    is_causal = False

    def __init__(
        self,
        config: PreTrainedConfig,
        width: int,
        num_heads: int,
        key_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = (width // num_heads) ** -0.5
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(key_width or width, width)
        self.value = nn.Linear(key_width or width, width)
        self.output = nn.Linear(width, width)

    def project_and_attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`query` (batch, queries, width), `key` and `value` (batch, keys, key width) -> (batch, queries, width)."""
        projected = self.query(query), self.key(key), self.value(value)
        dropout = self.dropout if self.training else 0.0
        return self.output(attend(self, *projected, self.num_heads, self.scaling, attention_mask, dropout))


def cell_centres(size: Sequence[int], device: torch.device) -> torch.Tensor:
    """Centres (x, y) of the cells of a map of (h, w), between 0 and 1: (h·w, 2)."""
    y, x = ((torch.arange(length, dtype=torch.float32, device=device) + 0.5) / length for length in size)
    return torch.stack([x.repeat(len(y)), y.repeat_interleave(len(x))], dim=-1)


def cell_averages(length: int, cells: int, like: torch.Tensor) -> torch.Tensor:
    """Matrix (cells, length) that averages positions into cells, which overlap where they do not divide them; dtype and device of `like`."""
    positions = torch.arange(length, device=like.device)
    cell = torch.arange(cells, device=like.device).unsqueeze(1)
    first, last = cell * length // cells, ((cell + 1) * length + cells - 1) // cells
    inside = ((positions >= first) & (positions < last)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def average_pool(image_map: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """
    Average a floating-point map (..., h, w) into cells (..., *size).

    `torch.nn.functional.adaptive_avg_pool2d` gives the same means, but on MPS only where cells divide the map, and its gradient on
    CUDA is not deterministic; two matrix products have neither limit.
    """
    rows, columns = (cell_averages(*each, image_map) for each in zip(image_map.shape[-2:], size, strict=True))
    return rows @ image_map @ columns.T


__all__ = ["ProjectedAttention", "attend", "average_pool", "cell_averages", "cell_centres", "full_precision"]
