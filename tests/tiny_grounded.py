"""Tiny random detectors and segmenters, saved in folders as the Hub has them."""

import json
from pathlib import Path

from tiny_parts import SAM, letters, loud, save_sam, special_ids
from transformers import (
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
    Owlv2Processor,
    Sam2Config,
    Sam2Model,
    SamHQConfig,
    SamHQModel,
    SamHQProcessor,
    SamImageProcessorPil,
)


WORDS = "a the red blue green small large left right second of from mug tree dog cat man woman in on to and next"


def bert_words() -> BertTokenizer:
    """A BERT tokenizer of whole words and letters; ids of [CLS], [SEP], "." and "?" are those that Grounding DINO knows."""
    vocab = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    signs = [*WORDS.split(), *"abcdefghijklmnopqrstuvwxyz", *(f"##{sign}" for sign in "abcdefghijklmnopqrstuvwxyz")]
    vocab |= {f"[unused{number}]": number for number in range(1, 1030) if number not in vocab.values()}
    vocab |= {word: 1030 + number for number, word in enumerate(dict.fromkeys(signs))}
    return BertTokenizer(vocab=vocab, do_lower_case=True)


def grounding_dino_config(tokenizer: BertTokenizer) -> dict:
    return {
        "backbone_config": {
            "model_type": "swin",
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 2,
            "image_size": 64,
            "out_features": ["stage2", "stage3", "stage4"],
        },
        "text_config": {
            "model_type": "bert",
            "vocab_size": len(tokenizer) + 1030,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        "d_model": 32,
        "num_queries": 12,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_text_len": 32,
    }


def save_grounding_dino(folder: Path, mm: bool = False) -> Path:
    tokenizer = bert_words()
    config_class, model_class = (
        (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection)
        if mm
        else (GroundingDinoConfig, GroundingDinoForObjectDetection)
    )
    model = loud(model_class(config_class(**grounding_dino_config(tokenizer))), seed=3)
    for name, parameter in model.named_parameters():
        if "class_embed" in name and name.endswith(
            "bias"
        ):  # of MM Grounding DINO: random features are then as likely as not
            parameter.data.zero_()
    model.save_pretrained(folder)
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 80, "longest_edge": 128})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def save_owlv2(folder: Path) -> Path:
    tokenizer = letters()
    tokenizer.model_max_length = 16
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**text, "image_size": 64, "patch_size": 16}
    config = Owlv2Config(
        text_config={**text, "vocab_size": len(tokenizer), "max_position_embeddings": 16, **special_ids(tokenizer)},
        vision_config=vision,
        projection_dim=16,
    )
    loud(Owlv2ForObjectDetection(config), seed=1).save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessorPil(size={"height": 64, "width": 64}), tokenizer).save_pretrained(folder)
    return folder


def save_sam_hq(folder: Path) -> Path:
    decoder = {**SAM["mask_decoder_config"], "vit_dim": 16}
    loud(SamHQModel(SamHQConfig(**{**SAM, "mask_decoder_config": decoder}))).save_pretrained(folder)
    images = SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    SamHQProcessor(images).save_pretrained(folder)
    return folder


def save_sam2(folder: Path, as_video: bool = True) -> Path:
    """As `facebook/sam2.1-hiera-tiny`: the configuration is a video model's, and there are no weights for images alone."""
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [64, 64],
        "patch_kernel_size": [7, 7],
        "patch_stride": [4, 4],
        "blocks_per_stage": [1, 2, 1, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [4, 4, 4, 2],
        "global_attention_blocks": [2],
        "window_positional_embedding_background_size": [4, 4],
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 16,
    }
    prompt = {**SAM["prompt_encoder_config"], "patch_size": 16}
    config = Sam2Config(**{**SAM, "vision_config": vision, "prompt_encoder_config": prompt})
    loud(Sam2Model(config)).save_pretrained(folder)
    settings = {"image_processor_type": "Sam2ImageProcessorFast", "size": {"height": 64, "width": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    if as_video:
        path = folder / "config.json"
        values = json.loads(path.read_text())
        values |= {"model_type": "sam2_video", "architectures": ["Sam2VideoModel"]}
        path.write_text(json.dumps(values))
    return folder


SAVE_DETECTOR = {
    "grounding-dino": save_grounding_dino,
    "mm-grounding-dino": lambda folder: save_grounding_dino(folder, mm=True),
    "owlv2": save_owlv2,
}
SAVE_SEGMENTER = {"sam": save_sam, "sam_hq": save_sam_hq, "sam2": save_sam2}
