"""
The mask decoder of MagNet: one query that looks only where its last mask was (masked attention, Mask2Former, CVPR 2022,
section 3.2.2), and predicts a mask before the first and after every layer.
"""

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import ProjectedAttention, full_precision
from .configuration_magnet import MagNetConfig
from .pixel_decoder import sine_positions


class DecoderAttention(ProjectedAttention):
    """Multi-head attention with a residual and a norm after it."""

    def __init__(self, config: MagNetConfig) -> None:
        super().__init__(config, config.hidden_dim, config.decoder_num_heads)
        self.norm = nn.LayerNorm(config.hidden_dim)

    def forward(
        self,
        states: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self.norm(states + self.project_and_attend(query, key, value, attention_mask))


class MaskDecoderLayer(GradientCheckpointingLayer):
    """Masked cross-attention to one level, self-attention of the query, feed-forward part; post-norm."""

    def __init__(self, config: MagNetConfig) -> None:
        super().__init__()
        self.cross_attention = DecoderAttention(config)
        self.self_attention = DecoderAttention(config)
        self.feedforward_in = nn.Linear(config.hidden_dim, config.decoder_feedforward_dim)
        self.feedforward_out = nn.Linear(config.decoder_feedforward_dim, config.hidden_dim)
        self.feedforward_norm = nn.LayerNorm(config.hidden_dim)

    def forward(
        self,
        states: torch.Tensor,
        query_position: torch.Tensor,
        memory: torch.Tensor,
        memory_position: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> torch.Tensor:
        """`states` (N, 1, d), `memory` (N, h·w, d), `attention_mask` (N, 1, 1, h·w) bool -> (N, 1, d)."""
        states = self.cross_attention(
            states, states + query_position, memory + memory_position, memory, attention_mask
        )
        states = self.self_attention(states, states + query_position, states + query_position, states)
        feedforward = self.feedforward_out(nn.functional.relu(self.feedforward_in(states)))
        return self.feedforward_norm(states + feedforward)


class MaskDecoder(nn.Module):
    """
    Reads the referent's mask from the pixel decoder's features with one query.

    Args:
        config (`MagNetConfig`): The model's configuration.
    """

    def __init__(self, config: MagNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_dim
        self.query_features = nn.Parameter(torch.zeros(1, width))
        self.query_position = nn.Parameter(torch.zeros(1, width))
        self.level_embedding = nn.Parameter(torch.zeros(config.decoder_memory_levels, width))
        self.layers = nn.ModuleList(MaskDecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(width)
        self.class_head = nn.Linear(width, 2)
        self.mask_head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def predict(self, states: torch.Tensor, mask_features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`states` (N, 1, d), `mask_features` (N, d, h, w) float32 -> mask logits (N, h, w), class logits (N, 2)."""
        states = self.norm(states).squeeze(1)
        mask_embedding = self.mask_head(states)
        with full_precision(states):
            mask_logits = torch.einsum("nd,ndhw->nhw", mask_embedding.float(), mask_features)
        return mask_logits, self.class_head(states)

    def attention_mask(self, mask_logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Where the next layer may look, (N, 1, 1, h·w) bool: inside the last mask, or everywhere if it is empty."""
        resized = nn.functional.interpolate(
            mask_logits.detach().unsqueeze(1), size=size, mode="bilinear", align_corners=False
        )
        inside = (resized.flatten(2) >= 0).unsqueeze(2)
        return inside | ~inside.any(dim=-1, keepdim=True)

    def forward(
        self, mask_features: torch.Tensor, memory_maps: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """
        Args:
            mask_features (`torch.Tensor` of shape `(N, d, h, w)`): What masks are read from.
            memory_maps (`list[torch.Tensor]`): Maps of shape `(N, d, h_i, w_i)`, coarse to fine.

        Returns:
            The mask logits (N, h, w) of every prediction, first to last, and the last class logits (N, 2).
        """
        sizes = [(memory.shape[-2], memory.shape[-1]) for memory in memory_maps]
        memories = [
            memory.flatten(2).transpose(1, 2) + level
            for memory, level in zip(memory_maps, self.level_embedding, strict=True)
        ]
        positions = [
            sine_positions(self.config.hidden_dim, self.config.position_temperature, size, memory)
            for size, memory in zip(sizes, memory_maps, strict=True)
        ]
        mask_features = mask_features.float()
        states = self.query_features.expand(mask_features.shape[0], 1, -1)
        mask_logits, class_logits = self.predict(states, mask_features)
        predictions = [mask_logits]
        for index, layer in enumerate(self.layers):
            level = index % len(memories)
            attention_mask = self.attention_mask(mask_logits, sizes[level])
            states = layer(states, self.query_position, memories[level], positions[level], attention_mask)
            mask_logits, class_logits = self.predict(states, mask_features)
            predictions.append(mask_logits)
        return predictions, class_logits


__all__ = ["MaskDecoder"]
