"""RefCOCO from its authors' files and from copies gives the same rows, and what is wrong with a copy is named."""

import json
import logging
import pickle
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from hf_ris.cli import app
from hf_ris.data import FEATURES, decode_mask, load_refcoco, load_refshapes
from hf_ris.data.check import PUBLISHED, check_refer
from hf_ris.data.export import export_parquet
from hf_ris.data.segmentation import encode_segmentations


PHOTOS = "images/mscoco/images/train2014"
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
OVERLAPPING = [20, 20, 40, 20, 40, 40, 20, 40]
HEIGHT, WIDTH = 60, 80


def box_mask(left, top, right, bottom) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def runs_of(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run-length code: background first, down the columns."""
    pixels = mask.flatten(order="F").astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], pixels, [0]])))
    return np.diff([0, *edges, *([pixels.size] if not pixels[-1] else [])]).tolist()


OBJECTS = {
    1: {"segmentation": [SQUARE], "bbox": [10.0, 10.0, 20.0, 20.0]},
    2: {"segmentation": [SQUARE, OVERLAPPING], "bbox": [10.0, 10.0, 30.0, 30.0]},
    3: {"segmentation": {"size": [HEIGHT, WIDTH], "counts": runs_of(box_mask(5, 5, 50, 20))}, "bbox": [5, 5, 45, 15]},
    4: {"segmentation": [[50, 40, 60, 40, 60, 50, 50, 50]], "bbox": [50.0, 40.0, 10.0, 10.0]},
}


def ref(number: int, ann_id, split: str, *texts: str, **more) -> dict:
    sentences = [
        {"sent_id": 10 * number + order, "raw": text.title(), "sent": text, "tokens": text.split()}
        for order, text in enumerate(texts)
    ]
    image_id = 1 if ann_id in (1, 2) else 2
    return {
        "ref_id": number,
        "ann_id": ann_id,
        "image_id": image_id,
        "category_id": 7,
        "split": split,
        "file_name": f"photo_{image_id}_{number}.jpg",
        "sentences": sentences,
        **more,
    }


REFS = [
    ref(1, 1, "train", "red mug", "mug on the left"),
    ref(2, 3, "train", "tree"),
    ref(3, 2, "train", "both squares"),
    ref(4, 4, "val", "small one"),
    ref(5, 1, "testA", "mug"),
    ref(6, 2, "testAB", "squares"),
]
NO_TARGET = {"no_target": True, "image_id": 1}
GREFS = [
    ref(1, [3, 4], "val", "tree and mug"),
    ref(2, [-1], "val", "the elephant", **NO_TARGET),
    ref(3, [1], "val", "mug", image_id=1),
]


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder in REFER's layout."""
    folder = tmp_path / "refer"
    (folder / PHOTOS).mkdir(parents=True)
    for number in (1, 2):
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / PHOTOS / f"photo_{number}.jpg")
    instances = {
        "images": [{"id": i, "file_name": f"photo_{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in (1, 2)],
        "annotations": [
            {"id": number, "image_id": 1 if number < 3 else 2, "category_id": 7, **each}
            for number, each in OBJECTS.items()
        ],
        "categories": [{"id": 7, "name": "thing"}],
    }
    for name in ("refcoco", "grefcoco"):
        (folder / name).mkdir()
        (folder / name / "instances.json").write_text(json.dumps(instances))
    write_refs(folder, REFS)
    (folder / "grefcoco" / "grefs(unc).json").write_text(json.dumps(GREFS))
    return folder


def write_refs(folder: Path, refs) -> None:
    (folder / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


def change_objects(root: Path, **changes) -> None:
    path = root / "refcoco" / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"][0].update(changes)
    path.write_text(json.dumps(content))


@pytest.fixture
def load(root, tmp_path):
    def load(split="train", name="refcoco", **options):
        options = {"root": root, "cache_dir": tmp_path / "cache", **options}
        return load_refcoco(name, split, **options)

    return load


def test_rows_of_the_authors_files(load):
    rows = load()

    assert rows.features == FEATURES == load_refshapes("refshapes", "val", num_rows=2).features
    assert rows["ref_id"][:] == [1, 3, 2], "the rows of an image stand together"
    first, both, tree = rows
    assert first["image"].size == (WIDTH, HEIGHT) and first["file_name"] == "photo_1.jpg"
    assert [e["sent"] for e in first["expressions"]] == ["red mug", "mug on the left"]
    assert first["expressions"][1] == {"sent_id": 11, "raw": "Mug On The Left", "sent": "mug on the left"}
    assert (first["category"], first["ann_ids"], first["image_id"], first["split"]) == ("thing", [1], 1, "train")
    np.testing.assert_array_equal(decode_mask(first["mask"]), box_mask(10, 10, 30, 30))
    np.testing.assert_array_equal(decode_mask(both["mask"]), box_mask(10, 10, 30, 30) | box_mask(20, 20, 40, 40))
    np.testing.assert_array_equal(decode_mask(tree["mask"]), box_mask(5, 5, 50, 20))
    assert (first["bbox"], first["area"]) == ([10, 10, 20, 20], 400)


def test_a_ref_may_belong_to_two_test_splits(load):
    assert load("testA")["ref_id"][:] == [5, 6]
    assert load("testB")["ref_id"][:] == [6]


def test_rows_of_several_objects_and_of_none(load):
    mug, nothing, pair = sorted(load("val", "grefcoco"), key=lambda row: -row["ref_id"])

    assert mug["ann_ids"] == [1]
    assert pair["ann_ids"] == [3, 4] and pair["category"] == "thing" and pair["bbox"] == [5, 5, 55, 45]
    np.testing.assert_array_equal(decode_mask(pair["mask"]), box_mask(5, 5, 50, 20) | box_mask(50, 40, 60, 50))
    assert (nothing["ann_ids"], nothing["area"], nothing["category"]) == ([], 0, "")


def test_streamed_and_shared_out_rows_are_the_same(load, tmp_path):
    cached = [row["ref_id"] for row in load()]

    streamed = load(streaming=True)
    for _ in range(2):
        assert [row["ref_id"] for row in streamed] == cached
    assert [row["ref_id"] for row in load(num_proc=2, cache_dir=tmp_path / "other")] == cached


def test_the_cache_notices_changed_files(load, root):
    load("val")
    change_objects(root, segmentation=[[0, 0, 4, 0, 4, 4, 0, 4]])
    write_refs(root, [ref(4, 1, "val", "corner")])

    assert load("val")[0]["area"] == 16


def as_jxu124(refs: list[dict]) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [
            {
                **{key: each[key] for key in ("ref_id", "ann_id", "image_id", "split", "sentences")},
                "raw_anns": json.dumps(OBJECTS[each["ann_id"]]),
                "image_path": f"coco/train2014/photo_{each['image_id']}.jpg",
                "bbox": [0.0, 0.0, 1.0, 1.0],
            }
            for each in refs
        ]
    )


def test_a_copy_without_photos(load, root, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    as_jxu124([each for each in REFS if each["split"] == "train"]).to_parquet(copy / "train.parquet")
    as_jxu124([each for each in REFS if each["split"] == "val"]).to_parquet(copy / "validation.parquet")

    for split in ("train", "val"):
        rows = load(split, root=copy, image_root=root)
        expected = load(split).remove_columns("category")
        assert rows.features == FEATURES
        assert rows.remove_columns("category").remove_columns("image")[:] == expected.remove_columns("image")[:]
        assert rows[0]["image"].size == (WIDTH, HEIGHT)
        streamed = list(load(split, root=copy, image_root=root, streaming=True))
        assert {row["ref_id"] for row in streamed} == set(rows["ref_id"])
        assert all(row["image"].size == (WIDTH, HEIGHT) for row in streamed)
    with pytest.raises(ValueError, match="image_root"):
        load("val", root=copy)
    with pytest.raises(ValueError, match="testB"):
        load("testB", root=copy, image_root=root)


def test_a_copy_with_photos_and_flat_polygons(load, root, tmp_path, caplog):
    copy = tmp_path / "copy"
    copy.mkdir()
    rows = [
        {
            "question_id": "17",
            "image": str(root / PHOTOS / "photo_1.jpg"),
            "answer": ["Red mug", "the left mug"],
            "segmentation": [float(number) for number in SQUARE],
            "bbox": [10.0, 10.0, 20.0, 20.0],
            "file_name": "COCO_train2014_000000000021_1.jpg",
        }
    ]
    dataset = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    embedded = dataset.cast_column("image", datasets.Image(decode=False)).map(
        lambda row: {"image": {"bytes": Path(row["image"]["path"]).read_bytes(), "path": None}}
    )
    for name in ("val", "testB"):
        embedded.cast_column("image", datasets.Image()).to_parquet(copy / f"{name}.parquet")
    (copy / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: val\n    path: val.parquet\n"
        "  - split: testB\n    path: testB.parquet\n---\n"
    )
    row = load("testB", root=copy)[0]

    assert (row["ref_id"], row["image_id"], row["ann_ids"], row["area"]) == (17, 21, [], 400)
    assert [e["sent"] for e in row["expressions"]] == ["red mug", "the left mug"]
    assert row["image"].size == (WIDTH, HEIGHT)
    assert "has 1 rows in testB, refcoco (unc) has 1,810 referents" in caplog.text


def test_exported_files_hold_the_photos(load, root, tmp_path):
    train, val = load(), load("val")
    export_parquet(train, tmp_path / "out", shard_size=1)
    export_parquet(val, tmp_path / "out")
    whole = val[0]["mask"]
    for mask, message in (
        ({**whole, "counts": whole["counts"] + "1"}, "its mask has"),
        ({"size": [3, 4], "counts": "<"}, "its mask is 3 x 4, its image 60 x 80"),
    ):
        damaged = val.map(lambda row, mask=mask: {"mask": mask})
        with pytest.raises(ValueError, match=rf"referent 4 of photo_2\.jpg: {message}"):
            export_parquet(damaged, tmp_path / "damaged")
    assert not (tmp_path / "damaged" / "val").exists()
    expected = [train[index]["image"].tobytes() for index in range(3)], train.remove_columns("image")[:]
    shutil.rmtree(root)

    assert len(list((tmp_path / "out" / "train").glob("*.parquet"))) == 3
    again = load("train", root=tmp_path / "out")
    assert ([again[index]["image"].tobytes() for index in range(3)], again.remove_columns("image")[:]) == expected
    plain = datasets.load_dataset(str(tmp_path / "out"), split="val", cache_dir=str(tmp_path / "plain"))
    assert plain.features == FEATURES and plain[0]["ref_id"] == 4
    with pytest.raises(ValueError, match="without the split 'val'"):
        export_parquet(val, tmp_path / "out")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"without a README\.md"):
        export_parquet(val, tmp_path / "own")


def test_check_counts_and_compares(root):
    counts = {(found.name, found.split): found for found in check_refer(root)}

    assert counts["refcoco", "train"].counts == {"referents": 3, "expressions": 4, "images": 2}
    assert counts["refcoco", "val"].differing == PUBLISHED["refcoco", "unc", "val"]
    assert counts["grefcoco", "val"].counts == {"referents": 3, "expressions": 3, "images": 2}
    assert not counts["grefcoco", "val"].differing, "nothing to compare with"

    (root / PHOTOS / "photo_2.jpg").unlink()
    done = CliRunner().invoke(app, ["data", "check", str(root)])
    assert done.exit_code == 1
    assert "published: 42,404 referents; 1 images are missing" in done.stdout
    assert "missing: photo_2.jpg" in done.stdout and "train2014.zip" in done.stderr

    done = CliRunner().invoke(app, ["data", "check", str(root / PHOTOS)])
    assert done.exit_code == 2 and "refs(unc).p" in done.stderr


class Evil:
    def __reduce__(self):
        return print, ("constructed",)


@pytest.mark.parametrize(
    "refs, message",
    [
        ([Evil()], r"refs\(unc\)\.p is damaged: it wants to construct .*print"),
        ([{**REFS[3], "sentences": []}], "referent 4 has no sentence"),
        ([{**REFS[3], "ann_id": 99}], "referent 4 names annotation 99"),
        ([{**REFS[3], "image_id": 99}], "referent 4 names image 99"),
        ([{key: value for key, value in REFS[3].items() if key != "sentences"}], "lacks 'sentences'"),
        ([], "no referent of the split 'val'"),
        ({}, "none of REFER's"),
    ],
)
def test_unfit_refs_are_named(refs, message, load, root, capsys):
    write_refs(root, refs)
    with pytest.raises(ValueError, match=message):
        load("val")
    assert "constructed" not in capsys.readouterr().out


def test_photos_that_went_after_a_split_was_cached_are_named(load, root):
    load()
    moved = root / "train2014"
    (root / PHOTOS).rename(moved)
    assert load()[0]["image"].size == (WIDTH, HEIGHT), "found where they are now"
    (moved / "photo_2.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 images are missing .*photo_2"):
        load()


def test_unreadable_photos_are_found_when_they_are_asked_about(load, root, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    whole = load()
    (root / PHOTOS / "photo_1.jpg").write_bytes(b"")
    for options in ({}, {"num_proc": 2}, {"streaming": True}):
        rows = load(cache_dir=tmp_path / f"other{len(options)}", **options)
        undecoded = rows.cast_column("image", datasets.Image(decode=False)).remove_columns("image")
        assert list(undecoded) == list(whole.remove_columns("image"))
    assert re.search(r"photo_1\.jpg cannot be read", caplog.text)

    copy = tmp_path / "copy"
    copy.mkdir()
    rows = as_jxu124([each for each in REFS if each["split"] == "train"])
    about = json.dumps({"height": HEIGHT, "width": WIDTH})
    rows.add_column("raw_image_info", [about] * len(rows)).to_parquet(copy / "train.parquet")
    assert load(root=copy, image_root=root)["mask"][:] == whole["mask"][:]
    rows.to_parquet(copy / "train.parquet")
    with pytest.raises(ValueError, match=r"photo_1\.jpg cannot be read"):  # its size is said nowhere
        load(root=copy, image_root=root)


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ([[1, 2, 3, 4]], "a polygon must have .* got 4 numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon must have .* got 7 numbers"),
        ([], "is empty"),
        ({"size": [3, 4], "counts": [12]}, "its mask is 3 x 4, its image 60 x 80"),
    ],
)
def test_unfit_masks_are_named(segmentation, message, load, root):
    change_objects(root, segmentation=segmentation)
    with pytest.raises(ValueError, match=rf"referent 5, annotation \[1\]: .*{message}"):
        load("testA")


def test_damaged_and_missing_files_are_named(load, root, tmp_path):
    (root / PHOTOS / "photo_1.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 images are missing from .*train2014: photo_1\.jpg"):
        load()
    path = root / "refcoco" / "instances.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"instances\.json is damaged"):
        load()
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(REFS)[:50])
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p is damaged"):
        load()
    path.unlink()
    with pytest.raises(ValueError, match=r"lacks refcoco/instances\.json"):
        load()
    with pytest.raises(ValueError, match="must hold the folder refcoco or Parquet"):
        load(root=tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"name": "refcocos"},
            r"`name` must be .*'refcoco', 'refcoco\+', 'refcocog', 'grefcoco', 'refclef'.* got 'refcocos'",
        ),
        ({"split": "test"}, "`split` must be .*'train', 'val', 'testA', 'testB'.* got 'test'"),
        ({"split_by": "umd"}, "`split_by` must be .*'unc', 'google'.* got 'umd'"),
    ],
)
def test_unknown_names_are_named(options, message, load):
    with pytest.raises(ValueError, match=message):
        load(**options)


def test_masks_agree_with_pycocotools():
    polygons = [[10.5, 3.2, 40.1, 8.8, 22.7, 50.3], [50, 10, 70, 12, 60, 30]]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, HEIGHT, WIDTH)))

    np.testing.assert_array_equal(decode_mask(encode_segmentations([polygons], HEIGHT, WIDTH)), expected)
    assert not decode_mask(encode_segmentations([], HEIGHT, WIDTH)).any()


def test_real_annotations(real_data, tmp_path):
    folder = real_data / "refcoco_micro"
    expected = {row["sent_id"]: row for row in map(json.loads, (folder / "rows.jsonl").open())}
    seen = 0
    for split in ("testA", "testB"):
        for row in load_refcoco("refcoco", split, folder / "refer", cache_dir=tmp_path):
            assert row["image"].size == tuple(row["mask"]["size"][::-1])
            for expression in row["expressions"]:
                fact = expected[expression["sent_id"]]
                assert fact["rle"] == row["mask"] and fact["expression"] == expression["raw"]
                assert (fact["bbox"], fact["area"], fact["category"]) == (row["bbox"], row["area"], row["category"])
                seen += 1
    assert seen == len(expected) == 44
