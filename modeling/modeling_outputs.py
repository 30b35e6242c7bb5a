"""The one output type of every model of this library."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput


LOGIT = 10.0  # of the zero-shot models, inside of the chosen region


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
    region and -10 outside, at the (reduced) picture's size, and -10 beside a picture that is smaller than others of the batch. They
    are made when they are asked for, as `outputs.logits` or `outputs["logits"]`: the chosen regions say the same in less memory.

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

    @property  # type: ignore[misc]  # an attribute of the base class
    def logits(self) -> torch.Tensor | None:
        masks, scores = self.region_masks, self.region_scores
        if "region_masks" not in self or masks is None or scores is None:  # while it is made
            return None
        chosen = chosen_masks(self)
        height, width = (max(each.shape[axis] for each in masks) for axis in (1, 2))
        logits = torch.full((len(chosen), height, width), -LOGIT)
        for own, mask in zip(logits, chosen, strict=True):
            own[: mask.shape[0], : mask.shape[1]][mask] = LOGIT
        return logits.to(scores[0].device)

    @logits.setter
    def logits(self, value: torch.Tensor | None) -> None:
        """Keeps nothing: the base class sets what it was not given."""

    def __getitem__(self, key: Any) -> Any:
        return self.logits if key == "logits" else super().__getitem__(key)


def chosen_masks(outputs: Any) -> list[torch.Tensor]:
    """Of each pair of a [`ZeroShotSegmentationOutput`], the chosen region, (height, width), or an empty mask."""
    each = len(outputs.picks) // len(outputs.region_masks)
    chosen = []
    for number, pick in enumerate(outputs.picks):
        masks = outputs.region_masks[number // each]
        chosen.append(masks.new_zeros(masks.shape[1:]) if pick is None else masks[pick])
    return chosen


__all__ = ["ReferringSegmentationOutput", "ZeroShotSegmentationOutput", "chosen_masks"]
