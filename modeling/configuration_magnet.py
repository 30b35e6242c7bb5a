"""Configuration of MagNet: every number of the published system is a named field."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_referring_segmentation import TrainableSegmentationConfig


LANGUAGE_ATTENTION_MASKS = ("published", "binary")


@strict
class MagNetConfig(TrainableSegmentationConfig):
    r"""
    Configuration of [`MagNetForReferringSegmentation`]. The defaults are the published network: Swin-B with window 12,
    BERT-base, and the Mask2Former-style head of "Mask Grounding for Referring Image Segmentation" (CVPR 2024). The weights of
    Mask Grounding and of the alignment loss are fields of [`TrainableSegmentationConfig`].

    Args:
        backbone_config (`dict` or `SwinConfig`, *optional*, defaults to Swin-B, window 12):
            The image encoder. Its four stages are interleaved with four groups of text layers.
        text_config (`dict` or `BertConfig`, *optional*, defaults to BERT-base):
            The text encoder. Its number of layers must be a multiple of the number of image stages.
        language_attention_mask (`str`, *optional*, defaults to `"binary"`):
            How words that attend to pixels treat padding. `"binary"`: every real word attends, statistics are taken
            over real words, and the result does not depend on padding. `"published"`: the released code passes BERT's
            additive mask (0 for words, -10000 for padding) to an operation that expects 1 and 0, so real words attend
            uniformly and padding words attend hard; the released weights need exactly that, with 20 tokens always.
        fusion_num_heads (`list[int]`, *optional*, defaults to `[1, 1, 1, 1]`):
            Attention heads of the image fusion of each stage, and of the image fusions of its pooled contexts. Scores are
            scaled by the full width whatever the number of heads, as in the released code.
        alignment_module (`bool`, *optional*, defaults to `True`):
            Whether the stages have the cross-modal alignment module (paper, section 3.3). Without it, a stage's feature
            is its image fusion alone.
        pyramid_grids (`list[int]`, *optional*, defaults to `[1, 2, 3, 6]`):
            Side lengths of the pooled context grids of that module.
        pyramid_expansion (`int`, *optional*, defaults to 4):
            Widening of a pooled context before its activation.
        pyramid_reduction (`int`, *optional*, defaults to 4):
            A pooled context has the stage's width divided by this.
        pyramid_layer_norm_eps (`float`, *optional*, defaults to 1e-6):
            Epsilon of the layer norm inside a pooled context.
        fusion_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the layer and instance norms of the fusion blocks.
        hidden_dim (`int`, *optional*, defaults to 256):
            Width of the pixel decoder, of the mask decoder and of the mask features.
        group_norm_groups (`int`, *optional*, defaults to 32):
            Groups of the normalisation of the pixel decoder's input projections; must divide `hidden_dim`.
        encoder_layers (`int`, *optional*, defaults to 4):
            Deformable layers of the pixel decoder.
        encoder_num_heads (`int`, *optional*, defaults to 8):
            Heads of a deformable layer.
        encoder_num_points (`int`, *optional*, defaults to 4):
            Sampling points per head and level of a deformable layer.
        encoder_feedforward_dim (`int`, *optional*, defaults to 1024):
            Inner width of a deformable layer's feed-forward part.
        decoder_layers (`int`, *optional*, defaults to 9):
            Layers of the mask decoder; it predicts once before the first and once after each.
        decoder_num_heads (`int`, *optional*, defaults to 8):
            Heads of a mask decoder layer.
        decoder_feedforward_dim (`int`, *optional*, defaults to 2048):
            Inner width of a mask decoder layer's feed-forward part.
        decoder_memory_levels (`int`, *optional*, defaults to 3):
            The mask decoder visits this many levels, coarse to fine, in turn.
        mask_stride (`int`, *optional*, defaults to 4):
            Image pixels from one cell of a mask to the next: 4 as published, or 2, where the mask features are enlarged and
            read the image itself once more.
        position_temperature (`float`, *optional*, defaults to 10000.0):
            Temperature of the sine position embedding.
        bce_loss_weight (`float`, *optional*, defaults to 2.0):
            Weight of the binary cross-entropy of a predicted mask. (Our choice: the training code was never released.)
        dice_loss_weight (`float`, *optional*, defaults to 2.0):
            Weight of the Dice loss of a predicted mask. (Our choice.)
        confidence_loss_weight (`float`, *optional*, defaults to 0.0):
            Weight of the loss of the published class head as a judge of the mask; see [`confidence_loss`]. Above 0, the score of an
            answer is what the head says: the probability that the mask is right. (Our addition; the released head is unused.)
        deep_supervision (`bool`, *optional*, defaults to `True`):
            Whether every prediction of the mask decoder is trained, as in Mask2Former, or the last alone.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the truncated normal that initialises the fusion blocks.

    Example:

    ```python
    >>> from hf_ris import MagNetConfig, MagNetForReferringSegmentation

    >>> config = MagNetConfig(
    ...     backbone_config={"model_type": "swin", "embed_dim": 32, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]},
    ...     text_config={"model_type": "bert", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2},
    ...     hidden_dim=64,
    ... )
    >>> model = MagNetForReferringSegmentation(config)
    ```
    """

    model_type = "magnet"
    attribute_map = {"hidden_size": "hidden_dim"}  # the name other libraries look for
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(
            AutoConfig,
            model_type="swin",
            init_kwargs={
                "embed_dim": 128,
                "depths": [2, 2, 18, 2],
                "num_heads": [4, 8, 16, 32],
                "window_size": 12,
                "drop_path_rate": 0.3,
                "image_size": 480,
            },
        ),
        "text_config": SubConfigSpec(AutoConfig, model_type="bert"),
    }

    backbone_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    language_attention_mask: str = "binary"
    fusion_num_heads: list[int] | tuple[int, ...] = (1, 1, 1, 1)
    alignment_module: bool = True
    pyramid_grids: list[int] | tuple[int, ...] = (1, 2, 3, 6)
    pyramid_expansion: int = 4
    pyramid_reduction: int = 4
    pyramid_layer_norm_eps: float = 1e-6
    fusion_norm_eps: float = 1e-5
    hidden_dim: int = 256
    group_norm_groups: int = 32
    encoder_layers: int = 4
    encoder_num_heads: int = 8
    encoder_num_points: int = 4
    encoder_feedforward_dim: int = 1024
    decoder_layers: int = 9
    decoder_num_heads: int = 8
    decoder_feedforward_dim: int = 2048
    decoder_memory_levels: int = 3
    mask_stride: int = 4
    position_temperature: float = 10000.0
    bce_loss_weight: float = 2.0
    dice_loss_weight: float = 2.0
    confidence_loss_weight: float | int = 0.0
    deep_supervision: bool = True
    initializer_range: float = 0.02

    @property
    def stage_widths(self) -> list[int]:
        """Channels of the four image stages, fine to coarse."""
        return [self.backbone_config.embed_dim * 2**stage for stage in range(len(self.backbone_config.depths))]

    @property
    def fused_widths(self) -> list[int]:
        return self.stage_widths

    def validate_architecture(self):
        for name, needed in (("backbone_config", "swin"), ("text_config", "bert")):
            if getattr(self, name).model_type != needed:
                raise ValueError(f"`{name}` must be of model_type {needed!r}, got {getattr(self, name).model_type!r}.")
        super().validate_architecture()
        is_known = self.language_attention_mask in LANGUAGE_ATTENTION_MASKS
        self.require(is_known, "language_attention_mask", f"one of {list(LANGUAGE_ATTENTION_MASKS)}")
        num_stages, num_layers = len(self.stage_widths), self.text_config.num_hidden_layers
        if num_layers % num_stages:
            raise ValueError(
                f"`text_config.num_hidden_layers` must be a multiple of the {num_stages} image stages, got {num_layers}."
            )
        self.require(len(self.fusion_num_heads) == num_stages, "fusion_num_heads", f"{num_stages} numbers")
        has_grids = bool(self.pyramid_grids) and min(self.pyramid_grids) >= 1
        self.require(has_grids, "pyramid_grids", "side lengths of at least 1")
        self.require(1 <= self.decoder_memory_levels <= num_stages, "decoder_memory_levels", f"1 to {num_stages}")
        self.require(self.mask_stride in (2, 4), "mask_stride", "2 or 4")
        self.require(0 <= self.confidence_loss_weight < float("inf"), "confidence_loss_weight", "0 or larger")
        for name in ("group_norm_groups", "encoder_num_heads", "decoder_num_heads"):
            divisor = getattr(self, name)
            self.require(self.hidden_dim % divisor == 0, "hidden_dim", f"a multiple of {name} ({divisor})")
        self.require(self.hidden_dim % 4 == 0, "hidden_dim", "a multiple of 4 (sine positions)")
        for width, heads in zip(self.stage_widths, self.fusion_num_heads, strict=True):
            divides = heads >= 1 and width % heads == 0
            self.require(divides, "fusion_num_heads", f"divisors of the stages' widths, here of {width}")
            pooled, rest = divmod(width, self.pyramid_reduction)
            self.require(rest == 0, "pyramid_reduction", f"a divisor of the stages' widths, here of {width}")
            divides = not self.alignment_module or pooled % heads == 0
            self.require(divides, "fusion_num_heads", f"divisors of the pooled contexts' widths, here of {pooled}")


__all__ = ["MagNetConfig"]
