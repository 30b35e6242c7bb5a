"""
CLIP with a ResNet for images ("Learning Transferable Visual Models From Natural Language Supervision", Radford et al., ICML
2021, section 2.4), which transformers lacks: a stem of three convolutions, average pooling instead of strides, and attention
pooling at the end. The text encoder is transformers' own. Names are those of the released weights.
"""

from collections import OrderedDict

import torch
from torch import nn
from transformers import CLIPTextModelWithProjection, PreTrainedModel
from transformers import initialization as init

from .configuration_clip_resnet import CLIPResNetConfig
from .layers import attend


class Bottleneck(nn.Module):
    """
    1x1, 3x3 and 1x1 convolutions beside a shortcut; a stride is an average over as many pixels.

    Args:
        in_channels (`int`): Channels of the input.
        channels (`int`): Channels of the 3x3 convolution; the output has four times as many.
        stride (`int`): 1 or 2.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.pool = nn.AvgPool2d(stride)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or in_channels != 4 * channels:
            pool, convolution = nn.AvgPool2d(stride), nn.Conv2d(in_channels, 4 * channels, 1, bias=False)
            # Released weights count from the convolution.
            parts = {"-1": pool, "0": convolution, "1": nn.BatchNorm2d(4 * channels)}
            self.downsample = nn.Sequential(OrderedDict(parts))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = self.bn1(self.conv1(pixels)).relu()
        hidden = self.bn2(self.conv2(hidden)).relu()
        hidden = self.bn3(self.conv3(self.pool(hidden)))
        return (hidden + self.downsample(pixels)).relu()


class AttentionPool(nn.Module):
    """Attention from a map's mean, or from each of its cells, to its cells; one head for every 64 channels."""

    is_causal = False

    def __init__(self, config: CLIPResNetConfig) -> None:
        super().__init__()
        embed_dim, cells = config.embed_dim, (config.image_size // 32) ** 2
        self.config = config
        self.num_heads = embed_dim // 64
        self.scaling = (embed_dim // self.num_heads) ** -0.5
        self.positional_embedding = nn.Parameter(torch.empty(cells + 1, embed_dim))
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.c_proj = nn.Linear(embed_dim, config.text_config.projection_dim)

    def forward(self, feature_map: torch.Tensor, everywhere: bool = False) -> torch.Tensor:
        """
        Args:
            feature_map (`torch.Tensor` of shape `(B, c, h, w)`): A map of any size; the position table is stretched to it.
            everywhere (`bool`, *optional*, defaults to `False`): Whether each cell is a query, instead of their mean.

        Returns:
            `torch.Tensor` of shape `(B, d)`, or `(B, d, h, w)` if each cell is a query.
        """
        return self._attend_everywhere(feature_map) if everywhere else self._attend_from_mean(feature_map)

    def _attend_from_mean(self, feature_map: torch.Tensor) -> torch.Tensor:
        cells = feature_map.flatten(2).transpose(1, 2)
        tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)
        tokens = tokens + self._positions(tokens.shape[1])
        return self._attend(tokens[:, :1], tokens)[:, 0]

    def _attend_everywhere(self, feature_map: torch.Tensor) -> torch.Tensor:
        # CRIS, section 3.1: the position table, without the mean's row, is stretched along both axes.
        side = round((len(self.positional_embedding) - 1) ** 0.5)
        table = self.positional_embedding[1:].T.unflatten(1, (side, side))[None]
        size = feature_map.shape[2:]
        positions = nn.functional.interpolate(table, size, mode="bicubic", align_corners=False)
        cells = (feature_map + positions).flatten(2).transpose(1, 2)
        return self._attend(cells, cells).transpose(1, 2).unflatten(2, size)

    def _attend(self, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        projected = self.q_proj(queries), self.k_proj(tokens), self.v_proj(tokens)
        return self.c_proj(attend(self, *projected, self.num_heads, self.scaling))

    def _positions(self, length: int) -> torch.Tensor:
        """The position table, stretched along the sequence, the mean's position included, as by Global-Local."""
        table = self.positional_embedding
        if length == len(table):
            return table
        return nn.functional.interpolate(table.T[None], length, mode="linear", align_corners=True)[0].T


class CLIPResNetVision(nn.Module):
    """The image encoder: stem, four stages of bottlenecks, attention pooling."""

    def __init__(self, config: CLIPResNetConfig) -> None:
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        channels = width
        for stage, depth in enumerate(config.layers):
            blocks = []
            for block in range(depth):
                blocks.append(Bottleneck(channels, width * 2**stage, 2 if stage and not block else 1))
                channels = 4 * width * 2**stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stage_widths = [4 * width * 2**stage for stage in range(len(config.layers))]
        self.attnpool = AttentionPool(config)

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Images (B, 3, H, W) to the maps of all stages, fine to coarse, at strides 4, 8, 16 and 32."""
        states = self.bn1(self.conv1(pixel_values)).relu()
        states = self.bn2(self.conv2(states)).relu()
        states = nn.functional.avg_pool2d(self.bn3(self.conv3(states)).relu(), 2)
        maps = []
        for stage in range(1, len(self.stage_widths) + 1):
            states = self.get_submodule(f"layer{stage}")(states)
            maps.append(states)
        return maps


class CLIPResNetModel(PreTrainedModel):
    """Image and text features in one space, like `CLIPModel`."""

    config: CLIPResNetConfig
    config_class = CLIPResNetConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True
    _no_split_modules = ["Bottleneck", "AttentionPool"]

    def __init__(self, config: CLIPResNetConfig) -> None:
        super().__init__(config)
        self.visual = CLIPResNetVision(config)
        self.text_encoder = CLIPTextModelWithProjection(config.text_config)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.post_init()

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """True, though transformers, which looks for its attention interface in this file, does not find it: `attend` has it."""
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AttentionPool):
            init.normal_(module.positional_embedding, std=module.positional_embedding.shape[1] ** -0.5)
        elif isinstance(module, CLIPResNetModel):
            init.constant_(module.logit_scale, float(self.config.logit_scale_init_value))

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Image features: (B, 3, H, W) -> (B, d), not normalised."""
        return self.visual.attnpool(self.visual(pixel_values)[-1])

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Text features: (N, L) -> (N, d), not normalised."""
        return self.text_encoder(input_ids, attention_mask).text_embeds

    def forward(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scaled cosine similarities of each image with each text, (B, N)."""
        images = nn.functional.normalize(self.get_image_features(pixel_values), dim=-1)
        texts = nn.functional.normalize(self.get_text_features(input_ids, attention_mask), dim=-1)
        return self.logit_scale.exp().to(images.device) * images @ texts.T.to(images.device)


__all__ = ["CLIPResNetModel"]
