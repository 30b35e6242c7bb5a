"""
The cross-modal alignment loss, of "Mask Grounding for Referring Image Segmentation" (Chng, Zheng, Han, Qiu, Huang; CVPR 2024,
section 3.4): in one space, pixels of what an expression refers to attract each other and the expression, and repel the other
pixels.

The paper has a pixel-to-pixel and a pixel-to-text term, whose exact form was never released. Here both are InfoNCE in the form
of "Exploring Cross-Image Pixel Contrast" (Wang et al., ICCV 2021, equation 3). Nothing here knows a model.
"""

import torch
from torch import nn

from .attention import full_precision
from .pooling import average_pool


NEVER = -1e4  # a similarity of none; minus infinity would give no gradient where there is nothing else


def info_nce(positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """
    `-log(exp(p) / (exp(p) + Σ exp(n)))` of each positive similarity p against all negative ones n of its anchor.

    Args:
        positives (`torch.Tensor` of shape `(..., P)`): Similarities over temperature.
        negatives (`torch.Tensor` of shape `(..., Q)`): The same; `NEVER` for one that does not count.

    Returns:
        `torch.Tensor` of shape `(..., P)`.
    """
    return nn.functional.softplus(negatives.logsumexp(dim=-1, keepdim=True) - positives)


def sample_places(inside: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Chooses places at random where a map is true.

    Args:
        inside (`torch.BoolTensor` of shape `(N, P)`): Where to choose.
        number (`int`): K, how many at most.

    Returns:
        Positions (N, K), and which of these are really inside, (N, K): a map may have fewer. On the CPU, K is no larger than what
        the fullest map has; elsewhere asking for that would stop the device.
    """
    if inside.device.type == "cpu" and not torch.compiler.is_compiling():
        number = max(1, min(number, int(inside.sum(dim=1).max())))
    keys = torch.rand(inside.shape, device=inside.device).masked_fill(~inside, -1.0)
    chosen, places = keys.topk(min(number, inside.shape[1]), dim=1)
    return places, chosen >= 0


class AlignmentLoss(nn.Module):
    """
    With unit vectors of the pixels p, of the expression t (its words' mean), foreground F, background B and e(s) = exp(s / τ):

    - pixel to pixel: the mean over pairs i ≠ j in F of `-log(e(pᵢ·pⱼ) / (e(pᵢ·pⱼ) + Σ over b in B of e(pᵢ·p_b)))`,
    - pixel to text: the mean over i in F of `-log(e(t·pᵢ) / (e(t·pᵢ) + Σ over b in B of e(t·p_b)))`.

    A place of the feature map is foreground if more than half of it is, and background if nothing of it is foreground. A
    picture without the one or the other adds nothing.

    Args:
        pixel_width (`int`): Channels of the pixel features.
        text_width (`int`): Channels of the word features.
        width (`int`): Channels of the common space.
        temperature (`float`): τ.
        num_pixels (`int`): Pixels sampled of each picture at most, half of them foreground.
    """

    def __init__(self, pixel_width: int, text_width: int, width: int, temperature: float, num_pixels: int) -> None:
        super().__init__()
        self.pixel_projection = nn.Linear(pixel_width, width)
        self.text_projection = nn.Linear(text_width, width)
        self.temperature = temperature
        self.num_pixels = num_pixels

    def embed(
        self, pixel_features: torch.Tensor, word_features: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            pixel_features (`torch.Tensor` of shape `(N, c, h, w)`): What the mask is read from.
            word_features (`torch.Tensor` of shape `(N, L, t)`): After the last fusion.
            attention_mask (`torch.Tensor` of shape `(N, L)`): 1 for real words.

        Returns:
            Unit vectors of the pixels, (N, h·w, d), and of the expressions, (N, 1, d), both float32: their products are
            cosine similarities.
        """
        pixels = self.pixel_projection(pixel_features.flatten(2).transpose(1, 2))
        words = self.text_projection(word_features).float() * attention_mask.unsqueeze(-1)
        sentence = words.sum(dim=1, keepdim=True)  # of the same direction as the mean
        return nn.functional.normalize(pixels.float(), dim=-1), nn.functional.normalize(sentence, dim=-1)

    def forward(
        self,
        pixel_features: torch.Tensor,
        word_features: torch.Tensor,
        attention_mask: torch.Tensor,
        masks: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            pixel_features, word_features, attention_mask: As in `embed`.
            masks (`torch.Tensor` of shape `(N, H, W)`): What the expressions refer to.

        Returns:
            The pixel-to-pixel and the pixel-to-text term, each of shape `()`, means over N.
        """
        pixels, sentence = self.embed(pixel_features, word_features, attention_mask)
        with full_precision(pixels):
            height, width = pixel_features.shape[-2:]
            covered = average_pool(masks.float(), (height, width)).flatten(1)
        foreground, is_foreground = sample_places(covered > 0.5, self.num_pixels // 2)
        background, is_background = sample_places(covered < 1e-4, self.num_pixels // 2)
        inside, outside = (
            pixels.gather(1, places.unsqueeze(-1).expand(-1, -1, pixels.shape[-1]))
            for places in (foreground, background)
        )

        no_background = ~is_background.unsqueeze(1)
        own = torch.eye(inside.shape[1], dtype=torch.bool, device=inside.device)
        is_pair = is_foreground.unsqueeze(1) & is_foreground.unsqueeze(2) & ~own
        terms = []
        with full_precision(pixels):
            for anchors, counts in ((inside, is_pair), (sentence, is_foreground.unsqueeze(1))):
                negatives = (anchors @ outside.mT / self.temperature).masked_fill(no_background, NEVER)
                losses = info_nce(anchors @ inside.mT / self.temperature, negatives)
                total = losses.masked_fill(~counts, 0.0).sum(dim=(1, 2))
                terms.append((total / counts.sum(dim=(1, 2)).clamp(min=1)).mean())
        return terms[0], terms[1]


__all__ = ["AlignmentLoss", "info_nce", "sample_places"]
