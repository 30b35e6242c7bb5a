"""`hf-ris train` as a user runs it, on a model that takes seconds."""

import copy
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from local_hub import endpoint, local_hub
from PIL import Image
from safetensors.torch import load_file
from tiny_pretraining import ATTRIBUTES, NameRows, learn_attributes
from tiny_recipes import RECIPES as TINY_RECIPES
from transformers import (
    BertModel,
    SwinModel,
    get_scheduler,
    pipeline,
    set_seed,
)
from typer.testing import CliRunner

from hf_ris import MagNetConfig, MagNetForReferringSegmentation
from hf_ris.cli import app
from hf_ris.data import ReferringSegmentationCollator, RefShapesStream, decode_mask, load_refshapes
from hf_ris.data.refshapes import draw_scene
from hf_ris.data.refshapes.rows import scene_of
from hf_ris.data.segmentation import encode_mask
from hf_ris.systems import BUNDLED_ZERO_SHOT
from hf_ris.training import RECIPES, Recipe, Stage, train
from hf_ris.training.checkpoints import find_checkpoints, number_of_steps
from hf_ris.training.data import TrainingData, check_rows
from hf_ris.training.optimizer import MATRIX_LR, Muon, MuonWithAdamW
from hf_ris.training.rows import RefShapesRows
from hf_ris.training.train import build, make_arguments


EVERYTHING = {"mask_grounding_loss_weight": 1.0, "mask_grounding_layers": 1, "alignment_loss_weight": 0.5}


@pytest.fixture
def quick_recipe(tiny_config, processor) -> Recipe:
    """The bundled recipe with a model of a few thousand parameters and one stage of four steps."""

    def build(seed: int, config: dict):
        set_seed(seed)
        changed = MagNetConfig.from_dict({**tiny_config.to_dict(), **config})
        return MagNetForReferringSegmentation(changed), copy.deepcopy(processor)

    bundled = TINY_RECIPES["magnet-mini-refshapes"]
    stage = {"max_steps": 4, "per_device_train_batch_size": 4, "eval_steps": 2, "save_steps": 2}
    arguments = {**bundled.arguments, "dataloader_num_workers": 0, "disable_tqdm": True}
    return replace(
        bundled, build=build, config={}, refshapes=("refshapes",), stages=(Stage(64, stage),), arguments=arguments
    )


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_trained_folder_is_a_pipeline(quick_recipe, tmp_path, images):
    metrics = train(quick_recipe, tmp_path, eval_rows=4)

    assert {"eval_loss", "eval_oIoU", "eval_mIoU", "eval_P@0.5"} <= metrics.keys()
    ris = pipeline("referring-segmentation", model=str(tmp_path), device="cpu")
    assert ris.processor.image_processor.size == {"height": 64, "width": 64}
    assert ris(images[0], text="the red mug")["mask"].size == images[0].size


def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path):
    for number in (9, 10, 11):
        (tmp_path / f"checkpoint-{number}").mkdir()
        if number < 11:
            (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text("{}")
    assert find_checkpoints([tmp_path], resume=True) == [str(tmp_path / "checkpoint-10")]


@pytest.mark.parametrize("source", ["refshapes", "dataset"])
def test_a_killed_run_resumes_to_the_same_weights(quick_recipe, tmp_path, source):
    """Words hidden, expressions chosen, images mirrored, pixels sampled, dropout: all as if nothing had happened."""
    options = {"eval_rows": 2, "flip_probability": 0.5, "config": EVERYTHING}
    if source == "dataset":
        stage = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "eval_steps": 1, "save_steps": 1}
        quick_recipe = replace(quick_recipe, refshapes=(), stages=(Stage(64, stage),))
        rows = understood_rows(8)
        options |= {"train_dataset": rows, "eval_dataset": rows}
    train(quick_recipe, tmp_path / "whole", save_total_limit=4, **options)
    shutil.copytree(tmp_path / "whole" / "stage-1", tmp_path / "killed" / "stage-1")
    checkpoints = sorted((tmp_path / "killed" / "stage-1").glob("checkpoint-*"))
    shutil.rmtree(checkpoints[-1])
    with pytest.raises(ValueError, match=r"holds checkpoints: set `resume`"):
        train(quick_recipe, tmp_path / "killed", **options)
    train(quick_recipe, tmp_path / "killed", resume=True, save_total_limit=4, **options)

    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    logged = [read_logs(tmp_path / name / "stage-1")[-1] for name in ("whole", "killed")]
    assert logged[0]["step"] == logged[1]["step"] == 4


def understood_rows(number: int) -> datasets.Dataset:
    """Rows whose expressions have words that the tests' tokenizer knows."""
    said = [
        {"sent_id": order, "raw": text, "sent": text} for order, text in enumerate(("the red mug", "a big blue fish"))
    ]
    rows = load_refshapes("refshapes", "val", num_rows=number)
    return rows.map(lambda row: {**row, "expressions": said}, features=rows.features)


def read_logs(folder: Path) -> list[dict]:
    """What `Trainer` logged until its last checkpoint."""
    last = max(folder.glob("checkpoint-*"), key=number_of_steps)
    return json.loads((last / "trainer_state.json").read_text())["log_history"]


def test_a_run_stopped_between_stages_continues_with_the_next(quick_recipe, tmp_path, monkeypatch):
    train(quick_recipe, tmp_path, eval_rows=2)
    first = MagNetForReferringSegmentation.from_pretrained(tmp_path / "stage-1" / "checkpoint-4").state_dict()
    starts, initialise = [], RefShapesRows.__init__
    monkeypatch.setattr(
        "hf_ris.training.rows.RefShapesRows.__init__",
        lambda self, *args: (starts.append(args[2]), initialise(self, *args))[1],
    )

    second = replace(quick_recipe.stages[0], image_size=32)
    longer = replace(quick_recipe, stages=(*quick_recipe.stages, second))
    train(longer, tmp_path, eval_rows=2, resume=True, learning_rate=0.0, weight_decay=0.0)

    assert starts == [0, 4 * 4], "the second stage goes on with new rows"
    final = MagNetForReferringSegmentation.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(final[name], first[name]) for name in first), "and with the weights of the first"


def test_a_stage_can_go_on_without_mask_grounding(quick_recipe, tmp_path):
    second = replace(quick_recipe.stages[0], mask_grounding=False)
    recipe = replace(quick_recipe, stages=(*quick_recipe.stages, second))
    train(recipe, tmp_path, eval_rows=2, config=EVERYTHING, logging_steps=2)

    logged = [
        {key for entry in read_logs(tmp_path / f"stage-{stage}") for key in entry if key.startswith("loss_")}
        for stage in (1, 2)
    ]
    assert logged[0] - logged[1] == {"loss_mask_grounding"}
    assert "loss_pixel_to_text" in logged[1]
    model = MagNetForReferringSegmentation.from_pretrained(tmp_path)
    assert model.config.mask_grounding_loss_weight == 0
    assert not any("mask_grounding" in name for name, _ in model.named_parameters())
    train(recipe, tmp_path, eval_rows=2, config=EVERYTHING, resume=True)  # its checkpoint has no head


def test_looks_and_names_can_be_learned_first(quick_recipe, tmp_path):
    stage = replace(quick_recipe.stages[0], image_size=32)
    recipe = replace(
        quick_recipe, stages=(replace(stage, pretraining=learn_attributes), replace(stage, rows=NameRows))
    )
    fresh = recipe.build(42, {})[0].state_dict()
    train(recipe, tmp_path, eval_rows=2)
    state = json.loads((tmp_path / "stage-1" / "checkpoint-4" / "trainer_state.json").read_text())
    assert {f"eval_{name}_accuracy" for name in ATTRIBUTES} <= state["log_history"][-1].keys()

    (tmp_path / "stage-2").rename(tmp_path / "thrown-away")
    train(recipe, tmp_path, eval_rows=2, resume=True, learning_rate=0.0, weight_decay=0.0)
    trained = MagNetForReferringSegmentation.from_pretrained(tmp_path).state_dict()
    changed = {name for name in fresh if not torch.equal(fresh[name], trained[name])}
    assert changed, "a resumed run takes over what the first stage learned"
    word_embeddings = "encoder.text_encoder.embeddings.word_embeddings.weight"
    assert word_embeddings in changed, "and what words begin with"
    assert all(name.startswith("encoder.image_encoder.") for name in changed - {word_embeddings})


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


def test_muon_takes_a_kernel_for_the_matrix_it_is():
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(8, 4, 3, 3))
    matrix = torch.nn.Parameter(kernel.detach().flatten(1).clone())
    kernel.grad = torch.randn_like(kernel)
    matrix.grad = kernel.grad.flatten(1)
    for parameter in (kernel, matrix):
        Muon([parameter], lr=0.01, weight_decay=0.1, momentum=0.9).step()
    torch.testing.assert_close(kernel.flatten(1), matrix)


def test_schedulers_reach_both_optimizers(optimized):
    _, optimizer = optimized
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    scheduler.step()
    rates = [{group["lr"] for group in part.param_groups} for part in optimizer.parts]
    assert rates == [{0.5e-3}, {MATRIX_LR * 0.5e-3}]


def test_an_image_encoder_that_knows_something_takes_shorter_steps(optimized):
    def moved(optimizer, model):
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        return {name: (parameter - before[name]).norm() for name, parameter in model.named_parameters()}

    model, _ = optimized
    other = copy.deepcopy(model)
    usual, shorter = (
        moved(MuonWithAdamW(model, lr=1e-3, weight_decay=0.0), model),
        moved(MuonWithAdamW(other, lr=1e-3, weight_decay=0.0, image_encoder_lr=0.1), other),
    )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = 0.1 if name.startswith("encoder.image_encoder.") else 1.0
            torch.testing.assert_close(shorter[name], share * usual[name], rtol=1e-2, atol=1e-6, msg=name)


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


@pytest.mark.parametrize(
    "option", [{"bf16": True}, {"gradient_accumulation_steps": 2}, {"activation_checkpointing": True}]
)
def test_promised_options_train(quick_recipe, tmp_path, option):
    train(quick_recipe, tmp_path, eval_rows=2, samples=0, max_steps=2, logging_steps=1, config=EVERYTHING, **option)
    logs = read_logs(tmp_path / "stage-1")
    assert all(np.isfinite(entry["grad_norm"]) for entry in logs if "grad_norm" in entry)


def test_overrides_win_over_the_recipe(quick_recipe, tmp_path):
    train(quick_recipe, tmp_path, eval_rows=2, max_steps=1, eval_strategy="no", save_strategy="no")

    assert not list(tmp_path.glob("*/checkpoint-*"))


def test_another_schedule_leaves_out_the_options_of_the_recipes(quick_recipe, tmp_path):
    recipe = replace(quick_recipe, muon=False, arguments={**quick_recipe.arguments, **RECIPES["finetune"].arguments})
    short = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "max_steps": 1}
    train(recipe, tmp_path, eval_rows=2, lr_scheduler_type="cosine", **short)

    assert (tmp_path / "config.json").exists()


def test_some_training_rows_refer_to_nothing_or_to_several_things():
    rows = RefShapesRows(("refshapes", "refshapes+"), 200, no_target_share=0.3, ambiguous_share=0.3)
    again = RefShapesRows(("refshapes", "refshapes+"), 200, no_target_share=0.3, ambiguous_share=0.3)
    found = [rows[number] for number in range(len(rows))]
    assert found == [again[number] for number in range(len(rows))]
    nothing = [row for row in found if not row["ann_ids"]]
    several = [row for row in found if row.get("candidates", 1) > 1]
    assert 20 < len(nothing) < 80 and 20 < len(several) < 80
    assert all(row["area"] == 0 for row in nothing)
    for row in several:
        scene = scene_of(row["image_id"])
        masks = draw_scene(scene)[1][[each % 10 for each in row["ann_ids"]]]
        assert len(masks) == row["candidates"]
        np.testing.assert_array_equal(decode_mask(row["mask"]), masks.any(axis=0))


def test_training_rows_are_those_of_the_stream():
    variants = ("refshapes", "refshapes+")
    rows = RefShapesRows(variants, num_rows=6, start=3)
    stream = itertools.islice(RefShapesStream(variants, start=3), 6)
    assert len(rows) == 6
    for number, expected in enumerate(stream):
        row = rows[number]
        assert row.pop("seed") == 3 + number
        assert row == expected
    assert rows[2]["image"] is rows[3]["image"], "rendered once"
    pickle.dumps(rows)  # what a loader's worker is given where processes are not forked


@pytest.fixture(scope="module")
def run_in_processes(tmp_path_factory):
    """Trains for three steps in one process or two; gives what was logged."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "run.py"
    script.write_text(SOME_PROCESSES)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[1] / "scripts"),
    }

    def run(launcher: str) -> list[dict]:
        together = (
            ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if launcher == "torchrun" else []
        )
        batch_size = 8 if launcher == "alone" else 4
        command = [sys.executable, *together, str(script), str(folder / launcher), str(batch_size), launcher]
        subprocess.run(command, check=True, timeout=300, env=environment)
        return read_logs(folder / launcher / "stage-1")

    return run


@pytest.mark.slow
def test_two_processes_train_like_one(run_in_processes):
    """The same loss in each step and the same figures after it, at the same global batch."""
    one = run_in_processes("alone")
    assert len(one) == 5, "three steps, an evaluation after the second and the third"
    for launcher in ("torchrun", "debug_launcher"):
        two = run_in_processes(launcher)
        for expected, found in zip(one, two, strict=True):
            for key in expected:
                if key.startswith(("loss", "eval_loss", "eval_oIoU", "eval_mIoU", "eval_P@")):
                    assert found[key] == pytest.approx(expected[key], rel=1e-3), (launcher, key)


SOME_PROCESSES = """
import sys
from accelerate import debug_launcher
from hf_ris.modeling.configuration_magnet import MagNetConfig
from hf_ris.modeling.processing_magnet import MagNetImageProcessor
from hf_ris.modeling.modeling_magnet import MagNetForReferringSegmentation
from hf_ris.modeling.processing_magnet import MagNetProcessor
from hf_ris.training import Recipe, Stage, train
from tiny_models import build_magnet_mini

folder, batch_size, launcher = sys.argv[1:]
stage = Stage(32, {"max_steps": 3, "per_device_train_batch_size": int(batch_size)})
recipe = Recipe("", build_magnet_mini, (stage,), refshapes=("refshapes",))

def main():
    train(
        recipe, folder, eval_rows=8, config={"mask_grounding_loss_weight": 1.0, "alignment_loss_weight": 0.5},
        logging_steps=1, eval_steps=2, seed=0, disable_tqdm=True,
    )

if __name__ == "__main__":
    debug_launcher(main, num_processes=2) if launcher == "debug_launcher" else main()
"""


def test_a_loss_that_is_no_number_stops_the_training(quick_recipe, tmp_path):
    with pytest.raises(FloatingPointError, match=r"at step \d.*Lower --learning-rate"):
        train(quick_recipe, tmp_path, eval_rows=2, learning_rate=1e30, max_grad_norm=0.0, warmup_steps=0, max_steps=20)


def test_memory_that_does_not_suffice_is_explained(quick_recipe, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("transformers.Trainer.training_step", fail)
    with pytest.raises(
        MemoryError, match=r"with 4 referents a step and device at 64 x 64 pixels. Halve --per-device-train"
    ):
        train(quick_recipe, tmp_path, eval_rows=2)


def test_terms_of_the_loss_are_logged_and_samples_drawn(quick_recipe, tmp_path):
    train(quick_recipe, tmp_path, eval_rows=6, samples=5, logging_steps=1, config=EVERYTHING, report_to="tensorboard")
    first = read_logs(tmp_path / "stage-1")[0]
    terms = {"bce", "dice", "mask_grounding", "pixel_to_pixel", "pixel_to_text"}
    assert {f"loss_{term}" for term in terms} <= first.keys()
    assert sum(first[f"loss_{term}"] for term in terms) == pytest.approx(first["loss"], rel=1e-3)

    sheets = sorted((tmp_path / "stage-1" / "samples").iterdir())
    assert [sheet.name for sheet in sheets] == ["step-000002.png", "step-000004.png"]
    assert Image.open(sheets[0]).size[0] == 4 * 480
    events = (tmp_path / "stage-1").rglob("events.out.tfevents.*")
    assert any(b"train/loss_mask_grounding" in path.read_bytes() for path in events)


def test_the_best_checkpoint_is_kept(quick_recipe, tmp_path, monkeypatch):
    overlaps = iter([0.1, 0.9, 0.2, 0.3])
    monkeypatch.setattr("hf_ris.metrics.TrainerMetrics.__call__", lambda *_, compute_result: {"oIoU": next(overlaps)})
    best = {"load_best_model_at_end": True, "metric_for_best_model": "oIoU", "eval_steps": 1, "save_total_limit": 4}
    train(quick_recipe, tmp_path, eval_rows=2, samples=0, max_steps=3, **best)

    final, second = (load_file(tmp_path / name / "model.safetensors") for name in (".", "stage-1/checkpoint-2"))
    assert all(torch.equal(final[name], second[name]) for name in final)


def test_adapters_alone_are_trained(model_folder, tmp_path):
    rows = understood_rows(8)
    train(
        "finetune",
        tmp_path,
        rows,
        rows,
        parts={"model": str(model_folder)},
        lora=2,
        eval_rows=2,
        num_train_epochs=1,
        dataloader_num_workers=0,
        learning_rate=1e-2,
        samples=1,
        config=EVERYTHING,
    )

    before, after = (load_file(folder / "model.safetensors") for folder in (model_folder, tmp_path))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "encoder.text_encoder.encoder.layer.0.attention.self.query.weight" in changed
    assert all(before[name].ndim == 2 for name in changed), "linear layers, and nothing else"
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sum(tensor.nbytes for name, tensor in adapter.items() if "lora" in name) < 0.5 * sum(
        tensor.nbytes for tensor in before.values()
    )
    assert pipeline("referring-segmentation", model=str(tmp_path), device="cpu").model.config.model_type == "magnet"


@pytest.mark.parametrize("adapters", [pytest.param([], marks=pytest.mark.slow), ["--lora", "2"]])
def test_what_was_trained_is_pushed(model_folder, tmp_path, adapters):
    with local_hub(tmp_path / "hub") as hub:
        options = ["--recipe", "finetune", "--model", str(model_folder), "--dataset", "refshapes", "--max-steps", "2"]
        options += [
            "--per-device-train-batch-size",
            "2",
            "--eval-rows",
            "2",
            "--dataloader-num-workers",
            "0",
            *adapters,
        ]
        command = [sys.executable, "-m", "hf_ris.cli", "train", "--output-dir", "runs/mine", *options, "--push-to-hub"]
        environment = {**os.environ, **endpoint(hub, tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, timeout=200, env=environment, cwd=tmp_path)
        assert "me/mine" in hub.private
    pushed = {
        path.relative_to(tmp_path / "hub" / "me" / "mine").as_posix() for path in (tmp_path / "hub").rglob("*.*")
    }
    assert {"README.md", "config.json", "model.safetensors", "modeling_magnet.py"} <= pushed
    assert 'model="me/mine"' in (tmp_path / "hub" / "me" / "mine" / "README.md").read_text(encoding="utf-8")
    assert ("adapter/adapter_model.safetensors" in pushed) == bool(adapters)
    assert not any("checkpoint" in name or "samples" in name or "training_args" in name for name in pushed)
    ris = pipeline("referring-segmentation", model=str(tmp_path / "hub" / "me" / "mine"), device="cpu")
    local = load_file(tmp_path / "runs" / "mine" / "model.safetensors")
    assert all(torch.equal(tensor, local[name]) for name, tensor in ris.model.state_dict().items())


def test_a_model_is_built_on_pretrained_parts(tiny_config, tokenizer, tmp_path, processor):
    torch.manual_seed(7)
    swin, bert = SwinModel(tiny_config.backbone_config), BertModel(tiny_config.text_config)
    swin.save_pretrained(tmp_path / "swin")
    bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    parts = {"backbone": str(tmp_path / "swin"), "text": str(tmp_path / "bert")}
    small = {
        name: getattr(tiny_config, name) for name in ("hidden_dim", "group_norm_groups", "decoder_feedforward_dim")
    }
    model, processor = build(RECIPES["magnet"], parts, {**small, "mask_grounding_layers": 1}, seed=0)

    for part, pretrained in ((model.encoder.image_encoder, swin), (model.encoder.text_encoder, bert)):
        for name, weight in part.state_dict().items():
            assert torch.equal(weight, pretrained.state_dict()[name]), name
    assert processor.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert model.config.backbone_config.drop_path_rate == 0.3
    random, _ = build(RECIPES["magnet"], {**parts, "from_scratch": True}, small, seed=0)
    name = "encoder.text_encoder.embeddings.word_embeddings.weight"
    assert not torch.equal(random.state_dict()[name], model.state_dict()[name])


def test_the_published_recipe_is_lavts():
    recipe = RECIPES["magnet"]
    data = TrainingData(load_refshapes("refshapes", "val", num_rows=2), None, (), None, "sent", 0.0)
    arguments = make_arguments(recipe, recipe.stages[0], Path("runs/stage-1"), data, {})
    assert (arguments.learning_rate, arguments.weight_decay, arguments.num_train_epochs) == (5e-5, 0.01, 40)
    assert recipe.text_column == "raw"
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    schedule = get_scheduler(arguments.lr_scheduler_type, optimizer, 0, 100, arguments.lr_scheduler_kwargs)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([(1 - step / 100) ** 0.9 for step in range(100)])


def test_impossible_runs_are_named(quick_recipe, tmp_path, model_folder):
    rows = load_refshapes("refshapes", "val", num_rows=2)
    model = {"model": str(model_folder)}
    for message, recipe, options in (
        (r"`recipe` must be one of \['finetune', 'magnet', .*, got 'magic'", "magic", {}),
        ("must hold a checkpoint", quick_recipe, {"resume": True}),
        ("`train_dataset` must be given .*--dataset", "magnet", {}),
        ("`train_dataset` must be given", "finetune", {"parts": model}),
        ("`train_dataset` must be left out", quick_recipe, {"train_dataset": rows}),
        ("`model` must be given: .* starts from a checkpoint", "finetune", {"train_dataset": rows}),
        ("`backbone` must be left out: this recipe", quick_recipe, {"parts": {"backbone": "swin"}}),
        ("`text` must be left out: a checkpoint", quick_recipe, {"parts": {**model, "text": "bert"}}),
        ("`max_steps` must be given", "finetune", {"parts": model, "refshapes": ["refshapes"]}),
        ("`model` must be given with lora=4", quick_recipe, {"lora": 4}),
        ("`lora` must be left out", TINY_RECIPES["cris-tiny-refshapes"], {"lora": 4, "parts": model}),
        ("`optim` must be left out: this recipe has its own optimizer", quick_recipe, {"optim": "adafactor"}),
        (
            "`model` must be a system that is trained, got .*, a tas",
            "finetune",
            {"parts": {"model": str(BUNDLED_ZERO_SHOT)}, "refshapes": ["refshapes"], "max_steps": 1},
        ),
        (
            "no field 'mask_grounding_los_weight'",
            TINY_RECIPES["magnet-tiny-refshapes"],
            {"config": {"mask_grounding_los_weight": 2.0}},
        ),
        ("`text_column` must be .* got 'cooked'", quick_recipe, {"text_column": "cooked"}),
    ):
        with pytest.raises(ValueError, match=message):
            train(recipe, tmp_path, **options)

    result = CliRunner().invoke(app, ["train", "--output-dir", str(tmp_path), "--recipe", "magic"])
    assert result.exit_code == 2
    assert "cris-r50-refcoco" in result.output
    result = CliRunner().invoke(app, ["train", "--help"])
    assert all(name in result.output for name in RECIPES)
    for option in ("--max-step", "--resume-from-checkpoint"):
        result = CliRunner().invoke(app, ["train", "--output-dir", str(tmp_path), option, "3"])
        assert result.exit_code == 2
        assert option in result.output


def test_a_finished_model_is_not_overwritten(quick_recipe, model_folder):
    with pytest.raises(ValueError, match="holds a model"):
        train(quick_recipe, model_folder)


def test_a_text_that_cleaning_emptied_is_read_as_written(processor):
    rows = load_refshapes("refshapes", "val", num_rows=2)
    for raw in ("7!", "?!"):
        changed = rows.map(lambda row, raw=raw: {"expressions": [{"sent_id": 0, "raw": raw, "sent": ""}]})
        if raw == "7!":
            check_rows(changed, "rows")
            assert ReferringSegmentationCollator(processor)(list(changed))["input_ids"].shape[0] == 2
        else:
            with pytest.raises(ValueError, match=r"the text of rows\[0\] \(ref_id"):
                check_rows(changed, "rows")


def test_a_checkpoint_of_another_architecture_is_named(quick_recipe, tmp_path):
    train(quick_recipe, tmp_path, eval_rows=2, samples=0)
    with pytest.raises(ValueError, match=r"another architecture: for auxiliary_losses\S+ it has no such weight"):
        train(quick_recipe, tmp_path, resume=True, config=EVERYTHING)
    with pytest.raises(ValueError, match=r"another architecture: for mask_decoder\S+ it has shape"):
        train(quick_recipe, tmp_path, resume=True, config={"decoder_feedforward_dim": 48})
    with pytest.raises(ValueError, match="was trained without `lora`, and this training is with lora=2"):
        train(quick_recipe, tmp_path, resume=True, lora=2, parts={"model": str(tmp_path)})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"expressions": []}, r"train_dataset\[1\].*no expression"),
        ({"mask": encode_mask(np.zeros((320, 320), dtype=bool))}, r"train_dataset\[1\].*empty mask.*ann_ids"),
        (
            {"mask": encode_mask(np.ones((32, 320), dtype=bool))},
            r"train_dataset\[1\].*mask is 32 x 320, its image 320 x 320",
        ),
        ({"mask": {"size": [320, 320], "counts": "1"}}, r"train_dataset\[1\].*mask has runs of 1 pixels"),
        (
            {"expressions": [{"sent_id": 0, "raw": "zebra", "sent": "zebra"}]},
            r"'zebra' has no word that Mask Grounding can hide",
        ),
    ],
)
def test_unfit_rows_are_named_before_the_first_step(quick_recipe, tmp_path, change, message):
    recipe = replace(quick_recipe, refshapes=())
    rows = understood_rows(3)
    damaged = datasets.Dataset.from_list(
        [{**row, **(change if number == 1 else {})} for number, row in enumerate(rows)]
    )
    with pytest.raises(ValueError, match=message):
        train(recipe, tmp_path, damaged.cast(rows.features), config=EVERYTHING)
    assert not list(tmp_path.rglob("checkpoint-*"))
