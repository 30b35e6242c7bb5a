"""Evaluation measures what was asked, bounds are where they must be, and a stopped run ends with the same numbers."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from transformers import pipeline
from typer.testing import CliRunner

from hf_ris.cli import app
from hf_ris.data import FEATURES, RefShapesStream, decode_mask, load_refcoco
from hf_ris.data.segmentation import encode_segmentations
from hf_ris.evaluation import PROTOCOLS, evaluate, shuffle_expressions
from hf_ris.evaluation_questions import Questions
from hf_ris.evaluation_report import Sample, kind_of
from hf_ris.evaluation_shards import key_of
from hf_ris.reporting import table, write_section


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    return datasets.Dataset.from_list(list(islice(RefShapesStream(split="val"), 8)), features=FEATURES)


def lines_of(folder: Path) -> list[dict]:
    """The lines of a run's predictions."""
    return [json.loads(line) for path in folder.glob("predictions-*.jsonl") for line in path.open()]


def tell_the_truth(items):
    return [[{"mask": mask} for mask in item["truth"]] for item in items]


def say_nothing(items):
    return [[{"mask": np.zeros(item["size"], dtype=bool)} for _ in item["text"]] for item in items]


def guess_by_text(items):
    """A mask that depends on the expression alone, so that no order of asking changes it."""
    return [
        [{"mask": np.random.default_rng(len(text)).random(item["size"]) < 0.5} for text in item["text"]]
        for item in items
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bounds_of_any_evaluation(protocol, rows):
    best = evaluate(tell_the_truth, rows, protocol, model_size=(100, 120))
    worst = evaluate(say_nothing, rows, protocol, model_size=(100, 120))
    figures = ["oIoU", "mIoU", "P@0.5", "P@0.9"]

    assert [best[name] for name in figures] == [1.0] * 4
    assert [worst[name] for name in figures] == [0.0] * 4
    assert best["expressions"] == sum(map(len, rows["expressions"])) and best["referents"] == 8 and best["images"] == 4
    assert best["protocol"] == protocol


def test_shuffled_expressions_ask_for_something_else(rows):
    def answer_from_memory(items):
        return [[{"mask": truths[text]} for text in item["text"]] for item in items]

    truths = {e["sent"]: decode_mask(row["mask"]) for row in rows for e in row["expressions"]}
    assert evaluate(answer_from_memory, rows)["mIoU"] == 1.0
    assert evaluate(answer_from_memory, shuffle_expressions(rows))["mIoU"] < 0.3
    with pytest.raises(ValueError, match="2 rows"):
        shuffle_expressions(rows.select(range(2)))


def test_expressions_of_nothing_are_scored():
    stream = RefShapesStream(split="val", no_target_share=0.5)
    rows = datasets.Dataset.from_list(list(islice(stream, 12)), features=FEATURES)
    results = evaluate(say_nothing, rows)

    assert results["N-acc"] == 1.0 and results["T-acc"] == 0.0 and 0 < results["gIoU"] < 1


def test_every_image_goes_through_the_pipeline_once(ris, rows, tmp_path):
    seen = []
    original = ris.model.forward

    def forward(pixel_values, input_ids, **kwargs):
        seen.append((len(pixel_values), len(input_ids)))
        return original(pixel_values=pixel_values, input_ids=input_ids, **kwargs)

    ris.model.forward = forward
    try:
        results = evaluate(ris, rows, batch_size=4, output=tmp_path / "out")
    finally:
        del ris.model.forward
    assert sum(images for images, _ in seen) == results["images"] == 4
    assert sum(expressions for _, expressions in seen) == results["expressions"], "no padding"
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results

    answers = [json.loads(line) for line in (tmp_path / "out" / "predictions-00000.jsonl").open()]
    asked = {(row["ref_id"], e["sent_id"]): (row["image"], e["sent"]) for row in rows for e in row["expressions"]}
    for answer in answers:
        image, text = asked[answer["ref_id"], answer["sent_id"]]
        expected = ris(image, text=text, output_format="array")
        assert np.mean(decode_mask(answer["mask"]) == expected["mask"]) > 0.999
        assert answer["score"] == pytest.approx(expected["score"], abs=1e-4)


def test_masks_are_compared_where_the_protocol_says(ris, rows, tmp_path):
    for protocol, size in (("original", [320, 320]), ("lavt", [64, 96])):
        evaluate(ris, rows.select([0]), protocol, output=tmp_path / protocol)
        line = (tmp_path / protocol / "predictions-00000.jsonl").read_text().splitlines()[0]
        assert json.loads(line)["mask"]["size"] == size


def test_a_run_goes_on_where_it_was(rows, tmp_path):
    asked = []

    @functools.wraps(guess_by_text)
    def counting(items):
        asked.extend(text for item in items for text in item["text"])
        return guess_by_text(items)

    expected = evaluate(guess_by_text, rows, batch_size=2, output=tmp_path / "whole")
    evaluate(guess_by_text, rows, batch_size=2, output=tmp_path / "cut")
    for name in ("results.json", "report.html"):
        (tmp_path / "cut" / name).unlink()
    shard = tmp_path / "cut" / "predictions-00000.jsonl"
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join(lines[:5]) + lines[5][:20])  # killed while it wrote

    assert evaluate(counting, rows, batch_size=2, output=tmp_path / "cut") == expected
    assert 0 < len(asked) < expected["expressions"]
    assert evaluate(counting, rows, batch_size=2, output=tmp_path / "cut") == expected, "nothing left to do"
    assert (tmp_path / "cut" / "report.html").read_text() == (tmp_path / "whole" / "report.html").read_text()
    assert lines_of(tmp_path / "cut") == lines_of(tmp_path / "whole")
    assert len(lines_of(tmp_path / "cut")) == expected["expressions"]

    with pytest.raises(ValueError, match="made with"):
        evaluate(say_nothing, rows, batch_size=2, output=tmp_path / "cut")
    with pytest.raises(ValueError, match="made with"):
        evaluate(guess_by_text, rows, batch_size=4, output=tmp_path / "cut")
    with pytest.raises(ValueError, match="made with"):
        evaluate(guess_by_text, rows.select(range(4)), batch_size=2, output=tmp_path / "cut")
    with pytest.raises(ValueError, match="made with"):
        evaluate(guess_by_text, rows.select(range(7, -1, -1)), batch_size=2, output=tmp_path / "cut")


RUN = [
    "-m",
    "hf_ris.cli",
    "evaluate",
    "bundled",
    "refshapes",
    "--num-rows",
    "8",
    "--batch-size",
    "2",
    "--device",
    "cpu",
]


def run(arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def test_killed_or_shared_out_it_ends_with_the_same_numbers(tmp_path):
    whole = run([*RUN, "--output", str(tmp_path / "whole")])
    output, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    expected = json.loads(output)

    killed = run([*RUN, "--output", str(tmp_path / "killed")])
    shard = tmp_path / "killed" / "predictions-00000.jsonl"
    while killed.poll() is None and not (shard.exists() and shard.stat().st_size):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "results.json").exists()

    two = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        *RUN,
        "--output",
        str(tmp_path / "killed"),
    ]
    shared = run(two)
    output, errors = shared.communicate(timeout=300)
    assert shared.returncode == 0, errors
    assert json.loads(output[output.index("{") :]) == expected  # gloo may talk before
    first, second = (lines_of(tmp_path / name) for name in ("whole", "killed"))
    assert [key_of(line) for line in first] == [key_of(line) for line in second]


def test_the_report_shows_numbers_and_images(rows, tmp_path):
    results = evaluate(guess_by_text, rows, output=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()

    assert f"{100 * results['mIoU']:.2f}" in page and "P@0.9" in page
    assert page.count("data:image/jpeg;base64,") >= 3 * 3 * 4
    assert 'src="http' not in page and "<link" not in page and "<script" not in page, "it needs no other file"
    assert rows[0]["expressions"][0]["sent"] in page


@pytest.mark.parametrize(
    "text, kind",
    [
        ("red mug", "neither: looks alone"),
        ("the bright one", "neither: looks alone"),
        ("man on the left", "place in the image"),
        ("Upper tree", "place in the image"),
        ("the topmost box", "place in the image"),
        ("the fourth man", "place in the image"),
        ("mug left of the tree", "relation to something else"),
        ("dog next to the bench", "relation to something else"),
        ("left side of the picture", "place in the image"),
        ("man on left side of pic", "place in the image"),
    ],
)
def test_what_an_expression_tells(text, kind):
    assert kind_of(Sample(text, 0.1, 0.5, {})) == kind


def test_questions_of_one_image_stand_together(rows):
    questions = Questions(rows, 3, "sent", None)
    keys = [key for number in range(len(questions)) for key in questions.keys(number)]

    assert len(set(keys)) == len(keys) == sum(map(len, rows["expressions"]))
    for number in range(len(questions)):
        lengths = [len(image.request.expressions) for image in questions[number]]
        assert len(set(lengths)) == 1, "no padding"
        assert len(lengths) == 1 or sum(lengths) <= 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"protocol": "coco"}, "`protocol` must be one of .*'original', 'lavt', 'cris'.*, got 'coco'"),
        ({"text_column": "tokens"}, "`text_column` must be .* got 'tokens'"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"protocol": "lavt"}, "model_size"),
    ],
)
def test_unfit_arguments_are_named(options, message, rows):
    with pytest.raises(ValueError, match=message):
        evaluate(tell_the_truth, rows, **options)
    with pytest.raises(ValueError, match="empty"):
        evaluate(tell_the_truth, rows.select([]))


def test_a_pipelines_own_thresholds_count(ris, rows):
    strict = pipeline("referring-segmentation", model=ris.model, processor=ris.processor, device="cpu", threshold=1.0)
    results = evaluate(strict, rows.select([0]))
    assert (
        results["mIoU"] == 0.0 and results["threshold"] == 1.0 and "threshold" not in evaluate(ris, rows.select([0]))
    )


def test_expressions_that_ask_nothing_are_named_before_the_run(rows):
    def with_expressions(*expressions):
        row = {**rows[0], "expressions": [{"sent_id": 7, **each} for each in expressions]}
        return datasets.Dataset.from_list([rows[2], row], features=FEATURES)

    def must_not_run(items):
        raise AssertionError

    for dataset, message in (
        (with_expressions(), "has no expression"),
        (with_expressions({"sent": " ", "raw": ""}), "Expression 7 of referent .*, got '', without a letter or digit"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(must_not_run, dataset)

    asked = []

    def listen(items):
        asked.extend(text for item in items for text in item["text"])
        return tell_the_truth(items)

    evaluate(listen, with_expressions({"sent": "", "raw": "7"}))
    assert "7" in asked, "where cleaning left nothing, the text is asked as written"


def spoil(rows, tmp_path, number):
    """The rows with an image on disk that is no image."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    plain = rows.cast_column("image", datasets.Image(decode=False))
    changed = [dict(row) for row in plain]
    spoilt = changed[number]["image_id"]
    for row in changed:
        if row["image_id"] == spoilt:
            row["image"] = {"path": str(broken), "bytes": None}
            row["file_name"] = "broken.png"
    return datasets.Dataset.from_list(changed, features=rows.features), spoilt


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_is_named_or_counted_as_a_miss(rows, ris, tmp_path, num_workers):
    spoilt, image_id = spoil(rows, tmp_path, 2)
    referent = next(row["ref_id"] for row in rows if row["image_id"] == image_id)
    output = tmp_path / "out"
    with pytest.raises(ValueError, match=rf"The image broken\.png of referent {referent} cannot be read"):
        evaluate(ris, spoilt, output=output, batch_size=4, num_workers=num_workers)
    results = evaluate(
        ris, spoilt, output=output, batch_size=4, num_workers=num_workers, on_error="report"
    )  # goes on where it was

    missed = sum(len(row["expressions"]) for row in rows if row["image_id"] == image_id)
    assert results["errors"] == missed > 0
    assert results["expressions"] == sum(len(row["expressions"]) for row in rows)
    assert "broken.png" in (output / "report.html").read_text()
    whole = evaluate(ris, rows, batch_size=4, on_error="report")
    others = [row for row in rows if row["image_id"] != image_id]
    alone = evaluate(ris, datasets.Dataset.from_list(others, features=rows.features), batch_size=4)
    assert results["mIoU"] == pytest.approx(
        alone["mIoU"] * (whole["expressions"] - missed) / whole["expressions"], abs=1e-6
    )
    assert whole["errors"] == 0
    again = evaluate(ris, spoilt, output=output, batch_size=4, on_error="report")
    assert again == results


def test_what_is_missed_of_nothing_is_no_right_answer(tmp_path):
    """An empty mask would be right where nothing is meant."""
    stream = RefShapesStream(split="val", no_target_share=0.5)
    rows = datasets.Dataset.from_list(list(islice(stream, 12)), features=FEATURES)
    nothing = [number for number, row in enumerate(rows) if not decode_mask(row["mask"]).any()]
    spoilt = rows
    for number in range(len(rows)):
        spoilt, _ = spoil(spoilt, tmp_path, number)
    results = evaluate(tell_the_truth, spoilt, output=tmp_path / "out", on_error="report")
    assert nothing and results["errors"] == results["expressions"]
    assert [results[name] for name in ("mIoU", "oIoU", "gIoU", "N-acc", "T-acc")] == [0.0] * 5
    counts = [json.loads(line) for line in (tmp_path / "out" / "predictions-00000.jsonl").open()]
    assert {tuple(line["counts"]) for line in counts if line["row"] in nothing} == {(0, 1, 0)}


@pytest.mark.parametrize("first", [0, 1])
def test_what_was_missed_is_asked_again(rows, tmp_path, first):
    """Whoever mends an image and starts the run again has the figures of a whole one, in whatever process's file the misses are."""
    spoilt, _ = spoil(rows, tmp_path, 2)
    output = tmp_path / "out"
    assert evaluate(tell_the_truth, spoilt, output=output, batch_size=4, on_error="report")["mIoU"] < 1
    (output / "predictions-00000.jsonl").rename(output / f"predictions-0000{first}.jsonl")
    whole = evaluate(tell_the_truth, rows, output=output, batch_size=4, on_error="report")
    assert whole["errors"] == 0 and whole["mIoU"] == 1.0
    assert len(lines_of(output)) == whole["expressions"], "the misses are gone"
    assert evaluate(tell_the_truth, rows, output=output, batch_size=4) == whole


def test_a_damaged_line_is_named(rows, tmp_path):
    evaluate(tell_the_truth, rows, output=tmp_path)
    shard = tmp_path / "predictions-00000.jsonl"
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(lines[0] + lines[1][:20] + b"\n" + b"".join(lines[2:]))
    with pytest.raises(
        ValueError, match=r"predictions-00000\.jsonl: line 2 is damaged; delete it, and it is asked again"
    ):
        evaluate(tell_the_truth, rows, output=tmp_path)
    shard.write_bytes(lines[0] + b"".join(lines[2:]))
    assert evaluate(tell_the_truth, rows, output=tmp_path)["mIoU"] == 1.0


def test_expressions_that_ask_nothing_can_be_counted_as_misses(rows):
    changed = {**rows[0], "expressions": [{"sent_id": 7, "sent": "", "raw": "?"}, *rows[0]["expressions"]]}
    dataset = datasets.Dataset.from_list([changed, rows[2]], features=FEATURES)
    results = evaluate(tell_the_truth, dataset, on_error="report")
    assert results["errors"] == 1
    assert results["mIoU"] == pytest.approx(1 - 1 / results["expressions"])


def test_a_models_folder_may_be_named_in_any_way(model_folder, rows, tmp_path, monkeypatch):
    shutil.copytree(model_folder, tmp_path / "e")  # a letter that settings hold, too
    monkeypatch.chdir(tmp_path)
    for name in ("e", "./e/", str(tmp_path / "e")):
        model = pipeline("referring-segmentation", model=name, device="cpu")
        assert evaluate(model, rows.select([0]), output=tmp_path / "out")["model"] == name


def test_images_are_hashed_by_their_order_alone(rows):
    numbers = rows["image_id"][:]
    moved, merged = (
        [{**row, "image_id": change(number)} for row, number in zip(rows, numbers, strict=True)]
        for change in (lambda number: number + 2**40, lambda number: 7)
    )
    first, second, third = (
        Questions(datasets.Dataset.from_list(list(each), features=FEATURES), 16, "sent", None).fingerprint()
        for each in (rows, moved, merged)
    )
    assert first == second != third


def test_a_folder_is_one_runs_alone(rows, tmp_path):
    def ask_again(items):
        with pytest.raises(ValueError, match="is being written by another run"):
            evaluate(tell_the_truth, rows, output=tmp_path / "out")
        return tell_the_truth(items)

    results = evaluate(ask_again, rows, output=tmp_path / "out", batch_size=100)
    assert results["mIoU"] == 1.0
    evaluate(ask_again, rows, output=tmp_path / "out", batch_size=100)


def test_damaged_masks_and_those_of_another_size_are_named(rows):
    for mask, message in (
        (encode_segmentations([[[0, 0, 9, 0, 9, 9]]], 10, 10), "its mask is 10 x 10, its image 320 x 320"),
        ({**rows[0]["mask"], "counts": rows[0]["mask"]["counts"] + "1"}, "its mask has"),
    ):
        row = {**rows[0], "mask": mask}
        with pytest.raises(ValueError, match=rf"Referent {row['ref_id']} of image {row['image_id']}: {message}"):
            evaluate(tell_the_truth, datasets.Dataset.from_list([row], features=FEATURES))
    with pytest.raises(ValueError, match=r"predicted mask is \[5, 5\]"):
        evaluate(lambda items: [[{"mask": np.zeros((5, 5), bool)} for _ in i["text"]] for i in items], rows)


def test_the_command_names_what_is_wrong():
    for arguments, message in (
        (["bundled", "refcoco"], "--root must name a folder"),
        (["bundled", "refshapes", "--root", "x"], "must be left out for refshapes"),
        (["bundled", "refshapes", "--split", "dev"], "must be one of ['train', 'val', 'testA', 'testB'], got 'dev'"),
    ):
        done = CliRunner().invoke(app, ["evaluate", *arguments])
        assert done.exit_code == 2 and message in done.stderr


def test_real_photos_with_recorded_proposals(real_data, tmp_path):
    """The best of a detector's masks for each referent: what no choice among them can beat."""
    folder = real_data / "refcoco_micro"
    splits = [load_refcoco("refcoco", split, folder / "refer", cache_dir=tmp_path) for split in ("testA", "testB")]
    rows = datasets.concatenate_datasets(splits)
    names = dict(zip((row["image"].tobytes() for row in rows), rows["file_name"], strict=True))

    def choose(items):
        return [[{"mask": best(item["image"], truth)} for truth in item["truth"]] for item in items]

    def best(image: Image.Image, truth: np.ndarray) -> np.ndarray:
        stored = np.load(folder / "proposals" / f"{Path(names[image.tobytes()]).stem}.npz")
        masks = np.unpackbits(stored["masks"], axis=-1)[..., : stored["shape"][-1]].astype(bool)
        return max(masks, key=lambda mask: (mask & truth).sum() / (mask | truth).sum())

    by_expression = evaluate(choose, rows)
    first = rows.map(lambda row: {"expressions": row["expressions"][:1]})
    assert by_expression["expressions"] == 44
    assert by_expression["mIoU"] == pytest.approx(0.817, abs=0.005)
    assert evaluate(choose, first)["mIoU"] == pytest.approx(0.815, abs=0.005)
    assert evaluate(tell_the_truth, rows)["mIoU"] == 1.0


def test_a_section_is_replaced(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- figures -->\nold\n<!-- /figures -->\nafter\n")
    for _ in range(2):
        write_section(document, "figures", table(["a", "b"], [["1", "2"]]))

    assert document.read_text() == (
        "before\n<!-- figures -->\n| a | b |\n| --- | --- |\n| 1 | 2 |\n<!-- /figures -->\nafter\n"
    )
    with pytest.raises(ValueError, match="other"):
        write_section(document, "other", "text")
