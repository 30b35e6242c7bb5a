"""
MagNet, of "Mask Grounding for Referring Image Segmentation" (Chng, Zheng, Han, Qiu, Huang; CVPR 2024).

Swin and BERT advance side by side in four stages and inform each other after each; a deformable pixel decoder joins the
four fused maps, and a one-query mask decoder reads the referent from them. Swin and BERT are transformers' own, driven
block by block; the rest is in `cross_modal_attention`, `pixel_decoder` and `mask_decoder`. Ours are the mask losses (the
authors released no training code) and `language_attention_mask="binary"`; with `"published"` the outputs are those of
the released network.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import BertModel, SwinModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask

from .auxiliary_losses import AuxiliaryLosses
from .configuration_magnet import MagNetConfig
from .cross_modal_attention import FusionStage
from .mask_decoder import MaskDecoder
from .mask_grounding import MaskGroundingHead
from .mask_losses import mask_loss
from .modeling_trainable_segmentation import Segmentation, TrainableSegmentationModel
from .pixel_decoder import DeformableAttention, PixelDecoder


class MagNetEncoder(nn.Module):
    """
    Swin and BERT, interleaved: in each stage both advance, then exchange what they know.

    Args:
        config (`MagNetConfig`): The model's configuration.
    """

    def __init__(self, config: MagNetConfig) -> None:
        super().__init__()
        self.image_encoder = SwinModel(config.backbone_config, add_pooling_layer=False)
        self.image_encoder.layernorm = nn.Identity()  # the stages' own features are used, never Swin's last norm
        self.text_encoder = BertModel(config.text_config, add_pooling_layer=False)
        self.stages = nn.ModuleList(FusionStage(config, stage) for stage in range(len(config.stage_widths)))
        self.layers_per_stage = config.text_config.num_hidden_layers // len(self.stages)

    def encode_images(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Swin's first stage, which no word reaches: images (B, 3, H, W) to patches (B, h·w, c) and their (h, w)."""
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
        attention_mask: torch.Tensor,
        output_words: bool = False,
        only_stages: Sequence[int] | None = None,
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """
        Args:
            pixels (`torch.Tensor` of shape `(B, h·w, c)`): What `encode_images` gave.
            size (`tuple[int, int]`): (h, w).
            input_ids (`torch.Tensor` of shape `(N, L)`): Expressions.
            attention_mask (`torch.BoolTensor` of shape `(N, L)`): True for real words.
            output_words (`bool`, *optional*, defaults to `False`): Whether the last word fusion, which no mask depends
                on, is computed.
            only_stages (`Sequence[int]`, *optional*): The fused maps that are computed; by default all are.

        Returns:
            The fused maps s1 … s4 (N, c, h, w), fine to coarse, and the last word features (N, L, d) or None.
        """
        words = self.text_encoder.embeddings(input_ids)
        text_mask = create_bidirectional_mask(
            config=self.text_encoder.config, inputs_embeds=words, attention_mask=attention_mask
        )
        features = []
        for index, stage in enumerate(self.stages):
            is_last = index == len(self.stages) - 1
            if index > 0:
                pixels = self._run_swin_stage(index, pixels, size)
            first = index * self.layers_per_stage
            for layer in self.text_encoder.encoder.layer[first : first + self.layers_per_stage]:
                words = layer(words, text_mask)
            is_wanted = only_stages is None or index in only_stages
            wanted = (is_wanted, not is_last, not is_last or output_words)
            feature, pixels, words = stage(pixels, words, attention_mask, size, wanted)
            if feature is not None:
                features.append(feature.transpose(1, 2).unflatten(2, size))
            if not is_last:
                pixels = self.image_encoder.encoder.layers[index].downsample(pixels, size)
                size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        return features, words

    def _run_swin_stage(self, index: int, pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        for block in self.image_encoder.encoder.layers[index].blocks:
            pixels = block(pixels, size, always_partition=True)[0]
        return pixels


class MagNetPreTrainedModel(TrainableSegmentationModel):
    """Initialisation and the settings that transformers reads."""

    config: MagNetConfig
    config_class = MagNetConfig
    base_model_prefix = "magnet"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # Each joins what several of its parts give, which must lie on one device.
    _no_split_modules = [
        "SwinEmbeddings",
        "SwinLayer",
        "BertEmbeddings",
        "BertLayer",
        "FusionStage",
        "PixelDecoder",
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
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, MaskGroundingHead):
            super()._init_weights(module)
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
        elif isinstance(module, MaskDecoder):
            self._init_xavier(module)
            init.normal_(module.query_features)
            init.normal_(module.query_position)
            init.normal_(module.level_embedding)

    @staticmethod
    def _init_xavier(decoder: nn.Module) -> None:
        """The decoders' linear layers, which were visited before their decoder, but for those that steer sampling."""
        for name, module in decoder.named_modules():
            if isinstance(module, nn.Linear) and not name.endswith(("sampling_offsets", "attention_weights")):
                init.xavier_uniform_(module.weight)

    @property
    def input_modules(self) -> tuple[nn.Module, ...]:
        return self.encoder.image_encoder.embeddings, self.encoder.text_encoder.embeddings


class MagNetForReferringSegmentation(MagNetPreTrainedModel):
    """
    An image and an expression go in, the mask of what the expression refers to comes out.

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
        self.mask_decoder = MaskDecoder(config)
        self.auxiliary_losses = AuxiliaryLosses(config, pixel_width=config.hidden_dim)
        # No mask depends on these: without a loss of their own they would never receive a gradient, which training on
        # several processes does not forgive.
        last_stage = self.encoder.stages[-1]
        for module in (last_stage.image_gate, self.mask_decoder.class_head):
            module.requires_grad_(False)
        for module in (last_stage.word_fusion, last_stage.word_gate):
            module.requires_grad_(self.auxiliary_losses.are_on)
        self.post_init()

    @property
    def image_encoder(self) -> nn.Module:
        return self.encoder.image_encoder

    @property
    def text_encoder(self) -> BertModel:
        return self.encoder.text_encoder

    def encode_images(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        return self.encoder.encode_images(pixel_values)

    def segment(
        self,
        images: tuple[torch.Tensor, tuple[int, int]],
        input_ids: torch.Tensor,
        is_word: torch.Tensor,
        output_features: bool,
    ) -> Segmentation:
        features, words = self.encoder(*images, input_ids, is_word, output_words=output_features)
        mask_features, memory_maps = self.pixel_decoder(features)
        predictions, class_logits = self.mask_decoder(mask_features, memory_maps)
        return Segmentation(predictions, class_logits, mask_features, features, words)

    def fuse(
        self, images: tuple[torch.Tensor, tuple[int, int]], input_ids: torch.Tensor, is_word: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        # After Swin's first stage, the encoder alone: neither decoder is asked again.
        stages = self.config.grounding_stages
        return self.encoder(*images, input_ids, is_word, output_words=True, only_stages=stages)

    def mask_losses(self, predictions: list[torch.Tensor], labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted BCE and Dice, means over the supervised predictions; (N, h, w) each, `labels` (N, H, W)."""
        supervised = predictions if self.config.deep_supervision else predictions[-1:]
        terms = [mask_loss(prediction, labels) for prediction in supervised]
        return {
            "bce": self.config.bce_loss_weight * torch.stack([bce for bce, _ in terms]).mean(),
            "dice": self.config.dice_loss_weight * torch.stack([dice for _, dice in terms]).mean(),
        }


__all__ = ["MagNetForReferringSegmentation", "MagNetPreTrainedModel"]
