"""
What an image and a text have in common: models that put pictures, regions of pictures and texts into one space.

A part of the zero-shot systems is a network of transformers together with the processor it was trained with, so that what is
composed of parts need not know their sizes, colours or vocabularies. To add a model, write a class like those below.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers import CLIPModel, PreTrainedConfig, SiglipModel
from transformers.utils import logging

from .clip_resnet import CLIPResNetModel


logger = logging.get_logger(__name__)


class ImageText(nn.Module, ABC):
    """
    Base of the parts.

    Args:
        config (`PreTrainedConfig`): The network's.
        processor (`ProcessorMixin`, *optional*): Its own, with `image_processor` and `tokenizer`; needed for all but tensors.
    """

    network_class: ClassVar[Any]

    def __init__(self, config: PreTrainedConfig, processor: Any = None) -> None:
        super().__init__()
        self.network = self.network_class(config)
        self.processor = processor

    @property
    def device(self) -> torch.device:
        return self.network.device

    def prepare(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        """RGB pictures of bytes, (height, width, 3) each, to the network's input (n, 3, H, W)."""
        inputs = self.processor.image_processor(list(pictures), return_tensors="pt", input_data_format="channels_last")
        return inputs["pixel_values"].to(self.device, self.network.dtype)

    def tokenize(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Texts to the network's input; what is too long is cut, with a warning."""
        tokenizer = self.processor.tokenizer
        for text, ids in zip(texts, tokenizer(list(texts))["input_ids"], strict=True):
            if len(ids) > tokenizer.model_max_length:
                logger.warning(
                    f"{text!r:.200} has {len(ids)} tokens; only the first {tokenizer.model_max_length} are read."
                )
        return dict(tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self.device))

    def encode_pictures(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) -> (n, d), as the network gives them, not normalised."""
        return _pooled(self.network.get_image_features(pixel_values))

    def encode_texts(self, texts: dict[str, torch.Tensor]) -> torch.Tensor:
        """What [`tokenize`] gave -> (n, d), not normalised."""
        return _pooled(self.network.get_text_features(**texts))

    @abstractmethod
    def encode_regions(self, pixel_values: torch.Tensor, grid_masks: torch.Tensor, block: int) -> torch.Tensor:
        """
        Features of regions of one picture, each seen within all of it (Global-Local, section 3.2, "global context").

        Args:
            pixel_values (`torch.Tensor` of shape `(1, 3, H, W)`): The picture.
            grid_masks (`torch.Tensor` of shape `(r, h, w)`): Which share of each of the network's cells a region covers.
            block (`int`): The transformer's block before which, and before all after it, cells are masked.

        Returns:
            `torch.Tensor` of shape `(r, d)`.
        """

    @property
    def grid(self) -> int:
        """Cells along a side of its map of a picture of its own size; a ViT's are its patches."""
        vision = self.network.config.vision_config
        return vision.image_size // vision.patch_size

    @property
    def scale(self) -> torch.Tensor:
        """What cosine similarities are multiplied by."""
        return self.network.logit_scale.exp()


class CLIPImageText(ImageText):
    """A CLIP with a ViT, of any size."""

    network_class = CLIPModel

    def encode_regions(self, pixel_values: torch.Tensor, grid_masks: torch.Tensor, block: int) -> torch.Tensor:
        vision = self.network.vision_model
        tokens = vision.pre_layrnorm(vision.embeddings(pixel_values))
        # The class token stays as it is.
        shares = nn.functional.pad(grid_masks.flatten(1), (1, 0), value=1.0)[..., None].to(tokens.dtype)
        tokens = _mask_from(vision.encoder.layers, tokens, shares, block)
        return self.network.visual_projection(vision.post_layernorm(tokens[:, 0]))


class CLIPResNetImageText(ImageText):
    """A CLIP with a ResNet."""

    network_class = CLIPResNetModel

    @property
    def grid(self) -> int:
        return self.network.config.image_size // 32

    def encode_regions(self, pixel_values: torch.Tensor, grid_masks: torch.Tensor, block: int) -> torch.Tensor:
        """`block` has no meaning here: the last map is masked."""
        last = nn.functional.normalize(self.network.visual.stages(pixel_values)[-1], dim=1)
        return self.network.visual.attnpool(last * grid_masks[:, None].to(last.dtype))


class SiglipImageText(ImageText):
    """A SigLIP or SigLIP 2 of fixed size, whose pictures are read by a query instead of a class token."""

    network_class = SiglipModel

    def tokenize(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        # They were trained on texts padded to one length, and read the padding, too.
        length = self.network.config.text_config.max_position_embeddings
        inputs = self.processor.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return {"input_ids": inputs["input_ids"].to(self.device)}

    def encode_regions(self, pixel_values: torch.Tensor, grid_masks: torch.Tensor, block: int) -> torch.Tensor:
        vision = self.network.vision_model
        tokens = vision.embeddings(pixel_values)
        shares = grid_masks.flatten(1)[..., None].to(tokens.dtype)
        return vision.head(vision.post_layernorm(_mask_from(vision.encoder.layers, tokens, shares, block)))


def _mask_from(layers: nn.ModuleList, tokens: torch.Tensor, shares: torch.Tensor, block: int) -> torch.Tensor:
    """Runs the blocks before `block` once, and the others for each region, each time with its share (r, n, 1) of the tokens."""
    for layer in layers[:block]:
        tokens = layer(tokens, None)
    tokens = tokens.expand(len(shares), -1, -1)
    for layer in layers[block:]:
        tokens = layer(tokens * shares, None)
    return tokens


def _pooled(features: Any) -> torch.Tensor:
    """The features alone, where a network gives them with others."""
    return features if isinstance(features, torch.Tensor) else features.pooler_output


IMAGE_TEXT: dict[str, type[ImageText]] = {
    "clip": CLIPImageText,
    "clip_resnet": CLIPResNetImageText,
    "siglip": SiglipImageText,
    "siglip2": SiglipImageText,
}


def build_image_text(config: PreTrainedConfig, processor: Any = None) -> ImageText:
    """
    The part for a network's configuration.

    Raises:
        ValueError: If there is none.
    """
    if config.model_type not in IMAGE_TEXT:
        raise ValueError(f"image_text is a {config.model_type!r}; allowed are {', '.join(IMAGE_TEXT)}")
    return IMAGE_TEXT[config.model_type](config, processor)


__all__ = ["IMAGE_TEXT", "CLIPImageText", "CLIPResNetImageText", "ImageText", "SiglipImageText", "build_image_text"]
