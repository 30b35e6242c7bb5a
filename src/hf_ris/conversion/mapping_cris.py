"""
Map a released CRIS checkpoint to [`CRISForReferringSegmentation`].

Its backbone is a CLIP under OpenAI's names. The rest is renamed by rules, and stacked query-key-value matrices are cut in three.
"""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from ..modeling.configuration_cris import CRISConfig
from .mapping import place, rename
from .mapping_clip import convert_clip_state_dict, read_clip_config


BACKBONE = "backbone."
SHORTCUT = r"backbone\.visual\.attnpool\.connect"  # CRIS's addition to CLIP's attention pooling
ATTENTION = {
    r"self_attn\.out_proj": "self_attention.output",
    r"self_attn\.in_proj_": "self_attention.in_proj.",
    "self_attn_norm": "self_attention.norm",
    r"multihead_attn\.out_proj": "cross_attention.output",
    r"multihead_attn\.in_proj_": "cross_attention.in_proj.",
    "cross_attn_norm": "cross_attention.norm",
    "norm1": "self_norm",
    "norm2": "cross_norm",
    "norm3": "feedforward_norm",
    "ffn": "feedforward",
}
RENAMES: dict[str, str] = {
    SHORTCUT: "shortcut",
    r"neck\.txt_proj": "neck.state_projection",
    r"neck\.f1_v_proj": "neck.projections.2",
    r"neck\.f2_v_proj": "neck.projections.1",
    r"neck\.f3_v_proj": "neck.projections.0",
    r"neck\.norm_layer": "neck.sentence_norm",
    r"neck\.f2_cat": "neck.join4",
    r"neck\.f3_cat": "neck.join3",
    r"neck\.f4_proj5": "neck.level_projections.2",
    r"neck\.f4_proj4": "neck.level_projections.1",
    r"neck\.f4_proj3": "neck.level_projections.0",
    r"neck\.aggr": "neck.join_levels",
    r"neck\.coordconv\.0\.conv1": "neck.place_convolutions.0",
    r"neck\.coordconv\.1": "neck.place_convolutions.1",
    **{r"decoder\.layers\.(\d+)\." + old: r"decoder.layers.\1." + new for old, new in ATTENTION.items()},
    r"decoder\.norm": "decoder.norm",
    r"proj\.vis\.1": "projector.blocks.0",
    r"proj\.vis\.3": "projector.blocks.1",
    r"proj\.vis\.4": "projector.pixel_projection",
    r"proj\.txt": "projector.kernel_projection",
}
RULES = [(re.compile(rf"^{pattern}(?=\.|weight$|bias$)"), target) for pattern, target in RENAMES.items()]
STACKED = {".in_proj.": (".query.", ".key.", ".value.")}


def convert_state_dict(state: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """
    Rename and cut a released state dict.

    Returns:
        `dict[str, torch.Tensor]` that `model.load_state_dict` takes strictly. Tensors share memory with `state`.

    Raises:
        ValueError: If a key is missing, unexpected or of the wrong shape.
    """
    expected = model.state_dict()
    counters = [name for name in expected if name.endswith("num_batches_tracked")]  # nothing reads them
    zeros = {name: torch.zeros_like(expected.pop(name), device="cpu") for name in counters}
    return place(_rename(state), expected) | zeros


def read_cris_config(state: Mapping[str, torch.Tensor]) -> CRISConfig:
    """
    Read the configuration of a released CRIS from its tensors' shapes; other fields are as published.

    Raises:
        ValueError: If the tensors are not those of a CRIS.
    """
    try:
        clip = {key.removeprefix(BACKBONE): tensor for key, tensor in state.items() if key.startswith(BACKBONE)}
        return CRISConfig(
            clip_config=read_clip_config(clip).to_dict(),
            neck_dims=[len(state[f"neck.f{level}_v_proj.0.weight"]) for level in (3, 2, 1)],
            hidden_dim=len(state["neck.aggr.0.weight"]),
            decoder_layers=len({key.split(".")[2] for key in state if key.startswith("decoder.layers.")}),
            decoder_feedforward_dim=len(state["decoder.layers.0.ffn.0.weight"]),
        )
    except KeyError as error:
        raise ValueError(f"the checkpoint lacks {error.args[0]!r}, which every released CRIS has") from error


def _rename(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str, torch.Tensor]]:
    clip: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        if key.startswith(BACKBONE) and not re.match(SHORTCUT, key):
            clip[key.removeprefix(BACKBONE)] = tensor
            continue
        names = rename(key, RULES, "released CRIS", STACKED)
        for name, part in zip(names, tensor.chunk(len(names)), strict=True):
            yield key, name, part
    for name, tensor in convert_clip_state_dict(clip).items():
        yield f"{BACKBONE}{name}", f"clip.{name}", tensor


__all__ = ["convert_state_dict", "read_cris_config"]
