"""The datasets in the layouts that their authors, and the Hub's copies, ship them in: counts and masks are exact."""

import json
import pickle
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from hf_ris.cli import app
from hf_ris.data import FEATURES, decode_mask, load_image_folder, load_refcoco, load_refshapes
from hf_ris.data.check import check_refer


HEIGHT, WIDTH = 60, 80
COCO, SAIAPR = "images/mscoco/images/train2014", "images/saiapr_tc-12"


def box_mask(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def polygon(left: int, top: int, right: int, bottom: int) -> list[int]:
    return [left, top, right, top, right, bottom, left, bottom]


def code_of(mask: np.ndarray) -> dict:
    """Compressed run-length code as JSON holds it."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def ref(number: int, ann_id: int | list[int], split: str, *texts: str, image_id: int = 1, **more) -> dict:
    return {
        "ref_id": number,
        "ann_id": ann_id,
        "image_id": image_id,
        "split": split,
        "file_name": f"photo_{image_id}_{number}.jpg",
        "sentences": [
            {"sent_id": 10 * number + order, "raw": text.title(), "sent": text, "tokens": text.split()}
            for order, text in enumerate(texts)
        ],
        "sent_ids": [10 * number + order for order in range(len(texts))],
        **more,
    }


def annotation(number: int, segmentation, image_id: int = 1, **more) -> dict:
    box = [1.0, 2.0, 3.0, 4.0]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 7,
        "segmentation": segmentation,
        "bbox": box,
        "iscrowd": 0,
        **more,
    }


LEFT, RIGHT, STRIPE = box_mask(0, 0, 20, 60), box_mask(50, 10, 70, 30), box_mask(30, 0, 40, 60)
ANNOTATIONS = [
    annotation(1, [polygon(0, 0, 20, 60)]),
    annotation(2, [polygon(50, 10, 70, 30), [55, 12, 56, 13]]),  # a line of two points beside
    annotation(3, {"size": [HEIGHT, WIDTH], "counts": [1800, 600, 2400]}, iscrowd=1),
    annotation(4, [polygon(0, 0, 20, 60)], image_id=2),
]


def write_photos(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def write_annotations(folder: Path, refs_name: str, refs: list[dict], annotations=ANNOTATIONS, **file_names) -> None:
    """instances.json and a file of expressions, pickled or as JSON, as its name says."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [
        {
            "id": number,
            "file_name": file_names.get(f"photo_{number}", f"photo_{number}.jpg"),
            "height": HEIGHT,
            "width": WIDTH,
        }
        for number in (1, 2)
    ]
    categories = [{"id": 7, "name": "thing"}]
    (folder / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    as_json = refs_name.endswith(".json")
    (folder / refs_name).write_bytes(json.dumps(refs).encode() if as_json else pickle.dumps(refs, protocol=2))


@pytest.fixture
def root(tmp_path) -> Path:
    write_photos(tmp_path / "refer" / COCO, "photo_1.jpg", "photo_2.jpg")
    return tmp_path / "refer"


@pytest.fixture
def load(root, tmp_path):
    def load(name: str, split: str = "val", **options) -> datasets.Dataset:
        return load_refcoco(name, split, **{"root": root, "cache_dir": tmp_path / "cache", **options})

    return load


def masks(rows) -> dict[int, np.ndarray]:
    return {row["ref_id"]: decode_mask(row["mask"]) for row in rows}


def assert_masks(rows, **expected: np.ndarray) -> None:
    """`r3=mask` for the referent 3; there are no others."""
    found = masks(rows)
    assert {f"r{number}" for number in found} == set(expected)
    for number, mask in found.items():
        np.testing.assert_array_equal(mask, expected[f"r{number}"])


GREFS = [
    ref(1, [1, 2], "val", "both", "the two things", category_id=[7, 7], no_target=False),
    ref(2, [-1], "val", "the elephant", category_id=[-1], no_target=True),
    ref(3, [2], "val", category_id=[7], no_target=False),  # no sentence
    ref(4, [1, 3], "val", "thing and crowd", category_id=[7, 7], no_target=False),
    ref(5, [3], "val", "the crowd", category_id=[7], no_target=False),
    ref(7, [], "train", "no such thing", category_id=[], no_target=True),
    ref(6, [4], "train", "a thing", image_id=2, category_id=[7], no_target=False),
]


@pytest.mark.parametrize("name", ["grefs(unc).json", "grefs(unc).p"])
@pytest.mark.parametrize("flat", [False, True])
def test_grefcoco(name, flat, root, load, caplog):
    folder = root if flat else root / "grefcoco"
    write_annotations(folder, name, GREFS)
    rows = load("grefcoco")

    both = LEFT | RIGHT
    assert_masks(rows, r1=both, r2=np.zeros_like(both), r4=LEFT)
    by_id = {row["ref_id"]: row for row in rows}
    assert {number: row["ann_ids"] for number, row in by_id.items()} == {1: [1, 2], 2: [], 4: [1]}
    assert by_id[1]["area"] == both.sum() and [e["sent"] for e in by_id[1]["expressions"]] == [
        "both",
        "the two things",
    ]
    assert f"{name}: 2 of 5 referents of val are left out" in caplog.text
    assert_masks(load("grefcoco", "train"), r6=LEFT, r7=np.zeros_like(both))

    counts = {found.split: found for found in check_refer(root)}
    assert counts["val"].counts == {"referents": 3, "expressions": 4, "images": 1} and counts["val"].left_out == 2
    assert counts["train"].left_out == 0
    told = CliRunner().invoke(app, ["data", "check", str(root)]).stdout
    assert re.search(r"grefcoco \(unc\) +val +3 +4 +1  2 more are left out\n", told)


def test_the_pickle_is_taken_where_there_is_json_too(root, load):
    """As gRefCOCO's own reader does."""
    write_annotations(root / "grefcoco", "grefs(unc).json", GREFS[:1])
    write_annotations(root / "grefcoco", "grefs(unc).p", GREFS[1:2])
    assert load("grefcoco")["ref_id"][:] == [2]


def test_crowds_outside_of_grefcoco_are_read(root, load):
    write_annotations(root / "refcoco", "refs(unc).p", [ref(1, 3, "val", "the crowd")])
    assert_masks(load("refcoco"), r1=STRIPE)


def test_refcoco_by_google(root, load):
    write_annotations(root / "refcoco", "refs(unc).p", [ref(1, 1, "val", "left")])
    write_annotations(
        root / "refcoco", "refs(google).p", [ref(2, 2, "val", "right"), ref(3, 4, "test", "it", image_id=2)]
    )

    assert_masks(load("refcoco"), r1=LEFT)
    assert_masks(load("refcoco", split_by="google"), r2=RIGHT)
    assert_masks(load("refcoco", "test", split_by="google"), r3=LEFT)
    with pytest.raises(
        ValueError, match=r"`split` must be one of \['train', 'val', 'test'\] for refcoco by google, got 'testA'"
    ):
        load("refcoco", "testA", split_by="google")
    counted = {(found.split_by, found.split): found.counts["referents"] for found in check_refer(root)}
    assert counted["google", "test"] == 1 and counted["google", "val"] == 1 and counted["unc", "testB"] == 0


def test_expressions_may_be_json(root, load):
    write_annotations(root / "refcoco+", "refs(unc).json", [ref(1, 1, "val", "left")])
    assert_masks(load("refcoco+"), r1=LEFT)
    with pytest.raises(
        ValueError, match=r"lacks refcoco\+/refs\(unc\).p or refs\(unc\).json and refcoco\+/instances.json"
    ):
        (root / "refcoco+" / "refs(unc).json").unlink()
        (root / "refcoco+" / "instances.json").unlink()
        load("refcoco+")


@pytest.mark.parametrize("photo", ["photo_1.jpg", "00/images/photo_1.jpg"])
def test_refclef(photo, root, load):
    """Its masks are lists of run-length codes, its photos those of SAIAPR TC-12."""
    write_photos(root / SAIAPR, photo)
    annotations = [annotation(1, [code_of(LEFT)]), annotation(2, [code_of(STRIPE), code_of(RIGHT)])]
    refs = [ref(1, 1, "testA", "left"), ref(2, 2, "testBC", "two stripes"), ref(3, 1, "val", "left one")]
    write_annotations(root / "refclef", "refs(unc).p", refs, annotations, photo_1=photo)
    write_annotations(root / "refclef", "refs(berkeley).p", [ref(9, 2, "test", "two")], annotations, photo_1=photo)

    assert_masks(load("refclef", "testA"), r1=LEFT)
    assert_masks(load("refclef", "testB"), r2=STRIPE | RIGHT)
    (row,) = load("refclef", "testC")
    assert row["ref_id"] == 2 and row["file_name"] == photo and row["image"].size == (WIDTH, HEIGHT)
    assert_masks(load("refclef", "test", split_by="berkeley"), r9=STRIPE | RIGHT)
    assert_masks(load("refclef", "val", root=root / "refclef"), r3=LEFT)
    assert_masks(load("refclef", "val", image_root=root / SAIAPR), r3=LEFT)
    assert not any(found.missing for found in check_refer(root))
    (root / SAIAPR / photo).unlink()
    with pytest.raises(ValueError, match=f"1 of 1 images are missing from .*: {photo}"):
        load("refclef", "testA")


def test_the_root_may_be_the_datasets_own_folder(root, load, tmp_path):
    write_annotations(root / "refcoco+", "refs(unc).p", [ref(1, 1, "val", "left")])
    own = root / "refcoco+"
    assert_masks(load("refcoco+", root=own), r1=LEFT)
    assert load("refcoco+", root=own)[0]["image"].size == (WIDTH, HEIGHT), "photos beside it are found"
    assert [found.counts["referents"] for found in check_refer(own)] == [0, 1, 0, 0]
    for name in ("refcoco", "refclef"):
        with pytest.raises(ValueError, match=rf"`root` must be the folder of {name}, got refcoco\+'s"):
            load(name, root=own)

    own.rename(root / "annotations")
    write_photos(root / "annotations", "photo_1.jpg")
    assert_masks(load("refcoco+", root=root / "annotations"), r1=LEFT)
    with pytest.raises(
        ValueError, match=r"must hold the folder refcocog or .* or be that folder, with refs\(umd\).p or"
    ):
        load("refcocog", root=root / "annotations")
    with pytest.raises(ValueError, match="holds none of the datasets"):
        next(check_refer(root / "annotations"))


def test_an_annotation_of_another_image_is_named(root, load):
    write_annotations(root / "refcoco", "refs(unc).p", [ref(1, 4, "val", "left")])
    with pytest.raises(ValueError, match=r"referent 1 is in image 1, and annotation 4 in another"):
        load("refcoco")


@pytest.mark.parametrize("size", [{"height": 0}, {"width": 10**9}, {"height": None}, {"height": "60"}])
def test_images_of_another_size_than_their_photo_are_named(size, root, load):
    write_annotations(root / "refcoco", "refs(unc).p", [ref(1, 1, "val", "left")])
    path = root / "refcoco" / "instances.json"
    content = json.loads(path.read_text())
    content["images"][0].update(size)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"photo_1\.jpg is \(60, 80\) \(height, width\), its annotation says"):
        load("refcoco")


@pytest.mark.parametrize("refs", [[3], [ref(1, [[1]], "val", "left")], [ref(1, 1, "val", "left", sentences=[3])]])
def test_refs_of_other_kinds_are_named(refs, root, load):
    write_annotations(root / "refcoco", "refs(unc).json", refs)
    with pytest.raises(ValueError, match="an entry of refcoco is none of REFER's"):
        load("refcoco")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"segmentation": [[float("nan"), 1, 2, 3, 4, 5]]}, "a polygon has the coordinate nan"),
        ({"segmentation": [[1e9, 1, 2, 3, 4, 5]]}, r"a polygon has the coordinate 1e\+09"),
        ({"segmentation": [["1", None, 2, 3, 4, 5]]}, r"a polygon must be .* got \['1', None"),
        ({"segmentation": "polygons"}, "its segmentation must be .* got 'polygons'"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [-1, 4801]}}, "its mask has a run of -1 pixels"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [4799]}}, "its mask has runs of 4799 pixels"),
        ({"segmentation": {"size": [WIDTH, HEIGHT], "counts": [4800]}}, "its mask is 80 x 60, its image 60 x 80"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "b'PZ4'"}}, ".* how Python shows bytes"),
        ({"bbox": [1, 2, float("nan"), 4]}, "its bbox must be four numbers"),
        ({"bbox": [1, 2, 3]}, "its bbox must be four numbers"),
        ({"bbox": "abcd"}, "its bbox must be four numbers"),
    ],
)
@pytest.mark.parametrize("num_proc", [None, 2])
def test_unfit_annotations_are_named(change, message, num_proc, root, load):
    annotations = [ANNOTATIONS[0], {**ANNOTATIONS[1], **change}]
    write_annotations(root / "refcoco", "refs(unc).p", [ref(1, 1, "val", "a"), ref(2, 2, "val", "b")], annotations)
    with pytest.raises(ValueError, match=rf"refcoco/instances.json: referent 2, annotation \[2\]: {message}"):
        load("refcoco", num_proc=num_proc)


def test_validation_is_val(root, load, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_annotations(root / "refcoco", "refs(unc).p", [ref(1, 1, "val", "left")])
    write_photos(tmp_path / "own" / "val", "desk.png")
    Image.fromarray(LEFT).save(tmp_path / "own" / "val" / "mask.png")
    (tmp_path / "own" / "val" / "metadata.csv").write_text("file_name,mask_file_name,text\ndesk.png,mask.png,it\n")

    for rows in (
        load("refcoco", "validation"),
        load_image_folder(tmp_path / "own", "validation"),
        load_refshapes("refshapes", "validation", num_rows=1),
    ):
        assert rows["split"][:] == ["val"]


def write_copy(folder: Path, rows: list[dict], features: dict, split: str) -> None:
    """A copy with its photos, as `push_to_hub` lays it out."""
    dataset = datasets.Dataset.from_list(rows, features=datasets.Features({"image": datasets.Image(), **features}))
    (folder / "data").mkdir(parents=True, exist_ok=True)
    dataset.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    card = folder / "README.md"
    before = (
        card.read_text().removesuffix("---\n")
        if card.exists()
        else ("---\nconfigs:\n- config_name: default\n  data_files:\n")
    )
    card.write_text(f"{before}  - split: {split}\n    path: data/{split}-*\n---\n")


Text, Whole, Number = datasets.Value("string"), datasets.Value("int64"), datasets.Value("float64")
REFCOCO_M = {
    "image_id": Whole,
    "file_name": Text,
    "samples": [
        {
            "id": Whole,
            "image_id": Whole,
            "category": Text,
            "supercategory": Text,
            "label": Text,
            "sentences": [Text],
            "bbox": [datasets.Value("float32")],
            "mask": {"counts": Text, "size": [datasets.Value("int32")]},
        }
    ],
}
BENCHMARK = {
    "ref_list": [
        {
            "ann_info": {
                "area": Number,
                "bbox": [Number],
                "category_id": Whole,
                "id": Whole,
                "image_id": Whole,
                "iscrowd": Whole,
                "segmentation": [[Number]],
            },
            "ref_info": {
                "ann_id": Whole,
                "category_id": Whole,
                "file_name": Text,
                "image_id": Whole,
                "ref_id": Whole,
                "sent_ids": [Whole],
                "sentences": [{"raw": Text, "sent": Text, "sent_id": Whole, "tokens": [Text]}],
                "split": Text,
            },
        }
    ],
    "image_info": {"file_name": Text, "height": Whole, "id": Whole, "width": Whole},
}


def photo(number: int) -> Image.Image:
    return Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 * number, dtype=np.uint8))


def sample(number: int, mask: dict, *texts: str) -> dict:
    return {
        "id": number,
        "image_id": 1,
        "category": "thing",
        "supercategory": "all",
        "label": "thing",
        "sentences": list(texts),
        "bbox": [1.0, 2.0, 3.0, 4.0],
        "mask": mask,
    }


def test_refcoco_m(load, tmp_path, caplog):
    """A row for each image, its objects in a list."""
    rows = [
        {"image": photo(2), "image_id": 8, "file_name": "b.jpg", "samples": [sample(5, code_of(STRIPE), "Stripe ")]},
        {
            "image": photo(1),
            "image_id": 3,
            "file_name": "a.jpg",
            "samples": [sample(9, code_of(LEFT), "The Left", "left one"), sample(4, code_of(RIGHT), "right")],
        },
    ]
    write_copy(tmp_path / "copy", rows, REFCOCO_M, "validation")
    for options in ({}, {"num_proc": 2}, {"streaming": True}):
        loaded = load("refcoco", "val", root=tmp_path / "copy", **options)
        assert loaded.features == FEATURES
        found = sorted(loaded, key=lambda row: (row["image_id"], row["ref_id"]))
        assert_masks(found, r4=RIGHT, r5=STRIPE, r9=LEFT)
        assert [(row["ref_id"], row["image_id"], row["file_name"]) for row in found] == [
            (4, 3, "a.jpg"),
            (9, 3, "a.jpg"),
            (5, 8, "b.jpg"),
        ]
        assert found[1]["expressions"] == [
            {"sent_id": 0, "raw": "The Left", "sent": "the left"},
            {"sent_id": 1, "raw": "left one", "sent": "left one"},
        ]
        assert [row["image"].getpixel((0, 0))[0] for row in found] == [40, 40, 80]
        assert found[2]["category"] == "thing" and found[2]["area"] == STRIPE.sum() and found[2]["split"] == "val"
    assert "RefCOCO-M has 2,080 referents" in caplog.text

    rows[1]["samples"][1]["mask"]["counts"] = "b'PZ4'"
    write_copy(tmp_path / "damaged", rows, REFCOCO_M, "validation")
    for num_proc in (None, 2):
        with pytest.raises(ValueError, match=r"damaged': referent 4, annotation \[4\]: .*how Python shows bytes"):
            load("refcoco", "val", root=tmp_path / "damaged", num_proc=num_proc)


def test_refcoco_benchmark(load, tmp_path):
    """A row for each image, REFER's own entries in a list, and every dataset's splits side by side."""

    def row(number: int, *pairs: tuple[dict, dict]) -> dict:
        image_info = {"file_name": f"photo_{number}.jpg", "height": HEIGHT, "id": number, "width": WIDTH}
        listed = [
            {"ann_info": {**about, "area": 1.0}, "ref_info": {**asked, "category_id": 7}} for about, asked in pairs
        ]
        return {"image": photo(number), "ref_list": listed, "image_info": image_info}

    left, right, other = ANNOTATIONS[0], ANNOTATIONS[1], ANNOTATIONS[3]
    unc = [
        row(2, (other, ref(8, 4, "val", "it", image_id=2))),
        row(1, (right, ref(6, 2, "val", "right", "on the right")), (left, ref(3, 1, "val", "left"))),
    ]
    copy = tmp_path / "copy"
    write_copy(copy, unc, BENCHMARK, "refcoco_unc_val")
    write_copy(copy, [row(1, (left, ref(1, 1, "test", "left")))], BENCHMARK, "refcoco_google_test")
    write_copy(copy, [row(1, (right, ref(2, 2, "testA", "right")))], BENCHMARK, "refcoco_plus_unc_testA")

    rows = load("refcoco", "validation", root=copy)
    assert rows.features == FEATURES and rows["ref_id"][:] == [3, 6, 8]
    assert_masks(rows, r3=LEFT, r6=RIGHT, r8=LEFT)
    second = rows[1]
    assert (second["ann_ids"], second["image_id"], second["file_name"], second["bbox"]) == (
        [2],
        1,
        "photo_1.jpg",
        [1, 2, 3, 4],
    )
    assert second["expressions"][1] == {"sent_id": 61, "raw": "On The Right", "sent": "on the right"}
    assert rows[2]["image"].getpixel((0, 0))[0] == 80
    assert_masks(load("refcoco", "test", root=copy, split_by="google"), r1=LEFT)
    assert_masks(load("refcoco+", "testA", root=copy), r2=RIGHT)
    with pytest.raises(ValueError, match=r"`split` must be one of .*'refcoco_unc_val'.* got 'testB'"):
        load("refcoco", "testB", root=copy)

    broken = {**right, "segmentation": [[float("nan"), 1.0, 2.0, 3.0, 4.0, 5.0]]}
    write_copy(tmp_path / "damaged", [row(1, (broken, ref(6, 2, "val", "right")))], BENCHMARK, "refcoco_unc_val")
    with pytest.raises(ValueError, match=r"damaged': referent 6, annotation \[2\]: a polygon has the coordinate nan"):
        load("refcoco", "val", root=tmp_path / "damaged")
