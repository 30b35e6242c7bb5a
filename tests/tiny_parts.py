"""Tiny random parts of the zero-shot systems, saved in folders as the Hub has them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    MetaClip2Config,
    MetaClip2Model,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamProcessor,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from hf_ris.modeling.clip_resnet import CLIPResNetModel
from hf_ris.modeling.configuration_clip_resnet import CLIPResNetConfig
from hf_ris.modeling.configuration_cris import CRISConfig
from hf_ris.modeling.without_torch import rle_to_mask


TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "projection_dim": 8,
    "max_position_embeddings": 77,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 8,
}


def letters(**special: str) -> CLIPTokenizer:
    """A CLIP tokenizer whose words are letters, with further tokens by name."""
    signs = [chr(code) for code in range(33, 127)]
    tokens = [*signs, *(f"{sign}</w>" for sign in signs), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, extra_special_tokens=special)


def special_ids(tokenizer: CLIPTokenizer) -> dict[str, int]:
    """What configurations call a tokenizer's special tokens."""
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def loud(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights that make outputs differ, where initial ones hardly do."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model.eval()


CRIS_SIZES = {
    "neck_dims": (8, 16, 16),
    "hidden_dim": 16,
    "decoder_layers": 1,
    "decoder_num_heads": 2,
    "decoder_feedforward_dim": 16,
}


def tiny_cris_config(tokenizer: BertTokenizer) -> CRISConfig:
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "projection_dim": 16,
        "eos_token_id": tokenizer.sep_token_id,
        "pad_token_id": 0,
    }
    clip = {"layers": (1, 1, 1, 1), "width": 8, "image_size": 64, "text_config": text}
    return CRISConfig(clip_config=clip, **CRIS_SIZES)


def save_clip(folder: Path) -> Path:
    tokenizer = letters()
    text = {**TEXT, "vocab_size": len(tokenizer), **special_ids(tokenizer)}
    loud(CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))).save_pretrained(folder)
    CLIPProcessor(_clip_images(32), tokenizer).save_pretrained(folder)
    return folder


def save_clip_resnet(folder: Path) -> Path:
    tokenizer = letters()
    text = {**TEXT, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = CLIPResNetConfig(text_config=text, layers=(1, 1, 1, 1), width=8, image_size=64)
    loud(CLIPResNetModel(config)).save_pretrained(folder)
    CLIPProcessor(_clip_images(64), tokenizer).save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    tokenizer = letters()
    text = {**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "projection_size": 16}
    loud(SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    SiglipProcessor(SiglipImageProcessor(size=size), tokenizer).save_pretrained(folder)
    return folder


def save_siglip2(folder: Path) -> Path:
    tokenizer = letters()
    text = {**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "projection_size": 16}
    vision = {**VISION, "num_patches": 16}
    loud(Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))).save_pretrained(folder)
    Siglip2Processor(Siglip2ImageProcessor(patch_size=8, max_num_patches=16), tokenizer).save_pretrained(folder)
    return folder


def save_metaclip2(folder: Path) -> Path:
    tokenizer = letters()
    text = {**TEXT, "vocab_size": len(tokenizer), **special_ids(tokenizer)}
    config = MetaClip2Config(text_config=text, vision_config=VISION, projection_dim=8)
    loud(MetaClip2Model(config)).save_pretrained(folder)
    CLIPProcessor(_clip_images(32), tokenizer).save_pretrained(folder)
    return folder


SAM = {
    "vision_config": {
        "hidden_size": 16,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "window_size": 4,
        "global_attn_indexes": [1],
        "num_pos_feats": 8,
        "mlp_dim": 32,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
    "mask_decoder_config": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_dim": 32,
        "iou_head_hidden_dim": 16,
    },
}


def save_sam(folder: Path) -> Path:
    loud(SamModel(SamConfig(**SAM))).save_pretrained(folder)
    images = SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    SamProcessor(images).save_pretrained(folder)
    return folder


def save_mask2former(folder: Path) -> Path:
    config = Mask2FormerConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 1, 1],
            "window_size": 2,
            "image_size": 64,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=6,
        num_labels=3,
    )
    loud(Mask2FormerForUniversalSegmentation(config)).save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def save_blip(folder: Path, tokenizer: BertTokenizer) -> Path:
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "encoder_hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = BlipConfig(text_config=text, vision_config=VISION)
    loud(BlipForConditionalGeneration(config)).save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def _clip_images(side: int) -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def boxes(shape: tuple[int, int], *edges: tuple[int, int, int, int]) -> np.ndarray:
    """Masks of boxes: left, top, right, bottom."""
    masks = np.zeros((len(edges), *shape), bool)
    for mask, (left, top, right, bottom) in zip(masks, edges, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def ious_by_hand(ris: Any, rows: Any) -> list[float]:
    """Of each expression of a dataset's rows, asked alone: how well the pipeline's mask overlaps with the true one."""
    ious = []
    for row in rows:
        true = rle_to_mask(row["mask"])
        for expression in row["expressions"]:
            mask = ris(row["image"], text=expression["sent"], output_format="array")["mask"]
            ious.append((mask & true).sum() / (mask | true).sum())
    return ious


def save_blip2(folder: Path) -> Path:
    tokenizer = letters(image_token="<image>")
    text = {
        "model_type": "opt",
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "word_embed_proj_dim": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 80,
        **special_ids(tokenizer),
    }
    qformer = {
        "vocab_size": 8,
        "hidden_size": 16,
        "encoder_hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.image_token_id,
    )
    loud(Blip2ForConditionalGeneration(config)).save_pretrained(folder)
    Blip2Processor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer, 4).save_pretrained(folder)
    return folder


def florence2_config(tokenizer: CLIPTokenizer, **text: int) -> Florence2Config:
    """A configuration for images of 64 x 64 pixels: 2 x 2 cells, and their mean."""
    text = {
        "model_type": "bart",
        "vocab_size": len(tokenizer),
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        **special_ids(tokenizer),
        "decoder_start_token_id": tokenizer.eos_token_id,
        **text,
    }
    vision = {
        "depths": [1, 1, 1, 1],
        "embed_dim": [8, 8, 16, 16],
        "num_heads": [1, 1, 2, 2],
        "num_groups": [1, 1, 2, 2],
        "window_size": 2,
        "projection_dim": 16,
    }
    return Florence2Config(text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id)


FLORENCE2_CELLS = 5  # tokens of an image


def save_florence2(folder: Path) -> Path:
    tokenizer = letters(image_token="<image>")
    config = florence2_config(tokenizer, max_position_embeddings=80, forced_eos_token_id=tokenizer.eos_token_id)
    loud(Florence2ForConditionalGeneration(config)).save_pretrained(folder)
    images = _clip_images(64)
    images.image_seq_length = FLORENCE2_CELLS
    Florence2Processor(images, tokenizer).save_pretrained(folder)
    return folder
