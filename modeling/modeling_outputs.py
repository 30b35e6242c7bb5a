"""The one output type of every model of this library."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class ReferringSegmentationOutput(ModelOutput):
    """
    What `forward` of every model returns. B images carry k expressions each; N = B·k counts (image, expression) pairs,
    image-major: pair `n` belongs to image `n // k`.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `labels` is given):
            The weighted sum of `loss_dict`.
        loss_dict (`dict[str, torch.FloatTensor]`, *optional*, returned when `labels` is given):
            Every weighted term of the loss, detached, by name.
        logits (`torch.FloatTensor` of shape `(N, h, w)`):
            Per-pixel log-odds of belonging to the referent, at the model's own stride.
        auxiliary_logits (`tuple[torch.FloatTensor]`, *optional*, returned when training):
            The earlier predictions of a decoder that predicts more than once, each of the shape of `logits`.
        class_logits (`torch.FloatTensor` of shape `(N, 2)`, *optional*):
            What the published class head says. With one query it does not enter the score.
        pixel_features (`torch.FloatTensor` of shape `(N, d, h, w)`, *optional*, returned with `output_features=True`):
            The features that the mask is read from.
        image_features (`tuple[torch.FloatTensor]`, *optional*, returned with `output_features=True`):
            Fused image features of each stage, each of shape `(N, c, h, w)`, fine to coarse.
        word_features (`torch.FloatTensor` of shape `(N, L, d)`, *optional*, returned with `output_features=True`):
            Word features after the last fusion.
    """

    loss: torch.Tensor | None = None
    loss_dict: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    auxiliary_logits: tuple[torch.Tensor, ...] | None = None
    class_logits: torch.Tensor | None = None
    pixel_features: torch.Tensor | None = None
    image_features: tuple[torch.Tensor, ...] | None = None
    word_features: torch.Tensor | None = None


__all__ = ["ReferringSegmentationOutput"]
