"""The recipes of small models: looks and names before whole expressions, and a small vocabulary."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny_pretraining
import torch
from PIL import Image
from refshapes_checker import true_of
from tiny_models import build_magnet_tiny, build_tokenizer
from tiny_pretraining import (
    ATTRIBUTES,
    IGNORED,
    AttributeModel,
    AttributeRows,
    NameRows,
    add_sine_positions,
    attribute_counts,
    attribute_metrics,
)
from tiny_recipes import RECIPES
from transformers import AutoTokenizer, EvalPrediction, SwinConfig, SwinModel

from hf_ris.data import decode_mask
from hf_ris.data.refshapes import COLOURS, draw_scene, sample_scene, vocabulary


def test_attribute_maps_tell_what_each_cell_shows(processor):
    item = AttributeRows(processor.image_processor, 4, "val")[3]
    scene = sample_scene("val", 3)
    height, width = (side // 4 for side in item["pixel_values"].shape[-2:])
    assert item["labels"].shape == (3, height, width)

    front = scene.objects[-1]  # nothing covers it
    row, column = int(front.y / scene.height * height), int(front.x / scene.width * width)
    shown = [words[number] for words, number in zip(ATTRIBUTES.values(), item["labels"][:, row, column], strict=True)]
    assert shown == [front.category, front.colour, front.pattern]
    nothing = item["labels"][0] == 0
    assert nothing.any()
    assert (item["labels"][1:, nothing] == IGNORED).all()


def test_cut_outs_take_their_attribute_maps_along(processor):
    rows = AttributeRows(processor.image_processor, 8)
    across, down = np.meshgrid(np.arange(320), np.arange(320))
    marked = (across > 130) & (down > 100)
    image = Image.fromarray(np.where(marked, 255, 0).astype(np.uint8)).convert("RGB")
    for seed in range(8):
        item = rows.show(image, marked.astype(np.int8)[None], np.random.default_rng(seed))
        shown = torch.nn.functional.avg_pool2d(item["pixel_values"], 4)[0] > 0
        assert (shown == item["labels"][0].bool()).float().mean() > 0.9
        assert item["labels"].shape == (1, 16, 24)


def test_a_scene_is_drawn_once_for_its_views(processor, monkeypatch):
    indices = []
    monkeypatch.setattr(
        tiny_pretraining, "draw_scene", lambda scene: (indices.append(scene.index), draw_scene(scene))[1]
    )
    rows = AttributeRows(processor.image_processor, 8, "val", views=4)
    items = [rows[number] for number in range(2, 8)]
    assert indices == [0, 1]
    whole = processor.image_processor(draw_scene(sample_scene("val", 1))[0], return_tensors="pt")["pixel_values"][0]
    assert torch.equal(items[2]["pixel_values"], whole)
    assert not torch.equal(items[2]["pixel_values"], items[3]["pixel_values"])


def test_names_mean_all_that_looks_like_it():
    names = NameRows(66)
    rows = [names[number] for number in range(6, 66)]
    assert [row["image_id"] for row in rows[:12]] == [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3

    counts = Counter()
    for row in rows:
        scene = sample_scene("train", row["image_id"])
        _, masks = draw_scene(scene)
        expression = row["expressions"][0]["sent"]
        called = sorted(true_of(scene, expression))
        assert called, expression
        np.testing.assert_array_equal(decode_mask(row["mask"]), masks[called].any(axis=0), expression)
        counts[len(called)] += 1
    assert counts[1] and counts[2], "one object or several"


def test_word_embeddings_begin_with_the_classifier(tiny_model):
    tokenizer = build_tokenizer(vocabulary())
    words = torch.nn.Embedding(len(tokenizer), 8)
    before = words.weight.detach().clone()
    attributes = AttributeModel(tiny_model.encoder.image_encoder, width=8)
    attributes.init_word_embeddings(words, tokenizer)

    rows = [name for names in ATTRIBUTES.values() for name in names]
    for word in ("teapot", "red", "striped"):
        torch.testing.assert_close(words.weight[tokenizer.vocab[word]], attributes.head.weight[rows.index(word)])
    assert torch.equal(words.weight[tokenizer.vocab["left"]], before[tokenizer.vocab["left"]])


def test_positions_are_added():
    config = SwinConfig(image_size=64, embed_dim=16, depths=[1], num_heads=[1], use_absolute_embeddings=True)
    encoder = SwinModel(config)
    add_sine_positions(encoder)
    table = encoder.embeddings.position_embeddings[0].unflatten(0, encoder.embeddings.patch_grid)

    assert (table[:, 0] - table[:, -1]).norm() > 0.1 and (table[0] - table[-1]).norm() > 0.1, "left is not right"
    torch.testing.assert_close(table[3, :, 8:], table[12, :, 8:])
    add_sine_positions(SwinModel(SwinConfig(image_size=64, embed_dim=16, depths=[1], num_heads=[1])))  # has no table


def test_attribute_accuracy_counts_cells_of_objects():
    labels = torch.tensor([[[[0, 3]], [[IGNORED, 2]], [[IGNORED, 1]]]])
    right = [
        torch.nn.functional.one_hot(labels[:, plane].clamp(min=0), len(words)).flatten(1, 2).transpose(1, 2).float()
        for plane, words in enumerate(ATTRIBUTES.values())
    ]
    wrong_colour = [right[0], torch.zeros(1, len(COLOURS), 2), right[2]]
    counts = attribute_counts(tuple(wrong_colour), labels)

    assert counts.tolist() == [[1, 0, 1, 1]]
    metrics = attribute_metrics(EvalPrediction(counts.numpy(), None))
    assert metrics == {"category_accuracy": 1.0, "colour_accuracy": 0.0, "pattern_accuracy": 1.0}


def test_the_bundled_recipe_fits_the_wheel():
    model, processor = build_magnet_tiny(0, {})

    assert 4 * sum(parameter.numel() for parameter in model.parameters()) < 16e6
    assert model.config.text_config.vocab_size == len(processor.tokenizer)


def test_the_vocabulary_knows_its_words_and_spells_the_others(tmp_path):
    build_tokenizer(vocabulary()).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)

    assert tokenizer.tokenize("The SMALL red mug, left") == ["the", "small", "red", "mug", ",", "left"]
    assert tokenizer.tokenize("zebra") == ["z", "##e", "##b", "##r", "##a"]
    assert tokenizer.unk_token_id not in tokenizer(" ".join(vocabulary()))["input_ids"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) for name in RECIPES],
)
def test_a_small_model_is_trained_by_one_command(name, tmp_path):
    script = Path(__file__).parents[1] / "scripts" / "train_tiny.py"
    options = "--max-steps 1 --eval-rows 1 --samples 0 --per-device-train-batch-size 2 --dataloader-num-workers 0"
    command = [sys.executable, str(script), name, "--output-dir", str(tmp_path / "out"), *options.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    subprocess.run(command, check=True, timeout=200, env=environment)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == name.split("-")[0]
