"""Captioners say something of any image, the same one by one as in batches, and also when loaded again."""

import numpy as np
import pytest
import tiny_parts
import torch
from transformers import AutoConfig

from hf_ris.composition import load_part
from hf_ris.modeling.zero_shot_parts import CAPTIONERS, build_part


@pytest.fixture(scope="module", params=["blip", "blip-2", "florence2"])
def folder(request, tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "blip":
        return tiny_parts.save_blip(folder, tokenizer)
    return tiny_parts.save_blip2(folder) if request.param == "blip-2" else tiny_parts.save_florence2(folder)


@torch.no_grad()
def test_images_have_captions(folder, monkeypatch):
    config, network, processor = load_part("captioner", str(folder), CAPTIONERS, torch.float32)
    assert AutoConfig.from_pretrained(folder).model_type == config.model_type
    captioner = build_part("captioner", CAPTIONERS, config)
    captioner.network, captioner.processor = network.eval(), processor
    monkeypatch.setattr(captioner, "max_new_tokens", 5)
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (height, 40, 3), dtype=np.uint8) for height in (30, 50, 64)]
    captions = captioner.caption(images)
    assert len(captions) == 3
    assert any(captions)
    assert not any("<" in caption for caption in captions), "no special tokens"
    monkeypatch.setattr(captioner, "batch_size", 2)
    assert captioner.caption(images) == captions
    assert captioner.caption([]) == []
