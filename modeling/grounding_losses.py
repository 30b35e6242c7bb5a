"""
The losses of the trained models: on masks, and those of "Mask Grounding for Referring Image Segmentation" (Chng, Zheng, Han, Qiu,
Huang; CVPR 2024), with which any model of word and image features can be trained.

- `mask_loss`: binary cross-entropy and Dice.
- `MaskGroundingHead` (section 3.2): some words of an expression are hidden, and a predictor names them from the other words, the
  image and the referent's mask. The paper gives the loss, CE(y, Predictor(concat[O, P, C])); depth and encodings are this project's
  choice.
- `AlignmentLoss` (section 3.4): in one space, pixels of the referent attract each other and the expression, and repel the other
  pixels. The exact form of its two terms was never released; here both are InfoNCE in the form of "Exploring Cross-Image Pixel
  Contrast" (Wang et al., ICCV 2021, equation 3).
- `AuxiliaryLosses`: the latter two, on by configuration.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import BertConfig, PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertLayer, BertPredictionHeadTransform

from .configuration_referring_segmentation import TrainableSegmentationConfig
from .layers import average_pool, cell_centres, full_precision
from .masks import enlarge_logits


NOT_HIDDEN = -100  # in place of a word's id
NO_SIMILARITY = -1e4  # minus infinity would give no gradient where an anchor has no negative


def dice_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    One minus the soft Dice coefficient of V-Net (3DV 2016), smoothed by 1 as in MaskFormer (NeurIPS 2021, section 3.3):
    `1 - (2 Σ p·y + 1) / (Σ p + Σ y + 1)`, the mean over N. `logits` and `labels` in [0, 1] are (N, h, w).
    """
    probabilities, labels = logits.float().sigmoid().flatten(1), labels.float().flatten(1)
    overlap = (probabilities * labels).sum(dim=1)
    total = probabilities.sum(dim=1) + labels.sum(dim=1)
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def mask_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Binary cross-entropy and Dice of predicted masks, as in Mask2Former (CVPR 2022, section 3.3), over all pixels.

    Logits are enlarged to the size of the labels as after inference, so that edges between their cells are learned, too.

    Args:
        logits (`torch.Tensor` of shape `(N, h, w)`): Log-odds.
        labels (`torch.Tensor` of shape `(N, H, W)`): Probabilities that a pixel belongs to what is meant, mostly 0 and 1, any dtype.

    Returns:
        The two losses, each of shape `()`, means over N.
    """
    height, width = labels.shape[-2:]
    logits, labels = enlarge_logits(logits, (height, width)), labels.float()
    return nn.functional.binary_cross_entropy_with_logits(logits, labels), dice_loss(logits, labels)


def confidence_loss(confidence_logits: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Binary cross-entropy of a model's judgement of its own masks: whether their IoU is above 0.5.

    A head that judges masks is that of Mask Scoring R-CNN (CVPR 2019) and Segment Anything (ICCV 2023, section 3), which regress
    the IoU; a probability is what a score can be calibrated by. Nothing is right where the labels say that nothing is meant, or
    not which of several things: there no label is above 0.5.

    Args:
        confidence_logits (`torch.Tensor` of shape `(N,)`): Log-odds that the mask is right.
        logits (`torch.Tensor` of shape `(N, h, w)`): Log-odds of the mask; they get no gradient.
        labels (`torch.Tensor` of shape `(N, H, W)`): Probabilities that a pixel belongs to what is meant.

    Returns:
        `torch.FloatTensor` of shape `()`.
    """
    predicted = enlarge_logits(logits.detach(), (labels.shape[-2], labels.shape[-1])) > 0
    annotated = labels > 0.5
    shared = (predicted & annotated).sum(dim=(1, 2))
    is_right = 2 * shared > (predicted | annotated).sum(dim=(1, 2))
    return nn.functional.binary_cross_entropy_with_logits(confidence_logits.float(), is_right.float())


def describe_masks(masks: torch.Tensor) -> torch.Tensor:
    """
    Place and size of masks of 0 and 1, (N, H, W), in shares of the image.

    Returns:
        `torch.FloatTensor` of shape `(N, 4)`: x and y of the centre of mass, width and height of the box; zeros for an empty
        mask.
    """
    inside = masks > 0.5
    described = []
    for counts in (inside.sum(dim=-2), inside.sum(dim=-1)):  # by column, by row
        places = (torch.arange(counts.shape[-1], device=masks.device) + 0.5) / counts.shape[-1]
        centre = (counts * places).sum(dim=-1) / counts.sum(dim=-1).clamp(min=1)
        first = torch.where(counts > 0, places, 2.0).amin(dim=-1)
        last = torch.where(counts > 0, places, -2.0).amax(dim=-1)
        described.append((centre, (last - first + 1 / counts.shape[-1]).clamp(min=0)))
    (x, width), (y, height) = described
    return torch.stack([x, y, width, height], dim=-1)


def describe_cells(size: Sequence[int], device: torch.device) -> torch.Tensor:
    """Place and size of the cells of a map of (h, w), each described like a mask: `(h·w, 4)`."""
    height, width = size
    centres = cell_centres(size, device)
    return torch.cat([centres, centres.new_tensor([1 / width, 1 / height]).expand_as(centres)], dim=-1)


class MaskGroundingHead(nn.Module):
    """
    Names hidden words (section 3.2): a transformer over words (O), image (P) and mask (C), and the head of a masked language model.

    The mask enters as one token of its place and size. The image's cells have theirs, which show the cells that the mask covers.

    Args:
        text_config (`PreTrainedConfig`): Sizes of the text encoder, which the transformer's BERT layers take: width d, attention
            heads, inner width and vocabulary V.
        image_widths (`Sequence[int]`): Channels of the image features, of one map or more.
        num_layers (`int`): Number of transformer layers.
    """

    def __init__(self, text_config: PreTrainedConfig, image_widths: Sequence[int], num_layers: int) -> None:
        super().__init__()
        text_config = bert_config(text_config)
        width = text_config.hidden_size
        self.text_config = text_config
        self.image_projections = nn.ModuleList(nn.Linear(each, width) for each in image_widths)
        self.place_encoder = nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, width))
        self.kind_embedding = nn.Embedding(3, width)  # word, image, mask
        self.norm = nn.LayerNorm(width, eps=text_config.layer_norm_eps)
        self.layers = nn.ModuleList(BertLayer(text_config) for _ in range(num_layers))
        self.transform = BertPredictionHeadTransform(text_config)
        self.word_bias = nn.Parameter(torch.zeros(text_config.vocab_size))

    def forward(
        self,
        word_features: torch.Tensor,
        attention_mask: torch.Tensor,
        image_features: Sequence[torch.Tensor],
        masks: torch.Tensor,
        word_embeddings: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            word_features (`torch.Tensor` of shape `(N, L, d)`): O, from the expression with words hidden.
            attention_mask (`torch.Tensor` of shape `(N, L)`): 1 for real words.
            image_features (`Sequence[torch.Tensor]`): P, maps of shape `(N, c, h, w)`, fused with that expression.
            masks (`torch.Tensor` of shape `(N, H, W)`): Masks of the referents.
            word_embeddings (`torch.Tensor` of shape `(V, d)`): The text encoder's, with which predictions are compared.

        Returns:
            `torch.Tensor` of shape `(N, L, V)`: Logits of the word at each place.
        """
        # 1. Image and mask, with their places
        projected = [
            projection(features.flatten(2).transpose(1, 2))
            for projection, features in zip(self.image_projections, image_features, strict=True)
        ]
        dtype = word_features.dtype
        places = torch.cat([describe_cells(features.shape[-2:], features.device) for features in image_features])
        pixels = torch.cat(projected, dim=1) + self.place_encoder(places.to(dtype))
        mask = self.place_encoder(describe_masks(masks).to(dtype)).unsqueeze(1)
        # 2. One sequence of words, image and mask. The embedding is called: its weight may lie elsewhere until then.
        kinds = self.kind_embedding(torch.arange(3, device=masks.device))
        states = self.norm(torch.cat([word_features + kinds[0], pixels + kinds[1], mask + kinds[2]], dim=1))
        # 3. The transformer
        others = attention_mask.new_ones(len(attention_mask), pixels.shape[1] + 1)
        seen = create_bidirectional_mask(
            config=self.text_config, inputs_embeds=states, attention_mask=torch.cat([attention_mask, others], dim=1)
        )
        for layer in self.layers:
            states = layer(states, seen)
        # 4. Its words, compared with the vocabulary
        words = self.transform(states[:, : word_features.shape[1]])
        return nn.functional.linear(words, word_embeddings, self.word_bias)


def bert_config(text_config: PreTrainedConfig) -> BertConfig:
    """Configuration of a BERT with the sizes of another text encoder, such as CLIP's."""
    if isinstance(text_config, BertConfig):
        return text_config
    shared = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps")
    return BertConfig(
        **{name: getattr(text_config, name) for name in shared},
        hidden_dropout_prob=text_config.attention_dropout,
        attention_probs_dropout_prob=text_config.attention_dropout,
        attn_implementation=text_config._attn_implementation,
    )


def mask_grounding_loss(logits: torch.Tensor, hidden_words: torch.Tensor) -> torch.Tensor:
    """
    Cross-entropy of the hidden words, averaged over those of an expression and then over expressions: every expression counts the
    same, and several processes get the same mean as one.

    Args:
        logits (`torch.Tensor` of shape `(N, L, V)`): Output of [`MaskGroundingHead`].
        hidden_words (`torch.LongTensor` of shape `(N, L)`): Ids of the hidden words, `NOT_HIDDEN` elsewhere.

    Returns:
        `torch.Tensor` of shape `()`; 0 where nothing is hidden.
    """
    losses = nn.functional.cross_entropy(
        logits.float().transpose(1, 2), hidden_words, ignore_index=NOT_HIDDEN, reduction="none"
    )
    return (losses.sum(dim=1) / (hidden_words != NOT_HIDDEN).sum(dim=1).clamp(min=1)).mean()


def info_nce(positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """
    `-log(exp(p) / (exp(p) + Σ exp(n)))` for each positive similarity p and all negative ones n of its anchor.

    Similarities (over temperature) are (..., P) and (..., Q), `NO_SIMILARITY` for one that does not count; the result is (..., P).
    """
    return nn.functional.softplus(negatives.logsumexp(dim=-1, keepdim=True) - positives)


def sample_places(inside: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Choose at most `number` random places, for each of N maps, where `inside` (N, P) is true.

    Returns:
        Positions (N, K), and which of these are really inside, (N, K): a map may have fewer. On the CPU, K is at most the count
        of the fullest map; elsewhere, reading that count would stop the device.
    """
    if inside.device.type == "cpu" and not torch.compiler.is_compiling():
        number = max(1, min(number, int(inside.sum(dim=1).max())))
    keys = torch.rand(inside.shape, device=inside.device).masked_fill(~inside, -1.0)
    chosen, places = keys.topk(min(number, inside.shape[1]), dim=1)
    return places, chosen >= 0


class AlignmentLoss(nn.Module):
    """
    The alignment loss (section 3.4). With unit vectors of the pixels p and of the expression t (its words' mean), foreground F,
    background B and e(s) = exp(s / τ):

    - pixel to pixel: the mean over pairs i ≠ j in F of `-log(e(pᵢ·pⱼ) / (e(pᵢ·pⱼ) + Σ over b in B of e(pᵢ·p_b)))`,
    - pixel to text: the mean over i in F of `-log(e(t·pᵢ) / (e(t·pᵢ) + Σ over b in B of e(t·p_b)))`.

    A cell of the feature map is foreground if more than half of it is covered, and background if nothing is. An image without
    the one or the other adds nothing.

    Args:
        pixel_width (`int`): Channels of the pixel features.
        text_width (`int`): Channels of the word features.
        width (`int`): Channels of the common space.
        temperature (`float`): τ.
        num_pixels (`int`): Largest number of pixels sampled from an image, half of them foreground.
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
        """Unit vectors of the pixels, (N, h·w, d), and of the expressions, (N, 1, d), float32; arguments as of `forward`."""
        pixels = self.pixel_projection(pixel_features.flatten(2).transpose(1, 2))
        words = self.text_projection(word_features).float() * attention_mask.unsqueeze(-1)
        sentence = words.sum(dim=1, keepdim=True)  # in the direction of the mean
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
            pixel_features (`torch.Tensor` of shape `(N, c, h, w)`): Features that the mask is read from.
            word_features (`torch.Tensor` of shape `(N, L, t)`): Word features after the last fusion.
            attention_mask (`torch.Tensor` of shape `(N, L)`): 1 for real words.
            masks (`torch.Tensor` of shape `(N, H, W)`): Masks of the referents.

        Returns:
            The pixel-to-pixel and the pixel-to-text term, each of shape `()`, means over N.
        """
        # 1. Pixels and expressions in one space
        pixels, sentence = self.embed(pixel_features, word_features, attention_mask)
        # 2. A sample of foreground and background
        with full_precision(pixels):
            height, width = pixel_features.shape[-2:]
            covered = average_pool(masks.float(), (height, width)).flatten(1)
        foreground, is_foreground = sample_places(covered > 0.5, self.num_pixels // 2)
        background, is_background = sample_places(covered < 1e-4, self.num_pixels // 2)
        inside, outside = (
            pixels.gather(1, places.unsqueeze(-1).expand(-1, -1, pixels.shape[-1]))
            for places in (foreground, background)
        )

        # 3. Pixels, then the expression, as anchors
        no_background = ~is_background.unsqueeze(1)
        is_itself = torch.eye(inside.shape[1], dtype=torch.bool, device=inside.device)
        is_pair = is_foreground.unsqueeze(1) & is_foreground.unsqueeze(2) & ~is_itself
        terms = []
        with full_precision(pixels):
            for anchors, counts in ((inside, is_pair), (sentence, is_foreground.unsqueeze(1))):
                negatives = (anchors @ outside.mT / self.temperature).masked_fill(no_background, NO_SIMILARITY)
                losses = info_nce(anchors @ inside.mT / self.temperature, negatives)
                total = losses.masked_fill(~counts, 0.0).sum(dim=(1, 2))
                terms.append((total / counts.sum(dim=(1, 2)).clamp(min=1)).mean())
        return terms[0], terms[1]


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
        """Remove the Mask Grounding head and set its weight to 0."""
        self.mask_grounding = None
        self.config.mask_grounding_loss_weight = 0.0

    def align(self, *features_and_masks: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted terms of [`AlignmentLoss`] by name, or none if it is off; arguments as of its `forward`."""
        if self.alignment is None:
            return {}
        pixel_to_pixel, pixel_to_text = self.alignment(*features_and_masks)
        weight = self.config.alignment_loss_weight
        return {"pixel_to_pixel": weight * pixel_to_pixel, "pixel_to_text": weight * pixel_to_text}

    def ground(self, logits: torch.Tensor, hidden_words: torch.Tensor) -> dict[str, torch.Tensor]:
        """The weighted [`mask_grounding_loss`] by name; arguments as there."""
        loss = mask_grounding_loss(logits, hidden_words.to(logits.device))
        return {"mask_grounding": self.config.mask_grounding_loss_weight * loss}


__all__ = ["NOT_HIDDEN", "AlignmentLoss", "AuxiliaryLosses", "MaskGroundingHead", "dice_loss", "mask_loss"]
