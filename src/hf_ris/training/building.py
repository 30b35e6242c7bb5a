"""What a training starts from: random weights, pretrained parts, or a checkpoint; and adapters on it."""

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
    A MagNet on an image and a text encoder that were trained on photos and on language, as the published system was begun.

    Args:
        seed (`int`): Of the weights that are new.
        config (`dict[str, Any]`): Fields of [`MagNetConfig`].
        backbone (`str`): Folder or Hub id of a Swin.
        text (`str`): Folder or Hub id of a BERT and its tokenizer.
        from_scratch (`bool`, *optional*, defaults to `False`): Whether the encoders' weights are left out, and random too.
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
    """All that the target has: Swin's last norm is not among it."""
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
    A CRIS on a CLIP with a ResNet, as the published system was begun.

    Args:
        seed (`int`): Of the weights that are new.
        config (`dict[str, Any]`): Fields of [`CRISConfig`].
        init_from (`str`): The CLIP: a file that OpenAI published (RN50.pt, RN101.pt), `hub-id::file`, or folder or Hub id of one of
            open_clip. Of timm's weights, which are of the image encoder alone, the text encoder stays random.
        text (`str`): Folder or Hub id of its tokenizer.
        from_scratch (`bool`, *optional*, defaults to `False`): Whether the CLIP's weights are left out, and random too.
        text_length (`int`, *optional*, defaults to 17): Tokens that expressions are cut and padded to.

    Raises:
        ValueError: If this is no CLIP with a ResNet.
    """
    check_fields(config, CRISConfig.__dataclass_fields__, "CRISConfig")
    state = rename_timm(read_state_dict(locate(released_clip_file(init_from))))
    if not is_clip_resnet(state):
        raise ValueError(f"init_from={init_from!r} holds no CLIP with a ResNet, such as OpenAI's RN50.pt")
    tokenizer = AutoTokenizer.from_pretrained(text)
    clip: Any = read_clip_config(state)
    if len(tokenizer) > clip.text_config.vocab_size:
        raise ValueError(
            f"text={text!r} has {len(tokenizer)} words, the CLIP's embedding {clip.text_config.vocab_size}"
        )
    set_seed(seed)
    model = CRISForReferringSegmentation(CRISConfig(clip_config=clip.to_dict(), **config))
    if not from_scratch:
        missing, _ = model.clip.load_state_dict(convert_clip_state_dict(state), strict=False)
        unneeded = ["logit_scale", "num_batches_tracked"]
        if "token_embedding.weight" not in state:
            logger.warning(f"{init_from} is of an image encoder alone: the text encoder starts with random weights.")
            unneeded.append("text_encoder.")
        lacking = [name for name in missing if not any(part in name for part in unneeded)]
        if lacking:
            raise ValueError(f"init_from={init_from!r} lacks weights, such as {lacking[0]}")
    processor = CRISProcessor(CRISImageProcessor(), tokenizer, text_length)
    return teach_mask_token(model, processor.tokenizer), processor


def teach_mask_token(
    model: TrainableSegmentationModel, tokenizer: PreTrainedTokenizerBase
) -> TrainableSegmentationModel:
    """Gives a tokenizer that has none, such as CLIP's, a token that hides a word, and the model an embedding for it."""
    if model.config.mask_grounding_loss_weight and tokenizer.mask_token_id is None:
        tokenizer.add_special_tokens({"mask_token": "<|mask|>"})
        model.resize_token_embeddings(max(len(tokenizer), model.config.text_config.vocab_size))
    return model


def load_checkpoint(seed: int, config: dict[str, Any], model: str) -> Built:
    """
    A trained model of any system.

    Args:
        seed (`int`): Of weights that it does not have yet, such as a head of Mask Grounding.
        config (`dict[str, Any]`): Fields of its configuration that change.
        model (`str`): Folder or Hub id.
    """
    set_seed(seed)
    known: Any = type(AutoConfig.from_pretrained(model))
    if not issubclass(known, TrainableSegmentationConfig):
        raise ValueError(f"model={model!r} is a {known.model_type}, which is not trained")
    check_fields(config, known.__dataclass_fields__, known.__name__)
    # Whatever it was saved in: half precision is for storing and asking, the optimizer's steps are too small for it.
    loaded = AutoModelForReferringSegmentation.from_pretrained(model, dtype=torch.float32, **config)
    processor = AutoProcessor.from_pretrained(model)
    return teach_mask_token(loaded, processor.tokenizer), processor


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
    for module in model.modules():
        if isinstance(
            module, nn.modules.batchnorm._BatchNorm
        ):  # what it remembers would not be saved with the adapters
            module.register_forward_pre_hook(_use_what_it_remembers)
    has_heads = any(name.startswith("auxiliary_losses.") for name, _ in model.named_parameters())
    heads = ["auxiliary_losses"] if has_heads else None
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=linear, modules_to_save=heads)
    )


def _use_what_it_remembers(norm: nn.Module, _: Any) -> None:
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
