"""What a training starts from: random weights, pretrained parts, or a checkpoint; and adapters on it."""

from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    BertModel,
    PreTrainedModel,
    ProcessorMixin,
    SwinModel,
    set_seed,
)

from ..auto import AutoModelForReferringSegmentation
from ..data.refshapes import vocabulary
from ..modeling.configuration_magnet import MagNetConfig
from ..modeling.image_processing_magnet import MagNetImageProcessor
from ..modeling.modeling_magnet import MagNetForReferringSegmentation
from ..modeling.processing_magnet import MagNetProcessor
from .tokenizer import build_tokenizer


Built = tuple[PreTrainedModel, ProcessorMixin]

SWIN = "microsoft/swin-base-patch4-window12-384-in22k"
BERT = "google-bert/bert-base-uncased"
TINY_TEXT_LENGTH = 32  # the longest expression of RefShapes has 30 words


def build_magnet(
    seed: int, config: dict[str, Any], backbone: str = SWIN, text: str = BERT, from_scratch: bool = False
) -> Built:
    """
    A MagNet on an image and a text encoder that were trained on photos and on language, as the published system was begun.

    Args:
        seed (`int`): Of the weights that are new.
        config (`dict[str, Any]`): Fields of [`MagNetConfig`].
        backbone (`str`): Folder or Hub id of a Swin.
        text (`str`): Folder or Hub id of a BERT and its tokenizer.
        from_scratch (`bool`, *optional*, defaults to `False`): Whether the encoders' weights are left out, and random too.
    """
    set_seed(seed)
    parts = {"backbone_config": AutoConfig.from_pretrained(backbone), "text_config": AutoConfig.from_pretrained(text)}
    if parts["backbone_config"].model_type == "swin":
        parts["backbone_config"].drop_path_rate = 0.3  # as published
    model = MagNetForReferringSegmentation(MagNetConfig(**parts, **config))
    if not from_scratch:
        _copy_weights(SwinModel.from_pretrained(backbone, add_pooling_layer=False), model.encoder.image_encoder)
        _copy_weights(BertModel.from_pretrained(text, add_pooling_layer=False), model.encoder.text_encoder)
    return model, MagNetProcessor(MagNetImageProcessor(), AutoTokenizer.from_pretrained(text))


def _copy_weights(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """All that the target has: Swin's last norm is not among it."""
    weights, names = source.state_dict(), target.state_dict().keys()
    target.load_state_dict({name: weights[name] for name in names})


def build_magnet_tiny(seed: int, config: dict[str, Any]) -> Built:
    """A MagNet of 3 million parameters at 160 x 160 pixels, random, with a vocabulary of RefShapes' words and the letters."""
    tokenizer = build_tokenizer(vocabulary())
    set_seed(seed)
    tiny = {
        "backbone_config": {
            "model_type": "swin",
            "image_size": 160,
            "embed_dim": 24,
            "depths": [2, 2, 2, 2],
            "num_heads": [2, 4, 8, 16],
            "window_size": 5,
            # The windows divide 160 pixels evenly, so no padding at the border tells left from right.
            "use_absolute_embeddings": True,
            "drop_path_rate": 0.0,
            "initializer_range": 0.08,
        },
        "text_config": {
            "model_type": "bert",
            "vocab_size": len(tokenizer),
            "hidden_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 192,
            "max_position_embeddings": TINY_TEXT_LENGTH,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.08,
        },
        "pyramid_expansion": 1,
        "hidden_dim": 48,
        "group_norm_groups": 8,
        "encoder_layers": 1,
        "encoder_num_heads": 4,
        "encoder_num_points": 1,
        "encoder_feedforward_dim": 96,
        "decoder_layers": 3,
        "decoder_num_heads": 4,
        "decoder_feedforward_dim": 192,
        "initializer_range": 0.08,
        "mask_grounding_layers": 2,
        "mask_grounding_stages": (1, 2, 3),
        "alignment_dim": 48,
    }
    image_processor = MagNetImageProcessor(size={"height": 160, "width": 160})
    model = MagNetForReferringSegmentation(MagNetConfig(**{**tiny, **config}))
    return model, MagNetProcessor(image_processor, tokenizer, TINY_TEXT_LENGTH)


def load_checkpoint(seed: int, config: dict[str, Any], model: str) -> Built:
    """
    A trained model of any system.

    Args:
        seed (`int`): Of weights that it does not have yet, such as a head of Mask Grounding.
        config (`dict[str, Any]`): Fields of its configuration that change.
        model (`str`): Folder or Hub id.
    """
    set_seed(seed)
    return AutoModelForReferringSegmentation.from_pretrained(model, **config), AutoProcessor.from_pretrained(model)


def add_lora(model: PreTrainedModel, rank: int) -> nn.Module:
    """
    Freezes a model but for adapters on all of its linear layers that were trained, and the heads of Mask Grounding and of the
    alignment loss ("LoRA", ICLR 2022; peft).

    Args:
        model (`PreTrainedModel`): Changed in place.
        rank (`int`): Of the adapters' matrices.

    Returns:
        `PeftModel`; its `merge_and_unload()` gives the model back, with what was learned in its own weights.

    Raises:
        ValueError: If peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError("lora needs peft: pip install 'hf_ris[train]'") from error
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad and not name.startswith("auxiliary_losses.")
    ]
    has_heads = any(name.startswith("auxiliary_losses.") for name, _ in model.named_parameters())
    heads = ["auxiliary_losses"] if has_heads else None
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=linear, modules_to_save=heads)
    )


__all__ = ["BERT", "SWIN", "add_lora", "build_magnet", "build_magnet_tiny", "load_checkpoint"]
