"""
MagNet, of "Mask Grounding for Referring Image Segmentation" (Chng, Zheng, Han, Qiu, Huang; CVPR 2024).

Swin and BERT advance side by side in four stages and inform each other after each; a deformable pixel decoder joins the
four fused maps, and a one-query mask decoder reads the referent from them. Swin and BERT are transformers' own, driven
block by block; the rest is in `cross_modal_attention`, `pixel_decoder` and `mask_decoder`. Ours are the mask losses (the
authors released no training code) and `language_attention_mask="binary"`; with `"published"` the outputs are those of
the released network.
"""

from collections.abc import Sequence
from typing import Any

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
from .modeling_outputs import ReferringSegmentationOutput
from .modeling_referring_segmentation import ReferringSegmentationPreTrainedModel
from .pixel_decoder import DeformableAttention, PixelDecoder


PIXELS_AT_ONCE = 480 * 480  # of the model's input, times expressions, on the CPU: more are no faster there


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


class MagNetPreTrainedModel(ReferringSegmentationPreTrainedModel):
    """Initialisation and the settings that transformers reads."""

    config: MagNetConfig
    config_class = MagNetConfig
    base_model_prefix = "magnet"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["SwinLayer", "BertLayer", "FusionStage", "DeformableLayer", "MaskDecoderLayer"]
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
            init.zeros_(module.word_bias)
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

    def enable_input_require_grads(self) -> None:
        """Makes both embeddings' outputs require gradients (adapters under gradient checkpointing)."""

        def require_grad(module, inputs, output):
            states = output[0] if isinstance(output, tuple) else output
            states.requires_grad_(True)

        embeddings = (self.encoder.image_encoder.embeddings, self.encoder.text_encoder.embeddings)
        self._require_grads_hooks = [module.register_forward_hook(require_grad) for module in embeddings]


def expressions_at_once(pixel_values: torch.Tensor) -> int:
    """How many expressions of each image are worked on together, so that memory does not grow with their number."""
    limit = PIXELS_AT_ONCE if pixel_values.device.type == "cpu" else 16 * PIXELS_AT_ONCE
    return max(1, limit // pixel_values[:, 0].numel())


def join_expressions(parts: Sequence[torch.Tensor], num_images: int) -> torch.Tensor:
    """Joins what was computed of some expressions of each image, (B·k₁, …), (B·k₂, …), to (B·k, …), image-major."""
    return torch.cat([part.unflatten(0, (num_images, -1)) for part in parts], dim=1).flatten(0, 1)


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
        self.auxiliary_losses = AuxiliaryLosses(
            config,
            config.text_config,
            image_widths=[config.stage_widths[stage] for stage in config.grounding_stages],
            pixel_width=config.hidden_dim,
        )
        # No mask depends on these: without a loss of their own they would never receive a gradient, which training on
        # several processes does not forgive.
        last_stage = self.encoder.stages[-1]
        for module in (last_stage.image_gate, self.mask_decoder.class_head):
            module.requires_grad_(False)
        for module in (last_stage.word_fusion, last_stage.word_gate):
            module.requires_grad_(self.auxiliary_losses.are_on)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.text_encoder.set_input_embeddings(value)

    def forward(
        self,
        pixel_values: torch.FloatTensor,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        masked_input_ids: torch.LongTensor | None = None,
        hidden_words: torch.LongTensor | None = None,
        output_features: bool = False,
        return_dict: bool = True,
        **kwargs,
    ) -> ReferringSegmentationOutput | tuple:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, H, W)`): Normalised images of any size.
            input_ids (`torch.LongTensor` of shape `(N, L)`): Token ids; N = B·k, image-major.
            attention_mask (`torch.Tensor` of shape `(N, L)`, *optional*): 1 for real tokens, 0 for padding.
            labels (`torch.Tensor` of shape `(N, h, w)`, *optional*): Ground-truth masks of 0 and 1, at any size.
            masked_input_ids (`torch.LongTensor` of shape `(N, L)`, *optional*): For Mask Grounding, which needs both of
                these in training: the expressions with some words hidden.
            hidden_words (`torch.LongTensor` of shape `(N, L)`, *optional*): Ids of the hidden words, -100 elsewhere.
            output_features (`bool`, *optional*, defaults to `False`): Whether features are returned beside the logits.

        Returns:
            [`ReferringSegmentationOutput`] with `logits` at stride 4.

        Raises:
            `ValueError`: If the number of expressions is not a multiple of the number of images, or Mask Grounding is trained
                without hidden words.
        """
        num_images, num_pairs = pixel_values.shape[0], input_ids.shape[0]
        if num_images == 0 or num_pairs == 0 or num_pairs % num_images:
            raise ValueError(
                f"input_ids must hold the same number of expressions for each of the {num_images} images, "
                f"got {num_pairs} rows"
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        trains = self.training and labels is not None
        aligns = trains and self.auxiliary_losses.alignment is not None
        grounds = trains and self.auxiliary_losses.mask_grounding is not None

        pixels, size = self.encoder.encode_images(pixel_values)
        at_once = num_pairs // num_images
        if not (torch.is_grad_enabled() or self.training or output_features):
            at_once = min(at_once, expressions_at_once(pixel_values))
        parts = [
            self._segment(pixels, size, ids.flatten(0, 1), is_word.flatten(0, 1), output_features or aligns)
            for ids, is_word in zip(
                input_ids.unflatten(0, (num_images, -1)).split(at_once, dim=1),
                attention_mask.bool().unflatten(0, (num_images, -1)).split(at_once, dim=1),
                strict=True,
            )
        ]
        predictions = [join_expressions(maps, num_images) for maps in zip(*(part[0] for part in parts), strict=True)]

        features = parts[0][2]
        terms: dict[str, torch.Tensor] = {}
        if labels is not None:
            terms |= self.mask_losses(predictions, labels)
            if aligns:
                pixel_features, word_features = features["pixel_features"], features["word_features"]
                terms |= self.auxiliary_losses.align(pixel_features, word_features, attention_mask, labels)
            if grounds:
                terms |= self._ground(pixels, size, attention_mask, labels, masked_input_ids, hidden_words)
        output = ReferringSegmentationOutput(
            loss=torch.stack(list(terms.values())).sum() if terms else None,
            loss_dict={name: term.detach() for name, term in terms.items()} if terms else None,
            logits=predictions[-1],
            auxiliary_logits=tuple(predictions[:-1]) if self.training or output_features else None,
            class_logits=join_expressions([part[1] for part in parts], num_images),
            **(features if output_features else {}),
        )
        return output if return_dict else output.to_tuple()

    def _segment(
        self,
        pixels: torch.Tensor,
        size: tuple[int, int],
        input_ids: torch.Tensor,
        is_word: torch.Tensor,
        output_features: bool,
    ) -> tuple[list[torch.Tensor], torch.Tensor, dict[str, Any]]:
        """All predictions, the class logits, and what features were asked for."""
        features, words = self.encoder(pixels, size, input_ids, is_word, output_words=output_features)
        mask_features, memory_maps = self.pixel_decoder(features)
        predictions, class_logits = self.mask_decoder(mask_features, memory_maps)
        wanted = {"pixel_features": mask_features, "image_features": tuple(features), "word_features": words}
        return predictions, class_logits, wanted if output_features else {}

    def name_words(
        self,
        pixel_values: torch.Tensor,
        masked_input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        masks: torch.Tensor,
    ) -> torch.Tensor:
        """
        What the head of Mask Grounding takes hidden words for.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, H, W)`): Normalised images.
            masked_input_ids (`torch.LongTensor` of shape `(N, L)`): Expressions with some words hidden; N = B·k, image-major.
            attention_mask (`torch.Tensor` of shape `(N, L)`): 1 for real tokens, 0 for padding.
            masks (`torch.Tensor` of shape `(N, h, w)`): What the expressions refer to.

        Returns:
            `torch.FloatTensor` of shape `(N, L, V)`: Logits over the vocabulary.

        Raises:
            `ValueError`: If the model has no such head.
        """
        pixels, size = self.encoder.encode_images(pixel_values)
        return self._name_words(pixels, size, masked_input_ids, attention_mask, masks)

    def _name_words(
        self,
        pixels: torch.Tensor,
        size: tuple[int, int],
        masked_input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        masks: torch.Tensor,
    ) -> torch.Tensor:
        head = self.auxiliary_losses.mask_grounding
        if head is None:
            raise ValueError("this model has no head of Mask Grounding: its mask_grounding_loss_weight is 0")
        # The masked expressions pass the encoder alone, after Swin's first stage: neither decoder is asked again.
        stages, is_word = self.config.grounding_stages, attention_mask.bool()
        maps, words = self.encoder(pixels, size, masked_input_ids, is_word, output_words=True, only_stages=stages)
        # Looked up, not read off: a table that is spread over processes is whole only in its own forward.
        vocabulary = torch.arange(self.config.text_config.vocab_size, device=words.device)
        word_embeddings = self.get_input_embeddings()(vocabulary)
        return head(words, attention_mask, maps, masks, word_embeddings)

    def _ground(
        self,
        pixels: torch.Tensor,
        size: tuple[int, int],
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        masked_input_ids: torch.Tensor | None,
        hidden_words: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        if masked_input_ids is None or hidden_words is None:
            raise ValueError(
                "masked_input_ids and hidden_words are needed to train with mask_grounding_loss_weight="
                f"{self.config.mask_grounding_loss_weight}: ReferringSegmentationCollator(mask_probability=0.15) makes them"
            )
        logits = self._name_words(pixels, size, masked_input_ids, attention_mask, labels)
        return self.auxiliary_losses.ground(logits, hidden_words)

    def mask_losses(self, predictions: list[torch.Tensor], labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted BCE and Dice, means over the supervised predictions; (N, h, w) each, `labels` (N, H, W)."""
        if len(labels) != len(predictions[-1]):
            raise ValueError(f"labels must hold one mask per expression ({len(predictions[-1])}), got {len(labels)}")
        supervised = predictions if self.config.deep_supervision else predictions[-1:]
        terms = [mask_loss(prediction, labels) for prediction in supervised]
        return {
            "bce": self.config.bce_loss_weight * torch.stack([bce for bce, _ in terms]).mean(),
            "dice": self.config.dice_loss_weight * torch.stack([dice for _, dice in terms]).mean(),
        }


__all__ = ["MagNetForReferringSegmentation", "MagNetPreTrainedModel"]
