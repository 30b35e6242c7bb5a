"""The start of a training: a model on pretrained parts, or a checkpoint; and adapters on it."""

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    SwinModel,
    set_seed,
)
from transformers.utils import logging

from ..auto import AutoModelForReferringSegmentation
from ..conversion.files import CLIP_TOKENIZER, locate, read_state_dict, released_clip_file
from ..conversion.mapping_clip import convert_clip_state_dict, is_clip_resnet, read_clip_config, rename_timm
from ..fields import check_fields
from ..modeling.configuration_cris import CRISConfig
from ..modeling.configuration_magnet import MagNetConfig
from ..modeling.configuration_referring_segmentation import TrainableSegmentationConfig
from ..modeling.modeling_cris import CRISForReferringSegmentation
from ..modeling.modeling_magnet import MagNetForReferringSegmentation
from ..modeling.modeling_trainable_segmentation import TrainableSegmentationModel
from ..modeling.processing_cris import CRISImageProcessor, CRISProcessor
from ..modeling.processing_magnet import MagNetImageProcessor, MagNetProcessor


logger = logging.get_logger(f"transformers.{__name__}")  # under transformers' verbosity

Built = tuple[PreTrainedModel, ProcessorMixin]

SWIN = "microsoft/swin-base-patch4-window12-384-in22k"
BERT = "google-bert/bert-base-uncased"
RN50, RN101 = "timm/resnet50_clip.openai", "timm/resnet101_clip.openai"


def build_magnet(
    seed: int, config: dict[str, Any], backbone: str = SWIN, text: str = BERT, from_scratch: bool = False
) -> Built:
    """
    Build a MagNet on a pretrained Swin and BERT, as the published system begins.

    Args:
        seed (`int`): Seed of the new weights.
        config (`dict[str, Any]`): Fields of [`MagNetConfig`].
        backbone (`str`): Folder or Hub id of a Swin.
        text (`str`): Folder or Hub id of a BERT and its tokenizer.
        from_scratch (`bool`, *optional*, defaults to `False`): Whether the encoders' weights are random, too.
    """
    check_fields(config, MagNetConfig.__dataclass_fields__, "MagNetConfig")
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
    """Copy the weights that the target has: Swin's last norm is not among them."""
    weights, names = source.state_dict(), target.state_dict().keys()
    target.load_state_dict({name: weights[name] for name in names})


def build_cris(
    seed: int,
    config: dict[str, Any],
    init_from: str = RN50,
    text: str = CLIP_TOKENIZER,
    from_scratch: bool = False,
    text_length: int = 17,
) -> Built:
    """
    Build a CRIS on a CLIP with a ResNet, as the published system begins.

    Args:
        seed (`int`): Seed of the new weights.
        config (`dict[str, Any]`): Fields of [`CRISConfig`].
        init_from (`str`): The CLIP: a file that OpenAI published (RN50.pt, RN101.pt), `hub-id::file`, or folder or Hub id of one of
            open_clip. timm's weights hold the image encoder alone: then the text encoder stays random.
        text (`str`): Folder or Hub id of its tokenizer.
        from_scratch (`bool`, *optional*, defaults to `False`): Whether the CLIP's weights are random, too.
        text_length (`int`, *optional*, defaults to 17): Tokens that expressions are cut and padded to.

    Raises:
        ValueError: If `init_from` is no CLIP with a ResNet, or the tokenizer has more words than it.
    """
    check_fields(config, CRISConfig.__dataclass_fields__, "CRISConfig")
    state = rename_timm(read_state_dict(locate(released_clip_file(init_from))))
    if not is_clip_resnet(state):
        raise ValueError(f"`init_from` must be a CLIP with a ResNet, such as OpenAI's RN50.pt, got {init_from!r}.")
    tokenizer = AutoTokenizer.from_pretrained(text)
    clip: Any = read_clip_config(state)
    if len(tokenizer) > clip.text_config.vocab_size:
        size = clip.text_config.vocab_size
        raise ValueError(f"`text` must be a tokenizer of at most {size} words, got {text!r} with {len(tokenizer)}.")
    set_seed(seed)
    model = CRISForReferringSegmentation(CRISConfig(clip_config=clip.to_dict(), **config))
    if not from_scratch:
        missing, _ = model.clip.load_state_dict(convert_clip_state_dict(state), strict=False)
        unneeded = ["logit_scale", "num_batches_tracked"]
        if "token_embedding.weight" not in state:
            logger.warning(f"{init_from} holds an image encoder alone: the text encoder starts with random weights.")
            unneeded.append("text_encoder.")
        lacking = [name for name in missing if not any(part in name for part in unneeded)]
        if lacking:
            raise ValueError(f"`init_from` must hold all weights of a CLIP, got {init_from!r} without {lacking[0]}.")
    processor = CRISProcessor(CRISImageProcessor(), tokenizer, text_length)
    return add_mask_token(model, processor.tokenizer), processor


def add_mask_token(
    model: TrainableSegmentationModel, tokenizer: PreTrainedTokenizerBase
) -> TrainableSegmentationModel:
    """Give a tokenizer without a mask token, such as CLIP's, one that hides a word, and the model an embedding for it."""
    if model.config.mask_grounding_loss_weight and tokenizer.mask_token_id is None:
        tokenizer.add_special_tokens({"mask_token": "<|mask|>"})
        model.resize_token_embeddings(max(len(tokenizer), model.config.text_config.vocab_size))
    return model


def load_checkpoint(seed: int, config: dict[str, Any], model: str) -> Built:
    """
    Load a checkpoint of any trainable system.

    Args:
        seed (`int`): Seed of weights that it does not have yet, such as a head of Mask Grounding.
        config (`dict[str, Any]`): Fields of its configuration that change.
        model (`str`): Folder or Hub id.
    """
    set_seed(seed)
    known: Any = type(AutoConfig.from_pretrained(model))
    if not issubclass(known, TrainableSegmentationConfig):
        raise ValueError(f"`model` must be a system that is trained, got {model!r}, a {known.model_type}.")
    check_fields(config, known.__dataclass_fields__, known.__name__)
    # Half precision is for storing and inference: the optimizer's steps are too small for it.
    loaded = AutoModelForReferringSegmentation.from_pretrained(model, dtype=torch.float32, **config)
    processor = AutoProcessor.from_pretrained(model)
    return add_mask_token(loaded, processor.tokenizer), processor


def add_lora(model: PreTrainedModel, rank: int) -> nn.Module:
    """
    Freeze a model but for adapters on all trainable linear layers and the heads of Mask Grounding and of the alignment loss
    ("LoRA", ICLR 2022; peft).

    Args:
        model (`PreTrainedModel`): Changed in place.
        rank (`int`): Rank of the adapters' matrices.

    Returns:
        `PeftModel`; its `merge_and_unload()` returns the model, with what the adapters learned in its weights.

    Raises:
        ValueError: If peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError("`lora` needs peft: pip install 'hf_ris[train]'.") from error
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad and not name.startswith("auxiliary_losses.")
    ]
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            # New running statistics would not be saved with the adapters.
            module.register_forward_pre_hook(_use_running_statistics)
    has_heads = any(name.startswith("auxiliary_losses.") for name, _ in model.named_parameters())
    heads = ["auxiliary_losses"] if has_heads else None
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=linear, modules_to_save=heads)
    )


def _use_running_statistics(norm: nn.Module, _: Any) -> None:
    norm.eval()


__all__ = [
    "BERT",
    "RN50",
    "RN101",
    "SWIN",
    "add_lora",
    "build_cris",
    "build_magnet",
    "load_checkpoint",
]
