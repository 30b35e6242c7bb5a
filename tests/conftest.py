"""What several test files share. Everything runs offline; models are tiny, random and built from their configuration."""

import os
import time
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may reach for the network

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from local_hub import TOKEN, local_hub
from PIL import Image
from transformers import BertTokenizer, pipeline

import hf_ris


torch.set_num_threads(1)  # on models this small, threads only wait for each other

WORDS = [
    "a",
    "and",
    "apple",
    "big",
    "blue",
    "fish",
    "green",
    "house",
    "left",
    "mug",
    "of",
    "on",
    "red",
    "right",
    "small",
    "star",
    "the",
    "to",
    "tree",
    "upper",
]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real photos and expressions that `HF_RIS_TEST_DATA` names."""
    folder = os.environ.get("HF_RIS_TEST_DATA")
    if not folder:
        pytest.skip("HF_RIS_TEST_DATA does not name a folder with real photos")
    return Path(folder)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> BertTokenizer:
    """A BERT tokenizer with a vocabulary of a few words, 20 tokens long like the published one."""
    vocabulary = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]), encoding="utf-8")
    return BertTokenizer(vocab=str(vocabulary))


@pytest.fixture(scope="session")
def processor(tokenizer) -> hf_ris.MagNetProcessor:
    return hf_ris.MagNetProcessor(hf_ris.MagNetImageProcessor(size={"height": 64, "width": 96}), tokenizer)


@pytest.fixture(scope="session")
def tiny_config(tokenizer) -> hf_ris.MagNetConfig:
    return hf_ris.MagNetConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 16,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 4,
        },
        text_config={
            "model_type": "bert",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 64,
        },
        hidden_dim=32,
        group_norm_groups=8,
        encoder_layers=1,
        encoder_num_heads=2,
        encoder_feedforward_dim=32,
        decoder_layers=3,
        decoder_num_heads=2,
        decoder_feedforward_dim=32,
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_config) -> hf_ris.MagNetForReferringSegmentation:
    """A random model whose masks are neither empty nor full, and differ between expressions."""
    torch.manual_seed(0)
    model = hf_ris.MagNetForReferringSegmentation(tiny_config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:  # louder than at initialisation, where words hardly matter
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


@pytest.fixture(scope="session")
def ris(tiny_model, processor):
    return pipeline("referring-segmentation", model=tiny_model, processor=processor, device="cpu")


@pytest.fixture(scope="session")
def model_folder(ris, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    ris.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Three pictures of different sizes and shapes."""
    generator = np.random.default_rng(0)
    coarse = [generator.integers(0, 256, (6, 8, 3), dtype=np.uint8) for _ in range(3)]
    return [
        Image.fromarray(pixels).resize(size)
        for pixels, size in zip(coarse, [(80, 60), (50, 70), (96, 64)], strict=True)
    ]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that this process talks to."""
    with local_hub(tmp_path / "hub") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield hub
