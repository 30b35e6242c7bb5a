"""Small models with random weights and a small vocabulary, for training from nothing on drawings."""

import string
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import BertTokenizer, set_seed

from hf_ris import (
    CRISConfig,
    CRISForReferringSegmentation,
    CRISImageProcessor,
    CRISProcessor,
    MagNetConfig,
    MagNetForReferringSegmentation,
    MagNetImageProcessor,
    MagNetProcessor,
)
from hf_ris.data.refshapes import vocabulary
from hf_ris.fields import check_fields
from hf_ris.training.building import Built


TINY_TEXT_LENGTH = 32  # the longest expression of RefShapes has 30 words
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_tokenizer(words: Iterable[str], spell: bool = True) -> BertTokenizer:
    """
    Build an uncased BERT tokenizer that keeps the given words whole.

    Args:
        words (`Iterable[str]`): Words with a token each.
        spell (`bool`, *optional*, defaults to `True`): Whether other words are spelled out in letters; else they are unknown.
    """
    letters = string.ascii_lowercase + string.digits
    spelling = [*letters, *(f"##{letter}" for letter in letters), *".,'-!?"]
    tokens = list(dict.fromkeys([*SPECIAL_TOKENS, *(spelling if spell else ()), *sorted(set(words))]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(tokens) + "\n", encoding="utf-8")
        return BertTokenizer(str(path), do_lower_case=True)


# What the bundled checkpoint has more of than `build_magnet_mini`: pixels, masks at half the stride, blocks where relations are
# seen, and a judge of its masks. The windows divide 256 pixels evenly, too, and the last stage is one window.
BUNDLED_FIELDS = {
    "hidden_dim": 64,
    "encoder_layers": 2,
    "encoder_num_points": 2,
    "encoder_feedforward_dim": 128,
    "decoder_feedforward_dim": 256,
    "mask_stride": 2,
    "confidence_loss_weight": 0.25,
}
BUNDLED_BACKBONE = {"image_size": 256, "depths": [2, 2, 6, 2], "window_size": 8}


def build_magnet_mini(seed: int, config: dict[str, Any], backbone_config: dict[str, Any] | None = None) -> Built:
    """Build a MagNet of 3 million random parameters at 160 x 160 pixels, with a vocabulary of RefShapes' words and the letters."""
    check_fields(config, MagNetConfig.__dataclass_fields__, "MagNetConfig")
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
            # The windows divide 160 pixels evenly, so no padding at the border distinguishes left from right.
            "use_absolute_embeddings": True,
            "drop_path_rate": 0.0,
            "initializer_range": 0.08,
            **(backbone_config or {}),
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
    side = tiny["backbone_config"]["image_size"]
    image_processor = MagNetImageProcessor(size={"height": side, "width": side})
    model = MagNetForReferringSegmentation(MagNetConfig(**{**tiny, **config}))
    return model, MagNetProcessor(image_processor, tokenizer, TINY_TEXT_LENGTH)


def build_magnet_tiny(seed: int, config: dict[str, Any]) -> Built:
    """Build the bundled checkpoint's MagNet, of 3.9 million random parameters at 256 x 256 pixels."""
    return build_magnet_mini(seed, {**BUNDLED_FIELDS, **config}, BUNDLED_BACKBONE)


def build_cris_tiny(seed: int, config: dict[str, Any]) -> Built:
    """Build a CRIS of 3 million random parameters at 160 x 160 pixels, with a vocabulary of RefShapes' words and the letters."""
    check_fields(config, CRISConfig.__dataclass_fields__, "CRISConfig")
    tokenizer = build_tokenizer(vocabulary())
    set_seed(seed)
    tiny = {
        "clip_config": {
            "layers": (1, 1, 2, 1),
            "width": 16,
            "image_size": 160,
            "text_config": {
                "vocab_size": len(tokenizer),
                "hidden_size": 96,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "intermediate_size": 192,
                "max_position_embeddings": TINY_TEXT_LENGTH,
                "projection_dim": 96,
                "eos_token_id": tokenizer.sep_token_id,
                "bos_token_id": tokenizer.cls_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
        },
        "neck_dims": (48, 96, 192),
        "hidden_dim": 96,
        "decoder_layers": 2,
        "decoder_num_heads": 4,
        "decoder_feedforward_dim": 192,
        "dropout": 0.0,
        "mask_grounding_layers": 2,
        "alignment_dim": 48,
    }
    model = CRISForReferringSegmentation(CRISConfig(**{**tiny, **config}))
    return model, CRISProcessor(CRISImageProcessor(size={"height": 160, "width": 160}), tokenizer, TINY_TEXT_LENGTH)
