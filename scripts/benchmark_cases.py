"""Models with random weights and a small vocabulary, at their published size, and images, for `benchmark.py` to measure."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_models import build_tokenizer
from transformers import (
    BertTokenizer,
    CLIPImageProcessor,
    CLIPImageProcessorPil,
    CLIPProcessor,
    CLIPSegConfig,
    Florence2Config,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    Sam3Config,
    Sam3LiteTextConfig,
    ViTImageProcessorPil,
)

from hf_ris import (
    CLIPSegForReferringSegmentation,
    Florence2ForReferringSegmentation,
    GlobalLocalConfig,
    GlobalLocalForReferringSegmentation,
    GroundedConfig,
    GroundedForReferringSegmentation,
    Sam3ForReferringSegmentation,
    Sam3LiteTextForReferringSegmentation,
)
from hf_ris.data.refshapes import vocabulary
from hf_ris.modeling import hub_florence2
from hf_ris.modeling.hub_clipseg import CLIPSegReferringProcessor
from hf_ris.modeling.hub_sam3 import Sam3ImageProcessorPil, Sam3ReferringProcessor
from hf_ris.modeling.zero_shot_segmenters import Sam2ImageProcessorPil


FLORENCE2_TOKENS = 64  # written for each expression: random weights write to the end
Built = tuple[Any, Any]


def build_clipseg(tokenizer: BertTokenizer) -> Built:
    """Build `CIDAS/clipseg-rd64-refined`: ViT-B/16 at 352 x 352 pixels."""
    config = CLIPSegConfig(
        text_config={"eos_token_id": tokenizer.eos_token_id},
        vision_config={"patch_size": 16},
        use_complex_transposed_convolution=True,
    )
    images = ViTImageProcessorPil(size={"height": 352, "width": 352})
    return CLIPSegForReferringSegmentation(config), CLIPSegReferringProcessor(images, tokenizer)


def build_florence2(tokenizer: BertTokenizer) -> Built:
    """Build `florence-community/Florence-2-base-ft`, at 768 x 768 pixels, which writes `FLORENCE2_TOKENS` tokens with three beams."""
    text = {"d_model": 768, "vocab_size": 51289 + 1}
    for side in ("encoder", "decoder"):
        text |= {f"{side}_layers": 6, f"{side}_attention_heads": 12, f"{side}_ffn_dim": 3072}
    config = Florence2Config(
        text_config=text, vision_config={"projection_dim": 768}, image_token_id=tokenizer.image_token_id
    )
    model = Florence2ForReferringSegmentation(config)
    hub_florence2.MOST_TOKENS = model.generation_config.min_new_tokens = FLORENCE2_TOKENS
    model.generation_config.num_beams = model.generation_config.no_repeat_ngram_size = 3
    images = CLIPImageProcessorPil(size={"height": 768, "width": 768}, do_center_crop=False)
    images.image_seq_length = 577  # 24 x 24 cells, and their mean
    return model, hub_florence2.Florence2ReferringProcessor(images, tokenizer)


def build_sam3(tokenizer: BertTokenizer) -> Built:
    """Build `facebook/sam3`'s detector, at 1008 x 1008 pixels."""
    config = Sam3Config()
    # A `text_config` that is passed in would have the other defaults of a smaller CLIP.
    config.text_config.eos_token_id = tokenizer.eos_token_id
    return Sam3ForReferringSegmentation(config), Sam3ReferringProcessor(Sam3ImageProcessorPil(), tokenizer)


def build_sam3_lite_text(tokenizer: BertTokenizer) -> Built:
    """Build `yonigozlan/sam3-litetext-s0`, at 1008 x 1008 pixels."""
    model = Sam3LiteTextForReferringSegmentation(Sam3LiteTextConfig())
    return model, Sam3ReferringProcessor(Sam3ImageProcessorPil(), tokenizer)


def build_grounded(tokenizer: BertTokenizer) -> Built:
    """Build `IDEA-Research/grounding-dino-tiny`, whose images have up to 1333 x 800 pixels, with `facebook/sam2.1-hiera-tiny`."""
    swin = {"model_type": "swin", "window_size": 7, "image_size": 224, "out_features": ["stage2", "stage3", "stage4"]}
    config = GroundedConfig(
        detector_config={"model_type": "grounding-dino", "backbone_config": swin},
        segmenter_config={"model_type": "sam2"},
    )
    model = GroundedForReferringSegmentation(config)
    model.detector.processor = GroundingDinoProcessor(GroundingDinoImageProcessorPil(), tokenizer)
    model.segmenter.processor = Sam2ImageProcessorPil()
    return model, model.make_processor()


HUB_MODELS: dict[str, Callable[[BertTokenizer], Built]] = {
    "CLIPSeg rd64": build_clipseg,
    "Florence-2 base": build_florence2,
    "SAM 3": build_sam3,
    "SAM 3 LiteText": build_sam3_lite_text,
    "Grounding DINO tiny + SAM 2.1 tiny": build_grounded,
}


def build_hub_model(name: str) -> Built:
    """Build a model of the Hub and its processor."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(vocabulary())
    tokenizer.add_special_tokens({"bos_token": "[CLS]", "eos_token": "[SEP]"})
    tokenizer.add_tokens("<image>", special_tokens=True)
    tokenizer.image_token, tokenizer.image_token_id = "<image>", tokenizer.convert_tokens_to_ids("<image>")
    return HUB_MODELS[name](tokenizer)


def random_global_local(mode: str) -> Any:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(vocabulary())
    tokenizer.model_max_length = 77
    text = {"eos_token_id": tokenizer.sep_token_id}
    config = GlobalLocalConfig(
        image_text_config={"model_type": "clip", "text_config": text}, mode=mode, parser="rules"
    )
    model = GlobalLocalForReferringSegmentation(config).eval()
    model.image_text.processor = CLIPProcessor(CLIPImageProcessor(), tokenizer)
    return model


def noise_image(regions: int) -> tuple[Any, Any]:
    """Make an image of noise, 640 x 480, and regions that are boxes of many sizes."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    masks = np.zeros((regions, 480, 640), bool)
    for mask in masks:
        left, top = generator.integers(0, 500), generator.integers(0, 380)
        mask[top : top + generator.integers(30, 100), left : left + generator.integers(30, 140)] = True
    return image, masks


def drawn_photos(folder: Path, number: int, expressions: int) -> Any:
    """Make a dataset whose images are JPEG files of 640 x 480 pixels."""
    from datasets import Dataset

    from hf_ris.data import FEATURES, RefShapesStream
    from hf_ris.data.segmentation import encode_segmentations

    rows = []
    for index, row in enumerate(islice(RefShapesStream(), number)):
        path = folder / f"{index}.jpg"
        row["image"].resize((640, 480)).save(path, quality=90)
        mask = encode_segmentations([[[200, 100, 400, 120, 300, 400]]], 480, 640)
        sentences = [{"sent_id": order, "raw": "the red mug", "sent": "the red mug"} for order in range(expressions)]
        rows.append({**row, "image": str(path), "image_id": index, "mask": mask, "expressions": sentences})
    return Dataset.from_list(rows, features=FEATURES)
