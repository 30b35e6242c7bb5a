"""`hf-ris train` as a user runs it, on a model that takes seconds."""

import copy
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, EvalPrediction, SwinConfig, SwinModel, pipeline
from typer.testing import CliRunner

from hf_ris import MagNetForReferringSegmentation
from hf_ris.cli import app
from hf_ris.data import decode_mask
from hf_ris.data.refshapes import COLOURS, draw_scene, sample_scene, true_of, vocabulary
from hf_ris.training import RECIPES, pretraining, recipes, train
from hf_ris.training.optimizer import MATRIX_LR, Muon, MuonWithAdamW
from hf_ris.training.pretraining import (
    ATTRIBUTES,
    IGNORED,
    AttributeModel,
    AttributeStream,
    NameStream,
    attribute_counts,
    attribute_metrics,
    tell_places,
)
from hf_ris.training.tokenizer import build_tokenizer


@pytest.fixture
def quick_recipe(monkeypatch, tiny_config, processor) -> str:
    """The bundled recipe with a model of a few thousand parameters and one stage of four steps, named "quick"."""

    def build(seed: int):
        recipes.set_seed(seed)
        return MagNetForReferringSegmentation(tiny_config), copy.deepcopy(processor)

    bundled = RECIPES["magnet-tiny-refshapes"]
    stage = {"max_steps": 4, "per_device_train_batch_size": 4, "eval_steps": 2, "save_steps": 2}
    arguments = {**bundled.arguments, "dataloader_num_workers": 0, "disable_tqdm": True}
    quick = replace(
        bundled,
        build=build,
        evaluation=("refshapes",),
        stages=(recipes.Stage("referring", 64, stage),),
        arguments=arguments,
    )
    monkeypatch.setitem(RECIPES, "quick", quick)
    return "quick"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_trained_folder_is_a_pipeline(quick_recipe, tmp_path, images):
    metrics = train(quick_recipe, tmp_path, eval_rows=4)

    assert {"eval_loss", "eval_oIoU", "eval_mIoU", "eval_P@0.5"} <= metrics.keys()
    ris = pipeline("referring-segmentation", model=str(tmp_path), device="cpu")
    assert ris.processor.image_processor.size == {"height": 64, "width": 64}
    assert ris(images[0], text="the red mug")["mask"].size == images[0].size


def test_a_stopped_run_continues_where_it_was(quick_recipe, tmp_path, monkeypatch):
    starts = []
    recipe = RECIPES[quick_recipe]
    recording = replace(recipe, stream=lambda **given: (starts.append(given["start"]), recipe.stream(**given))[1])
    monkeypatch.setitem(RECIPES, quick_recipe, recording)
    train(quick_recipe, tmp_path, eval_rows=2, max_steps=2)
    with pytest.raises(ValueError, match=r"holds checkpoints: resume"):
        train(quick_recipe, tmp_path, eval_rows=2)
    train(quick_recipe, tmp_path, eval_rows=2, resume=True)

    assert starts == [0, 2 * 4], "two steps of four rows were already seen"
    state = json.loads((tmp_path / "stage-1" / "checkpoint-4" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_mIoU" in entry] == [2, 4]


def test_a_run_stopped_between_stages_continues_with_the_next(quick_recipe, tmp_path, monkeypatch):
    recipe = RECIPES[quick_recipe]
    train(quick_recipe, tmp_path, eval_rows=2)
    first = MagNetForReferringSegmentation.from_pretrained(tmp_path / "stage-1" / "checkpoint-4").state_dict()
    starts = []

    def stream(**given):
        starts.append(given["start"])
        return recipe.stream(**given)

    second = replace(recipe.stages[0], image_size=32)
    monkeypatch.setitem(RECIPES, quick_recipe, replace(recipe, stages=(*recipe.stages, second), stream=stream))
    train(quick_recipe, tmp_path, eval_rows=2, resume=True, learning_rate=0.0, weight_decay=0.0)

    assert starts[-1] == 4 * 4, "the second stage goes on with new rows"
    final = MagNetForReferringSegmentation.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(final[name], first[name]) for name in first), "and with the weights of the first"


def test_looks_and_names_can_be_learned_first(quick_recipe, tmp_path, monkeypatch):
    recipe = RECIPES[quick_recipe]
    first = tuple(replace(recipe.stages[0], task=task, image_size=32) for task in ("attributes", "names"))
    monkeypatch.setitem(RECIPES, quick_recipe, replace(recipe, stages=first))
    fresh = recipe.build(42)[0].state_dict()
    train(quick_recipe, tmp_path, eval_rows=2)
    state = json.loads((tmp_path / "stage-1" / "checkpoint-4" / "trainer_state.json").read_text())
    assert {f"eval_{name}_accuracy" for name in ATTRIBUTES} <= state["log_history"][-1].keys()

    (tmp_path / "stage-2").rename(tmp_path / "thrown-away")
    train(quick_recipe, tmp_path, eval_rows=2, resume=True, learning_rate=0.0, weight_decay=0.0)
    trained = MagNetForReferringSegmentation.from_pretrained(tmp_path).state_dict()
    changed = {name for name in fresh if not torch.equal(fresh[name], trained[name])}
    assert changed, "a resumed run takes over what the first stage learned"
    word_embeddings = "encoder.text_encoder.embeddings.word_embeddings.weight"
    assert word_embeddings in changed, "and what it lent to the words"
    assert all(name.startswith("encoder.image_encoder.") for name in changed - {word_embeddings})


def test_attribute_maps_tell_what_each_cell_shows(processor):
    item = next(iter(AttributeStream(processor.image_processor, "val", start=3)))
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
    stream = AttributeStream(processor.image_processor)
    across, down = np.meshgrid(np.arange(320), np.arange(320))
    marked = (across > 130) & (down > 100)
    picture = Image.fromarray(np.where(marked, 255, 0).astype(np.uint8)).convert("RGB")
    for seed in range(8):
        item = stream.show(picture, marked.astype(np.int8)[None], np.random.default_rng(seed))
        shown = torch.nn.functional.avg_pool2d(item["pixel_values"], 4)[0] > 0
        assert (shown == item["labels"][0].bool()).float().mean() > 0.9
        assert item["labels"].shape == (1, 16, 24)


def test_a_scene_is_drawn_once_for_its_views(processor, monkeypatch):
    drawn = []
    monkeypatch.setattr(pretraining, "draw_scene", lambda scene: (drawn.append(scene.index), draw_scene(scene))[1])
    items = list(AttributeStream(processor.image_processor, "val", start=2, stop=8, views=4))
    assert drawn == [0, 1]
    whole = processor.image_processor(draw_scene(sample_scene("val", 1))[0], return_tensors="pt")["pixel_values"][0]
    assert torch.equal(items[2]["pixel_values"], whole)
    assert not torch.equal(items[2]["pixel_values"], items[3]["pixel_values"])


def test_names_mean_all_that_looks_like_it():
    rows = list(itertools.islice(NameStream(start=6, block_size=60), 60))
    assert [row["image_id"] for row in rows[:12]] == [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3

    told = Counter()
    for row in rows:
        scene = sample_scene("train", row["image_id"])
        _, masks = draw_scene(scene)
        expression = row["expressions"][0]["sent"]
        called = sorted(true_of(scene, expression))
        assert called, expression
        np.testing.assert_array_equal(decode_mask(row["mask"]), masks[called].any(axis=0), expression)
        told[len(called)] += 1
    assert told[1] and told[2], "of one object or of several"


def test_words_start_with_what_tells_their_attributes_apart(optimized):
    model, _ = optimized
    tokenizer = build_tokenizer(vocabulary())
    words = torch.nn.Embedding(len(tokenizer), 8)
    before = words.weight.detach().clone()
    attributes = AttributeModel(model.encoder.image_encoder, width=8)
    attributes.lend_to(words, tokenizer)

    rows = [name for names in ATTRIBUTES.values() for name in names]
    for word in ("teapot", "red", "striped"):
        torch.testing.assert_close(words.weight[tokenizer.vocab[word]], attributes.head.weight[rows.index(word)])
    assert torch.equal(words.weight[tokenizer.vocab["left"]], before[tokenizer.vocab["left"]])


def test_an_encoder_is_told_places():
    config = SwinConfig(image_size=64, embed_dim=16, depths=[1], num_heads=[1], use_absolute_embeddings=True)
    encoder = SwinModel(config)
    tell_places(encoder)
    table = encoder.embeddings.position_embeddings[0].unflatten(0, encoder.embeddings.patch_grid)

    assert (table[:, 0] - table[:, -1]).norm() > 0.1 and (table[0] - table[-1]).norm() > 0.1, "left is not right"
    torch.testing.assert_close(table[3, :, 8:], table[12, :, 8:])
    tell_places(SwinModel(SwinConfig(image_size=64, embed_dim=16, depths=[1], num_heads=[1])))  # has no table


@pytest.fixture
def optimized(tiny_config):
    torch.manual_seed(0)
    model = MagNetForReferringSegmentation(tiny_config)
    return model, MuonWithAdamW(model, lr=1e-3)


def test_every_parameter_is_optimized_once(optimized):
    model, optimizer = optimized
    adamw, muon = ({id(each) for group in part.param_groups for each in group["params"]} for part in optimizer.parts)
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not adamw & muon and adamw | muon == names.keys()
    in_muon = {names[each] for each in muon}
    assert "encoder.image_encoder.encoder.layers.0.blocks.0.attention.q_proj.weight" in in_muon, sorted(in_muon)
    assert "encoder.text_encoder.embeddings.word_embeddings.weight" not in in_muon
    assert not any("bias" in name for name in in_muon)


def test_muon_on_many_matrices_at_once_is_torchs_own():
    torch.manual_seed(0)
    shapes = [(6, 6)] * 3 + [(24, 96)] * 2 + [(96, 24)] * 2
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = copy.deepcopy(ours)
    optimizers = (
        Muon(ours, lr=0.01, weight_decay=0.1, momentum=0.9),
        torch.optim.Muon(theirs, 0.01, 0.1, 0.9, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)  # a step is about 0.01 long


def test_schedulers_reach_both_optimizers(optimized):
    _, optimizer = optimized
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    scheduler.step()
    rates = [{group["lr"] for group in part.param_groups} for part in optimizer.parts]
    assert rates == [{0.5e-3}, {MATRIX_LR * 0.5e-3}]


def test_an_optimizer_that_was_saved_takes_the_same_steps(optimized):
    def step(model, optimizer):
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()

    model, optimizer = optimized
    step(model, optimizer)
    other_model = copy.deepcopy(model)
    other = MuonWithAdamW(other_model, lr=1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    torch.optim.lr_scheduler.LambdaLR(other, lambda step: 1.0)
    step(model, optimizer)
    step(other_model, other)
    for name, parameter in model.state_dict().items():
        assert torch.equal(parameter, other_model.state_dict()[name]), name


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


def test_overrides_win_over_the_recipe(quick_recipe, tmp_path):
    train(quick_recipe, tmp_path, eval_rows=2, max_steps=1, eval_strategy="no", save_strategy="no")

    assert not list(tmp_path.glob("*/checkpoint-*"))


def test_two_processes_take_their_own_rows(tmp_path):
    """Each process gets the rows of its own pictures, and together they get every row once."""
    script = tmp_path / "rows.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script), str(tmp_path)]
    subprocess.run(command, check=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]

    assert [batch["images"] for batch in seen[0] + seen[1]] == [2] * 4
    assert seen[0][0]["rows"] + seen[1][0]["rows"] == list(range(8))
    assert seen[0][1]["rows"] + seen[1][1]["rows"] == list(range(8, 16))


TWO_PROCESSES = """
import itertools, json, sys
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch.utils.data import DataLoader
from hf_ris.data import RefShapesStream
from hf_ris.training.train import DEFAULT_ARGUMENTS

accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**DEFAULT_ARGUMENTS["accelerator_config"]))
def collate(rows):
    images = {row["image_id"] for row in rows}
    return {"pixel_values": torch.zeros(len(images)), "rows": torch.tensor([row["ref_id"] for row in rows])}
loader = accelerator.prepare(DataLoader(RefShapesStream(block_size=8), batch_size=4, collate_fn=collate))
batches = [
    {"images": len(batch["pixel_values"]), "rows": batch["rows"].tolist()} for batch in itertools.islice(loader, 2)
]
with open(f"{sys.argv[1]}/{accelerator.process_index}.json", "w") as file:
    json.dump(batches, file)
"""


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
    build_tokenizer(vocabulary()).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)

    assert tokenizer.tokenize("The SMALL red mug, left") == ["the", "small", "red", "mug", ",", "left"]
    assert tokenizer.tokenize("zebra") == ["z", "##e", "##b", "##r", "##a"]
    assert tokenizer.unk_token_id not in tokenizer(" ".join(vocabulary()))["input_ids"]
