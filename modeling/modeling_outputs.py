"""The one output type of every model of this library."""

from dataclasses import dataclass
from typing import Any

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
        hidden_states (`tuple[torch.FloatTensor]`, *optional*, returned with `output_hidden_states=True`):
            The image maps that know the expression, each of shape `(N, c, h, w)`, in the order in which the model makes them.
        pixel_features (`torch.FloatTensor` of shape `(N, d, h, w)`, *optional*, returned with `output_hidden_states=True`):
            The features that the mask is read from.
        word_features (`torch.FloatTensor` of shape `(N, L, d)`, *optional*, returned with `output_hidden_states=True`):
            Word features after the last fusion.
    """

    loss: torch.Tensor | None = None
    loss_dict: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    auxiliary_logits: tuple[torch.Tensor, ...] | None = None
    class_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    pixel_features: torch.Tensor | None = None
    word_features: torch.Tensor | None = None


@dataclass
class ZeroShotSegmentationOutput(ReferringSegmentationOutput):
    """
    What the zero-shot models return: the whole of [`ReferringSegmentationOutput`], where `logits` are +10 inside of the chosen
    region and -10 outside, at the (reduced) picture's size, and -10 beside a picture that is smaller than others of the batch.

    Args:
        region_masks (`tuple[torch.BoolTensor]`):
            Of each image, its regions: (r, height, width). There may be none.
        region_scores (`tuple[torch.FloatTensor]`):
            Of each pair, how its score is shared out among the image's regions: (r,), sums to 1.
        picks (`tuple[int | None]`):
            Of each pair, the number of the chosen region; `None` where there is none. Where an expression speaks of places, it
            need not be the one with the largest share.
        terms (`tuple[dict[str, torch.FloatTensor]]`):
            Of each pair, what its score is made of, (r,) each: of Global-Local "score"; of TAS "V", "P" and "N".
        explanations (`tuple[dict]`, *optional*, returned with `explain=True`):
            Of each pair, what was read in the expression and seen in the regions.
    """

    region_masks: tuple[torch.Tensor, ...] | None = None
    region_scores: tuple[torch.Tensor, ...] | None = None
    picks: tuple[int | None, ...] | None = None
    terms: tuple[dict[str, torch.Tensor], ...] | None = None
    explanations: tuple[dict[str, Any], ...] | None = None


__all__ = ["ReferringSegmentationOutput", "ZeroShotSegmentationOutput"]
