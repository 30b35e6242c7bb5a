"""`hf-ris train` as a user runs it, on a model that takes seconds."""

import json
from dataclasses import replace

import pytest
from transformers import pipeline
from typer.testing import CliRunner

from hf_ris import MagNetForReferringSegmentation
from hf_ris.cli import app
from hf_ris.data.refshapes import vocabulary
from hf_ris.training import RECIPES, recipes, train
from hf_ris.training.tokenizer import build_tokenizer


@pytest.fixture
def quick_recipe(monkeypatch, tiny_config, processor) -> str:
    """The bundled recipe with a model of a few thousand parameters, under the name "quick"."""

    def build(seed: int):
        recipes.set_seed(seed)
        return MagNetForReferringSegmentation(tiny_config), processor

    bundled = RECIPES["magnet-tiny-refshapes"]
    arguments = {
        **bundled.arguments,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "dataloader_num_workers": 0,
        "disable_tqdm": True,
    }
    quick = replace(bundled, build=build, evaluation=("refshapes",), arguments=arguments)
    monkeypatch.setitem(RECIPES, "quick", quick)
    return "quick"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_trained_folder_is_a_pipeline(quick_recipe, tmp_path, images):
    metrics = train(quick_recipe, tmp_path, eval_rows=4, eval_steps=2)

    assert {"eval_loss", "eval_oIoU", "eval_mIoU", "eval_P@0.5"} <= metrics.keys()
    result = pipeline("referring-segmentation", model=str(tmp_path), device="cpu")(images[0], text="the red mug")
    assert result["mask"].size == images[0].size


def test_a_stopped_run_continues_where_it_was(quick_recipe, tmp_path, monkeypatch):
    starts = []
    recipe = RECIPES[quick_recipe]
    recording = replace(recipe, stream=lambda **given: (starts.append(given["start"]), recipe.stream(**given))[1])
    monkeypatch.setitem(RECIPES, quick_recipe, recording)
    train(quick_recipe, tmp_path, eval_rows=2, eval_steps=2, max_steps=2)
    train(quick_recipe, tmp_path, eval_rows=2, eval_steps=2, max_steps=4, resume=True)

    assert starts == [0, 2 * 4], "two steps of four rows were already seen"
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_mIoU" in entry] == [2, 4]


def test_impossible_runs_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"recipe='magic'.*magnet-tiny-refshapes"):
        train("magic", tmp_path)
    with pytest.raises(ValueError, match="no checkpoint"):
        train("magnet-tiny-refshapes", tmp_path, resume=True)

    result = CliRunner().invoke(app, ["train", "--output-dir", str(tmp_path), "--recipe", "magic"])
    assert result.exit_code == 2
    assert "magnet-tiny-refshapes" in result.output


def test_the_bundled_recipe_fits_the_wheel():
    model, processor = RECIPES["magnet-tiny-refshapes"].build(0)

    assert 4 * sum(parameter.numel() for parameter in model.parameters()) < 16e6
    assert model.config.text_config.vocab_size == len(processor.tokenizer)


def test_own_vocabulary_knows_its_words_and_spells_the_others(tmp_path):
    build_tokenizer(vocabulary(), model_max_length=32).save_pretrained(tmp_path)
    tokenizer = type(build_tokenizer([], 8)).from_pretrained(tmp_path)

    assert tokenizer.tokenize("The SMALL red mug, left") == ["the", "small", "red", "mug", ",", "left"]
    assert tokenizer.tokenize("zebra") == ["z", "##e", "##b", "##r", "##a"]
    assert tokenizer.model_max_length == 32
    assert tokenizer.unk_token_id not in tokenizer(" ".join(vocabulary()))["input_ids"]
