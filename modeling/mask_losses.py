"""Losses on predicted masks."""

import torch
from torch import nn

from .masks import enlarge_logits


def dice_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    One minus the soft Dice coefficient of V-Net (3DV 2016), smoothed by 1 as in MaskFormer (NeurIPS 2021, section 3.3):
    `1 - (2 Σ p·y + 1) / (Σ p + Σ y + 1)`.

    Args:
        logits (`torch.Tensor` of shape `(N, h, w)`): Log-odds.
        labels (`torch.Tensor` of shape `(N, h, w)`): Ground truth in [0, 1].

    Returns:
        `torch.Tensor` of shape `()`, the mean over N.
    """
    probabilities, labels = logits.float().sigmoid().flatten(1), labels.float().flatten(1)
    overlap = (probabilities * labels).sum(dim=1)
    total = probabilities.sum(dim=1) + labels.sum(dim=1)
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def mask_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Binary cross-entropy and Dice of predicted masks, as in Mask2Former (CVPR 2022, section 3.3), over all pixels.

    They are taken at the size of the labels, to which the logits are enlarged as they are after inference: what is learned is
    the mask that is used, with edges between the logits' own cells.

    Args:
        logits (`torch.Tensor` of shape `(N, h, w)`): Log-odds.
        labels (`torch.Tensor` of shape `(N, H, W)`): Ground truth of 0 and 1, any dtype.

    Returns:
        The two losses, each of shape `()`, means over N.
    """
    height, width = labels.shape[-2:]
    logits, labels = enlarge_logits(logits, (height, width)), labels.float()
    return nn.functional.binary_cross_entropy_with_logits(logits, labels), dice_loss(logits, labels)


__all__ = ["dice_loss", "mask_loss"]
