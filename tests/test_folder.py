"""Folders of images: every line once, through errors, kills and other runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from transformers import pipeline
from typer.testing import CliRunner

from hf_ris.cli import app
from hf_ris.folder import FolderEntry, read_entries, segment_folder


ENTRIES = [
    FolderEntry("b.png", ["the red mug", "a tree"]),
    FolderEntry("a.png", ["a tree"]),
    FolderEntry("sub/c.jpg", ["a fish"]),
]


@pytest.fixture
def folder(images, tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name, image in zip(("a.png", "b.png", "sub/c.jpg"), images, strict=True):
        image.save(folder / name)
    return folder


def run(ris, folder, output, entries=ENTRIES, **options):
    return [line for lines in segment_folder(ris, folder, entries, output, **options) for line in lines]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_line_for_each_expression(batch_size, ris, folder, tmp_path):
    lines = run(ris, folder, tmp_path / "out", batch_size=batch_size)

    assert lines == [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [(line["image"], line["label"]) for line in lines] == [
        (entry.image, text) for entry in ENTRIES for text in entry.text
    ]
    for line in lines:
        expected = ris(folder / line["image"], text=line["label"], output_format="array")
        np.testing.assert_array_equal(coco_mask.decode(line["mask"]).astype(bool), expected["mask"])
        assert line["box"] == expected["box"]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_cut_off_anywhere_it_ends_with_the_same_bytes(batch_size, ris, folder, tmp_path):
    run(ris, folder, tmp_path / "whole", batch_size=batch_size)
    whole = (tmp_path / "whole" / "results.jsonl").read_bytes()
    out = tmp_path / "out"
    next(iter(segment_folder(ris, folder, ENTRIES, out, batch_size)))
    for length in range(0, len(whole), 97):
        (out / "results.jsonl").write_bytes(whole[:length])
        run(ris, folder, out, batch_size=batch_size)
        assert (out / "results.jsonl").read_bytes() == whole


def test_what_is_there_is_not_computed_again(ris, folder, tmp_path, monkeypatch):
    run(ris, folder, tmp_path / "out")
    asked = []
    monkeypatch.setattr(type(ris), "__call__", lambda *arguments, **options: asked.append(arguments))
    run(ris, folder, tmp_path / "out")

    assert asked == []


def test_one_bad_image_does_not_lose_the_others(ris, folder, tmp_path):
    (folder / "a.png").write_bytes(b"no image")
    entries = [*ENTRIES, FolderEntry("none.png", ["a tree", "a mug"]), FolderEntry("b.png", [" "])]
    lines = run(ris, folder, tmp_path / "out", entries, batch_size=3)

    assert [line["image"] for line in lines if "error" in line] == ["a.png", "none.png", "none.png", "b.png"]
    assert "a.png" in lines[2]["error"] and "without a letter" in lines[-1]["error"]
    assert all("mask" in line for line in lines if "error" not in line)


def test_nothing_leads_out_of_the_folder(ris, folder, tmp_path, images):
    outside = tmp_path / "outside.png"
    images[0].save(outside)
    (folder / "link.png").symlink_to(outside)
    (folder / "own.png").symlink_to(folder / "a.png")
    (folder / "loop.png").symlink_to("loop.png")
    names = [
        "../outside.png",
        str(outside),
        "link.png",
        "sub/../../outside.png",
        "loop.png",
        "null\0.png",
        "own.png",
        "sub/../a.png",
    ]
    lines = run(ris, folder, tmp_path / "out", [FolderEntry(name, ["a tree"]) for name in names])
    assert ["mask" in line for line in lines] == [False] * 6 + [True] * 2
    for line in lines[:4]:
        assert line["error"] == f"{line['image']!r} leads out of the folder {str(folder)!r}"


TWO_RUNS = """
import sys, time
from pathlib import Path
import hf_ris
from transformers import pipeline
from hf_ris.folder import FolderEntry, segment_folder
ris = pipeline("referring-segmentation", model=sys.argv[1], device="cpu")
for lines in segment_folder(ris, sys.argv[2], [FolderEntry("a.png", ["a tree"]), FolderEntry("b.png", ["a tree"])], sys.argv[3]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_runs_do_not_share_a_folder(folder, model_folder, tmp_path):
    """The second is told so and nothing is lost; a run that was killed holds nothing."""
    ris = pipeline("referring-segmentation", model=str(model_folder), device="cpu")
    out = tmp_path / "out"
    entries = [FolderEntry("a.png", ["a tree"]), FolderEntry("b.png", ["a tree"])]
    command = [sys.executable, "-c", TWO_RUNS, str(model_folder), str(folder), str(out)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        before = (out / "results.jsonl").read_bytes()
        with pytest.raises(ValueError, match="is being written by another run"):
            run(ris, folder, out, entries)
        assert (out / "results.jsonl").read_bytes() == before
    finally:
        first.kill()
        first.wait()
    lines = segment_folder(ris, folder, entries, out)
    next(lines)
    with pytest.raises(ValueError, match="is being written by another run"):
        run(ris, folder, out, entries)  # nor within a process
    assert len(list(lines)) == 1
    assert len((out / "results.jsonl").read_text().splitlines()) == 2


def test_a_run_that_another_thread_ends_lets_go_of_the_folder(ris, folder, tmp_path):
    """As web servers do, which read a generator by threads that are free just then."""
    entries = [FolderEntry("a.png", ["a tree"]), FolderEntry("b.png", ["a tree"])]
    lines = segment_folder(ris, folder, entries, tmp_path / "out")
    for step in (lambda: next(lines), lines.close):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert ["mask" in line for line in run(ris, folder, tmp_path / "out", entries)] == [True, True]


def test_a_damaged_line_is_named(ris, folder, tmp_path):
    entries = [FolderEntry("a.png", ["a tree"])]
    run(ris, folder, tmp_path / "out", entries)
    (tmp_path / "out" / "results.jsonl").write_text('{"image": "a.p\n')
    with pytest.raises(ValueError, match=r"results\.jsonl is damaged: .*a\.p.*; delete it, or name another folder"):
        run(ris, folder, tmp_path / "out", entries)


def test_one_bad_expression_does_not_lose_the_others(ris, folder, tmp_path):
    entries = [FolderEntry("b.png", ["the red mug", " ", "half a \ud83d", "a tree"])]
    for _ in range(2):
        lines = run(ris, folder, tmp_path / "out", entries)
        assert ["mask" in line for line in lines] == [True, False, False, True]
        assert [line["label"] for line in lines] == entries[0].text
        assert "without a letter" in lines[1]["error"] and "surrogate" in lines[2]["error"]


def test_results_of_another_run_are_left_alone(ris, folder, tmp_path):
    out = tmp_path / "out"
    run(ris, folder, out)
    before = (out / "results.jsonl").read_bytes()
    for entries, options, message in (
        (ENTRIES[1:], {}, "holds results for other expressions"),
        (ENTRIES[:2], {}, "more results than were asked for"),
        (ENTRIES, {"threshold": 0.3}, "holds results made with"),
    ):
        with pytest.raises(ValueError, match=message):
            run(ris, folder, out, entries, **options)
    ris.model.config.note = "changed"
    with pytest.raises(ValueError, match="holds results made with configuration="):
        run(ris, folder, out)
    del ris.model.config.note
    shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(ValueError, match="holds results made with"):
        run(ris, tmp_path / "other", out)
    assert (out / "results.jsonl").read_bytes() == before

    (out / "settings.json").unlink()
    with pytest.raises(ValueError, match="unknown origin"):
        run(ris, folder, out)


@pytest.mark.parametrize(
    "name, content",
    [
        ("all.csv", "text,image\nthe red mug,b.png\na tree,a.png\na tree,b.png\na fish,sub/c.jpg\n"),
        (
            "all.jsonl",
            """{"image": "b.png", "text": ["the red mug", "a tree"]}

            {"image": "a.png", "text": "a tree"}
            {"image": "sub/c.jpg", "text": "a fish"}""",
        ),
    ],
)
def test_files_of_expressions(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    assert read_entries(tmp_path / name) == ENTRIES


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("all.txt", "", r"one of \['\.csv', '\.jsonl'\], got"),
        ("none.csv", None, "cannot be read"),
        ("all.csv", "picture,text\n", "lacks the columns image"),
        ("all.csv", "image,text\n", "holds no line"),
        ("all.csv", b"image,text\n\xff,\xff", "cannot be read"),
        ("all.csv", "image,text\na.png,the mug, left of the tree\n", "line 2 has more columns"),
        ("all.csv", 'image,text\na.png,"the mug\nb.png,a tree\n', "cannot be read"),
        ("all.csv", "image,text\na.png," + "x" * 200_000, "field larger"),
        ("all.jsonl", '{"image": "a.png", "text": NaN}', "line 1 has no text, or something else"),
        ("all.jsonl", '{"image": "a.png", "text": []}', "line 1 has no text"),
        ("all.jsonl", "[1]", "line 1 is no dictionary"),
        ("all.jsonl", '{"image": "a.png", "text": "x"}\n{', "line 2 is no JSON"),
        ("all.jsonl", '{"text": "x"}', "line 1 names no image"),
    ],
)
def test_unreadable_files_of_expressions_are_named(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=message):
        read_entries(tmp_path / name)


@pytest.mark.slow
def test_a_killed_command_continues(folder, model_folder, tmp_path):
    """`hf-ris segment` is killed after its first image, and ends like one that was not."""
    file = tmp_path / "all.jsonl"
    many = [
        {"image": name, "text": f"the {word} mug"} for word in ("red", "blue", "big") for name in ("a.png", "b.png")
    ]
    file.write_text("\n".join(json.dumps({**each, "text": [each["text"]] * 8}) for each in many))
    command = [str(Path(sys.executable).with_name("hf-ris")), "segment", str(folder), "--expressions", str(file)]
    command += ["--model", str(model_folder), "--device", "cpu", "--output"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)

    results = tmp_path / "out" / "results.jsonl"
    process = subprocess.Popen([*command, str(tmp_path / "out")], stderr=subprocess.DEVNULL)
    while not (results.exists() and results.stat().st_size):
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True)
    assert results.read_bytes() == (tmp_path / "whole" / "results.jsonl").read_bytes()


def test_the_command_names_what_failed(folder, model_folder, tmp_path):
    (folder / "a.png").write_bytes(b"")
    (tmp_path / "all.csv").write_text("image,text\na.png,a tree\nb.png,a tree\n")
    arguments = [str(folder), "--expressions", str(tmp_path / "all.csv"), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["segment", *arguments, "--model", str(model_folder), "--device", "cpu"])

    assert done.exit_code == 1
    assert "hf-ris: a.png: " in done.stderr and "1 of 2 images" in done.stderr

    for wrong in ([*arguments, "a tree"], arguments[:3], [str(folder)]):
        done = CliRunner().invoke(app, ["segment", *wrong])
        assert done.exit_code == 2 and "for a folder" in done.stderr
