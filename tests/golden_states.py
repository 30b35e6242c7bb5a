"""Golden numbers of the original implementations: how they are read, and how the random states behind them are drawn."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from hf_ris.modeling.configuration_cris import CRISConfig
from hf_ris.modeling.configuration_magnet import MagNetConfig


GOLDEN = Path(__file__).parent / "golden"


def read_json(system: str, name: str):
    return json.loads((GOLDEN / system / name).read_text())


def read_tensors(system: str, name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / system / name)


def draw_state(system: str) -> dict[str, torch.Tensor]:
    """The original's random state dict, drawn key by key from the manifest's rule."""
    state = {}
    for key, rule in read_json(system, "state_manifest.json").items():
        size = int(np.prod(rule["shape"], dtype=np.int64))
        values = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(size) * rule["std"] + rule["mean"]
        tensor = torch.from_numpy(values.astype(np.float32)).reshape(rule["shape"])
        state[key] = tensor.exp() if rule["kind"] == "exp" else tensor
    return state


def magnet_config() -> MagNetConfig:
    """The tiny network that the golden numbers were recorded on."""
    golden = read_json("magnet", "config.json")
    swin, bert, head = golden["swin"], golden["bert"], golden["head"]
    return MagNetConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": swin["embed_dim"],
            "depths": swin["depths"],
            "num_heads": swin["num_heads"],
            "window_size": swin["window_size"],
            "image_size": 96,
        },
        text_config={"model_type": "bert", **bert},
        language_attention_mask="published",
        fusion_num_heads=swin["num_heads_fusion"],
        pyramid_grids=golden["pyramid_sizes"],
        hidden_dim=head["hidden_dim"],
        encoder_layers=head["enc_layers"],
        encoder_num_heads=head["nheads"],
        encoder_num_points=golden["n_points"],
        encoder_feedforward_dim=head["enc_dim_feedforward"],
        decoder_layers=head["dec_layers"] - 1,
        decoder_num_heads=head["nheads"],
        decoder_feedforward_dim=head["dim_feedforward"],
    )


def cris_config() -> CRISConfig:
    """The same of CRIS; its end token has the highest id."""
    golden = read_json("cris", "config.json")
    clip = golden["clip"]
    return CRISConfig(
        clip_config={
            "layers": clip["vision_layers"],
            "width": clip["vision_width"],
            "image_size": clip["image_resolution"],
            "text_config": {
                "vocab_size": clip["vocab_size"],
                "hidden_size": clip["transformer_width"],
                "intermediate_size": 4 * clip["transformer_width"],
                "num_hidden_layers": clip["transformer_layers"],
                "num_attention_heads": clip["transformer_heads"],
                "max_position_embeddings": clip["context_length"],
                "projection_dim": clip["embed_dim"],
                "eos_token_id": clip["vocab_size"] - 1,
                "bos_token_id": clip["vocab_size"] - 2,
                "pad_token_id": 0,
            },
        },
        neck_dims=golden["fpn_out"],
        hidden_dim=golden["vis_dim"],
        decoder_layers=golden["num_layers"],
        decoder_num_heads=golden["num_head"],
        decoder_feedforward_dim=golden["dim_ffn"],
        dropout=golden["dropout"],
    )
