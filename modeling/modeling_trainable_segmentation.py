"""The forward pass that trained models share: from tensors to the output, with the losses of the mask and of Mask Grounding."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from .grounding_losses import AuxiliaryLosses, MaskGroundingHead, confidence_loss
from .modeling_referring_segmentation import ReferringSegmentationOutput, ReferringSegmentationPreTrainedModel


PIXELS_PER_PASS = 480 * 480  # of the model's input, times expressions, on the CPU: more are no faster there


class RawPrediction(NamedTuple):
    """
    Outputs of `segment` for N = B·k (image, expression) pairs.

    Attributes:
        predictions (`list[torch.Tensor]`): Log-odds (N, h, w); the last are the answer.
        class_logits (`torch.Tensor` of shape `(N, 2)`, *optional*): Output of the published class head.
        pixel_features (`torch.Tensor` of shape `(N, d, h, w)`): Features that the mask is read from.
        image_features (`Sequence[torch.Tensor]`): The fused maps (N, c, h, w).
        word_features (`torch.Tensor` of shape `(N, L, d)`, *optional*): Word features after the last fusion.
        confidence_logits (`torch.Tensor` of shape `(N,)`, *optional*): Log-odds that the mask is right.
    """

    predictions: list[torch.Tensor]
    class_logits: torch.Tensor | None
    pixel_features: torch.Tensor
    image_features: Sequence[torch.Tensor]
    word_features: Any
    confidence_logits: torch.Tensor | None = None


class TrainableSegmentationModel(ReferringSegmentationPreTrainedModel):
    """
    Base of the models that are trained: each image is encoded once, its expressions are worked on together, and the losses of Mask
    Grounding (CVPR 2024) are on by configuration. A model sets `auxiliary_losses` and implements the methods that raise here.
    """

    auxiliary_losses: AuxiliaryLosses

    def encode_images(self, pixel_values: torch.Tensor) -> Any:
        """Compute what depends on no word, for `segment` and `fuse`; images (B, 3, H, W)."""
        raise NotImplementedError

    def segment(
        self, images: Any, input_ids: torch.Tensor, is_word: torch.Tensor, output_features: bool
    ) -> RawPrediction:
        """
        Predict masks of N = B·k (image, expression) pairs.

        Args:
            images: The output of `encode_images` for B images.
            input_ids (`torch.Tensor` of shape `(N, L)`): Expressions; N = B·k, image-major.
            is_word (`torch.BoolTensor` of shape `(N, L)`): False for padding.
            output_features (`bool`): Whether to compute features that no mask depends on.
        """
        raise NotImplementedError

    def predict(
        self, images: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Answer N = B·k expressions (N, L), image-major, from the output of `encode_images`.

        Returns:
            Mask logits (N, h, w), and the probabilities (N,) that the masks are right, None from a model that does not know.
        """
        raw = self.segment(images, input_ids, attention_mask.bool(), output_features=False)
        return raw.predictions[-1], None if raw.confidence_logits is None else raw.confidence_logits.float().sigmoid()

    def fuse(
        self, images: Any, input_ids: torch.Tensor, is_word: torch.Tensor
    ) -> tuple[Sequence[torch.Tensor], torch.Tensor]:
        """Compute the fused maps of the configuration's `grounding_stages`, (N, c, h, w), and the word features (N, L, d)."""
        raise NotImplementedError

    def mask_losses(self, predictions: list[torch.Tensor], labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute weighted terms by name; predictions (N, h, w) each, `labels` (N, H, W)."""
        raise NotImplementedError

    @property
    def input_modules(self) -> tuple[nn.Module, ...]:
        """Modules that images and words enter first."""
        raise NotImplementedError

    @property
    def image_encoder(self) -> nn.Module:
        """The image encoder, which sees no words."""
        raise NotImplementedError

    @property
    def text_encoder(self) -> PreTrainedModel:
        """The text encoder, a model of transformers."""
        raise NotImplementedError

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        masked_input_ids: torch.LongTensor | None = None,
        hidden_words: torch.LongTensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> ReferringSegmentationOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, H, W)`): Normalised images of any size.
            input_ids (`torch.LongTensor` of shape `(N, L)`): Token ids; N = B·k, image-major.
            attention_mask (`torch.Tensor` of shape `(N, L)`, *optional*): 1 for real tokens, 0 for padding.
            labels (`torch.Tensor` of shape `(N, h, w)`, *optional*): Ground-truth masks between 0 and 1, at any size.
            masked_input_ids (`torch.LongTensor` of shape `(N, L)`, *optional*): For Mask Grounding, which needs both of
                these in training: the expressions with some words hidden.
            hidden_words (`torch.LongTensor` of shape `(N, L)`, *optional*): Ids of the hidden words, -100 elsewhere.
            output_hidden_states (`bool`, *optional*): Whether to return features beside the logits; by default as configured.
            return_dict (`bool`, *optional*): Whether to return an output object or a tuple; by default as configured.

        Returns:
            [`ReferringSegmentationOutput`] with `logits` at the model's stride, or a tuple of its values.

        Raises:
            `ValueError`: If the number of expressions is not a multiple of the number of images, an expression is longer than
                the text encoder reads, labels are not between 0 and 1, or Mask Grounding is trained without hidden words.
        """
        self._check_inputs(pixel_values, input_ids, labels)
        num_images = pixel_values.shape[0]
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        is_trained = self.training and labels is not None
        is_aligned = is_trained and self.auxiliary_losses.alignment is not None
        is_grounded = is_trained and self.auxiliary_losses.mask_grounding is not None
        keeps_all = self.training or labels is not None or output_hidden_states

        # 1. Each image once
        images = self.encode_images(pixel_values)

        # 2. Its expressions: all together, or at inference as many as fit into memory
        per_pass = input_ids.shape[0] // num_images
        if not (torch.is_grad_enabled() or self.training or output_hidden_states):
            per_pass = min(per_pass, expressions_per_pass(pixel_values))
        passes = zip(
            input_ids.unflatten(0, (num_images, -1)).split(per_pass, dim=1),
            attention_mask.bool().unflatten(0, (num_images, -1)).split(per_pass, dim=1),
            strict=True,
        )
        maps, class_logits, confidence_logits = [], [], []
        for ids, is_word in passes:
            part = self.segment(images, ids.flatten(0, 1), is_word.flatten(0, 1), output_hidden_states or is_aligned)
            maps.append(part.predictions if keeps_all else part.predictions[-1:])
            if part.class_logits is not None:
                class_logits.append(part.class_logits)
            if part.confidence_logits is not None:
                confidence_logits.append(part.confidence_logits)
        predictions = [join_expressions(parts, num_images) for parts in zip(*maps, strict=True)]
        confidence = join_expressions(confidence_logits, num_images) if confidence_logits else None

        # 3. Losses
        terms: dict[str, torch.Tensor] = {}
        if labels is not None:
            terms |= self.mask_losses(predictions, labels.to(predictions[-1].device))
            if confidence is not None:
                loss = confidence_loss(confidence, predictions[-1], labels.to(confidence.device))
                terms["confidence"] = self.config.confidence_loss_weight * loss
            if is_aligned:
                terms |= self.auxiliary_losses.align(part.pixel_features, part.word_features, attention_mask, labels)
            if is_grounded:
                terms |= self._ground(images, attention_mask, labels, masked_input_ids, hidden_words)

        return ReferringSegmentationOutput(
            loss=torch.stack([term.to(predictions[-1].device) for term in terms.values()]).sum() if terms else None,
            loss_dict={name: term.detach() for name, term in terms.items()} if terms else None,
            logits=predictions[-1],
            auxiliary_logits=tuple(predictions[:-1]) if self.training or output_hidden_states else None,
            class_logits=join_expressions(class_logits, num_images) if class_logits else None,
            confidence=confidence.float().sigmoid() if confidence is not None else None,
            hidden_states=tuple(part.image_features) if output_hidden_states else None,
            pixel_features=part.pixel_features if output_hidden_states else None,
            word_features=part.word_features if output_hidden_states else None,
        )

    def _check_inputs(self, pixel_values: torch.Tensor, input_ids: torch.Tensor, labels: torch.Tensor | None) -> None:
        """The one check of tensors that no processor may have made."""
        num_images, num_pairs, num_tokens = pixel_values.shape[0], *input_ids.shape
        if num_images == 0 or num_pairs == 0 or num_pairs % num_images:
            raise ValueError(
                f"`input_ids` must hold the same number of expressions for each of the {num_images} images, "
                f"got {num_pairs} rows."
            )
        if num_tokens > self.max_text_length:
            raise ValueError(
                f"`input_ids` must hold at most {self.max_text_length} tokens for each expression, the text encoder's "
                f"positions, got {num_tokens}."
            )
        if labels is None:
            return
        if labels.ndim != 3 or len(labels) != num_pairs:
            raise ValueError(
                f"`labels` must hold one mask (h, w) for each of the {num_pairs} expressions, got shape "
                f"{tuple(labels.shape)}."
            )
        if torch.compiler.is_compiling() or labels.is_meta:
            return  # values are not known
        low, high = (float(value) for value in labels.float().aminmax())
        if not (low >= 0 and high <= 1):  # NaN fails both
            raise ValueError(f"`labels` must be between 0 and 1, got values from {low:g} to {high:g}.")

    def name_words(
        self,
        pixel_values: torch.Tensor,
        masked_input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        masks: torch.Tensor,
    ) -> torch.Tensor:
        """
        Name hidden words with the head of Mask Grounding.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, H, W)`): Normalised images.
            masked_input_ids (`torch.LongTensor` of shape `(N, L)`): Expressions with some words hidden; N = B·k, image-major.
            attention_mask (`torch.Tensor` of shape `(N, L)`): 1 for real tokens, 0 for padding.
            masks (`torch.Tensor` of shape `(N, h, w)`): Masks of the referents.

        Returns:
            `torch.FloatTensor` of shape `(N, L, V)`: Logits over the vocabulary.

        Raises:
            `ValueError`: If the model has no such head.
        """
        return self._name_words(self.encode_images(pixel_values), masked_input_ids, attention_mask, masks)

    def _name_words(
        self, images: Any, masked_input_ids: torch.Tensor, attention_mask: torch.Tensor, masks: torch.Tensor
    ) -> torch.Tensor:
        head = self.auxiliary_losses.mask_grounding
        if head is None:
            raise ValueError("This model cannot name words: its `mask_grounding_loss_weight` is 0.")
        maps, words = self.fuse(images, masked_input_ids, attention_mask.bool())
        # Called rather than read: a table that is spread over processes is whole in its forward only.
        vocabulary = torch.arange(self.config.text_config.vocab_size, device=words.device)
        word_embeddings = self.get_input_embeddings()(vocabulary)
        return head(words, attention_mask, maps, masks, word_embeddings)

    def _ground(
        self,
        images: Any,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        masked_input_ids: torch.Tensor | None,
        hidden_words: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        if masked_input_ids is None or hidden_words is None:
            raise ValueError(
                "`masked_input_ids` and `hidden_words` are needed to train with mask_grounding_loss_weight="
                f"{self.config.mask_grounding_loss_weight}; ReferringSegmentationCollator(mask_probability=0.15) makes them."
            )
        with unchanged_statistics(self):
            logits = self._name_words(images, masked_input_ids, attention_mask, labels)
        return self.auxiliary_losses.ground(logits, hidden_words)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, MaskGroundingHead):
            init.zeros_(module.word_bias)
        else:
            super()._init_weights(module)

    @property
    def max_text_length(self) -> int:
        """Number of tokens that the text encoder has positions for."""
        return self.text_encoder.config.max_position_embeddings

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_encoder.set_input_embeddings(value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the token embeddings, and the head that names hidden words, if there is one, with them."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        head = self.auxiliary_losses.mask_grounding
        if head is not None:
            bias = head.word_bias.data[: embeddings.num_embeddings]
            added = bias.new_zeros(embeddings.num_embeddings - len(bias))
            # The parameter stays itself: frozen if it was, and known to an optimizer.
            head.word_bias.data, head.word_bias.grad = torch.cat([bias, added]), None
        return embeddings

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """Choose the attention kernel, also of the head that names hidden words: its layers may have another configuration."""
        super().set_attn_implementation(*args, **kwargs)
        head = self.auxiliary_losses.mask_grounding
        if head is not None:
            head.text_config._attn_implementation = self.config.text_config._attn_implementation

    def enable_input_require_grads(self) -> None:
        """Let the outputs of `input_modules` require gradients, for adapters under gradient checkpointing."""

        def require_grad(module, inputs, output):
            states = output[0] if isinstance(output, tuple) else output
            states.requires_grad_(True)

        self._require_grads_hooks = [module.register_forward_hook(require_grad) for module in self.input_modules]


@contextmanager
def unchanged_statistics(model: nn.Module) -> Iterator[None]:
    """Use batch statistics without updating the running ones: words are hidden in training only."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def expressions_per_pass(pixel_values: torch.Tensor) -> int:
    """Number of expressions of each image that are worked on together, so that memory does not grow with all of them."""
    limit = PIXELS_PER_PASS if pixel_values.device.type == "cpu" else 16 * PIXELS_PER_PASS
    return max(1, limit // pixel_values[:, 0].numel())


def join_expressions(parts: Sequence[torch.Tensor], num_images: int) -> torch.Tensor:
    """Join results for some expressions of each image, (B·k₁, …), (B·k₂, …), to (B·k, …), image-major."""
    return torch.cat([part.unflatten(0, (num_images, -1)) for part in parts], dim=1).flatten(0, 1)


__all__ = ["RawPrediction", "TrainableSegmentationModel"]
