"""Map a released CLIP, under OpenAI's, open_clip's or timm's names, to transformers' `CLIPModel` or [`CLIPResNetModel`]."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import CLIPConfig

from ..modeling.configuration_clip_resnet import CLIPResNetConfig
from .mapping import rename


BLOCK = {
    r"attn\.in_proj_": "self_attn.in_proj.",
    r"attn\.out_proj\.": "self_attn.out_proj.",
    r"ln_1\.": "layer_norm1.",
    r"ln_2\.": "layer_norm2.",
    r"mlp\.c_fc\.": "mlp.fc1.",
    r"mlp\.c_proj\.": "mlp.fc2.",
}
TEXT = {
    r"^token_embedding\.": "text_model.embeddings.token_embedding.",
    r"^positional_embedding$": "text_model.embeddings.position_embedding.weight",
    **{
        rf"^transformer\.resblocks\.(\d+)\.{old}": rf"text_model.encoder.layers.\1.{new}" for old, new in BLOCK.items()
    },
    r"^ln_final\.": "text_model.final_layer_norm.",
    r"^text_projection$": "text_projection.weight",
}
VIT = {
    r"^visual\.class_embedding$": "vision_model.embeddings.class_embedding",
    r"^visual\.conv1\.": "vision_model.embeddings.patch_embedding.",
    r"^visual\.positional_embedding$": "vision_model.embeddings.position_embedding.weight",
    r"^visual\.ln_pre\.": "vision_model.pre_layrnorm.",  # spelled so in transformers
    r"^visual\.ln_post\.": "vision_model.post_layernorm.",
    **{
        rf"^visual\.transformer\.resblocks\.(\d+)\.{old}": rf"vision_model.encoder.layers.\1.{new}"
        for old, new in BLOCK.items()
    },
    r"^visual\.proj$": "visual_projection.weight",
}
# timm's names of CLIP's ResNets, which have no text encoder, and OpenAI's.
TIMM = {
    r"^stem\.conv(\d)\.conv\.": r"visual.conv\1.",
    r"^stem\.conv(\d)\.bn\.": r"visual.bn\1.",
    r"^stages\.(\d)\.(\d+)\.conv(\d)_(?:1x1|kxk)\.(conv|bn)\.": r"visual.layer\1.\2.\4\3.",
    r"^stages\.(\d)\.(\d+)\.shortcut\.conv\.conv\.": r"visual.layer\1.\2.downsample.0.",
    r"^stages\.(\d)\.(\d+)\.shortcut\.conv\.bn\.": r"visual.layer\1.\2.downsample.1.",
    r"^head\.([qkv])\.": r"visual.attnpool.\1_proj.",
    r"^head\.proj\.": "visual.attnpool.c_proj.",
    r"^head\.pos_embed$": "visual.attnpool.positional_embedding",
}
STACKED = {".in_proj.": (".q_proj.", ".k_proj.", ".v_proj.")}
TRANSPOSED = ("text_projection", "visual.proj")  # stored as (inputs, outputs)


def convert_clip_state_dict(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Rename and cut tensors under OpenAI's names, for `CLIPModel`, or for [`CLIPResNetModel`] where there is an `attnpool`.

    Raises:
        ValueError: If there is a key that no released CLIP has.
    """
    is_resnet = is_clip_resnet(state)
    names = {old: f"text_encoder.{new}" for old, new in TEXT.items()} if is_resnet else TEXT | VIT
    rules = [(re.compile(old), new) for old, new in names.items()]
    converted: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if key in ("input_resolution", "context_length", "vocab_size"):  # plain numbers beside the tensors
            continue
        if key == "logit_scale" or (is_resnet and key.startswith("visual.")):
            converted[key] = tensor
            continue
        targets = rename(key, rules, "released CLIP", STACKED)
        tensor = tensor.T if key in TRANSPOSED else tensor
        converted.update(zip(targets, tensor.chunk(len(targets)), strict=True))
    return converted


def rename_timm(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Rename timm's image encoder of a CLIP with a ResNet to OpenAI's names; other state dicts are returned unchanged.

    Raises:
        ValueError: If there is a key that timm's do not have.
    """
    if "stem.conv1.conv.weight" not in state:
        return dict(state)
    rules = [(re.compile(old), new) for old, new in TIMM.items()]
    renamed = {}
    for key, tensor in state.items():
        name = rename(key, rules, "CLIP of timm")[0]
        # timm counts stages from 0.
        renamed[re.sub(r"^visual\.layer(\d)", lambda found: f"visual.layer{int(found[1]) + 1}", name)] = tensor
    return renamed


def is_clip_resnet(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a released CLIP has a ResNet for images."""
    return any(key.startswith("visual.attnpool.") for key in state)


def read_clip_config(
    state: Mapping[str, torch.Tensor],
    heads: int | None = None,
    activation: str = "quick_gelu",
    head_width: int = 64,
    text_heads: int | None = None,
) -> CLIPConfig | CLIPResNetConfig:
    """
    Read the configuration of a released CLIP from its tensors' shapes.

    Args:
        state (`Mapping[str, torch.Tensor]`): Tensors under OpenAI's names.
        heads (`int`, *optional*): Attention heads of both encoders; by default what `head_width` and `text_heads` say.
        activation (`str`, *optional*, defaults to `"quick_gelu"`): Activation; most of open_clip's have `"gelu"`.
        head_width (`int`, *optional*, defaults to 64): Channels of a head of the ViT; the largest of open_clip's have more.
        text_heads (`int`, *optional*): Attention heads of the text encoder; by default one for every 64 channels.
    """

    def depth(prefix: str) -> int:
        return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})

    if "token_embedding.weight" not in state:  # an image encoder alone: OpenAI's text encoder goes with it
        width = len(state["visual.attnpool.c_proj.weight"])
        return _resnet_config(state, {"projection_dim": width, "pad_token_id": 0}, depth)
    vocabulary, width = state["token_embedding.weight"].shape
    text = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": len(state["transformer.resblocks.0.mlp.c_fc.weight"]),
        "hidden_act": activation,
        "num_hidden_layers": depth("transformer.resblocks."),
        "num_attention_heads": heads or text_heads or max(1, width // 64),
        "max_position_embeddings": len(state["positional_embedding"]),
        "projection_dim": state["text_projection"].shape[1],
        # The end token has the highest id; transformers then takes the first one of it.
        "eos_token_id": vocabulary - 1,
        "bos_token_id": vocabulary - 2,
        "pad_token_id": 0,
    }
    if is_clip_resnet(state):
        return _resnet_config(state, text, depth)
    vision_width, _, patch, _ = state["visual.conv1.weight"].shape
    grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    vision = {
        "hidden_size": vision_width,
        "intermediate_size": len(state["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
        "hidden_act": activation,
        "num_hidden_layers": depth("visual.transformer.resblocks."),
        "num_attention_heads": heads or max(1, vision_width // head_width),
        "image_size": patch * grid,
        "patch_size": patch,
        "projection_dim": text["projection_dim"],
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=text["projection_dim"])


def _resnet_config(
    state: Mapping[str, torch.Tensor], text: dict[str, Any], depth: Callable[[str], int]
) -> CLIPResNetConfig:
    cells = len(state["visual.attnpool.positional_embedding"]) - 1
    return CLIPResNetConfig(
        text_config=text,
        layers=tuple(depth(f"visual.layer{stage}.") for stage in (1, 2, 3, 4)),
        width=state["visual.layer1.0.conv1.weight"].shape[0],
        image_size=32 * round(cells**0.5),
    )


__all__ = ["convert_clip_state_dict", "is_clip_resnet", "read_clip_config", "rename_timm"]
