"""What Mask Grounding (CVPR 2024) adds to a model's mask loss: for any model of this library, on by configuration."""

import torch
from torch import nn

from .alignment_loss import AlignmentLoss
from .configuration_referring_segmentation import TrainableSegmentationConfig
from .mask_grounding import MaskGroundingHead, mask_grounding_loss


class AuxiliaryLosses(nn.Module):
    """
    The heads of Mask Grounding and of the cross-modal alignment loss, each None where its weight is 0.

    Args:
        config (`TrainableSegmentationConfig`): The model's configuration.
        pixel_width (`int`): Channels of the features that the mask is read from.
    """

    _no_split_modules = ["MaskGroundingHead", "AlignmentLoss"]  # transformers collects them from a model's children

    def __init__(self, config: TrainableSegmentationConfig, pixel_width: int) -> None:
        super().__init__()
        self.config = config
        text_config = config.text_config
        self.mask_grounding: MaskGroundingHead | None = None
        self.alignment: AlignmentLoss | None = None
        if config.mask_grounding_loss_weight:
            image_widths = [config.fused_widths[stage] for stage in config.grounding_stages]
            self.mask_grounding = MaskGroundingHead(text_config, image_widths, config.mask_grounding_layers)
        if config.alignment_loss_weight:
            self.alignment = AlignmentLoss(
                pixel_width,
                text_config.hidden_size,
                config.alignment_dim,
                config.alignment_temperature,
                config.alignment_pixels,
            )

    @property
    def are_on(self) -> bool:
        return self.mask_grounding is not None or self.alignment is not None

    def drop_mask_grounding(self) -> None:
        """Goes on without: the second pass for hidden words costs more than it teaches once their meaning is learned."""
        self.mask_grounding = None
        self.config.mask_grounding_loss_weight = 0.0

    def align(
        self,
        pixel_features: torch.Tensor,
        word_features: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The weighted terms of [`AlignmentLoss`], by name, if it is on; arguments as there."""
        if self.alignment is None:
            return {}
        terms = self.alignment(pixel_features, word_features, attention_mask, labels)
        names = ("pixel_to_pixel", "pixel_to_text")
        return {name: self.config.alignment_loss_weight * term for name, term in zip(names, terms, strict=True)}

    def ground(self, logits: torch.Tensor, hidden_words: torch.Tensor) -> dict[str, torch.Tensor]:
        """The weighted [`mask_grounding_loss`] of what its head said, by name; arguments as there."""
        loss = mask_grounding_loss(logits, hidden_words.to(logits.device))
        return {"mask_grounding": self.config.mask_grounding_loss_weight * loss}


__all__ = ["AuxiliaryLosses"]
