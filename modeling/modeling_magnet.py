"""
MagNet, of "Mask Grounding for Referring Image Segmentation" (Chng, Zheng, Han, Qiu, Huang; CVPR 2024).

The file follows the data (paper, section 3). Swin and BERT advance side by side in four stages. After each,
`ImageFusion` lets pixels attend to words (PWAM of LAVT, with layer norms), `AlignmentModule` adds a pyramid of pooled contexts,
`WordFusion` lets words attend to pixels, and `Gate`s feed both streams on: together a `FusionStage`, four of them a
`MagNetEncoder`. The decoders of `magnet_decoders` read the mask from the four fused maps. Swin and BERT are transformers' own,
driven block by block. The mask losses are this project's choice (the authors released no training code), and so is
`language_attention_mask="binary"`; with `"published"` the outputs are those of the released network.

Images come once per image (B rows), words once per expression (N = B·k rows, image-major): what does not depend on the words
is computed B times only.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import BertModel, SwinModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.swin.modeling_swin import SwinLayer, window_partition, window_reverse

from .configuration_magnet import MagNetConfig
from .grounding_losses import AuxiliaryLosses, mask_loss
from .layers import attend, cell_averages, full_precision
from .magnet_decoders import DeformableAttention, ImageDetails, MaskDecoder, MaskDetails, PixelDecoder
from .modeling_trainable_segmentation import RawPrediction, TrainableSegmentationModel


# Patches (B, h·w, c) after Swin's first stage, their (h, w), and, for masks at stride 2, the details (B, c, 2h, 2w)
EncodedImages = tuple[torch.Tensor, tuple[int, int], torch.Tensor | None]

PUBLISHED_PADDING_BIAS = -10000.0  # BERT's additive mask, as the released code hands it to the word fusion


def repeat_per_expression(states: torch.Tensor, num_pairs: int) -> torch.Tensor:
    """Repeat B rows k times each, to `num_pairs` = B·k rows; leave N rows as they are."""
    repeats = num_pairs // states.shape[0]
    return states if repeats == 1 else states.repeat_interleave(repeats, dim=0)


def instance_norm(states: torch.Tensor, eps: float, mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    Normalise each channel of `states` (batch, positions, channels) over the positions of one sample, in float32.

    Mean and variance are taken over the positions where `mask`, bool (batch, positions), is true; by default over all.
    """
    values = states.float()
    if mask is None:
        variance, mean = torch.var_mean(values, dim=1, keepdim=True, correction=0)
    else:
        weights = mask.unsqueeze(-1).float()
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)  # a sample may have no position
        mean = (values * weights).sum(dim=1, keepdim=True)
        variance = ((values - mean).square() * weights).sum(dim=1, keepdim=True)
    return ((values - mean) * torch.rsqrt(variance + eps)).to(states.dtype)


def linear_map(layer: nn.Module, like: torch.Tensor) -> torch.Tensor:
    """
    Matrix (in, out) of a linear layer, float32, for states `like` (..., in).

    It is read by a call, as adapters, offloading and quantised weights need it; the large factor keeps a bias from rounding it.
    """
    width, factor = like.shape[-1], 256.0
    probed = layer(factor * torch.eye(width + 1, width, dtype=like.dtype, device=like.device)).float()
    return (probed[:-1] - probed[-1:]) / factor


class ImageFusion(nn.Module):
    """
    Pixel-word attention (LAVT, CVPR 2022, section 3.2): each pixel gathers the words that concern it, and is modulated by them.

    Args:
        config (`MagNetConfig`): Supplies the text width and the attention kernel.
        width (`int`): Channels of the pixels, and of the result.
        num_heads (`int`): Attention heads. Scores are scaled by the full width for any number of heads, as published.
    """

    is_causal = False

    def __init__(self, config: MagNetConfig, width: int, num_heads: int = 1) -> None:
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = width**-0.5
        text_width = config.text_config.hidden_size
        self.image_role = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.query_norm = nn.LayerNorm(width, eps=config.fusion_norm_eps)
        self.key = nn.Linear(text_width, width)
        self.value = nn.Linear(text_width, width)
        self.output = nn.Linear(width, width)
        self.output_norm = nn.LayerNorm(width, eps=config.fusion_norm_eps)
        self.projection = nn.Linear(width, width)
        self.activation = nn.GELU()

    def forward(self, pixels: torch.Tensor, words: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
        """`pixels` (B or N, P, width), `words` (N, L, text width), `is_word` (N, L) bool -> (N, P, width)."""
        # 1. The image's side, once per image
        image_role = repeat_per_expression(self.activation(self.image_role(pixels)), words.shape[0])
        query = repeat_per_expression(self.query_norm(self.query(pixels)), words.shape[0])
        # 2. Pixels attend to words
        key, value = self.key(words), self.value(words)
        visible = is_word[:, None, None, :].expand(-1, 1, query.shape[1], -1)
        attended = attend(self, query, key, value, self.num_heads, self.scaling, visible)
        # 3. What they gathered modulates them
        attended = self.output_norm(self.output(attended))
        return self.activation(self.projection(image_role * attended))


class WordFusion(nn.Module):
    """
    Word-pixel attention: each word gathers the pixels that show it.

    Keys and values are linear in the pixels, also after their instance norms. So the few words go through the layers, not the
    many pixels: scores are (query · keyᵀ) · pixelᵀ, and what a word gathers is (weights · pixels) · value.

    Args:
        config (`MagNetConfig`): Supplies the text width, the mask convention and the attention kernel.
        image_width (`int`): Channels of the pixels.
    """

    is_causal = False

    def __init__(self, config: MagNetConfig, image_width: int) -> None:
        super().__init__()
        self.config = config
        self.eps = config.fusion_norm_eps
        width = config.text_config.hidden_size
        self.scaling = width**-0.5
        self.word_role = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(image_width, width)
        self.value = nn.Linear(image_width, width)
        self.output = nn.Linear(width, width)
        self.projection = nn.Linear(width, width)
        self.activation = nn.GELU()

    def forward(self, words: torch.Tensor, pixels: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
        """`words` (N, L, width), `pixels` (B or N, P, image width), `is_word` (N, L) bool -> (N, L, width)."""
        query = self.query(words)
        if self.config.language_attention_mask == "published":
            # The released code multiplies queries by BERT's additive mask: real words attend uniformly, padding words
            # attend hard, and the statistics below include padding. Kept for parity; scores of 1e5 need float32 (or TF32,
            # which errs by about 5, where a padding word's best pixel is ahead by 2,000).
            query = query.float() * (~is_word).unsqueeze(-1) * PUBLISHED_PADDING_BIAS
            statistics_mask = None
        else:
            statistics_mask = is_word
        matrices = linear_map(self.key, pixels), linear_map(self.value, pixels)
        with full_precision(words):
            centred = pixels.float() - pixels.float().mean(dim=1, keepdim=True)
            covariance = centred.mT @ centred / centred.shape[1]
            key, value = (self.normalise(matrix, covariance) for matrix in matrices)
            attended = self.gather(query.float(), key, value, centred).to(words.dtype)
        attended = instance_norm(self.output(attended), self.eps, statistics_mask)
        return self.activation(self.projection(self.activation(self.word_role(words)) * attended))

    def normalise(self, matrix: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
        """Make an instance norm part of `matrix` (image width, width) by the pixels' `covariance`: (B or N, image width, width)."""
        variance = ((covariance @ matrix) * matrix).sum(dim=1, keepdim=True)
        return matrix * torch.rsqrt(variance + self.eps)

    def gather(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pixels: torch.Tensor
    ) -> torch.Tensor:
        """`query` (N, L, width), matrices `key` and `value` (B or N, image width, width), `pixels` (…, P, image width) -> (N, L, width)."""
        # The expressions of an image ask the same pixels, so their words are the queries of one attention.
        queries_per_image = query.reshape(pixels.shape[0], -1, query.shape[-1]) @ key.mT
        attended = attend(self, queries_per_image, pixels, pixels, num_heads=1, scaling=self.scaling)
        return (attended @ value).reshape(query.shape)


class PooledContext(nn.Module):
    """One level of the pyramid (section 3.3): the map pooled to `grid` x `grid` cells, narrowed, and fused with the words."""

    def __init__(self, config: MagNetConfig, width: int, grid: int, num_heads: int) -> None:
        super().__init__()
        inner, reduced = width * config.pyramid_expansion, width // config.pyramid_reduction
        self.grid = (grid, grid)
        self.expand = nn.Linear(width, inner, bias=False)
        self.norm = nn.LayerNorm(inner, eps=config.pyramid_layer_norm_eps)
        self.contract = nn.Linear(inner, width, bias=False)
        self.activation = nn.GELU()
        self.reduce = nn.Linear(width, reduced, bias=False)
        self.fusion = ImageFusion(config, reduced, num_heads)

    def forward(
        self, pixels: torch.Tensor, words: torch.Tensor, is_word: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        """`pixels` (B or N, h·w, width) -> (N, h·w, width / reduction), interpolated back to `size` = (h, w)."""
        # 1. Pool, by one matrix: to pool rows and columns in turn would take copies of every channel
        cells = torch.kron(*(cell_averages(*each, pixels) for each in zip(size, self.grid, strict=True))) @ pixels
        cells = self.contract(self.norm(self.expand(cells)))
        # 2. Fuse with the words
        context = self.fusion(self.reduce(self.activation(cells)), words, is_word)
        # 3. Back to full size
        context = context.transpose(1, 2).unflatten(2, self.grid)
        context = nn.functional.interpolate(context, size=size, mode="bilinear", align_corners=True)
        return context.flatten(2).transpose(1, 2)


class AlignmentModule(nn.Module):
    """The cross-modal alignment module (section 3.3): contexts of several grids, mixed with the full-resolution fusion."""

    def __init__(self, config: MagNetConfig, width: int, num_heads: int) -> None:
        super().__init__()
        self.contexts = nn.ModuleList([PooledContext(config, width, grid, num_heads) for grid in config.pyramid_grids])
        mixed_width = width + len(config.pyramid_grids) * (width // config.pyramid_reduction)
        self.mix = nn.Linear(mixed_width, width)
        self.norm = nn.LayerNorm(width, eps=config.fusion_norm_eps)
        self.output = nn.Linear(width, width)
        self.activation = nn.GELU()

    def forward(
        self,
        fused: torch.Tensor,
        pixels: torch.Tensor,
        words: torch.Tensor,
        is_word: torch.Tensor,
        size: tuple[int, int],
    ) -> torch.Tensor:
        """`fused` (N, h·w, width), `pixels` (B or N, h·w, width) -> the stage's feature s_k, (N, h·w, width)."""
        contexts = [context(pixels, words, is_word, size) for context in self.contexts]
        mixed = self.norm(self.mix(torch.cat([*contexts, fused], dim=-1)))
        return self.activation(self.output(mixed))


class Gate(nn.Module):
    """Feeds a fusion into the stream it came from: `states + tanh(W2 act(W1 fused)) * fused`."""

    def __init__(self, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width, bias=False)
        self.activation = activation
        self.outer = nn.Linear(width, width, bias=False)

    def forward(self, states: torch.Tensor, fused: torch.Tensor) -> torch.Tensor:
        return states + torch.tanh(self.outer(self.activation(self.inner(fused)))) * fused


class FusionStage(GradientCheckpointingLayer):
    """The end of one of four stages, 0 the finest, where image and words inform each other."""

    def __init__(self, config: MagNetConfig, stage: int) -> None:
        super().__init__()
        width = config.stage_widths[stage]
        num_heads = config.fusion_num_heads[stage]
        self.image_fusion = ImageFusion(config, width, num_heads)
        self.alignment = AlignmentModule(config, width, num_heads) if config.alignment_module else None
        self.image_gate = Gate(width, nn.GELU())
        self.word_fusion = WordFusion(config, width)
        self.word_gate = Gate(config.text_config.hidden_size, nn.ReLU())

    def forward(
        self,
        pixels: torch.Tensor,
        words: torch.Tensor,
        is_word: torch.Tensor,
        size: tuple[int, int],
        output_feature: bool = True,
        output_pixels: bool = True,
        output_words: bool = True,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """
        Args:
            pixels (`torch.Tensor` of shape `(B or N, h·w, width)`): Image stream.
            words (`torch.Tensor` of shape `(N, L, text width)`): Word stream.
            is_word (`torch.BoolTensor` of shape `(N, L)`): False for padding.
            size (`tuple[int, int]`): (h, w).
            output_feature, output_pixels, output_words (`bool`, *optional*, default to `True`):
                Which of the three results are computed; the others are None.

        Returns:
            The stage's feature s_k (N, h·w, width), and the gated image and word streams.
        """
        feature = next_pixels = next_words = None
        fused = self.image_fusion(pixels, words, is_word)
        if output_feature:
            feature = self.alignment(fused, pixels, words, is_word, size) if self.alignment else fused
        # Both gates start from the ungated streams; s_k itself does not enter the image stream.
        if output_pixels:
            next_pixels = self.image_gate(repeat_per_expression(pixels, words.shape[0]), fused)
        if output_words:
            next_words = self.word_gate(words, self.word_fusion(words, pixels, is_word))
        return feature, next_pixels, next_words


class SwinBlock(SwinLayer):
    """
    Swin's block (ICCV 2021, section 3.2) with transformers' weights, and less work and fewer copies: it computes what `SwinLayer` with `always_partition=True` does.

    Linear layers see the image's positions only, not the zeros that fill up its windows (44 % more at 30 x 30 positions and
    windows of 12): all zeros have the same query, key and value. And positions go into windows and back by one look-up each.
    """

    def forward(
        self, hidden_states: torch.Tensor, input_dimensions: tuple[int, int], always_partition: bool = True, **kwargs
    ) -> tuple[torch.Tensor, None]:
        """`hidden_states` (B, h·w, c), `input_dimensions` (h, w) -> (B, h·w, c), without attention weights; the others have no effect."""
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
        return hidden_states + self.dropout(self.mlp(self.layernorm_after(hidden_states))), None

    def _bias(self, height: int, width: int, windows: torch.Tensor) -> torch.Tensor:
        """Addends of the scores of `windows` (B·windows, places, c): (1 or B·windows, heads, places, places)."""
        bias = self.attention.relative_position_bias()
        mask = self.get_attn_mask(height, width, dtype=bias.dtype, device=bias.device)
        if mask is None:
            return bias
        return bias + mask.unsqueeze(1).repeat(windows.shape[0] // mask.shape[0], 1, 1, 1)


class MagNetEncoder(nn.Module):
    """Swin and BERT, interleaved (section 3): in each of four stages both advance, then inform each other."""

    def __init__(self, config: MagNetConfig) -> None:
        super().__init__()
        self.image_encoder = SwinModel(config.backbone_config, add_pooling_layer=False)
        self.image_encoder.layernorm = nn.Identity()  # the stages' own features are used, never Swin's last norm
        for layer in self.image_encoder.encoder.layers:
            for block in layer.blocks:
                block.__class__ = SwinBlock  # computes the same, faster
        self.text_encoder = BertModel(config.text_config, add_pooling_layer=False)
        self.stages = nn.ModuleList(FusionStage(config, stage) for stage in range(len(config.stage_widths)))
        self.layers_per_stage = config.text_config.num_hidden_layers // len(self.stages)

    def encode_images(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Run Swin's first stage, which depends on no word; images (B, 3, H, W)."""
        # Padded here, because Swin would count patches for its absolute positions, if it has them, before it pads.
        patches = self.image_encoder.embeddings.patch_embeddings
        pixel_values = patches.maybe_pad(pixel_values, *pixel_values.shape[-2:])
        pixels, size = self.image_encoder.embeddings(pixel_values, interpolate_pos_encoding=True)
        return self._run_swin_stage(0, pixels, size), size

    def forward(
        self,
        pixels: torch.Tensor,
        size: tuple[int, int],
        input_ids: torch.Tensor,
        is_word: torch.Tensor,
        output_words: bool = False,
        only_stages: Sequence[int] | None = None,
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """
        Args:
            pixels (`torch.Tensor` of shape `(B, h·w, c)`), size (`tuple[int, int]`): The output of `encode_images`.
            input_ids (`torch.Tensor` of shape `(N, L)`): Expressions.
            is_word (`torch.BoolTensor` of shape `(N, L)`): False for padding.
            output_words (`bool`, *optional*, defaults to `False`): Whether to compute the last word fusion, on which no mask
                depends.
            only_stages (`Sequence[int]`, *optional*): The fused maps to compute; by default all.

        Returns:
            The fused maps s1 … s4 (N, c, h, w), fine to coarse, and the last word features (N, L, d) or None.
        """
        words = self.text_encoder.embeddings(input_ids)
        text_mask = create_bidirectional_mask(
            config=self.text_encoder.config, inputs_embeds=words, attention_mask=is_word
        )
        features = []
        for index, stage in enumerate(self.stages):
            is_last = index == len(self.stages) - 1
            # 1. Both encoders advance
            if index > 0:
                pixels = self._run_swin_stage(index, pixels, size)
            first = index * self.layers_per_stage
            for layer in self.text_encoder.encoder.layer[first : first + self.layers_per_stage]:
                words = layer(words, text_mask)
            # 2. They inform each other
            feature, pixels, words = stage(
                pixels,
                words,
                is_word,
                size,
                output_feature=only_stages is None or index in only_stages,
                output_pixels=not is_last,
                output_words=not is_last or output_words,
            )
            if feature is not None:
                features.append(feature.transpose(1, 2).unflatten(2, size))
            # 3. The image stream goes on at half the size
            if not is_last:
                pixels = self.image_encoder.encoder.layers[index].downsample(pixels, size)
                size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        return features, words

    def _run_swin_stage(self, index: int, pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        for block in self.image_encoder.encoder.layers[index].blocks:
            pixels = block(pixels, size)[0]
        return pixels


class MagNetPreTrainedModel(TrainableSegmentationModel):
    """Initialisation, and the settings that transformers reads."""

    config: MagNetConfig
    config_class = MagNetConfig
    base_model_prefix = "magnet"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # Each joins the outputs of several of its parts, which must lie on one device.
    _no_split_modules = [
        "SwinEmbeddings",
        "SwinBlock",
        "BertEmbeddings",
        "BertLayer",
        "FusionStage",
        "PixelDecoder",
        "MaskDetails",
        "MaskDecoder",
    ]
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, FusionStage):
            # The released code zeroes both matrices, from where neither ever receives a gradient; one is enough to start
            # with the word stream as BERT left it.
            init.zeros_(module.word_gate.outer.weight)
        elif isinstance(module, DeformableAttention):
            init.zeros_(module.sampling_offsets.weight)
            init.copy_(module.sampling_offsets.bias, module.initial_offsets())
            init.zeros_(module.attention_weights.weight)
            init.zeros_(module.attention_weights.bias)
        elif isinstance(module, PixelDecoder):
            self._init_xavier(module)
            init.normal_(module.level_embedding)
        elif isinstance(module, MaskDetails):
            init.zeros_(module.output.weight)  # so that a trained model's masks stay what they are, at first
        elif isinstance(module, MaskDecoder):
            self._init_xavier(module)
            init.normal_(module.query_features)
            init.normal_(module.query_position)
            init.normal_(module.level_embedding)
        else:
            super()._init_weights(module)

    @staticmethod
    def _init_xavier(decoder: nn.Module) -> None:
        """Initialise a decoder's linear layers anew, after they were visited one by one, but not those that steer sampling."""
        for name, module in decoder.named_modules():
            if isinstance(module, nn.Linear) and not name.endswith(("sampling_offsets", "attention_weights")):
                init.xavier_uniform_(module.weight)

    @property
    def input_modules(self) -> tuple[nn.Module, ...]:
        return self.encoder.image_encoder.embeddings, self.encoder.text_encoder.embeddings


class MagNetForReferringSegmentation(MagNetPreTrainedModel):
    """
    MagNet: image and expression in, mask logits of the referent out.

    Args:
        config (`MagNetConfig`): The configuration; the default is the published network.

    Example:

    ```python
    >>> from hf_ris import MagNetForReferringSegmentation, MagNetProcessor
    >>> from PIL import Image
    >>> import torch

    >>> processor = MagNetProcessor.from_pretrained("path/or/hub-id")
    >>> model = MagNetForReferringSegmentation.from_pretrained("path/or/hub-id")
    >>> image = Image.open("scene.png")
    >>> inputs = processor(images=image, text=["the red mug"], return_tensors="pt")
    >>> with torch.no_grad():
    ...     outputs = model(**inputs)
    >>> masks = processor.post_process_referring_segmentation(outputs, target_sizes=[image.size[::-1]])
    ```
    """

    def __init__(self, config: MagNetConfig) -> None:
        super().__init__(config)
        self.encoder = MagNetEncoder(config)
        self.pixel_decoder = PixelDecoder(config)
        self.image_details = ImageDetails(config) if config.mask_stride == 2 else None
        self.mask_details = MaskDetails(config) if config.mask_stride == 2 else None
        self.mask_decoder = MaskDecoder(config)
        self.auxiliary_losses = AuxiliaryLosses(config, pixel_width=config.hidden_dim)
        # No mask depends on these. Unless a loss of their own does, they receive no gradient, and training on several
        # processes stops at such parameters.
        last_stage = self.encoder.stages[-1]
        last_stage.image_gate.requires_grad_(False)
        self.mask_decoder.class_head.requires_grad_(config.confidence_loss_weight > 0)
        for module in (last_stage.word_fusion, last_stage.word_gate):
            module.requires_grad_(self.auxiliary_losses.are_on)
        self.post_init()

    @property
    def image_encoder(self) -> nn.Module:
        return self.encoder.image_encoder

    @property
    def text_encoder(self) -> BertModel:
        return self.encoder.text_encoder

    def encode_images(self, pixel_values: torch.Tensor) -> EncodedImages:
        details = None if self.image_details is None else self.image_details(pixel_values)
        return *self.encoder.encode_images(pixel_values), details

    def segment(
        self, images: EncodedImages, input_ids: torch.Tensor, is_word: torch.Tensor, output_features: bool
    ) -> RawPrediction:
        # 1. Fused maps at strides 4 to 32, and the words after the last fusion
        pixels, size, details = images
        features, words = self.encoder(pixels, size, input_ids, is_word, output_words=output_features)
        # 2. The maps inform each other
        mask_features, memory_maps = self.pixel_decoder(features)
        if self.mask_details is not None and details is not None:
            mask_features = self.mask_details(mask_features, repeat_per_expression(details, input_ids.shape[0]))
        # 3. One query reads the mask, and refines it layer by layer
        predictions, class_logits = self.mask_decoder(mask_features, memory_maps)
        has_confidence = self.config.confidence_loss_weight > 0
        confidence = class_logits[:, 0] - class_logits[:, 1] if has_confidence else None
        return RawPrediction(predictions, class_logits, mask_features, features, words, confidence)

    def fuse(
        self, images: EncodedImages, input_ids: torch.Tensor, is_word: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        pixels, size, _ = images
        return self.encoder(
            pixels, size, input_ids, is_word, output_words=True, only_stages=self.config.grounding_stages
        )

    def mask_losses(self, predictions: list[torch.Tensor], labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted BCE and Dice, means over the supervised predictions."""
        supervised = predictions if self.config.deep_supervision else predictions[-1:]
        terms = [mask_loss(prediction, labels) for prediction in supervised]
        return {
            "bce": self.config.bce_loss_weight * torch.stack([bce for bce, _ in terms]).mean(),
            "dice": self.config.dice_loss_weight * torch.stack([dice for _, dice in terms]).mean(),
        }


__all__ = ["FusionStage", "ImageFusion", "MagNetForReferringSegmentation", "MagNetPreTrainedModel", "WordFusion"]
