"""
Mask Grounding, of "Mask Grounding for Referring Image Segmentation" (Chng, Zheng, Han, Qiu, Huang; CVPR 2024, section 3.2):
some words of an expression are hidden, and a predictor names them from the words that are left, the image, and the mask of
what the expression refers to. Whoever can do that has tied words to what they mean in the picture.

The paper gives the loss, CE(y, Predictor(concat[O, P, C])). Its depth and encodings are this project's choice. Nothing here
knows a model: any that gives word and image features can be trained with it.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import BertConfig, PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertLayer, BertPredictionHeadTransform


NOT_HIDDEN = -100


def describe_masks(masks: torch.Tensor) -> torch.Tensor:
    """
    Where masks are and how large, in shares of the picture.

    Args:
        masks (`torch.Tensor` of shape `(N, H, W)`): Masks of 0 and 1.

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
    """The same of the cells of a map of (h, w), as if each were a mask: `(h·w, 4)`."""
    height, width = size
    y, x = ((torch.arange(length, device=device) + 0.5) / length for length in size)
    cells = torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=-1)
    return torch.cat([cells, cells.new_tensor([1 / width, 1 / height]).expand_as(cells)], dim=-1)


class MaskGroundingHead(nn.Module):
    """
    Names hidden words: a transformer over words (O), image (P) and mask (C), and the head of a masked language model.

    The mask enters as one token of its place and size. So do the places of the image's own cells: by these it is known which of
    them the mask covers.

    Args:
        text_config (`PreTrainedConfig`): The text encoder's: width d, attention heads, inner width and vocabulary V. The
            transformer's layers are BERT's.
        image_widths (`Sequence[int]`): Channels of the image features, of one map or more.
        num_layers (`int`): Layers of the transformer.
    """

    def __init__(self, text_config: PreTrainedConfig, image_widths: Sequence[int], num_layers: int) -> None:
        super().__init__()
        text_config = bert_config(text_config)
        width = text_config.hidden_size
        self.text_config = text_config
        self.image_projections = nn.ModuleList(nn.Linear(each, width) for each in image_widths)
        self.place_encoder = nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, width))
        self.kind_embedding = nn.Embedding(3, width)  # of a word, of the image, of the mask
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
            word_features (`torch.Tensor` of shape `(N, L, d)`): O, of the expression with words hidden.
            attention_mask (`torch.Tensor` of shape `(N, L)`): 1 for real words.
            image_features (`Sequence[torch.Tensor]`): P, maps of shape `(N, c, h, w)`, fused with that expression.
            masks (`torch.Tensor` of shape `(N, H, W)`): What the expression refers to.
            word_embeddings (`torch.Tensor` of shape `(V, d)`): The text encoder's; what is predicted is compared with them.

        Returns:
            `torch.Tensor` of shape `(N, L, V)`: Logits of the word at each place.
        """
        projected = [
            projection(features.flatten(2).transpose(1, 2))
            for projection, features in zip(self.image_projections, image_features, strict=True)
        ]
        dtype = word_features.dtype
        places = torch.cat([describe_cells(features.shape[-2:], features.device) for features in image_features])
        pixels = torch.cat(projected, dim=1) + self.place_encoder(places.to(dtype))
        mask = self.place_encoder(describe_masks(masks).to(dtype)).unsqueeze(1)
        kinds = self.kind_embedding(
            torch.arange(3, device=masks.device)
        )  # a call, so that weights on disk are fetched
        states = self.norm(torch.cat([word_features + kinds[0], pixels + kinds[1], mask + kinds[2]], dim=1))
        others = attention_mask.new_ones(len(attention_mask), pixels.shape[1] + 1)
        seen = create_bidirectional_mask(
            config=self.text_config, inputs_embeds=states, attention_mask=torch.cat([attention_mask, others], dim=1)
        )
        for layer in self.layers:
            states = layer(states, seen)
        words = self.transform(states[:, : word_features.shape[1]])
        return nn.functional.linear(words, word_embeddings, self.word_bias)


def bert_config(text_config: PreTrainedConfig) -> BertConfig:
    """A BERT of the same sizes as another text encoder, such as CLIP's."""
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
    Cross-entropy of the hidden words, averaged over those of an expression and then over expressions: so every expression
    counts the same, and several processes get the same mean as one.

    Args:
        logits (`torch.Tensor` of shape `(N, L, V)`): What [`MaskGroundingHead`] says.
        hidden_words (`torch.LongTensor` of shape `(N, L)`): Ids of the hidden words, `NOT_HIDDEN` elsewhere.

    Returns:
        `torch.Tensor` of shape `()`; 0 where nothing is hidden.
    """
    losses = nn.functional.cross_entropy(
        logits.float().transpose(1, 2), hidden_words, ignore_index=NOT_HIDDEN, reduction="none"
    )
    return (losses.sum(dim=1) / (hidden_words != NOT_HIDDEN).sum(dim=1).clamp(min=1)).mean()


__all__ = ["NOT_HIDDEN", "MaskGroundingHead", "describe_cells", "describe_masks", "mask_grounding_loss"]
