"""
Parts of zero-shot systems: networks that others trained, each with its processor, so that a system need not know their sizes,
colours or vocabularies.

There are three kinds: `IMAGE_TEXT` put images, regions and texts into one space, `CAPTIONERS` describe images (TAS, section 3.3), and
`PROPOSERS`, in `zero_shot_regions`, find regions. To add a network, write a class like those here.
"""

import inspect
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoProcessor,
    Blip2ForConditionalGeneration,
    BlipForConditionalGeneration,
    CLIPModel,
    Florence2ForConditionalGeneration,
    GenerationConfig,
    MetaClip2Model,
    PreTrainedConfig,
    Siglip2Model,
    SiglipModel,
)
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from .clip_resnet import CLIPResNetModel
from .language_lexicon import ARTICLES
from .layers import attend
from .without_torch import TextWarnings


# Attributes that transformers asks a model's children for; a part hands on its network's.
COLLECTED = (
    "_keep_in_fp32_modules",
    "_keep_in_fp32_modules_strict",
    "_no_split_modules",
    "_skip_keys_device_placement",
    "_keys_to_ignore_on_load_unexpected",
    "_keys_to_ignore_on_load_missing",
)
PLAIN = bool | int | float | str | tuple | list | None


class Part(nn.Module, ABC):
    """
    A network and its processor.

    Args:
        config (`PreTrainedConfig`): The network's.

    Attributes:
        network_class: A model's class, an Auto class, or `None` where nothing was trained.
        processor_class: A processor's class, or an Auto class.
        uncalled (`tuple[str, ...]`): Modules of the network that use weights of their submodules without calling those.
    """

    network_class: ClassVar[Any]
    processor_class: ClassVar[Any] = AutoProcessor
    uncalled: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config
        self._processor: Any = None
        self.text_warnings = TextWarnings()
        if self.network_class is not None:
            _set_precision(config, torch.get_default_dtype())
            make = getattr(self.network_class, "from_config", None) or self.network_class
            self.network = make(config)
            for name in COLLECTED:
                setattr(self, name, getattr(self.network, name, None))
            self.trim_network()

    def trim_network(self) -> None:
        """Leave out what the part does not read; called when it has a network, and again when it is given another."""

    @property
    def processor(self) -> Any:
        """The processor that the network was trained with; ValueError where there is none: a configuration alone brings none."""
        if self._processor is None:
            raise ValueError(
                f"{type(self).__name__} has no processor: compose a model with `hf_ris.zero_shot`, or load a saved one."
            )
        return self._processor

    @processor.setter
    def processor(self, processor: Any) -> None:
        self._processor = processor

    @property
    def device(self) -> torch.device:
        """The device on which the network computes; accelerate's hooks know an offloaded one's."""
        for module in self.modules():
            hook = vars(module).get("_hf_hook")
            for each in getattr(hook, "hooks", (hook,)):
                if getattr(each, "execution_device", None) is not None:
                    return torch.device(each.execution_device)
        return self.network.device

    @contextmanager
    def weights_at_hand(self) -> Iterator[None]:
        """Load those weights of an offloaded network that are used without a call of their module, where accelerate would load them."""
        modules = [self.network] if self.network_class is not None else []
        modules += [module for name in self.uncalled for module in self.network.get_submodule(name).modules()]
        hooked = [module for module in modules if hasattr(module, "_hf_hook")]
        try:
            for module in hooked:
                module._hf_hook.pre_forward(module)
            yield
        finally:
            for module in hooked:
                module._hf_hook.post_forward(module, None)

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        """Tied weights, as transformers asks a model's children for them."""
        keys = self.network.all_tied_weights_keys if self.network_class is not None else {}
        return {f"network.{name}": f"network.{other}" for name, other in keys.items()}

    def describe_settings(self) -> str:
        """Describe all that its outputs depend on besides weights and inputs: its options, its configuration, its processor."""
        owners = (*reversed(type(self).__mro__), self)
        options = {
            name: value
            for owner in owners
            for name, value in vars(owner).items()
            if isinstance(value, PLAIN) and not name.startswith("_")
        }
        described = [repr(options), self.config.to_json_string(), repr(self._processor)]
        if self.network_class is not None and self.network.can_generate():
            generation = vars(self.network.generation_config)
            described.append(repr({name: value for name, value in generation.items() if not name.startswith("_")}))
        return "\n".join(described)

    def warn_of_unknown_words(self, expressions: Sequence[str]) -> None:
        """Warn, once each, of words that the vocabulary does not have; articles say nothing that could be missed."""
        tokenizer = self.processor.tokenizer
        texts = [" ".join(word for word in text.lower().split() if word not in ARTICLES) for text in expressions]
        if tokenizer.is_fast:
            self.text_warnings.unknown_words(texts, tokenizer(texts, verbose=False).encodings, tokenizer.unk_token_id)

    def cut(self, text: str, ids: list[int], most: int) -> list[int]:
        """Cut a text's token ids to this number, with a warning; a special token at the end stays."""
        if len(ids) <= most:
            return ids
        tokenizer = self.processor.tokenizer
        end = ids[-1:] if ids[-1] in tokenizer.all_special_ids else []
        cut = ids[: most - len(end)] + end
        self.text_warnings.too_long(text, len(ids), most, tokenizer.decode(cut, skip_special_tokens=True))
        return cut

    def check_complete(self) -> None:
        """Raise a ValueError if there is a network and no processor."""
        if self.network_class is not None:
            _ = self.processor

    def save_files(self, folder: str | os.PathLike) -> None:
        """Save the processor, and how a network generates text."""
        if self.network_class is None:
            return
        self.processor.save_pretrained(folder)
        if self.network.can_generate():
            self.network.generation_config.save_pretrained(folder)

    def load_files(self, source: str, subfolder: str = "", **options: Any) -> None:
        """Load the files that [`save_files`] saved, from a folder or the Hub; takes options of `from_pretrained`."""
        if self.network_class is None:
            return
        # All parts are of transformers: code from their folders is not even asked about.
        options = {"trust_remote_code": False, **options} if self.processor_class is AutoProcessor else options
        self.processor = self.processor_class.from_pretrained(source, subfolder=subfolder, **options)
        if self.network.can_generate():
            with suppress(OSError):  # there is none: the configuration says it all
                self.network.generation_config = GenerationConfig.from_pretrained(
                    source, subfolder=subfolder, **options
                )


def _set_precision(config: PreTrainedConfig, dtype: torch.dtype) -> None:
    """Set the precision at every depth: transformers sets two levels, and networks obey what the others were saved with."""
    config.dtype = dtype
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            _set_precision(value, dtype)


def build_part(name: str, classes: Mapping[str, type[Any]], config: PreTrainedConfig, **options: Any) -> Any:
    """
    Build the part for a network's configuration, of the class that `classes` has for its `model_type`.

    Raises:
        ValueError: If there is no class for it, or it has no such option.
    """
    if config.model_type not in classes:
        raise ValueError(f"`{name}` must be one of {list(classes)}, got {config.model_type!r}.")
    part_class = classes[config.model_type]
    try:
        inspect.signature(part_class).bind(config, **options)
    except TypeError as error:
        raise ValueError(f"`{name}` of type {config.model_type!r} does not take {options}: {error}.") from error
    return part_class(config, **options)


def in_batches(items: Any, size: int) -> list[Any]:
    """Split a sequence or tensor into batches of at most `size` items, evenly: a small last batch would take as long as a larger one."""
    number = math.ceil(len(items) / size)
    return [items[len(items) * place // number : len(items) * (place + 1) // number] for place in range(number)]


def pad_slender(image: np.ndarray, most: int = 20) -> np.ndarray:
    """
    Pad an image (height, width, 3), below or on the right, whose one side is more than `most` times as long as the other: resized to a
    network's input, it would have no height or no width left.
    """
    height, width = image.shape[:2]
    missing = (max(0, -(-width // most) - height), max(0, -(-height // most) - width))
    return np.pad(image, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="edge") if any(missing) else image


class ImageText(Part):
    """
    Base class of image-text models. Their processor has an `image_processor` and a `tokenizer`.

    Attributes:
        normalizes_mixtures (`bool`): Whether Global-Local's code normalises mixed features alone; otherwise it normalises crops and texts
            before they are mixed, and nothing after.
        reads_padding (`bool`): Whether texts are padded to one length, as in its training.
    """

    normalizes_mixtures = True
    reads_padding = False

    def prepare(self, images: Sequence[np.ndarray], whole: bool = False) -> torch.Tensor:
        """
        Make the network's input.

        Args:
            images (`Sequence[np.ndarray]`): RGB, bytes, (height, width, 3) each.
            whole (`bool`, *optional*, defaults to `False`): Whether images are squeezed to a square, so that nothing is cut off.

        Returns:
            `torch.Tensor` of shape `(n, 3, H, W)`.
        """
        options: dict[str, Any] = {}
        if whole:
            options = {"size": {"height": self.image_size, "width": self.image_size}, "do_center_crop": False}
        inputs = self.processor.image_processor(
            list(images), return_tensors="pt", input_data_format="channels_last", **options
        )
        return inputs["pixel_values"].to(self.device, self.network.dtype)

    def tokenize(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Make the network's input of texts; one that is too long is cut, with a warning."""
        tokenizer, most = self.processor.tokenizer, self.config.text_config.max_position_embeddings
        # Cut and padded here: a tokenizer remembers its last settings for that, and threads share it.
        all_ids = tokenizer(list(texts), verbose=False)["input_ids"]
        all_ids = [self.cut(text, ids, most) for text, ids in zip(texts, all_ids, strict=True)]
        length = most if self.reads_padding else max(map(len, all_ids))
        padded = [ids + [tokenizer.pad_token_id] * (length - len(ids)) for ids in all_ids]
        if self.reads_padding and tokenizer.padding_side == "left":
            padded = [ids[len(own) :] + own for ids, own in zip(padded, all_ids, strict=True)]
        inputs = {"input_ids": torch.tensor(padded, device=self.device)}
        if not self.reads_padding:
            lengths = torch.tensor([[len(ids)] for ids in all_ids], device=self.device)
            inputs["attention_mask"] = (torch.arange(length, device=self.device) < lengths).long()
        return inputs

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images, (n, 3, H, W) -> (n, d), not normalised."""
        with self.weights_at_hand():
            return _pooled(self.network.get_image_features(pixel_values))

    def encode_texts(self, texts: dict[str, torch.Tensor]) -> torch.Tensor:
        """Encode texts that [`tokenize`] prepared, (n, d), not normalised."""
        return _pooled(self.network.get_text_features(**texts))

    @abstractmethod
    def encode_regions(self, pixel_values: torch.Tensor, grid_masks: torch.Tensor, block: int) -> torch.Tensor:
        """
        Encode regions of one image, each within the whole image (Global-Local, section 3.2, "global context").

        Args:
            pixel_values (`torch.Tensor` of shape `(1, 3, H, W)`): The image.
            grid_masks (`torch.Tensor` of shape `(r, h, w)`): The share of each of the network's cells that a region covers.
            block (`int`): The first of the transformer's blocks before which cells are masked.

        Returns:
            `torch.Tensor` of shape `(r, d)`.
        """

    @property
    def image_size(self) -> int:
        """Side of the network's input, in pixels."""
        return self.config.vision_config.image_size

    @property
    def grid(self) -> int:
        """Cells along a side of the network's map of an image; a ViT's are its patches."""
        return self.image_size // self.config.vision_config.patch_size

    @property
    def blocks(self) -> int:
        """Number of blocks of the transformer for images."""
        return self.config.vision_config.num_hidden_layers

    @property
    def scale(self) -> torch.Tensor:
        """The factor of cosine similarities."""
        with self.weights_at_hand():
            return self.network.logit_scale.exp()


class ClassTokenLayer(CLIPEncoderLayer):
    """The last block of a CLIP's ViT, of which only the class token is read, so that only it is computed."""

    def forward(self, hidden_states: torch.Tensor, attention_mask: None = None, **kwargs: Any) -> torch.Tensor:
        """(n, tokens, d) -> (n, 1, d)."""
        attention, normed = self.self_attn, self.layer_norm1(hidden_states)
        projected = attention.q_proj(normed[:, :1]), attention.k_proj(normed), attention.v_proj(normed)
        attended = attention.out_proj(attend(attention, *projected, attention.num_heads, attention.scale))
        hidden_states = hidden_states[:, :1] + attended
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class CLIPImageText(ImageText):
    """A CLIP with a ViT, of any size."""

    network_class = CLIPModel

    def trim_network(self) -> None:
        last = self.network.vision_model.encoder.layers[-1]
        if isinstance(last, CLIPEncoderLayer):  # not MetaCLIP's
            last.__class__ = ClassTokenLayer
            self._no_split_modules = [*self.network._no_split_modules, ClassTokenLayer.__name__]

    def encode_regions(self, pixel_values: torch.Tensor, grid_masks: torch.Tensor, block: int) -> torch.Tensor:
        vision = self.network.vision_model
        tokens = vision.pre_layrnorm(vision.embeddings(pixel_values))
        # The class token stays as it is.
        shares = nn.functional.pad(grid_masks.flatten(1), (1, 0), value=1.0)[..., None].to(tokens.dtype)
        tokens = _mask_from(vision.encoder.layers, tokens, shares, block)
        return self.network.visual_projection(vision.post_layernorm(tokens[:, 0]))


class MetaClip2ImageText(CLIPImageText):
    """A MetaCLIP 2: a CLIP with a ViT that reads many languages."""

    network_class = MetaClip2Model


class CLIPResNetImageText(ImageText):
    """A CLIP with a ResNet."""

    network_class = CLIPResNetModel
    normalizes_mixtures = False

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
    """A SigLIP, or a SigLIP 2 of fixed size, which reads images by a query instead of a class token."""

    network_class = SiglipModel
    uncalled: ClassVar[tuple[str, ...]] = ("vision_model.head",)
    reads_padding = True

    def tokenize(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        # All were trained on small letters, and not every SigLIP 2 has a tokenizer that makes them small.
        return super().tokenize([text.lower() for text in texts])

    def _embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.network.vision_model.embeddings(pixel_values)

    def encode_regions(self, pixel_values: torch.Tensor, grid_masks: torch.Tensor, block: int) -> torch.Tensor:
        vision = self.network.vision_model
        tokens = self._embed(pixel_values)
        shares = grid_masks.flatten(1)[..., None].to(tokens.dtype)
        tokens = vision.post_layernorm(_mask_from(vision.encoder.layers, tokens, shares, block))
        with self.weights_at_hand():
            return vision.head(tokens)


class Siglip2ImageText(SiglipImageText):
    """A SigLIP 2 of any size ("NaFlex"). Images are squeezed to squares, as a SigLIP's are, so that all have one grid."""

    network_class = Siglip2Model
    uncalled = ("vision_model.head", "vision_model.embeddings")

    def prepare(self, images: Sequence[np.ndarray], whole: bool = False) -> torch.Tensor:
        """Make patches of images, (n, patches, 3 * patch * patch); nothing is ever cut off."""
        side = (self.image_size, self.image_size)
        squares = [np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BILINEAR)) for image in images]
        inputs = self.processor.image_processor(
            squares,
            patch_size=self.config.vision_config.patch_size,
            max_num_patches=self.grid**2,
            input_data_format="channels_last",
            return_tensors="pt",
        )
        return inputs["pixel_values"].to(self.device, self.network.dtype)

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        with self.weights_at_hand():
            return _pooled(self.network.get_image_features(pixel_values, spatial_shapes=self._shapes(pixel_values)))

    def _embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        with self.weights_at_hand():
            return self.network.vision_model.embeddings(pixel_values, self._shapes(pixel_values))

    def _shapes(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return torch.full((len(pixel_values), 2), self.grid, device=pixel_values.device)

    @property
    def image_size(self) -> int:
        return self.grid * self.config.vision_config.patch_size

    @property
    def grid(self) -> int:
        return math.isqrt(self.config.vision_config.num_patches)


def _mask_from(layers: nn.ModuleList, tokens: torch.Tensor, shares: torch.Tensor, block: int) -> torch.Tensor:
    """Run the blocks before `block` once, and the others for each region, with its share (r, n, 1) of the tokens."""
    for layer in layers[:block]:
        tokens = layer(tokens, None)
    tokens = tokens.expand(len(shares), -1, -1)
    for layer in layers[block:]:
        tokens = layer(tokens * shares.to(tokens.device), None)
    return tokens


def _pooled(features: Any) -> torch.Tensor:
    """The features alone, where a network returns them with others."""
    return features if isinstance(features, torch.Tensor) else features.pooler_output


# A SigLIP 2 of fixed size calls itself "siglip", too.
IMAGE_TEXT: dict[str, type[ImageText]] = {
    "clip": CLIPImageText,
    "clip_resnet": CLIPResNetImageText,
    "metaclip_2": MetaClip2ImageText,
    "siglip": SiglipImageText,
    "siglip2": Siglip2ImageText,
}


class Captioner(Part):
    """
    Base class of captioners.

    Attributes:
        batch_size (`int`): Images that go through the network at once.
        max_new_tokens (`int`): A caption's length at most.
    """

    batch_size = 8
    max_new_tokens = 30

    def caption(self, images: Sequence[np.ndarray]) -> list[str]:
        """Caption each RGB image of bytes, (height, width, 3); what a network has no words for is an empty text."""
        captions: list[str] = []
        for batch in in_batches(images, self.batch_size):
            with self.weights_at_hand():
                captions += [" ".join(text.split()) for text in self._caption(batch)]
        return captions

    @abstractmethod
    def _caption(self, images: Sequence[np.ndarray]) -> list[str]:
        """Caption one batch."""


class BlipCaptioner(Captioner):
    """A BLIP."""

    network_class = BlipForConditionalGeneration

    def _caption(self, images: Sequence[np.ndarray]) -> list[str]:
        inputs = self.processor.image_processor(list(images), return_tensors="pt", input_data_format="channels_last")
        pixel_values = inputs["pixel_values"].to(self.device, self.network.dtype)
        ids = self.network.generate(pixel_values=pixel_values, max_new_tokens=self.max_new_tokens)
        return self.processor.batch_decode(ids, skip_special_tokens=True)


class Blip2Captioner(BlipCaptioner):
    """A BLIP-2; without a prompt it describes what it sees, as in TAS."""

    network_class = Blip2ForConditionalGeneration


class Florence2Captioner(Captioner):
    """A Florence-2, whose tasks are prompts."""

    network_class = Florence2ForConditionalGeneration
    prompt = "<CAPTION>"

    def _caption(self, images: Sequence[np.ndarray]) -> list[str]:
        inputs = self.processor(images=list(images), text=[self.prompt] * len(images), return_tensors="pt")
        tensors = {
            # All but ids are in the network's precision.
            name: tensor.to(self.device, self.network.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }
        ids = self.network.generate(**tensors, max_new_tokens=self.max_new_tokens)
        return self.processor.batch_decode(ids, skip_special_tokens=True)


CAPTIONERS: dict[str, type[Captioner]] = {
    "blip": BlipCaptioner,
    "blip-2": Blip2Captioner,
    "florence2": Florence2Captioner,
}


__all__ = [
    "Blip2Captioner",
    "BlipCaptioner",
    "CAPTIONERS",
    "CLIPImageText",
    "CLIPResNetImageText",
    "Captioner",
    "Florence2Captioner",
    "IMAGE_TEXT",
    "ImageText",
    "MetaClip2ImageText",
    "Part",
    "Siglip2ImageText",
    "SiglipImageText",
    "build_part",
    "in_batches",
    "pad_slender",
]
