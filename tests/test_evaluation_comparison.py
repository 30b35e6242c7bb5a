"""Several models on the same rows: each is continued on its own, one is in memory at a time, and what one lacks is said."""

import json
import weakref
from functools import partial, wraps
from itertools import islice

import datasets
import numpy as np
import pytest
from test_evaluation import guess_by_text, run, say_nothing, spoil, tell_the_truth
from transformers import pipeline
from typer.testing import CliRunner

from hf_ris.cli import app
from hf_ris.data import FEATURES, RefShapesStream
from hf_ris.data.segmentation import encode_mask, overlap_masks
from hf_ris.evaluation import evaluate
from hf_ris.evaluation_comparison import compare, folder_name
from hf_ris.evaluation_comparison_page import comparison_table
from hf_ris.evaluation_intervals import paired_differences
from hf_ris.evaluation_shards import read_shards


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    return datasets.Dataset.from_list(list(islice(RefShapesStream(split="val"), 8)), features=FEATURES)


MODELS = {"me/truth": lambda: tell_the_truth, "me/guess": lambda: guess_by_text}


@pytest.fixture(scope="module")
def compared(rows, tmp_path_factory):
    output = tmp_path_factory.mktemp("compared")
    return compare(MODELS, rows, output, batch_size=4), output


def test_figures_are_those_of_each_model_alone(compared, rows, tmp_path):
    comparison, output = compared
    for name, load in MODELS.items():
        alone = evaluate(load(), rows, batch_size=4, output=tmp_path / name)
        found = comparison["models"][name]
        assert {key: found[key] for key in alone} == alone
        for file in ("results.json", "report.html", "settings.json"):
            assert (output / found["folder"] / file).read_text() == (tmp_path / name / file).read_text()
        assert sum(kind["expressions"] for kind in found["kinds"].values()) == alone["expressions"]
    assert json.loads((output / "comparison.json").read_text()) == comparison
    assert comparison["first"] == "me/truth" and comparison["errors"] == {}

    answers = [sorted(read_shards(output / folder).items()) for folder in ("me--truth", "me--guess")]
    counts = [[answer["counts"] for _, answer in each] for each in answers]
    (difference,) = paired_differences(counts, [answer["image_id"] for _, answer in answers[0]])
    assert comparison["models"]["me/truth"]["difference"] == {}
    assert comparison["models"]["me/guess"]["difference"] == {k: v._asdict() for k, v in difference.items()}
    assert difference["mIoU"].high < 0, "it is worse"


def test_the_table_and_the_page(compared, rows):
    comparison, output = compared
    first, second, _, minus, *_ = comparison_table(comparison).splitlines()[1:]
    assert first.split()[:3] == ["me/truth", "100.00", "100.00"] and second.split()[0] == "me/guess"
    assert minus.split() == ["minus", "me/truth", "oIoU", "mIoU"]
    page = (output / "comparison.html").read_text()
    assert 'src="http' not in page and "<link" not in page and "<script" not in page, "it needs no other file"
    images = len(set(rows["image_id"]))
    assert page.count("data:image/jpeg;base64,") == images * 4, "image, truth and two models; an expression an image"
    assert 'href="me--guess/report.html"' in page and 'class="best">100.00' in page


def test_the_most_disputed_come_first(rows, tmp_path):
    texts = {row["expressions"][0]["sent"] for row in rows.select([5])}

    def fail_once(items):
        return [
            [{"mask": mask & (text not in texts)} for mask, text in zip(item["truth"], item["text"], strict=True)]
            for item in items
        ]

    compare({"a": lambda: tell_the_truth, "b": lambda: fail_once}, rows, tmp_path)
    page = (tmp_path / "comparison.html").read_text()
    assert f"<figcaption><span>{texts.pop()}</span>" in page[page.index("<figcaption>") :][:200]


def test_others_and_another_order_continue(compared, rows):
    comparison, output = compared
    asked = []

    @wraps(guess_by_text)
    def counting(items):
        asked.extend(items)
        return guess_by_text(items)

    models = {"me/nothing": lambda: say_nothing, "me/guess": lambda: counting, "me/truth": lambda: tell_the_truth}
    more = compare(models, rows, output, batch_size=4)
    assert asked == [] and list(more["models"]) == list(models) and more["first"] == "me/nothing"
    assert more["models"]["me/truth"]["mIoU"] == 1 and more["models"]["me/truth"]["difference"]["mIoU"]["low"] == 1
    assert compare(MODELS, rows, output, batch_size=4) == comparison


def test_one_model_is_in_memory_at_a_time(rows, tmp_path):
    alive = []

    class Model:
        def __call__(self, items):
            return tell_the_truth(items)

    def load():
        assert not any(reference() for reference in alive)
        model = Model()
        alive.append(weakref.ref(model))
        return model

    compare({"a": load, "b": load, "c": load}, rows, tmp_path)
    assert len(alive) == 3


def test_what_one_model_lacks_is_said_and_the_others_are_kept(rows, tmp_path):
    def gated():
        raise OSError("me/gated is a gated repository")

    def wrong_size(items):
        return [[{"mask": np.zeros((5, 5), bool)} for _ in item["text"]] for item in items]

    models = {"me/gated": gated, "me/truth": lambda: tell_the_truth, "me/small": lambda: wrong_size}
    comparison = compare(models, rows, tmp_path)
    assert list(comparison["models"]) == ["me/truth"] and comparison["first"] == "me/truth"
    assert list(comparison["errors"]) == ["me/gated", "me/small"]
    assert "predicted mask is [5, 5]" in comparison["errors"]["me/small"]
    assert "me/gated is a gated repository" in (tmp_path / "comparison.html").read_text()
    only = compare({"me/gated": gated}, rows, tmp_path / "nothing")
    assert only == {"models": {}, "errors": {"me/gated": "me/gated is a gated repository"}}


def test_misses_are_compared_too(rows, tmp_path):
    spoilt, _ = spoil(rows, tmp_path, 2)
    comparison = compare(MODELS, spoilt, tmp_path / "out", on_error="report")
    assert comparison["models"]["me/truth"]["mIoU"] < 1 and comparison["models"]["me/truth"]["errors"]
    (tmp_path / "out" / "me--truth" / "predictions-00000.jsonl").rename(
        tmp_path / "out" / "me--truth" / "predictions-00001.jsonl"  # read after what is asked again
    )
    mended = compare(MODELS, rows, tmp_path / "out", on_error="report")
    alone = evaluate(guess_by_text, rows)["mIoU"] - 1
    assert mended["models"]["me/guess"]["difference"]["mIoU"]["value"] == pytest.approx(alone)


def test_models_may_compare_at_sizes_of_their_own(ris, rows, tmp_path):
    """Under "lavt", each model's masks have the size of its input."""
    bundled = partial(pipeline, "referring-segmentation", device="cpu")
    comparison = compare({"a": lambda: ris, "b": bundled}, rows, tmp_path, protocol="lavt")
    sizes = [model["mask_size"] for model in comparison["models"].values()]
    assert sizes[0] == [64, 96] != sizes[1] and (tmp_path / "comparison.html").exists()
    with pytest.raises(ValueError, match="`protocol` must be one of"):
        compare({"a": lambda: ris}, rows, tmp_path, protocol="coco")


def test_folders_do_not_collide(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a/same", "b/same", "bundled-local"):
        (tmp_path / folder).mkdir(parents=True)
    names = ["me/model", "you/model", "a/same", "b/same", "CLIPSeg, 0.4", "CLIPSeg 0.4", "bundled", "..", "../x y"]
    folders = [folder_name(name) for name in names]
    assert len({name.lower() for name in folders}) == len(names)
    assert folders[0] == "me--model" and folders[6] == "bundled" and folders[2].startswith("same-")
    assert folder_name("a/same") == folder_name(str(tmp_path / "a" / "same")) == folder_name("b/../a/same/")
    assert all("/" not in name and not name.startswith(".") for name in folders)
    twice = {"a/same": lambda: tell_the_truth, "./a/same": lambda: tell_the_truth}
    with pytest.raises(ValueError, match="each once"):
        compare(twice, rows, tmp_path / "out")


def test_several_masks_overlap():
    masks = [np.zeros((4, 5), bool) for _ in range(3)]
    assert overlap_masks([encode_mask(mask) for mask in masks]) == 1
    for number, mask in enumerate(masks):
        mask[: number + 1] = True
    assert overlap_masks([encode_mask(mask) for mask in masks]) == pytest.approx(1 / 3)


def test_the_command(model_folder, tmp_path):
    shared = ["refshapes", "--num-rows", "4", "--device", "cpu", "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["evaluate", "bundled", str(model_folder), *shared])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[1].startswith("bundled ") and lines[2].startswith(str(model_folder))
    assert "comparison.html" in done.stderr
    whole = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert list(whole["models"]) == ["bundled", str(model_folder)]
    for model in whole["models"].values():
        assert (tmp_path / "out" / model["folder"] / "report.html").exists()

    for arguments, message in (
        (["bundled", "bundled-zero-shot", *shared[:-2]], "--output must be given for several models"),
        (["bundled", "no/such", "nor/such", *shared], "no/such: "),
        (["bundled", "bundled", *shared], "must name each model once"),
        (["bundled", "./no-folder", *shared], "./no-folder: there is no such folder"),
        (["bundled"], "Missing argument"),
    ):
        done = CliRunner().invoke(app, ["evaluate", *arguments])
        assert done.exit_code == 2 and message in done.stderr, done.stderr
        assert "loading model" not in done.stderr


@pytest.mark.slow
def test_two_processes_give_the_same(model_folder, tmp_path):
    arguments = ["evaluate", "bundled", str(model_folder), "refshapes", "--num-rows", "6", "--device", "cpu"]
    alone = run(["-m", "hf_ris.cli", *arguments, "--output", str(tmp_path / "alone")])
    output, errors = alone.communicate(timeout=300)
    assert alone.returncode == 0, errors
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hf_ris.cli", *arguments]
    shared = run([*two, "--output", str(tmp_path / "two")])
    shared_output, errors = shared.communicate(timeout=300)
    assert shared.returncode == 0, errors
    assert output in shared_output
    first, second = (json.loads((tmp_path / name / "comparison.json").read_text()) for name in ("alone", "two"))
    assert first == second
