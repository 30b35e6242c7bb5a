"""What an image and a text have in common: models that put pictures, regions of pictures and texts into one space."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import CLIPModel, SiglipModel

from .clip_resnet import CLIPResNetModel
from .zero_shot_parts import Part


class ImageText(Part):
    """
    Base of the parts. Their processor has an `image_processor` and a `tokenizer`.

    Attributes:
        mixes_raw (`bool`): Whether Global-Local's code mixes its features as they are and normalises what comes of it; otherwise it
            normalises crops and texts before, and nothing after.
        reads_padding (`bool`): Whether texts are padded to one length, as in its training.
    """

    mixes_raw = True
    reads_padding = False

    def prepare(self, pictures: Sequence[np.ndarray], whole: bool = False) -> torch.Tensor:
        """
        Args:
            pictures (`Sequence[np.ndarray]`): RGB, bytes, (height, width, 3) each.
            whole (`bool`, *optional*, defaults to `False`): Whether nothing may be cut off at the sides; what is not square is
                squeezed then.

        Returns:
            `torch.Tensor` of shape `(n, 3, H, W)`: The network's input.
        """
        options: dict[str, Any] = {}
        if whole:
            options = {"size": {"height": self.image_size, "width": self.image_size}, "do_center_crop": False}
        inputs = self.processor.image_processor(
            list(pictures), return_tensors="pt", input_data_format="channels_last", **options
        )
        return inputs["pixel_values"].to(self.device, self.network.dtype)

    def tokenize(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Texts to the network's input; what is too long is cut, with a warning."""
        tokenizer, most = self.processor.tokenizer, self.config.text_config.max_position_embeddings
        # Cut and padded here: a tokenizer that is told to would remember it, and threads share the tokenizer.
        all_ids = tokenizer(list(texts), verbose=False)["input_ids"]
        for number, (text, ids) in enumerate(zip(texts, all_ids, strict=True)):
            if len(ids) > most:
                end = ids[-1:] if ids[-1] in tokenizer.all_special_ids else []
                all_ids[number] = ids[: most - len(end)] + end
                rest = tokenizer.decode(all_ids[number], skip_special_tokens=True)
                self.text_warnings.too_long(text, len(ids), most, rest)
        # A SigLIP was trained on texts padded to one length, and reads the padding, too.
        length = most if self.reads_padding else max(map(len, all_ids))
        padded = [ids + [tokenizer.pad_token_id] * (length - len(ids)) for ids in all_ids]
        inputs = {"input_ids": torch.tensor(padded, device=self.device)}
        if not self.reads_padding:
            lengths = torch.tensor([[len(ids)] for ids in all_ids], device=self.device)
            inputs["attention_mask"] = (torch.arange(length, device=self.device) < lengths).long()
        return inputs

    def warn_of_unknown_words(self, expressions: Sequence[str]) -> None:
        """Names, once each, the words of expressions that the vocabulary does not have."""
        self.text_warnings.unknown_words(self.processor.tokenizer, [text.lower() for text in expressions])

    def encode_pictures(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) -> (n, d), as the network gives them, not normalised."""
        with self.weights_at_hand():
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
    def image_size(self) -> int:
        """Side of the pictures it was trained on, in pixels."""
        return self.config.vision_config.image_size

    @property
    def grid(self) -> int:
        """Cells along a side of its map of a picture of its own size; a ViT's are its patches."""
        return self.image_size // self.config.vision_config.patch_size

    @property
    def blocks(self) -> int:
        """Of its transformer for pictures."""
        return self.config.vision_config.num_hidden_layers

    @property
    def scale(self) -> torch.Tensor:
        """What cosine similarities are multiplied by."""
        with self.weights_at_hand():
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
    mixes_raw = False

    @property
    def image_size(self) -> int:
        return self.config.image_size

    @property
    def grid(self) -> int:
        return self.image_size // 32

    @property
    def blocks(self) -> int:
        return 1

    def encode_regions(self, pixel_values: torch.Tensor, grid_masks: torch.Tensor, block: int) -> torch.Tensor:
        """`block` has no meaning here: the last map is masked."""
        last = nn.functional.normalize(self.network.visual(pixel_values)[-1], dim=1)
        return self.network.visual.attnpool(last * grid_masks[:, None].to(last.dtype))


class SiglipImageText(ImageText):
    """A SigLIP, or a SigLIP 2 of fixed size, whose pictures are read by a query instead of a class token."""

    network_class = SiglipModel
    uncalled = ("vision_model.head",)
    reads_padding = True

    def encode_regions(self, pixel_values: torch.Tensor, grid_masks: torch.Tensor, block: int) -> torch.Tensor:
        vision = self.network.vision_model
        tokens = vision.embeddings(pixel_values)
        shares = grid_masks.flatten(1)[..., None].to(tokens.dtype)
        tokens = vision.post_layernorm(_mask_from(vision.encoder.layers, tokens, shares, block))
        with self.weights_at_hand():
            return vision.head(tokens)


def _mask_from(layers: nn.ModuleList, tokens: torch.Tensor, shares: torch.Tensor, block: int) -> torch.Tensor:
    """Runs the blocks before `block` once, and the others for each region, each time with its share (r, n, 1) of the tokens."""
    for layer in layers[:block]:
        tokens = layer(tokens, None)
    tokens = tokens.expand(len(shares), -1, -1)
    for layer in layers[block:]:
        tokens = layer(tokens * shares.to(tokens.device), None)
    return tokens


def _pooled(features: Any) -> torch.Tensor:
    """The features alone, where a network gives them with others."""
    return features if isinstance(features, torch.Tensor) else features.pooler_output


# A SigLIP 2 of fixed size calls itself "siglip", too.
IMAGE_TEXT: dict[str, type[ImageText]] = {
    "clip": CLIPImageText,
    "clip_resnet": CLIPResNetImageText,
    "siglip": SiglipImageText,
}


__all__ = ["IMAGE_TEXT", "CLIPImageText", "CLIPResNetImageText", "ImageText", "SiglipImageText"]
