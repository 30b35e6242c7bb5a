"""
The two decoders of MagNet.

The pixel decoder is deformable self-attention over four scales (Deformable DETR, ICLR 2021, section 4.1; Mask2Former, CVPR 2022,
section 3.2.1), sampling by `grid_sample`, which runs on any device, or by table look-ups, which are faster on the CPU. In the mask
decoder, one query looks only where its last mask was (masked attention, Mask2Former, section 3.2.2); it predicts a mask before the
first layer and after every one. Between them, `MaskDetails` may double the resolution that masks are read at.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_magnet import MagNetConfig
from .layers import ProjectedAttention, cell_centres, full_precision


POSITIONS_PER_PIECE = 1024  # of all samples together, where the pixel decoder works in pieces
POSITIONS_PER_EXPORTED_PIECE = 4096  # of each sample: a graph has every piece in it, and takes any number of samples

# `sample_maps` after its first two arguments: offsets, weights and centres of some positions
Sampler = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def works_in_pieces(states: torch.Tensor) -> bool:
    """Whether to keep pieces small enough for a CPU's caches; a compiler makes its own, while an exported graph keeps these."""
    compiles = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    return states.device.type == "cpu" and not torch.is_grad_enabled() and not compiles


def sine_positions(width: int, temperature: float, size: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    """
    Two-dimensional sine position embedding of DETR, normalised to one turn over the map.

    Args:
        width (`int`): d, a multiple of 4; its first half encodes the row, its second the column.
        temperature (`float`): Ratio of the longest to the shortest wavelength.
        size (`tuple[int, int]`): (h, w) of the map.
        like (`torch.Tensor`): Supplies device and dtype.

    Returns:
        `torch.Tensor` of shape `(h·w, d)`.
    """
    rows, columns = size
    half = width // 2
    channels = torch.arange(half, device=like.device)
    frequencies = temperature ** (2 * (channels // 2) / half)

    def encode(length: int) -> torch.Tensor:
        positions = torch.arange(1, length + 1, dtype=torch.float32, device=like.device)
        angles = (positions / (length + 1e-6) * 2 * math.pi).unsqueeze(-1) / frequencies
        return torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=-1).flatten(1)

    row = encode(rows)[:, None, :].expand(-1, columns, -1)
    column = encode(columns)[None, :, :].expand(rows, -1, -1)
    return torch.cat([row, column], dim=-1).flatten(0, 1).to(like.dtype)


class DeformableAttention(nn.Module):
    """
    Every position looks at a few learned places of every level instead of at all of them.

    Args:
        config (`MagNetConfig`): Width, heads, points.
        num_levels (`int`): Number of feature levels.
    """

    def __init__(self, config: MagNetConfig, num_levels: int) -> None:
        super().__init__()
        self.num_heads = config.encoder_num_heads
        self.num_levels = num_levels
        self.num_points = config.encoder_num_points
        num_samples = self.num_heads * num_levels * self.num_points
        self.sampling_offsets = nn.Linear(config.hidden_dim, num_samples * 2)
        self.attention_weights = nn.Linear(config.hidden_dim, num_samples)
        self.value = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.output = nn.Linear(config.hidden_dim, config.hidden_dim)

    def initial_offsets(self) -> torch.Tensor:
        """Biases by which head i looks 1, 2, … cells away in the i-th of evenly spread directions."""
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None, :] * steps[None, None, :, None]
        return offsets.expand(-1, self.num_levels, -1, -1).flatten()

    def sampler(self, memory: torch.Tensor, sizes: list[tuple[int, int]]) -> Sampler:
        """Make the function that samples `memory` (N, S, d), levels of the given `sizes`."""
        value = self.value(memory).float().unflatten(-1, (self.num_heads, -1))
        # On the CPU, reading whole rows of channels is several times as fast; it has no gradient for the places.
        if works_in_pieces(value):
            return RowSampler(value, sizes, self.num_points)
        return partial(sample_maps, value, sizes)

    def forward(self, queries: torch.Tensor, centres: torch.Tensor, sample: Sampler) -> torch.Tensor:
        """`queries` (N, Q, d), `centres` (Q, 2) in [0, 1], `sample` of [`sampler`] -> (N, Q, d)."""
        # Sampling places are sensitive to rounding, so this arithmetic stays in float32 under autocast.
        weights = self.attention_weights(queries).float().unflatten(-1, (self.num_heads, -1)).softmax(dim=-1)
        weights = weights.unflatten(-1, (self.num_levels, self.num_points))
        offsets = self.sampling_offsets(queries).float().unflatten(-1, (*weights.shape[2:], 2))
        return self.output(sample(offsets, weights, centres).to(queries.dtype))


def sample_maps(
    value: torch.Tensor,
    sizes: list[tuple[int, int]],
    offsets: torch.Tensor,
    weights: torch.Tensor,
    centres: torch.Tensor,
) -> torch.Tensor:
    """
    Sum weighted bilinear samples around each position, by `grid_sample`. Places outside of a level count as zero.

    Args:
        value (`torch.Tensor` of shape `(N, S, heads, d)`): Maps of all levels, S = sum of h·w.
        sizes (`list[tuple[int, int]]`): (h, w) of the levels.
        offsets (`torch.Tensor` of shape `(N, Q, heads, levels, points, 2)`): (x, y) from a position's centre, in cells.
        weights (`torch.Tensor` of shape `(N, Q, heads, levels, points)`): Weights of the samples.
        centres (`torch.Tensor` of shape `(Q, 2)`): (x, y) in [0, 1].

    Returns:
        `torch.Tensor` of shape `(N, Q, heads·d)`.
    """
    batch = value.shape[0]
    # Positions come last, in memory too: every operation below then runs along thousands of them.
    weights = weights.permute(0, 2, 3, 4, 1).flatten(0, 1).contiguous()
    offsets = offsets.permute(0, 2, 3, 4, 1, 5).flatten(0, 1)
    extents = offsets.new_tensor([(width, height) for height, width in sizes])[:, None, None, :]
    places = 2 * (centres + offsets / extents) - 1
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)

    attended = None
    for level, level_maps in enumerate(maps.split([height * width for height, width in sizes], dim=-1)):
        sampled = nn.functional.grid_sample(
            level_maps.unflatten(-1, sizes[level]),
            places[:, level],
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        contribution = (sampled * weights[:, level].unsqueeze(1)).sum(dim=2)
        attended = contribution if attended is None else attended + contribution
    return attended.unflatten(0, (batch, -1)).flatten(1, 2).transpose(1, 2)


class RowSampler:
    """
    Computes [`sample_maps`] by looking up the rows of the four cells around each place in one table.

    In the table, each level is framed by zeros: a row above and below, and a column on the left, which is also the right end
    of the row before. Places further outside are moved onto the frame, so that no cell needs to be checked.

    Args:
        value (`torch.Tensor` of shape `(N, S, heads, d)`): Maps of all levels, S = sum of h·w.
        sizes (`list[tuple[int, int]]`): (h, w) of the levels.
        points (`int`): Samples of a level.
    """

    def __init__(self, value: torch.Tensor, sizes: list[tuple[int, int]], points: int) -> None:
        batch, _, heads, channels = value.shape

        def per_sample(numbers: Sequence[int]) -> torch.Tensor:
            """Repeat a number of each level for its samples: (levels·points,)."""
            return torch.tensor(numbers, dtype=torch.int32, device=value.device).repeat_interleave(points)

        # 1. The table: rows of cells in a new order, in which all zeros are one row
        lengths = [height * width for height, width in sizes]
        zero = sum(lengths)  # the number of that row
        levels = zip(torch.arange(zero, device=value.device).split(lengths), sizes, strict=True)
        framed = [
            nn.functional.pad(level.unflatten(0, size), (1, 0, 1, 1), value=zero).flatten() for level, size in levels
        ]
        framed_lengths = [len(level) for level in framed]
        spare = sizes[-1][1] + 3  # cells that are read, with a share of zero, to the lower right of the last place
        order = torch.cat([*framed, framed[0].new_full((spare,), zero)])
        cells = torch.cat([value.flatten(2), value.new_zeros(batch, 1, heads * channels)], dim=1)
        self.table = cells.index_select(1, order).view(-1, channels)

        # 2. Of each sample's level: extent, rows from a cell to the one below, and the four rows around its first place
        self.heads = heads
        self.widths = per_sample([width for _, width in sizes]).float()
        self.heights = per_sample([height for height, _ in sizes]).float()
        self.below = per_sample([(width + 1) * heads for _, width in sizes])
        first = per_sample([sum(framed_lengths[:level]) * heads for level in range(len(sizes))])
        self.corners = torch.stack([first, first + heads, first + self.below, first + self.below + heads])
        # 3. The first row of each image's heads
        image, head = (torch.arange(n, dtype=torch.int32, device=value.device) for n in (batch, heads))
        self.first_rows = image[:, None, None, None] * (len(order) * heads) + head[:, None]

    def __call__(self, offsets: torch.Tensor, weights: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        # Levels and points come last together: every operation below then runs along all of them.
        x_offsets, y_offsets = offsets.flatten(3, 4).unbind(-1)
        weights = weights.flatten(3)
        # 1. Places, counted from the centre of the zero at the upper left of a level
        x_centres, y_centres = centres[:, :1] * self.widths + 0.5, centres[:, 1:] * self.heights + 0.5
        x = torch.minimum((x_offsets + x_centres[:, None]).relu_(), self.widths + 1)
        y = torch.minimum((y_offsets + y_centres[:, None]).relu_(), self.heights + 1)
        # 2. Four rows around each, and the share of each
        columns, rows = x.int(), y.int()
        indices = columns * self.heads + rows * self.below + self.first_rows
        right, lower = x.sub_(columns), weights * y.sub_(rows)
        upper = weights - lower
        lower_right, upper_right = lower * right, upper * right
        shares = torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], dim=3)
        indices = (indices.unsqueeze(3) + self.corners).flatten(3)
        shares = shares.flatten(3)
        if torch.compiler.is_exporting():  # other runtimes have no such sum
            bags = shares.unsqueeze(3) @ nn.functional.embedding(indices, self.table)
        else:
            bags = nn.functional.embedding_bag(
                indices.flatten(0, 2), self.table, per_sample_weights=shares.flatten(0, 2), mode="sum"
            )
        return bags.view(*weights.shape[:2], -1)


class DeformableLayer(GradientCheckpointingLayer):
    """Deformable self-attention and a feed-forward part, each with a residual and then a norm; (N, S, d) -> (N, S, d)."""

    def __init__(self, config: MagNetConfig, num_levels: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(config, num_levels)
        self.attention_norm = nn.LayerNorm(config.hidden_dim)
        self.feedforward_in = nn.Linear(config.hidden_dim, config.encoder_feedforward_dim)
        self.feedforward_out = nn.Linear(config.encoder_feedforward_dim, config.hidden_dim)
        self.feedforward_norm = nn.LayerNorm(config.hidden_dim)

    def forward(
        self, states: torch.Tensor, positions: torch.Tensor, centres: torch.Tensor, sizes: list[tuple[int, int]]
    ) -> torch.Tensor:
        sample = self.attention.sampler(states, sizes)
        if not works_in_pieces(states):
            return self._advance(states, positions, centres, sample)
        exports = torch.compiler.is_exporting()
        piece = POSITIONS_PER_EXPORTED_PIECE if exports else max(1, POSITIONS_PER_PIECE // len(states))
        pieces = zip(states.split(piece, dim=1), positions.split(piece), centres.split(piece), strict=True)
        return torch.cat([self._advance(*each, sample) for each in pieces], dim=1)

    def _advance(
        self, states: torch.Tensor, positions: torch.Tensor, centres: torch.Tensor, sample: Sampler
    ) -> torch.Tensor:
        states = self.attention_norm(states + self.attention(states + positions, centres, sample))
        feedforward = self.feedforward_out(nn.functional.relu(self.feedforward_in(states), inplace=True))
        return self.feedforward_norm(states + feedforward)


class PixelDecoder(nn.Module):
    """
    Lets the fused maps of all stages inform each other. All scales enter the deformable layers, so that there is no feature
    pyramid beside them.
    """

    def __init__(self, config: MagNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.stage_widths[::-1]
        self.input_projections = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, config.hidden_dim, kernel_size=1),
                nn.GroupNorm(config.group_norm_groups, config.hidden_dim),
            )
            for width in widths
        )
        self.level_embedding = nn.Parameter(torch.zeros(len(widths), config.hidden_dim))
        self.layers = nn.ModuleList(DeformableLayer(config, len(widths)) for _ in range(config.encoder_layers))
        self.mask_projection = nn.Conv2d(config.hidden_dim, config.hidden_dim, kernel_size=1)

    def forward(self, features: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """
        Args:
            features (`list[torch.Tensor]`): Fused maps s1 … s4, each `(N, c, h, w)`, fine to coarse.

        Returns:
            The mask features (N, d, h1, w1), and the memory maps s4, s3, … (N, d, h, w) of the mask decoder.
        """
        # 1. All scales to one width, in one sequence
        coarse_to_fine = features[::-1]
        sizes = [(feature.shape[-2], feature.shape[-1]) for feature in coarse_to_fine]
        lengths = [height * width for height, width in sizes]
        projected = [project(feature) for project, feature in zip(self.input_projections, coarse_to_fine, strict=True)]
        states = torch.cat([level.flatten(2).transpose(1, 2) for level in projected], dim=1)
        level_positions = [
            sine_positions(self.config.hidden_dim, self.config.position_temperature, size, states) + level_embedding
            for size, level_embedding in zip(sizes, self.level_embedding, strict=True)
        ]
        positions = torch.cat(level_positions)
        centres = torch.cat([cell_centres(size, states.device) for size in sizes])
        # 2. Every position looks at every scale
        for layer in self.layers:
            states = layer(states, positions, centres, sizes)
        # 3. Back to maps
        levels = [
            level.transpose(1, 2).unflatten(2, size)
            for level, size in zip(states.split(lengths, dim=1), sizes, strict=True)
        ]
        return self.mask_projection(levels[-1]), levels[: self.config.decoder_memory_levels]


class ImageDetails(nn.Sequential):
    """Features of an image at stride 2, whatever is asked: (B, 3, H, W) -> (B, d / 2, H / 2, W / 2)."""

    def __init__(self, config: MagNetConfig) -> None:
        width = config.hidden_dim // 2
        super().__init__(
            nn.Conv2d(config.backbone_config.num_channels, width, kernel_size=3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
        )


class MaskDetails(nn.Module):
    """
    Doubles the resolution of the mask features, with the image's own for what is finer than a patch.

    It is not in the paper. An image's fine features beside enlarged coarse ones are the skip connections of U-Net (MICCAI 2015).
    """

    def __init__(self, config: MagNetConfig) -> None:
        super().__init__()
        width = config.hidden_dim // 2
        self.narrow = nn.Conv2d(config.hidden_dim, width, kernel_size=1)
        self.mix = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.output = nn.Conv2d(width, config.hidden_dim, kernel_size=1)

    def forward(self, mask_features: torch.Tensor, details: torch.Tensor) -> torch.Tensor:
        """`mask_features` (N, d, h, w), `details` of [`ImageDetails`] (N, d / 2, H / 2, W / 2) -> (N, d, H / 2, W / 2)."""

        def enlarge(maps: torch.Tensor) -> torch.Tensor:
            return nn.functional.interpolate(maps, size=details.shape[-2:], mode="bilinear", align_corners=True)

        mixed = nn.functional.gelu(enlarge(self.narrow(mask_features)) + details)
        mixed = nn.functional.gelu(self.mix(mixed))
        return enlarge(mask_features) + self.output(mixed)


class DecoderAttention(ProjectedAttention):
    """Multi-head attention with a residual and then a norm; all states (N, length, d)."""

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
    """Masked cross-attention to one level, self-attention of the query, feed-forward part; norms come last."""

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
    """Reads the referent's mask from the pixel decoder's features with one query (Mask2Former, section 3.2)."""

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
        """Cells where the next layer may look, (N, 1, 1, h·w) bool: inside the last mask, or all if it is empty."""
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
            mask_features (`torch.Tensor` of shape `(N, d, h, w)`): Features that masks are read from.
            memory_maps (`list[torch.Tensor]`): Maps of shape `(N, d, h_i, w_i)`, coarse to fine.

        Returns:
            The mask logits (N, h, w) of every prediction, first to last, and the last class logits (N, 2).
        """
        # 1. Memory maps to sequences, each with its positions
        sizes = [(memory.shape[-2], memory.shape[-1]) for memory in memory_maps]
        memories = [
            memory.flatten(2).transpose(1, 2) + level
            for memory, level in zip(memory_maps, self.level_embedding, strict=True)
        ]
        positions = [
            sine_positions(self.config.hidden_dim, self.config.position_temperature, size, memory)
            for size, memory in zip(sizes, memory_maps, strict=True)
        ]
        # 2. A first mask, from the learned query alone
        mask_features = mask_features.float()
        states = self.query_features.expand(mask_features.shape[0], 1, -1)
        mask_logits, class_logits = self.predict(states, mask_features)
        predictions = [mask_logits]
        # 3. Each layer looks at one level inside of the last mask, and predicts the next
        for index, layer in enumerate(self.layers):
            level = index % len(memories)
            attention_mask = self.attention_mask(mask_logits, sizes[level])
            states = layer(states, self.query_position, memories[level], positions[level], attention_mask)
            mask_logits, class_logits = self.predict(states, mask_features)
            predictions.append(mask_logits)
        return predictions, class_logits


__all__ = ["DeformableAttention", "ImageDetails", "MaskDecoder", "MaskDetails", "PixelDecoder", "sine_positions"]
