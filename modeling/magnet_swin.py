"""Swin's block (ICCV 2021, section 3.2) as MagNet runs it: transformers' weights, with less work and fewer copies."""

import torch
from torch import nn
from transformers.models.swin.modeling_swin import SwinLayer, window_partition, window_reverse

from .layers import attend


class SwinBlock(SwinLayer):
    """
    Computes what `SwinLayer` with `always_partition=True` does.

    Linear layers see the image's positions only, not the zeros that fill up its windows (44 % more at 30 x 30 positions and
    windows of 12): all zeros have the same query, key and value. And positions go into windows and back by one look-up each.
    """

    def forward(self, hidden_states: torch.Tensor, input_dimensions: tuple[int, int]) -> torch.Tensor:
        """`hidden_states` (B, h·w, c), `input_dimensions` (h, w) -> (B, h·w, c)."""
        # 1. Which position each place of a window shows, 0 for a zero; and which place shows each position
        height, width = input_dimensions
        positions = torch.arange(1, height * width + 1, device=hidden_states.device).view(1, height, width, 1)
        padded, _ = self.maybe_pad(positions, height, width)
        shown = window_partition(self.cyclic_shift(padded), self.window_size).flatten()
        places = torch.arange(shown.shape[0], device=shown.device).view(-1, self.window_size, self.window_size, 1)
        places = self.cyclic_shift(window_reverse(places, self.window_size, *padded.shape[1:3]), reverse=True)
        places = places[0, :height, :width].flatten()

        # 2. Attention within windows
        attention = self.attention
        states = self.layernorm_before(hidden_states)
        has_zeros = shown.shape[0] > height * width
        states = nn.functional.pad(states, (0, 0, 1, 0)) if has_zeros else states.index_select(1, shown - 1)
        projected = [layer(states) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
        if has_zeros:
            projected = [states.index_select(1, shown) for states in projected]
        windows = [states.reshape(-1, self.window_size**2, states.shape[-1]) for states in projected]
        query, key, value = windows
        attended = attend(
            attention,
            query,
            key,
            value,
            attention.num_attention_heads,
            attention.scaling,
            self._bias(padded.shape[1], padded.shape[2], query),
            attention.attention_dropout if self.training else 0.0,
        )
        attended = attended.reshape(states.shape[0], -1, states.shape[-1]).index_select(1, places)
        hidden_states = hidden_states + self.drop_path(self.dropout(attention.o_proj(attended)))

        # 3. The feed-forward part
        return hidden_states + self.dropout(self.mlp(self.layernorm_after(hidden_states)))

    def _bias(self, height: int, width: int, windows: torch.Tensor) -> torch.Tensor:
        """Addends of the scores of `windows` (B·windows, places, c): (1 or B·windows, heads, places, places)."""
        bias = self.attention.relative_position_bias()
        mask = self.get_attn_mask(height, width, dtype=bias.dtype, device=bias.device)
        if mask is None:
            return bias
        return bias + mask.unsqueeze(1).repeat(windows.shape[0] // mask.shape[0], 1, 1, 1)


__all__ = ["SwinBlock"]
