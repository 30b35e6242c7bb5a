"""Losses on predicted masks."""

import torch
from torch import nn

from .pooling import average_pool


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

    Args:
        logits (`torch.Tensor` of shape `(N, h, w)`): Log-odds.
        labels (`torch.FloatTensor` of shape `(N, h, w)`): Ground truth in [0, 1], see [`resize_labels`].

    Returns:
        The two losses, each of shape `()`, means over N.
    """
    return nn.functional.binary_cross_entropy_with_logits(logits.float(), labels), dice_loss(logits, labels)


def resize_labels(labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """
    Ground-truth masks at the size of the logits: the share of each cell that the referent covers.

    Args:
        labels (`torch.Tensor` of shape `(N, H, W)`): Masks of 0 and 1, any dtype.
        size (`tuple[int, int]`): (h, w) of the logits.

    Returns:
        `torch.FloatTensor` of shape `(N, h, w)` with values in [0, 1].
    """
    return average_pool(labels.float(), size)


__all__ = ["dice_loss", "mask_loss", "resize_labels"]
