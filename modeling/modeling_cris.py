"""
CRIS, of "CRIS: CLIP-Driven Referring Image Segmentation" (Wang, Lu, Li, Tao, Guo, Gong, Liu; CVPR 2022).

The file follows the data. CLIP's ResNet and text encoder (`clip_resnet`) read image and expression. `CRISNeck` multiplies the
sentence into the deepest map and joins three maps at stride 16. In `CRISDecoder`, a transformer, its cells attend to each other and
to the words. `CRISProjector` makes the sentence a small kernel, which reads the mask at stride 4: pixels that the sentence refers to
come to lie near it (text-to-pixel contrastive learning). Mask Grounding, which is not of this paper, is on by configuration.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .clip_resnet import CLIPResNetModel
from .configuration_cris import CRISConfig
from .grounding_losses import AuxiliaryLosses
from .layers import ProjectedAttention, full_precision
from .modeling_trainable_segmentation import RawPrediction, TrainableSegmentationModel


def conv_block(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def resize(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resize maps (N, c, h, w) to another size (h', w')."""
    return nn.functional.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def sine_waves(length: int, width: int, temperature: float, like: torch.Tensor) -> torch.Tensor:
    """Positions 0 … length - 1 as waves, sine and cosine in turn: (length, width)."""
    rates = temperature ** (-torch.arange(0, width, 2, device=like.device) / width)
    angles = torch.arange(length, device=like.device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].to(like.dtype)


class SentenceNorm(nn.BatchNorm1d):
    """Batch norm of sentences (N, c). With a batch of one, which has no variance, it uses the running statistics."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if self.training and len(states) == 1:
            return nn.functional.batch_norm(
                states, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(states)


class CRISNeck(nn.Module):
    """
    Joins sentence and image (section 3.1): three maps, of which the deepest is multiplied by the sentence, become one at stride 16.
    """

    def __init__(self, config: CRISConfig) -> None:
        super().__init__()
        clip, dims, width = config.clip_config, config.neck_dims, config.hidden_dim
        sentence = clip.text_config.projection_dim
        self.state_projection = nn.Sequential(
            nn.Linear(sentence, dims[2], bias=False), SentenceNorm(dims[2]), nn.ReLU()
        )
        maps = (8 * clip.width, 16 * clip.width, sentence)
        self.projections = nn.ModuleList(
            conv_block(before, after, size) for before, after, size in zip(maps, dims, (3, 3, 1), strict=True)
        )
        self.sentence_norm = nn.Sequential(nn.BatchNorm2d(dims[2]), nn.ReLU())
        self.join4 = conv_block(dims[1] + dims[2], dims[1], 1)
        self.join3 = conv_block(dims[0] + dims[1], dims[1], 1)
        self.level_projections = nn.ModuleList(
            conv_block(channels, width, 3) for channels in (dims[1], dims[1], dims[2])
        )
        self.join_levels = conv_block(3 * width, width, 1)
        self.place_convolutions = nn.Sequential(conv_block(width + 2, width, 3), conv_block(width, width, 3))

    def forward(
        self, maps: Sequence[torch.Tensor], state: torch.Tensor | None = None
    ) -> list[torch.Tensor] | torch.Tensor:
        """
        Run the first of two steps, which depends on no word; or, with `state`, the second.

        Args:
            maps (`Sequence[torch.Tensor]`): C3, C4 and C5 (B, c, h, w), at strides 8, 16 and 32; for the second step, the result of
                the first, repeated for each of N expressions.
            state (`torch.Tensor` of shape `(N, d)`, *optional*): The expressions' sentence features, for the second step.

        Returns:
            The three maps, each in its own width, C3 at stride 16; from the second step, `torch.Tensor` of shape
            `(N, hidden_dim, h, w)` at stride 16.
        """
        return self._project(maps) if state is None else self._join(maps, state)

    def _project(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        fine, middle, deep = (project(level) for project, level in zip(self.projections, maps, strict=True))
        return [nn.functional.avg_pool2d(fine, 2), middle, deep]

    def _join(self, maps: Sequence[torch.Tensor], state: torch.Tensor) -> torch.Tensor:
        fine, middle, deep = maps
        size = middle.shape[2:]
        # 1. The sentence enters the deepest map, which enters the finer ones
        deep = self.sentence_norm(deep * self.state_projection(state)[:, :, None, None])
        middle = self.join4(torch.cat([middle, resize(deep, size)], dim=1))
        fine = self.join3(torch.cat([fine, middle], dim=1))
        # 2. Three levels become one map
        levels = [project(level) for project, level in zip(self.level_projections, (fine, middle, deep), strict=True)]
        levels[2] = resize(levels[2], size)
        joined = self.join_levels(torch.cat(levels, dim=1))
        # 3. Every cell learns its place
        sides = [torch.linspace(-1, 1, side, device=joined.device, dtype=joined.dtype) for side in size]
        y, x = torch.meshgrid(*sides, indexing="ij")
        places = torch.stack([x, y]).expand(joined.shape[0], -1, -1, -1)
        return self.place_convolutions(torch.cat([joined, places], dim=1))


class CRISAttention(ProjectedAttention):
    """Multi-head attention over keys and values of `key_width` channels, then a norm."""

    def __init__(self, config: CRISConfig, key_width: int) -> None:
        super().__init__(config, config.hidden_dim, config.decoder_num_heads, key_width, config.dropout)
        self.norm = nn.LayerNorm(config.hidden_dim)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`query` (N, queries, hidden_dim), `key` and `value` (N, keys, key_width) -> (N, queries, hidden_dim)."""
        return self.norm(self.project_and_attend(query, key, value, attention_mask))


class CRISDecoderLayer(GradientCheckpointingLayer):
    """Cells attend to each other, then to the words, then comes a feed-forward part; each begins with a norm."""

    def __init__(self, config: CRISConfig) -> None:
        super().__init__()
        width, inner, words = config.hidden_dim, config.decoder_feedforward_dim, config.text_config.hidden_size
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = CRISAttention(config, width)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = CRISAttention(config, words)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, inner),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.LayerNorm(inner),
            nn.Linear(inner, width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        cells: torch.Tensor,
        cell_positions: torch.Tensor,
        words: torch.Tensor,
        word_positions: torch.Tensor,
        is_word: torch.Tensor,
    ) -> torch.Tensor:
        """`cells` (N, h·w, d), `words` (N, L, t), `is_word` (N, 1, 1, L) bool -> (N, h·w, d)."""
        normed = self.self_norm(cells)
        placed = normed + cell_positions
        cells = cells + self.dropout(self.self_attention(placed, placed, normed))
        placed = self.cross_norm(cells) + cell_positions
        cells = cells + self.dropout(self.cross_attention(placed, words + word_positions, words, is_word))
        return cells + self.dropout(self.feedforward(self.feedforward_norm(cells)))


class CRISDecoder(nn.Module):
    """The vision-language decoder (section 3.2): cells of the map gather the words that concern them."""

    def __init__(self, config: CRISConfig) -> None:
        super().__init__()
        self.temperature = config.position_temperature
        self.layers = nn.ModuleList(CRISDecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.hidden_dim)

    def forward(self, feature_map: torch.Tensor, words: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
        """`feature_map` (N, d, h, w), `words` (N, L, t), `is_word` (N, L) bool -> (N, d, h, w)."""
        # 1. Cells and words, each with its position
        height, width = feature_map.shape[2:]
        cells = feature_map.flatten(2).transpose(1, 2)
        half = cells.shape[2] // 2
        x, y = (sine_waves(side, half, self.temperature, cells) for side in (width, height))
        cell_positions = torch.cat([x.repeat(height, 1), y.repeat_interleave(width, dim=0)], dim=1)
        word_positions = sine_waves(words.shape[1], words.shape[2], self.temperature, words)
        # 2. Cells attend to cells and words
        for layer in self.layers:
            cells = layer(cells, cell_positions, words, word_positions, is_word[:, None, None])
        return self.norm(cells).transpose(1, 2).unflatten(2, (height, width))


class CRISProjector(nn.Module):
    """Text-to-pixel (section 3.3): the sentence becomes a kernel, which reads the mask from finer features."""

    def __init__(self, config: CRISConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.kernel_size = config.kernel_size
        self.blocks = nn.ModuleList([conv_block(width, width, 3), conv_block(width, width // 2, 3)])
        self.pixel_projection = nn.Conv2d(width // 2, width // 2, 1)
        self.kernel_projection = nn.Linear(config.text_config.projection_dim, width // 2 * config.kernel_size**2 + 1)

    def forward(self, feature_map: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`feature_map` (N, d, h, w), `state` (N, s) -> logits (N, 4h, 4w), and the pixel features they are read from."""
        # 1. Pixels at stride 4
        for block in self.blocks:
            height, width = feature_map.shape[2:]
            feature_map = block(resize(feature_map, (2 * height, 2 * width)))
        pixels = self.pixel_projection(feature_map)
        # 2. A kernel for each sentence
        kernels, bias = self.kernel_projection(state).split([self.kernel_projection.out_features - 1, 1], dim=1)
        # 3. Each kernel over its pixels, in full precision: sums of thousands of products. What each of its cells gives at
        #    each pixel is one matrix product; the cells' maps are then shifted and added up.
        side, margin = self.kernel_size, self.kernel_size // 2
        height, width = pixels.shape[2:]
        with full_precision(pixels):
            cells = kernels.float().unflatten(1, (pixels.shape[1], side**2)).transpose(1, 2) @ pixels.float().flatten(
                2
            )
        maps = nn.functional.pad(cells.unflatten(2, (height, width)), [margin] * 4)
        shifts = product(range(side), range(side))
        shifted = [maps[:, cell, y : y + height, x : x + width] for cell, (y, x) in enumerate(shifts)]
        return bias.float().unsqueeze(-1) + sum(shifted), pixels


class CRISPreTrainedModel(TrainableSegmentationModel):
    """Initialisation, and the settings that transformers reads."""

    config: CRISConfig
    config_class = CRISConfig
    base_model_prefix = "cris"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["CRISNeck", "CRISDecoderLayer", "CRISProjector"]  # beside those of CLIP
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise what is not CLIP's as torch does by itself, on which the published code relies."""
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, CRISAttention):
            # In torch, the three are one matrix, of three times as many rows.
            for projection in (module.query, module.key, module.value):
                init.xavier_uniform_(projection.weight, gain=0.5**0.5)
            for projection in (module.query, module.key, module.value, module.output):
                init.zeros_(projection.bias)


class CRISForReferringSegmentation(CRISPreTrainedModel):
    """
    CRIS: image and expression in, mask logits of the referent out.

    Args:
        config (`CRISConfig`): The configuration; the default is the published network on CLIP's RN50.

    Example:

    ```python
    >>> from hf_ris import CRISForReferringSegmentation, CRISProcessor
    >>> from PIL import Image
    >>> import torch

    >>> processor = CRISProcessor.from_pretrained("path/or/hub-id")
    >>> model = CRISForReferringSegmentation.from_pretrained("path/or/hub-id")
    >>> image = Image.open("scene.png")
    >>> inputs = processor(images=image, text=["the red mug"], return_tensors="pt")
    >>> with torch.no_grad():
    ...     outputs = model(**inputs)
    >>> masks = processor.post_process_referring_segmentation(outputs, target_sizes=[image.size[::-1]])
    ```
    """

    def __init__(self, config: CRISConfig) -> None:
        super().__init__(config)
        clip_config: Any = config.clip_config
        self.clip = CLIPResNetModel(clip_config)
        self.clip.logit_scale.requires_grad_(False)  # compares whole images with texts, which nothing here does
        sentence = config.text_config.projection_dim
        self.shortcut = nn.Sequential(
            nn.Conv2d(clip_config.embed_dim, sentence, 1, bias=False), nn.BatchNorm2d(sentence)
        )
        self.neck = CRISNeck(config)
        self.decoder = CRISDecoder(config)
        self.projector = CRISProjector(config)
        self.auxiliary_losses = AuxiliaryLosses(config, pixel_width=config.hidden_dim // 2)
        self.post_init()

    @property
    def image_encoder(self) -> nn.Module:
        return self.clip.visual

    @property
    def text_encoder(self) -> PreTrainedModel:
        return self.clip.text_encoder

    @property
    def input_modules(self) -> tuple[nn.Module, ...]:
        return self.clip.visual.conv1, self.text_encoder.get_input_embeddings()

    def encode_images(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Images (B, 3, H, W) to the maps of the neck's first step."""
        # Convolutions on the CPU are faster with channels last, and keep them last.
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        fine, middle, deep = self.clip.visual(pixel_values)[1:]
        pooled = self.clip.visual.attnpool(deep, everywhere=True)
        deep = (self.shortcut(deep).to(pooled.device) + pooled).relu()  # a device map may separate the two
        return self.neck([fine, middle, deep])

    def segment(
        self, images: list[torch.Tensor], input_ids: torch.Tensor, is_word: torch.Tensor, output_features: bool
    ) -> RawPrediction:
        # 1. The expressions, and their map at stride 16
        joined, words, state = self._join(images, input_ids)
        # 2. Cells attend to the words
        decoded = self.decoder(joined, words, is_word)
        # 3. The sentence reads the mask
        logits, pixels = self.projector(decoded, state)
        return RawPrediction([logits], None, pixels, [joined, decoded], words)

    def fuse(
        self, images: list[torch.Tensor], input_ids: torch.Tensor, is_word: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        joined, words, _ = self._join(images, input_ids)
        stages = self.config.grounding_stages
        maps = [joined, self.decoder(joined, words, is_word)] if 1 in stages else [joined]
        return [maps[stage] for stage in stages], words

    def _join(
        self, images: list[torch.Tensor], input_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The neck's map (N, d, h, w), word features (N, L, t), and sentence features (N, s)."""
        encoded = self.text_encoder(input_ids)  # causal: padding reaches no word before it
        words, state = encoded.last_hidden_state, encoded.text_embeds
        per_image = input_ids.shape[0] // images[0].shape[0]  # not `len`, which a trace would keep as a constant
        maps = [level.repeat_interleave(per_image, dim=0) for level in images]
        return self.neck(maps, state), words, state

    def mask_losses(self, predictions: list[torch.Tensor], labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The text-to-pixel contrastive loss (section 3.3), at the logits' own size."""
        logits = predictions[-1].float()
        nearest = nn.functional.interpolate(labels[:, None].float(), logits.shape[1:], mode="nearest")[:, 0]
        return {"bce": nn.functional.binary_cross_entropy_with_logits(logits, nearest)}


__all__ = ["CRISForReferringSegmentation", "CRISPreTrainedModel"]
