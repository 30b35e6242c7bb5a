"""Labelling: every source and output, each row once, whatever is damaged, killed or changed."""

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from local_hub import COMMIT, endpoint
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from hf_ris import rows as rows_module
from hf_ris.cli import app
from hf_ris.data import FEATURES, load_labels
from hf_ris.folder import FolderEntry
from hf_ris.labelling import ModelChoice, Source, Workers, files, find_source, label, output, sources
from hf_ris.labelling.engines import ATTEMPTS, Job, _Worker
from hf_ris.labelling.output import LabelFolder
from hf_ris.labelling.sources import Columns, _dataset
from hf_ris.output_folder import weights_fingerprint
from hf_ris.rows import Row, answer_rows


ROOT = Path(__file__).parents[1]
HERE = Workers(0, 0)


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def contents(images):
    return [png(image) for image in images]


@pytest.fixture(scope="module")
def choice(model_folder):
    return ModelChoice(str(model_folder), device="cpu")


@pytest.fixture
def folder(contents, tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name, content in zip(("a.png", "b.png", "sub/c.png"), contents, strict=True):
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def parquet(contents, tmp_path):
    """Two files of six rows, in row groups of two."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    for number in range(2):
        rows = [
            {
                "image": {"bytes": contents[row % 3], "path": f"{row}.png"},
                "text": ["a tree", "the red mug"][: 1 + row % 2],
            }
            for row in range(6)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"rows-{number}.parquet", row_group_size=2)
    return folder


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def shard(contents, tmp_path):
    path = tmp_path / "shard-000.tar"
    with tarfile.open(path, "w") as archive:
        for number, content in enumerate(contents):
            add(archive, f"{number:03d}.png", content)
            add(archive, f"{number:03d}.txt", b"a tree\n")
            add(archive, f"{number:03d}.json", json.dumps({"captions": ["the red mug", "a fish"]}).encode())
    return path


def read(source):
    return [row for partition in source.partitions for row in source.read(partition)]


def labels_of(output):
    return [row for path in sorted((output / "labels").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def failed(rows):
    return [(row["file_name"], row["label"], row["error"]) for row in rows if row["error"]]


# Sources


def test_a_folder_and_fixed_expressions(folder, contents):
    (folder / "notes.txt").write_text("no image")
    source = find_source(folder, ["a tree", "a mug"], partition_rows=2)

    assert len(source.partitions) == 2
    assert read(source) == [
        Row(name, content, ("a tree", "a mug"))
        for name, content in zip(("a.png", "b.png", "sub/c.png"), contents, strict=True)
    ]


def test_a_folder_and_expressions_of_each_image(folder, contents):
    (folder.parent / "outside.png").write_bytes(contents[0])
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    names = ["b.png", "none.png", "../outside.png", str(folder.parent / "outside.png"), "link.png"]
    rows = read(find_source(folder, entries=[FolderEntry(name, ["a tree"]) for name in names]))

    assert [row.name for row in rows] == names
    assert rows[0].image == contents[1]
    assert "FileNotFoundError" in rows[1].error
    assert all("leads out of the folder" in row.error for row in rows[2:])


def test_partitions_of_other_sizes_are_another_source(folder):
    entries = [FolderEntry(f"{number}.png", ["a tree"]) for number in range(10)]
    fingerprints = {find_source(folder, entries=entries, partition_rows=size).fingerprint for size in (6, 7, 8, 6)}

    assert len(fingerprints) == 3


def test_a_folder_elsewhere(folder, contents):
    memory = fsspec.filesystem("memory")
    try:
        memory.put(f"{folder}/", "/photos/", recursive=True)
        rows = read(find_source("memory://photos", ["a tree"]))
        assert rows == [
            Row(name, content, ("a tree",))
            for name, content in zip(("a.png", "b.png", "sub/c.png"), contents, strict=True)
        ]
        entries = [FolderEntry("./a.png", ["a tree"]), FolderEntry("../b.png", ["a tree"])]
        assert [row.error is None for row in read(find_source("memory://photos", entries=entries))] == [True, False]
    finally:
        memory.rm("/photos", recursive=True)


def test_files_that_are_too_large(folder, shard, monkeypatch):
    for module in (files, sources):
        monkeypatch.setattr(module, "MAX_DOWNLOAD_BYTES", 100)

    assert all("holds more than" in row.error for row in read(find_source(folder, ["a tree"])))
    assert all("holds more than" in row.error for row in read(find_source(shard)))


def test_parquet_files_in_partitions_of_row_groups(parquet):
    source = find_source(parquet, partition_rows=3)
    rows = read(source)

    assert [(part.name, part.start, part.stop, part.first) for part in source.partitions[:2]] == [
        ("rows-0.parquet", 0, 2, 0),
        ("rows-0.parquet", 2, 3, 4),
    ]
    assert [row.name for row in rows] == [f"rows-{file}.parquet/{row}" for file in range(2) for row in range(6)]
    assert [row.text for row in rows[:2]] == [["a tree"], ["a tree", "the red mug"]]
    assert rows == read(find_source(str(parquet / "rows-*.parquet"), partition_rows=100))
    assert rows == read(find_source(str(parquet / "rows-{0..1}.parquet")))


def test_parquet_with_paths_and_refcocos_expressions(folder, tmp_path, contents):
    expressions = [{"raw": "A tree.", "sent": "a tree"}, {"raw": "Mug", "sent": ""}]
    rows = [{"photo": name, "expressions": expressions} for name in ("a.png", "../a.png", "none.png", None)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    found = read(find_source(folder / "rows.parquet", image_column="photo", text_column="expressions"))

    assert found[0] == Row("rows.parquet/0", contents[0], ["a tree", "Mug"])
    assert "leads out" in found[1].error
    assert "FileNotFoundError" in found[2].error
    assert "no image" in found[3].error


def test_shards(shard, contents):
    rows = read(find_source(shard))

    assert rows == [Row(f"shard-000.tar/{number:03d}", contents[number], ["a tree"]) for number in range(3)]
    assert [row.text for row in read(find_source(shard, text_column="captions"))] == [["the red mug", "a fish"]] * 3
    assert [row.text for row in read(find_source(shard, ["a star"]))] == [["a star"]] * 3


def test_shards_that_are_compressed(contents, tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        add(archive, "x/1.left.png", contents[0])

    assert [
        (row.name, row.error) for row in read(find_source(tmp_path / "a.tar.gz", ["a tree"], image_column="left.png"))
    ] == [("a.tar.gz/x/1", None)]


@pytest.mark.parametrize("cut", [100, 512, 1000, 1024 + 512, 4000, 5000])
def test_a_shard_that_is_cut_off_anywhere_says_so(cut, shard):
    whole = read(find_source(shard))
    content = shard.read_bytes()
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512
    shard.write_bytes(content[: end - cut])
    rows = read(find_source(shard))

    assert "cut off" in rows[-1].error
    assert rows[:-1] == whole[: len(rows) - 1]


def test_a_shard_with_a_damaged_header_says_so(shard):
    content = bytearray(shard.read_bytes())
    place = content.index(b"001.png")
    content[place : place + 100] = b"?" * 100
    shard.write_bytes(content)
    rows = read(find_source(shard))

    assert [row.error is None for row in rows] == [False]  # the key before it is not known to be whole
    assert "after '000.json'" in rows[0].error


def test_drawn_scenes():
    source = find_source("refshapes", split="val", num_rows=5, partition_rows=2)
    rows = read(source)

    assert source.partitions == [(0, 2), (2, 4), (4, 5)]
    assert [row.name for row in rows] == [f"refshapes_val_{number:09d}.png" for number in range(5)]
    assert all(row.text and row.image.size == (320, 320) for row in rows)


# In a process of its own, since libraries read where the Hub is when they are imported.
BY_IDS = """
from hf_ris.labelling import ModelChoice, Workers, find_source, label

source = find_source("me/rows", partition_rows=4)
rows = [row for partition in source.partitions for row in source.read(partition)]
print([row.text for row in rows[:2]])
assert rows == [
    row for part in find_source("hf://datasets/me/rows/data/*.parquet").partitions for row in source.read(part)
]
for options in ({"split": "testA"}, {"text_column": "caption"}):
    try:
        find_source("me/rows", **options)
    except ValueError as error:
        print(error)
label(source, "out", ModelChoice("you/model", device="cpu"), workers=Workers(0, 0))
"""


def test_a_dataset_and_a_model_of_the_hub(hub, parquet, model_folder, tmp_path):
    (hub.root / "datasets" / "me" / "rows" / "data").mkdir(parents=True)
    file = hub.root / "datasets" / "me" / "rows" / "data" / "train-00000-of-00001.parquet"
    file.write_bytes((parquet / "rows-0.parquet").read_bytes())
    shutil.copytree(model_folder, hub.root / "you" / "model")
    environment = {**os.environ, **endpoint(hub, tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BY_IDS], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    texts, split, column = done.stdout.splitlines()[-3:]
    assert texts == "[['a tree'], ['a tree', 'the red mug']]"
    assert split == "`split` must be one of ['train'], the splits of 'me/rows', got 'testA'."
    assert column.startswith("`text_column` must be one of ['image', 'text'], the columns of 'hf://datasets/me/rows@")
    assert {(row["model"], row["revision"]) for row in labels_of(tmp_path / "out")} == {("you/model", COMMIT)}


def test_a_dataset_of_another_kind_is_streamed(folder, contents, tmp_path, monkeypatch):
    (folder / "metadata.csv").write_text("file_name,text\na.png,a tree\nb.png,a mug\n")
    (folder / "sub" / "c.png").unlink()
    rows = read(_dataset(str(folder), "train", None, None, 10, Columns()))

    assert sorted((row.image, tuple(row.text)) for row in rows) == sorted(
        [(contents[0], ("a tree",)), (contents[1], ("a mug",))]
    )
    with pytest.raises(ValueError, match="`image_column` must be one of \\['image', 'text'\\]"):
        _dataset(str(folder), "train", None, None, 10, Columns("photo"))


def test_a_dataset_of_addresses_is_streamed(tmp_path):
    """Features of JSON lines are not known before they are read; images are addresses, of which one names a file here."""
    (tmp_path / "rows").mkdir()
    addresses = ["https://host/a.png", "a.png", "file:///etc/hostname", None]
    lines = [json.dumps({"photo": each, "text": "a tree"}) for each in addresses]
    (tmp_path / "rows" / "train.jsonl").write_text("\n".join(lines))
    rows = read(_dataset(str(tmp_path / "rows"), "train", None, None, 10, Columns("photo")))

    assert rows[0].image == addresses[0]
    assert [row.error is None for row in rows] == [True, False, False, False]
    assert "a file of this machine" in rows[2].error


def test_files_of_a_shard_that_belong_to_no_row_or_occur_twice(contents, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "README", b"about")
        for name in ("./x/._1.jpg", "./x/1.JPG", "./x/._1.txt"):
            add(archive, name, contents[0])
        add(archive, "./x/1.txt", b"a tree")
        for number in range(2):
            add(archive, "2.jpg", contents[number])
            add(archive, "2.txt", b"a tree")
    rows = read(find_source(tmp_path / "a.tar"))

    assert rows[0] == Row("a.tar/x/1", contents[0], ["a tree"])
    assert [(row.name, row.error) for row in rows[1:]] == [("a.tar/2", "it has several files .txt")]


@pytest.mark.parametrize("name", ["ph [1]", "q?", "star*", "a{b,c}", "x{1}", "100%#"])
def test_folders_with_signs_in_their_names_and_links(name, contents, choice, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "a.png").write_bytes(contents[0])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.png").write_bytes(contents[1])
    (folder / "link.png").symlink_to(folder / "a.png")
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    source = find_source(folder, ["a tree"])

    assert [(row.name, row.image) for row in read(source)] == [
        ("a.png", contents[0]),
        ("link.png", contents[0]),
        ("sub/b.png", contents[1]),
    ]
    (tmp_path / f"{name}-out").mkdir()
    assert label(source, tmp_path / f"{name}-out", choice, workers=HERE, format="dataset").failed == 0
    load_labels(tmp_path / f"{name}-out")


def test_images_by_a_pattern(folder, contents):
    assert [row.name for row in read(find_source(f"{folder}/*.png", ["a tree"]))] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere/images", {}, "`source` must be a folder, files, the id of a dataset"),
        ("{tmp}/empty", {}, "which holds none of these"),
        ("{tmp}/none-*", {}, "there is none"),
        ("{tmp}/mixed", {"expressions": ["a"]}, "which holds images and Parquet files; name those"),
        ("{tmp}/rowless.parquet", {}, "which holds none"),
        ("{tmp}/parquet", {"entries": []}, "must hold images"),
        (
            "{tmp}/parquet/rows-0.parquet",
            {"entries": [FolderEntry("a", ["a"])]},
            "must be a folder where a file names",
        ),
        ("{tmp}/parquet", {"subset": "en"}, "`subset` must be left out"),
        ("{tmp}/images", {"expressions": [" "]}, "`expressions"),
        ("{tmp}/text", {"expressions": ["a"]}, "`source` must hold images, Parquet files or shards"),
        ("{tmp}/images", {}, "`expressions` must be given for images"),
        ("{tmp}/images", {"num_rows": 3}, "`num_rows` must be left out"),
        ("{tmp}/parquet", {"text_column": "caption"}, "`text_column` must be one of \\['image', 'text'\\]"),
        ("{tmp}/damaged.parquet", {}, "cannot be read as a Parquet file"),
        ("{tmp}/images", {"expressions": ["a"], "entries": []}, "`expressions` must be texts or a file"),
        ("refshapes", {}, "`num_rows` must be the number of scenes"),
        ("s3x://bucket/x", {}, "`source` 's3x://bucket/x' cannot be read"),
    ],
)
def test_sources_that_are_none(source, options, message, folder, parquet, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 damaged")
    shutil.copytree(folder, tmp_path / "mixed")
    shutil.copy(parquet / "rows-0.parquet", tmp_path / "mixed")
    pq.write_table(pq.read_table(parquet / "rows-0.parquet").slice(0, 0), tmp_path / "rowless.parquet")
    with pytest.raises(ValueError, match=message):
        find_source(source.replace("{tmp}", str(tmp_path)), **options)


# Answers


def test_answers_are_those_of_the_pipeline(ris, folder, choice, tmp_path):
    summary = label(
        find_source(folder, ["a tree", "the red mug"]), tmp_path / "out", choice, workers=HERE, batch_size=2
    )
    rows = labels_of(tmp_path / "out")

    assert (summary.rows, summary.failed, summary.new_rows) == (6, 0, 6)
    assert [(row["file_name"], row["label"]) for row in rows] == [
        (name, text) for name in ("a.png", "b.png", "sub/c.png") for text in ("a tree", "the red mug")
    ]
    for row in rows:
        expected = ris(folder / row["file_name"], text=row["label"], output_format="rle")
        assert row["mask"] == expected["mask"]
        assert row["box"] == expected["box"]
        assert row["score"] == pytest.approx(expected["score"], abs=1e-5)
        assert row["model"] == choice.model


def test_what_is_unfit_stands_in_its_rows(ris, contents):
    rows = [
        Row("broken", b"no image", ["a tree", "a mug"]),
        Row("whole", contents[0], ["a tree", " ", "a mug"]),
        Row("without text", contents[0]),
        Row("without image", text=["a tree"], error="it has no image"),
        Row("without both", error="it has no image"),
        Row("nothing", contents[0], [None, 3]),
    ]
    answers = [
        [(line["label"], "error" in line) for line in lines] for _, lines in answer_rows(ris, rows, batch_size=2)
    ]

    assert answers == [
        [("a tree", True), ("a mug", True)],
        [("a tree", False), (" ", True), ("a mug", False)],
        [(None, True)],
        [("a tree", True)],
        [(None, True)],
        [(None, True), ("3", True)],
    ]


def test_failed_rows_are_kept_with_their_reason_and_tried_again(folder, choice, contents, tmp_path):
    entries = [
        FolderEntry("a.png", ["a tree"]),
        FolderEntry("late\udce9.png", ["a tree"]),
        FolderEntry("b.png", [" "]),
    ]
    source = find_source(folder, entries=entries, partition_rows=1)
    summary = label(source, tmp_path / "out", choice, workers=HERE)
    first = labels_of(tmp_path / "out")

    assert (summary.rows, summary.failed) == (3, 2)
    assert [(name, text) for name, text, _ in failed(first)] == [("late\\udce9.png", "a tree"), ("b.png", " ")]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "labels").iterdir()}
    assert label(source, tmp_path / "out", choice, workers=HERE).new_rows == 0
    (folder / "late\udce9.png").write_bytes(
        contents[0]
    )  # as after a connection was down; the source is found only once
    summary = label(source, tmp_path / "out", choice, workers=HERE, retry_failed=True)
    assert (summary.rows, summary.failed, summary.new_rows) == (3, 1, 2)
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "labels").iterdir()}
    assert [written[path] == again[path] for path in sorted(again)] == [True, False, False]


def test_a_dataset_holds_the_images(folder, choice, contents, tmp_path):
    (folder / "broken.png").write_bytes(b"no image")
    label(find_source(folder, ["a tree", "a mug"]), tmp_path / "out", choice, workers=HERE, format="dataset")
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")

    assert [row["image"] is None for row in rows] == [False] * 4 + [True] * 2 + [False] * 2
    np.testing.assert_array_equal(np.asarray(rows[0]["image"]), np.asarray(Image.open(io.BytesIO(contents[0]))))


def test_coco_json_is_what_pycocotools_loads(folder, choice, contents, tmp_path, capsys):
    (folder / "broken.png").write_bytes(b"no image")
    label(
        find_source(folder, ["a tree", "a mug"], partition_rows=2),
        tmp_path / "out",
        choice,
        workers=HERE,
        format="coco",
    )
    coco = COCO(tmp_path / "out" / "instances.json")
    rows = [row for row in labels_of(tmp_path / "out") if row["box"]]

    assert [each["file_name"] for each in coco.loadImgs(coco.getImgIds())] == ["a.png", "b.png", "sub/c.png"]
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == ["a tree", "a mug"]
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) == len(rows) > 0
    for annotation, row in zip(annotations, rows, strict=True):
        image = coco.loadImgs(annotation["image_id"])[0]
        mask = coco.annToMask(annotation)
        assert (image["file_name"], mask.shape) == (row["file_name"], (image["height"], image["width"]))
        assert mask.sum() == annotation["area"]
        box = row["box"]
        assert annotation["bbox"] == [box["xmin"], box["ymin"], box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]]
        assert annotation["label"] == row["label"] == coco.loadCats(annotation["category_id"])[0]["name"]


# Runs that are stopped, and outputs of other runs

RUN = """
import sys, time
from hf_ris.labelling import ModelChoice, Workers, find_source, label
label(
    find_source(sys.argv[1], partition_rows=2),
    sys.argv[2],
    ModelChoice(sys.argv[3], device="cpu"),
    workers=Workers(int(sys.argv[4]), int(sys.argv[4])),
    progress=lambda counts: (print("partition", flush=True), time.sleep(0.3)),
)
"""


def start(source, output, choice, workers=0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(source), str(output), choice.model, str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def test_killed_anywhere_it_ends_with_the_same_rows_and_no_partition_is_done_twice(parquet, choice, tmp_path):
    source = find_source(parquet, partition_rows=2)
    label(source, tmp_path / "whole", choice, workers=HERE)
    process = start(parquet, tmp_path / "out", choice)
    assert process.stdout.readline() == "partition\n"
    assert process.stdout.readline() == "partition\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (tmp_path / "out" / "labels" / ".00005-of-00006.parquet-0123456789ab").write_bytes(b"cut off")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "labels").glob("0*")}
    summary = label(source, tmp_path / "out", choice, workers=HERE)

    assert 2 <= len(before) < 6
    assert summary.rows == 18
    assert labels_of(tmp_path / "out") == labels_of(tmp_path / "whole")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "labels").iterdir()}
    assert len(after) == 6
    assert {name: after[name] for name in before} == before


def test_an_output_of_another_run_is_refused(parquet, choice, tmp_path, model_folder, monkeypatch):
    label(find_source(parquet), tmp_path / "out", choice, workers=HERE)

    def refused(match, source=None, output="out", **options):
        with pytest.raises(ValueError, match=match):
            label(
                source or find_source(parquet),
                tmp_path / output,
                options.pop("choice", choice),
                workers=HERE,
                **options,
            )

    refused("batch_size=8, not 4", batch_size=4)
    refused("with_images=False, not True", format="dataset")
    refused("partitions=2, not 6", find_source(parquet, partition_rows=2))
    refused("threshold", choice=ModelChoice(choice.model, device="cpu", options={"threshold": 0.4}))
    refused("weights|dtype|configuration", choice=ModelChoice(choice.model, device="cpu", dtype="float16"))
    os.utime(parquet / "rows-1.parquet", ns=(1, 1))
    refused("source_fingerprint")
    (tmp_path / "other" / "labels").mkdir(parents=True)
    (tmp_path / "other" / "labels" / "00000-of-00001.parquet").write_bytes(b"")
    refused("unknown origin", output="other")


def test_a_damaged_partition_is_named(parquet, choice, tmp_path):
    source = find_source(parquet)
    label(source, tmp_path / "out", choice, workers=HERE)
    (tmp_path / "out" / "labels" / "00001-of-00002.parquet").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"00001-of-00002\.parquet is damaged"):
        label(source, tmp_path / "out", choice, workers=HERE)


def test_rows_that_cannot_be_read_any_more_are_named(parquet, choice, tmp_path):
    source = find_source(parquet, partition_rows=2)
    content = bytearray((parquet / "rows-0.parquet").read_bytes())
    second = pq.read_metadata(parquet / "rows-0.parquet").row_group(1).column(0).data_page_offset
    content[second : second + 40] = b"\xff" * 40
    (parquet / "rows-0.parquet").write_bytes(content)
    label(source, tmp_path / "out", choice, workers=HERE)

    [(name, text, error)] = failed(labels_of(tmp_path / "out"))
    assert (name, text) == ("rows-0.parquet", None)
    assert "rows from 2 on cannot be read" in error


def test_the_output_may_lie_elsewhere(parquet, choice, tmp_path):
    label(find_source(parquet), tmp_path / "out", choice, workers=HERE)
    label(find_source(parquet), "memory://labels", choice, workers=HERE)
    memory = fsspec.filesystem("memory")
    try:
        assert label(find_source(parquet), "memory://labels", choice, workers=HERE).new_rows == 0
        for path in (tmp_path / "out" / "labels").iterdir():
            assert pq.read_table(memory.open(f"/labels/labels/{path.name}")).equals(pq.read_table(path))
    finally:
        memory.rm("/labels", recursive=True)


# Ray


@dataclass(frozen=True)
class DeadlyReader:
    """Ends its process so many times before it reads the third partition."""

    source: Source
    folder: Path
    times: int

    def __call__(self, partition):
        deaths = len(list(self.folder.iterdir()))
        if partition == self.source.partitions[2] and deaths < self.times:
            (self.folder / str(deaths)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.source.read(partition)


@pytest.fixture
def ray_here():
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no other process can import this file
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def deadly(source, folder, times):
    folder.mkdir()
    return replace(source, read=DeadlyReader(source, folder, times))


def test_a_worker_gives_the_same_rows(parquet, choice, tmp_path, ray_here):
    source = find_source(parquet, partition_rows=2)
    label(source, tmp_path / "here", choice, workers=HERE)
    label(source, tmp_path / "ray", choice, workers=Workers(1, 1))

    assert labels_of(tmp_path / "ray") == labels_of(tmp_path / "here")


@pytest.mark.slow
def test_three_workers_give_the_same_rows_also_when_one_dies(parquet, choice, tmp_path, ray_here):
    source = find_source(parquet, partition_rows=2)
    label(source, tmp_path / "one", choice, workers=Workers(1, 1))
    label(deadly(source, tmp_path / "deaths", 1), tmp_path / "three", choice, workers=Workers(3, 3))

    assert len(list((tmp_path / "deaths").iterdir())) == 1
    assert labels_of(tmp_path / "one") == labels_of(tmp_path / "three")


@pytest.mark.slow
def test_a_partition_that_workers_die_of_does_not_keep_the_others(parquet, choice, tmp_path, ray_here):
    source = find_source(parquet, partition_rows=2)
    with pytest.raises(
        ValueError, match=r"Of 6 partitions 1 cannot be labelled.*rows-0\.parquet.*All others are written"
    ):
        label(deadly(source, tmp_path / "deaths", 100), tmp_path / "out", choice, workers=Workers(2, 2))
    assert len(list((tmp_path / "deaths").iterdir())) == ATTEMPTS
    assert len(list((tmp_path / "out" / "labels").glob("0*"))) == 5
    assert label(source, tmp_path / "out", choice, workers=HERE).new_rows == 3


def test_a_worker_leaves_what_is_written(parquet, choice, tmp_path):
    """Ray hands out several partitions together, and all of them again when their worker dies."""
    source = find_source(parquet, partition_rows=2)
    label(source, tmp_path / "whole", choice, workers=HERE)
    folder = LabelFolder(tmp_path / "out", 6, with_images=False)
    folder.claim({})
    described = {"model": choice.model, "revision": None, "weights": weights_fingerprint(choice.load().model)}
    worker = _Worker(Job(source.read, folder, choice, described, 8, None), cores=1)
    before = {}
    for numbers in ([0], [0, 1], [0, 1, 2]):
        batch = {"partition": [pickle.dumps((number, source.partitions[number])) for number in numbers]}
        answers = [pickle.loads(each) for each in worker(batch)["answer"]]
        assert answers == [{"number": number, "rows": 3, "failed": 0} for number in numbers]
        after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "labels").iterdir()}
        assert {name: after[name] for name in before} == before
        before = after
    assert labels_of(tmp_path / "out") == labels_of(tmp_path / "whole")[:9]


def test_text_that_is_none(contents, choice, tmp_path):
    """A class's number, and several expressions as `datasets` stores a sequence of dictionaries."""
    rows = {
        "image": [{"bytes": contents[0]}] * 2,
        "number": [3, None],
        "text": [{"sent": ["a tree", ""], "raw": ["A", "B"]}] * 2,
    }
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    label(find_source(tmp_path / "rows.parquet", text_column="number"), tmp_path / "numbers", choice, workers=HERE)
    source = find_source(tmp_path / "rows.parquet")

    errors = [(row["label"], row["error"]) for row in labels_of(tmp_path / "numbers")]
    assert errors == [("3", "an expression must be text, got int"), (None, "it has no text")]
    assert [row.text for row in read(source)] == [["a tree", ""]] * 2


def test_many_expressions_of_an_image_are_asked_in_parts(ris, images, monkeypatch):
    monkeypatch.setattr(rows_module, "EXPRESSIONS_AT_ONCE", 2)
    texts = ["a tree", " ", "the red mug", "a fish", "the star"]
    rows = [Row("a", images[0], texts), Row("b", "no image", texts), Row("c", images[1], ["a tree"])]
    found = list(answer_rows(ris, rows, batch_size=2))

    assert [[line["label"] for line in lines] for _, lines in found] == [texts, texts, ["a tree"]]
    assert ["error" in line for line in found[0][1]] == [False, True, False, False, False]
    assert all("error" in line for line in found[1][1])
    for line in (found[0][1][3], found[0][1][4], found[2][1][0]):
        image = images[1] if line is found[2][1][0] else images[0]
        assert line["mask"] == ris(image, text=line["label"], output_format="rle")["mask"]


def test_names_that_are_no_unicode_go_into_a_dataset(folder, choice):
    (folder / "a.png").rename(folder / "\udcff.png")
    label(find_source(folder, ["a tree"]), folder.parent / "out", choice, workers=HERE, format="dataset")

    assert "\\udcff.png" in [row["file_name"] for row in labels_of(folder.parent / "out")]


def test_an_output_in_its_source_is_refused(folder, choice):
    with pytest.raises(ValueError, match="must not lie in the source"):
        label(find_source(folder, ["a tree"]), folder / "labels", choice, workers=HERE)


def test_images_are_written_as_they_come(parquet, choice, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "BYTES_AT_ONCE", 1)
    label(find_source(parquet), tmp_path / "small", choice, workers=HERE, format="dataset")
    monkeypatch.undo()
    label(find_source(parquet), tmp_path / "large", choice, workers=HERE, format="dataset")

    assert labels_of(tmp_path / "small") == labels_of(tmp_path / "large")


def test_two_runs_at_once_are_refused(parquet, choice, tmp_path):
    with LabelFolder(tmp_path / "out", 2, with_images=False).hold(), pytest.raises(ValueError, match="another run"):
        label(find_source(parquet), tmp_path / "out", choice, workers=HERE)


@pytest.mark.slow
def test_errors_of_workers_are_those_of_one_process(parquet, choice, tmp_path, ray_here):
    with pytest.raises(ValueError, match="there is no folder '/nowhere'"):
        label(find_source(parquet), tmp_path / "out", ModelChoice("/nowhere"), workers=Workers(1, 1))
    with pytest.raises(ValueError, match="--device must name a device"):
        label(find_source(parquet), tmp_path / "out", replace(choice, device="cuda:99"), workers=Workers(1, 1))


@pytest.mark.slow
def test_workers_that_do_not_fit_the_machine_are_refused(parquet, choice, tmp_path):
    pytest.importorskip("ray")
    for workers in (Workers(1, 1, gpus=5), Workers(1, 1, cores=1000)):
        with pytest.raises(ValueError, match="`workers` must fit this machine"):
            label(find_source(parquet), tmp_path / "out", choice, workers=workers)


@pytest.mark.slow
def test_a_cluster_of_two_nodes(choice, tmp_path):
    """Started by the commands of the cluster's file, on two ports of this machine; one node is killed on the way."""
    pytest.importorskip("ray")
    source = find_source("refshapes", ["the red mug"], split="val", num_rows=60, partition_rows=3)
    label(source, tmp_path / "whole", choice, workers=HERE)
    cluster = yaml.safe_load((ROOT / "scripts" / "ray_cluster.yaml").read_text(encoding="utf-8"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    environment = {**os.environ, "RAY_HEAD_IP": "127.0.0.1", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}

    def start_node(kind):
        command = cluster[f"{kind}_start_ray_commands"][-1].replace("6379", port)
        command = command.replace("~/hf_ris/bin/ray", str(Path(sys.executable).with_name("ray")))
        command = re.sub(r" --autoscaling-config=\S+", "", command) + " --num-cpus=1 --block"
        with open(tmp_path / f"{kind}.log", "w") as log:
            return subprocess.Popen(
                command, shell=True, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    nodes = []
    try:
        for kind in ("head", "worker"):
            nodes.append(start_node(kind))
            wait_for(lambda: "Ray runtime started" in (tmp_path / f"{kind}.log").read_text(), nodes[-1])  # noqa: B023
        command = ["label", "refshapes", "--expressions", "the red mug", "--split", "val", "--num-rows", "60"]
        options = [
            "--partition-rows",
            "3",
            "--model",
            choice.model,
            "--device",
            "cpu",
            "--output",
            str(tmp_path / "out"),
        ]
        with open(tmp_path / "label.log", "w") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "hf_ris.cli",
                    *command,
                    *options,
                    "--address",
                    f"127.0.0.1:{port}",
                    "--workers",
                    "2",
                ],
                stderr=log,
                env={**environment, "RAY_AUTH_MODE": "token"},
            )
        wait_for(lambda: len(list((tmp_path / "out" / "labels").glob("0*"))) > 2, process)
        os.killpg(nodes[1].pid, signal.SIGKILL)
        assert process.wait(300) == 0, (tmp_path / "label.log").read_text()
    finally:
        for each in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()
    assert "Ray: nodes: 2, workers: 2" in (tmp_path / "label.log").read_text()
    assert labels_of(tmp_path / "out") == labels_of(tmp_path / "whole")


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None
        time.sleep(0.2)


def test_ray_that_is_not_installed(parquet, choice, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    notes = []

    assert label(find_source(parquet), tmp_path / "out", choice, note=notes.append).rows == 18
    assert any("Ray is not installed" in note for note in notes)
    with pytest.raises(ImportError, match=r"hf_ris\[scale\]"):
        label(find_source(parquet), tmp_path / "out", choice, workers=Workers(2, 2))


# From labels to training


def test_labels_are_rows_to_train_on(parquet, choice, tmp_path):
    label(find_source(parquet), tmp_path / "out", choice, workers=HERE, format="dataset")
    found = [row for row in labels_of(tmp_path / "out") if row["box"]]
    rows = load_labels(tmp_path / "out")

    assert rows.features == {**FEATURES, "score": datasets.Value("float64")}
    assert [(row["file_name"], row["mask"], row["expressions"][0]["sent"], row["score"]) for row in rows] == [
        (row["file_name"], row["mask"], row["label"], row["score"]) for row in found
    ]
    assert rows[0]["image"].size == (80, 60)
    middle = sorted(row["score"] for row in found)[len(found) // 2]
    assert load_labels(tmp_path / "out", middle)["score"] == [row["score"] for row in found if row["score"] >= middle]
    with pytest.raises(ValueError, match="no mask with a score of at least 1"):
        load_labels(tmp_path / "out", 1.0)


def test_training_on_labels(parquet, choice, tmp_path):
    label(find_source(parquet), tmp_path / "labels", choice, workers=HERE, format="dataset")
    arguments = ["train", "--dataset", "labels", "--root", str(tmp_path / "labels"), "--eval-split", "none"]
    options = ["--model", choice.model, "--output-dir", str(tmp_path / "out"), "--max-steps", "1", "--use-cpu"]
    result = CliRunner().invoke(
        app, [*arguments, "--min-score", "0.1", *options, "--per-device-train-batch-size", "2"]
    )

    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "model.safetensors").exists()
    for lacking, message in (
        (["--eval-split", "val"], "--eval-split must be none"),
        (["--dataset", "folder"], "--min-score"),
    ):
        result = CliRunner().invoke(app, [*arguments, *lacking, "--min-score", "0.1", *options])
        assert result.exit_code == 2
        assert message in result.output


def test_labels_without_images_are_none_to_train_on(parquet, choice, tmp_path):
    label(find_source(parquet), tmp_path / "out", choice, workers=HERE)
    with pytest.raises(ValueError, match="label with --format dataset"):
        load_labels(tmp_path / "out")
    with pytest.raises(ValueError, match="must be a folder that hf-ris label wrote"):
        load_labels(tmp_path)


# The command


def test_the_command(folder, choice, tmp_path):
    (folder / "broken.png").write_bytes(b"no image")
    arguments = ["label", str(folder), "--output", str(tmp_path / "out"), "--model", choice.model, "--workers", "0"]
    result = CliRunner().invoke(
        app, [*arguments, "--expressions", "a tree", "--expressions", "a mug", "--format", "coco"]
    )

    assert result.exit_code == 1
    assert "6 of 8 expressions labelled" in result.output
    assert "2 failed" in result.output
    (tmp_path / "table.csv").write_text("image,text\na.png,a tree\n")
    options = ["--output", str(tmp_path / "table"), "--expressions", str(tmp_path / "table.csv")]
    assert CliRunner().invoke(app, [*arguments, *options]).exit_code == 0
    assert [(row["file_name"], row["label"]) for row in labels_of(tmp_path / "table")] == [("a.png", "a tree")]
    for option, value, message in (
        ("--workers", "many", "--workers must be a number"),
        ("--workers", "3-1", "the smaller first"),
        ("--format", "csv", "--format must be one of"),
        ("--address", "10.0.0.1:6379", "must be left out without workers"),
    ):
        result = CliRunner().invoke(app, [*arguments, "--expressions", "a tree", option, value])
        assert (result.exit_code, message in result.output) == (2, True), result.output
