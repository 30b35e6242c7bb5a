"""A new system is three files and one descriptor: pipeline, training, evaluation, cards and remote code then know it."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoProcessor, pipeline

import hf_ris
from hf_ris.data import load_refshapes
from hf_ris.evaluation import evaluate
from hf_ris.published_card import trained_card
from hf_ris.registration import register_system
from hf_ris.systems import SYSTEMS, System
from hf_ris.training import train


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def example(tmp_path_factory):
    """The example's files as if they lay in `modeling/`, and the descriptor that would stand in `systems.py`."""
    folder = tmp_path_factory.mktemp("modeling")
    for path in [*(ROOT / "modeling").glob("*.py"), *(ROOT / "tests" / "example_system").glob("*.py")]:
        shutil.copy(path, folder)
    hf_ris.modeling.__path__.append(str(folder))
    configuration, modeling, processing = (
        importlib.import_module(f"hf_ris.modeling.{kind}_example")
        for kind in ("configuration", "modeling", "processing")
    )
    register_system(
        System(
            name="Example",
            model_type="example",
            title="An Example",
            authors="Nobody",
            venue="Nowhere 2026",
            url="https://example.org",
            config=lambda: configuration.ExampleConfig,
            model=lambda: modeling.ExampleForReferringSegmentation,
            processor=lambda: processing.ExampleProcessor,
            image_processor=lambda: processing.ExampleImageProcessor,
        )
    )
    yield SYSTEMS["example"]
    del SYSTEMS["example"]
    hf_ris.modeling.__path__.remove(str(folder))


@pytest.fixture(scope="module")
def folder(example, tokenizer, tmp_path_factory) -> Path:
    """A random model of it, saved as a user saves one."""
    torch.manual_seed(0)
    text_config = {
        "model_type": "bert",
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    model = example.model()(example.config()(text_config=text_config))
    processor = example.processor()(example.image_processor()(), tokenizer)
    folder = tmp_path_factory.mktemp("example")
    pipeline("referring-segmentation", model=model, processor=processor, device="cpu").save_pretrained(folder)
    return folder


def test_the_pipeline_loads_a_folder(folder, example, images):
    ris = pipeline("referring-segmentation", model=str(folder), device="cpu")
    assert type(ris.model) is example.model() and type(ris.processor) is example.processor()
    one, other = ris(images[0], text=["the red mug", "a tree"], output_format="array")
    assert one["mask"].shape == (60, 80) and one["label"] == "the red mug"
    assert one["score"] != other["score"]


def test_it_trains_by_the_librarys_recipe_and_is_evaluated(folder, tmp_path):
    rows = load_refshapes("refshapes", "val", num_rows=4)
    losses = {"mask_grounding_loss_weight": 1.0, "mask_grounding_layers": 1, "alignment_loss_weight": 0.5}
    options = {"config": losses, "samples": 0, "max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1}
    train("finetune", tmp_path, rows, rows, parts={"model": str(folder)}, dataloader_num_workers=0, **options)
    state = json.loads(next(tmp_path.glob("stage-1/checkpoint-*/trainer_state.json")).read_text())
    assert {"loss_bce", "loss_mask_grounding", "loss_pixel_to_pixel"} <= set(state["log_history"][0])

    ris = pipeline("referring-segmentation", model=str(tmp_path), device="cpu")
    results = evaluate(ris, rows, "lavt")
    assert results["referents"] == 4 and 0 <= results["mIoU"] <= 1


def test_its_card_names_the_paper(folder, example):
    card = trained_card("My example", example.model().from_pretrained(folder), "mit")
    assert "[*An Example*](https://example.org) (Nowhere 2026)" in card.text and card.data.license == "mit"


ELSEWHERE = """
import sys
import numpy as np
from transformers import pipeline

sys.modules["hf_ris"] = None
folder, image, out = sys.argv[1:]
ris = pipeline("referring-segmentation", model=folder, device="cpu", trust_remote_code=True)
np.save(out, ris(image, text="the red mug", output_format="array", threshold=0.4)["mask"])
"""


def test_a_saved_folder_loads_where_nothing_is_installed(folder, images, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    image, out = tmp_path / "image.png", tmp_path / "mask.npy"
    images[0].save(image)
    command = [sys.executable, "-c", ELSEWHERE, str(folder), str(image), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ris = pipeline("referring-segmentation", model=str(folder), device="cpu")
    expected = ris(str(image), text="the red mug", output_format="array", threshold=0.4)["mask"]
    np.testing.assert_array_equal(np.load(out), expected)


def test_the_auto_classes_know_it(folder, example):
    assert type(AutoConfig.from_pretrained(folder)) is example.config()
    assert type(AutoProcessor.from_pretrained(folder)) is example.processor()
    assert type(hf_ris.AutoModelForReferringSegmentation.from_pretrained(folder)) is example.model()


def test_it_is_small():
    lines = sum(len(path.read_text().splitlines()) for path in (ROOT / "tests" / "example_system").glob("*.py"))
    assert lines <= 130
