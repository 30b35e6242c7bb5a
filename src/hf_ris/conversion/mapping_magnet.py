"""
Map a released MagNet checkpoint to [`MagNetForReferringSegmentation`].

Names are changed by rules, 1x1 convolutions become linear layers, and stacked query-key-value matrices are cut in three. Tensors
that the released network never uses are a named list; any other key that is missing, unexpected or of the wrong shape is an error.
"""

import re
from collections.abc import Mapping

import torch
from torch import nn

from .mapping import place, rename


# Stored by the released network without an effect on its output.
IGNORED_KEYS = (
    r"(^|\.)relative_position_index$",
    r"(^|\.)position_ids$",
    r"^lang_proj\.",
    r"^image_model\.norm[0-3]\.",
    r"^language_model\.norms\.",
)

SWIN = r"image_model\.layers\.(\d+)\.blocks\.(\d+)"
SWIN_BLOCK = r"encoder.image_encoder.encoder.layers.\1.blocks.\2"
STAGE = r"image_model\.layers\.(\d+)"
WORDS = r"language_model\.pwams\.(\d+)"
PYRAMID = {1: "expand", 2: "norm", 3: "contract", 5: "reduce"}
FUSION = {
    r"vis_project\.0": "image_role",
    r"image_lang_att\.f_query\.0": "query",
    r"image_lang_att\.f_query\.1": "query_norm",
    r"image_lang_att\.f_key\.0": "key",
    r"image_lang_att\.f_value\.0": "value",
    r"image_lang_att\.W\.0": "output",
    r"image_lang_att\.W\.1": "output_norm",
    r"project_mm\.0": "projection",
}
WORD_FUSION = {**FUSION, r"vis_project\.0": "word_role"}
DEFORMABLE = {
    r"self_attn\.sampling_offsets": "attention.sampling_offsets",
    r"self_attn\.attention_weights": "attention.attention_weights",
    r"self_attn\.value_proj": "attention.value",
    r"self_attn\.output_proj": "attention.output",
    r"norm1": "attention_norm",
    r"linear1": "feedforward_in",
    r"linear2": "feedforward_out",
    r"norm2": "feedforward_norm",
}
DECODER = {
    r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.out_proj": r"\1.cross_attention.output",
    r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.in_proj_": r"\1.cross_attention.in_proj.",
    r"transformer_cross_attention_layers\.(\d+)\.norm": r"\1.cross_attention.norm",
    r"transformer_self_attention_layers\.(\d+)\.self_attn\.out_proj": r"\1.self_attention.output",
    r"transformer_self_attention_layers\.(\d+)\.self_attn\.in_proj_": r"\1.self_attention.in_proj.",
    r"transformer_self_attention_layers\.(\d+)\.norm": r"\1.self_attention.norm",
    r"transformer_ffn_layers\.(\d+)\.linear1": r"\1.feedforward_in",
    r"transformer_ffn_layers\.(\d+)\.linear2": r"\1.feedforward_out",
    r"transformer_ffn_layers\.(\d+)\.norm": r"\1.feedforward_norm",
}

RENAMES: dict[str, str] = {
    r"image_model\.patch_embed\.proj": "encoder.image_encoder.embeddings.patch_embeddings.projection",
    r"image_model\.patch_embed\.norm": "encoder.image_encoder.embeddings.norm",
    SWIN + r"\.norm1": SWIN_BLOCK + ".layernorm_before",
    SWIN + r"\.norm2": SWIN_BLOCK + ".layernorm_after",
    SWIN + r"\.attn\.relative_position_bias_table": SWIN_BLOCK
    + ".attention.relative_position_bias.relative_position_bias_table",
    SWIN + r"\.attn\.qkv": SWIN_BLOCK + ".attention.qkv",
    SWIN + r"\.attn\.proj": SWIN_BLOCK + ".attention.o_proj",
    SWIN + r"\.mlp": SWIN_BLOCK + ".mlp",
    STAGE + r"\.downsample": r"encoder.image_encoder.encoder.layers.\1.downsample",
    **{STAGE + r"\.fusion\." + old: r"encoder.stages.\1.image_fusion." + new for old, new in FUSION.items()},
    **{
        STAGE + r"\.fusions\.(\d+)\." + old: r"encoder.stages.\1.alignment.contexts.\2.fusion." + new
        for old, new in FUSION.items()
    },
    **{
        STAGE + rf"\.pyramids\.(\d+)\.{old}": r"encoder.stages.\1.alignment.contexts.\2." + new
        for old, new in PYRAMID.items()
    },
    STAGE + r"\.mixer\.0": r"encoder.stages.\1.alignment.mix",
    STAGE + r"\.mixer\.1": r"encoder.stages.\1.alignment.norm",
    STAGE + r"\.mixer\.2": r"encoder.stages.\1.alignment.output",
    STAGE + r"\.res_gate\.0": r"encoder.stages.\1.image_gate.inner",
    STAGE + r"\.res_gate\.2": r"encoder.stages.\1.image_gate.outer",
    r"language_model\.embeddings": "encoder.text_encoder.embeddings",
    r"language_model\.encoder": "encoder.text_encoder.encoder",
    **{WORDS + r"\." + old: r"encoder.stages.\1.word_fusion." + new for old, new in WORD_FUSION.items()},
    r"language_model\.res_gates\.(\d+)\.0": r"encoder.stages.\1.word_gate.inner",
    r"language_model\.res_gates\.(\d+)\.2": r"encoder.stages.\1.word_gate.outer",
    r"classifier\.pixel_decoder\.input_proj": "pixel_decoder.input_projections",
    r"classifier\.pixel_decoder\.transformer\.level_embed": "pixel_decoder.level_embedding",
    **{
        r"classifier\.pixel_decoder\.transformer\.encoder\.layers\.(\d+)\." + old: r"pixel_decoder.layers.\1." + new
        for old, new in DEFORMABLE.items()
    },
    r"classifier\.pixel_decoder\.mask_features": "pixel_decoder.mask_projection",
    **{r"classifier\.predictor\." + old: "mask_decoder.layers." + new for old, new in DECODER.items()},
    r"classifier\.predictor\.decoder_norm": "mask_decoder.norm",
    r"classifier\.predictor\.query_feat\.weight": "mask_decoder.query_features",
    r"classifier\.predictor\.query_embed\.weight": "mask_decoder.query_position",
    r"classifier\.predictor\.level_embed\.weight": "mask_decoder.level_embedding",
    r"classifier\.predictor\.class_embed": "mask_decoder.class_head",
    r"classifier\.predictor\.mask_embed\.layers\.0": "mask_decoder.mask_head.0",
    r"classifier\.predictor\.mask_embed\.layers\.1": "mask_decoder.mask_head.2",
    r"classifier\.predictor\.mask_embed\.layers\.2": "mask_decoder.mask_head.4",
}
RULES = [(re.compile(rf"^{pattern}(?=$|\.|weight$|bias$)"), target) for pattern, target in RENAMES.items()]

# A stacked matrix and the names of the three it is cut into.
STACKED = {".qkv.": (".q_proj.", ".k_proj.", ".v_proj."), ".in_proj.": (".query.", ".key.", ".value.")}


def is_ignored(key: str) -> bool:
    """Whether the released network stores `key` without using it."""
    return any(re.search(pattern, key) for pattern in IGNORED_KEYS)


def target_keys(key: str) -> tuple[str, ...]:
    """
    List the parameters that a released tensor becomes: none if it is never used, three if it is stacked.

    Raises:
        ValueError: If the released network has no such key.
    """
    return () if is_ignored(key) else tuple(rename(key, RULES, "released MagNet", STACKED))


def convert_state_dict(state: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """
    Rename and reshape a released state dict.

    Returns:
        `dict[str, torch.Tensor]` that `model.load_state_dict` takes strictly. Tensors share memory with `state`.

    Raises:
        ValueError: If a key is missing, unexpected or of the wrong shape.
    """
    parts = (
        (key, target, part)
        for key, tensor in state.items()
        for targets in [target_keys(key)]
        for target, part in zip(targets, tensor.chunk(max(len(targets), 1)), strict=False)
    )
    return place(parts, dict(model.named_parameters()))


__all__ = ["IGNORED_KEYS", "convert_state_dict", "is_ignored", "target_keys"]
