"""A folder of one's own pictures, masks and expressions becomes rows, and a model."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_ris.cli import app
from hf_ris.data import FEATURES, decode_mask, load_image_folder
from hf_ris.evaluation import evaluate
from hf_ris.evaluation_questions import Questions


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write_split(folder: Path, lines: list[dict]) -> Path:
    """A split of two pictures, desk and room, with a mask of each half; `lines` are its table."""
    folder.mkdir(parents=True)
    for name, size in (("desk", (40, 30)), ("room", (50, 20))):
        Image.new("RGB", size, "white").save(folder / f"{name}.jpg")
        pixels = np.zeros(size[::-1], dtype=np.uint8)
        pixels[:, : size[0] // 2] = 200
        Image.fromarray(pixels).save(folder / f"{name}-left.png")
        Image.fromarray(np.stack([pixels[:, ::-1]] * 3, axis=-1)).save(folder / f"{name}-right.png")
    Image.new("L", (40, 30)).save(folder / "empty.png")
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def line(image: str, mask: str | None, text: str | list[str]) -> dict:
    return {"file_name": image, "mask_file_name": mask, "text": text}


def test_lines_become_rows(tmp_path):
    lines = [
        line("desk.jpg", "desk-left.png", ["The Red Mug", "left mug"]),
        line("room.jpg", "room-right.png", ["lamp"]),
        line("desk.jpg", "desk-right.png", ["a book"]),
        line("room.jpg", None, ["the elephant"]),
    ]
    write_split(tmp_path / "train", lines)
    write_split(tmp_path / "val", lines[:1])
    rows = load_image_folder(tmp_path)

    assert rows.features == FEATURES
    assert [row["file_name"] for row in rows] == ["desk.jpg", "desk.jpg", "room.jpg", "room.jpg"], "pictures together"
    first, second, third, nothing = rows
    assert [each["sent"] for each in first["expressions"]] == ["the red mug", "left mug"]
    assert first["expressions"][0]["raw"] == "The Red Mug"
    assert first["image"].size == (40, 30) and first["image_id"] == second["image_id"] != third["image_id"]
    assert decode_mask(first["mask"])[:, :20].all() and first["area"] == 600
    assert decode_mask(second["mask"])[:, 20:].all() and second["bbox"] == [20, 0, 20, 30], "masks may have colours"
    assert nothing["ann_ids"] == [] and nothing["area"] == 0
    other = load_image_folder(tmp_path, "val")
    assert len(other) == 1 and other[0]["image_id"] not in rows["image_id"], "the splits can be joined"


def write_commas(folder: Path, *lines: str) -> Path:
    """A split as `write_split` makes it, with a table of commas."""
    write_split(folder, [])
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def raw_texts(rows) -> list[list[str]]:
    return [[each["raw"] for each in expressions] for expressions in rows["expressions"]]


@pytest.mark.parametrize("text", ['"the mug, left"', "NA", "null", "None", "nan", "True", "7", "1.50"])
def test_a_table_of_commas_holds_text_alone(tmp_path, text):
    write_commas(tmp_path / "train", "file_name,mask_file_name,text", f"desk.jpg,desk-left.png,{text}")
    assert raw_texts(load_image_folder(tmp_path)) == [[text.strip('"')]]


def test_splits_and_lines_may_differ(tmp_path):
    """Each split is read alone, and each line says whether it has one expression or several."""
    one, several = line("desk.jpg", "desk-left.png", "mug"), line("desk.jpg", "desk-right.png", ["lamp", "a lamp"])
    write_split(tmp_path / "train", [several, one, {**one, "note": 7}])
    write_commas(tmp_path / "validation", "file_name,mask_file_name,text", "desk.jpg,desk-left.png,mug")
    write_split(tmp_path / "test", []).joinpath("metadata.jsonl").write_text("no table")
    shutil.move(tmp_path / "train" / "desk-left.png", tmp_path / "shared.png")
    table = tmp_path / "train" / "metadata.jsonl"
    table.write_text(table.read_text().replace("desk-left", "../shared"))
    assert raw_texts(load_image_folder(tmp_path)) == [["lamp", "a lamp"], ["mug"], ["mug"]]
    assert raw_texts(load_image_folder(tmp_path, "val")) == [["mug"]]
    with pytest.raises(ValueError, match=r"metadata\.jsonl cannot be read"):
        load_image_folder(tmp_path, "test")


def test_all_expressions_may_refer_to_nothing(tmp_path):
    write_commas(tmp_path / "train", "file_name,mask_file_name,text", "desk.jpg,,mug")
    write_split(tmp_path / "val", [line("desk.jpg", None, "mug"), line("desk.jpg", "", "lamp")])
    write_split(tmp_path / "test", [{"file_name": "desk.jpg", "text": "mug"}])
    for split in ("train", "val", "test"):
        rows = load_image_folder(tmp_path, split)
        assert {(row["area"], *row["ann_ids"], *row["mask"]["size"]) for row in rows} == {(0, 30, 40)}


def test_changed_files_are_read_again(tmp_path):
    folder = write_split(tmp_path / "train", [line("desk.jpg", "desk-left.png", "mug")])
    assert load_image_folder(tmp_path)[0]["area"] == 600
    Image.new("L", (40, 30), 9).save(folder / "desk-left.png")
    assert load_image_folder(tmp_path, num_proc=2)[0]["area"] == 1200


@pytest.mark.parametrize("suffix, content", [(".jpg", b""), (".png", None)])
def test_an_unreadable_image_is_found_when_it_is_asked_about(tmp_path, suffix, content):
    folder = write_split(tmp_path / "train", [])
    name = f"broken{suffix}"
    lines = [line(name, "desk-left.png", "mug"), line(name, None, "lamp"), line("desk.jpg", "desk-right.png", "book")]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Image.effect_noise((40, 30), 99).save(folder / name)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-500] if content is None else content)

    def tell_the_truth(items):
        return [[{"mask": mask} for mask in item["truth"]] for item in items]

    def run(**options):
        return evaluate(tell_the_truth, load_image_folder(tmp_path), output=tmp_path / "out", **options)

    with pytest.raises(ValueError, match=rf"The image {re.escape(name)} of referent 0 cannot be read"):
        run()
    missed = run(on_error="report")
    assert (missed["expressions"], missed["errors"], missed["oIoU"]) == (3, 2, pytest.approx(600 / 1201))
    (folder / name).write_bytes(whole)
    assert run()["errors"] == 0, "a mended image continues the run"


def test_copies_have_the_same_hash(tmp_path):
    write_split(tmp_path / "one" / "train", [line("desk.jpg", "desk-left.png", "mug")])
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    first, second = (load_image_folder(tmp_path / name) for name in ("one", "other"))
    assert first[0]["image_id"] != second[0]["image_id"], "they can be joined"
    hashes = {Questions(rows, 1, "sent", None).fingerprint() for rows in (first, second)}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    "lines, message",
    [
        ([line("desk.jpg", "nowhere.png", "mug")], r"nowhere\.png"),
        ([line("nowhere.jpg", "desk-left.png", "mug")], r"nowhere\.jpg"),
        ([line("desk.jpg", "room-left.png", "mug")], r"room-left\.png is 20 x 50, its image \S*desk\.jpg is 30 x 40"),
        ([line("desk.jpg", "empty.png", "mug")], r"empty\.png is empty"),
        ([line("desk.jpg", "desk-left.png", "  ")], r"metadata\.jsonl, row 1: text must be .* got '  '"),
        ([line("desk.jpg", "desk-left.png", ["mug", 7])], r"text must be .* got \['mug', 7\]"),
        ([line("desk.jpg", "../../desk-left.png", "mug")], r"mask_file_name must name a file in \S*train, got '\.\./"),
        ([line(None, "desk-left.png", "mug")], r"row 1: file_name must name a file in \S*train, got None"),
        ([line("desk.jpg", "metadata.jsonl", "mug")], r"metadata\.jsonl"),
        ([{"file_name": "desk.jpg", "mask_file_name": "desk-left.png"}], r"must have the columns.*text"),
        (
            [{"file_name": "desk.jpg", "text": "mug", "mask": "m.png"}],
            r"must have the columns.*missing is mask_file_name",
        ),
        ([], r"metadata\.jsonl must have at least one row, got none"),
        ([["desk.jpg", "mug"]], r"row 1 must have a value for each column, got \['desk"),
    ],
)
def test_unfit_lines_are_named(tmp_path, lines, message):
    write_split(tmp_path / "train", lines)
    with pytest.raises(ValueError, match=message):
        load_image_folder(tmp_path)


def test_commas_without_quotes_and_tables_of_a_header_alone_are_named(tmp_path):
    header = "file_name,mask_file_name,text"
    write_commas(tmp_path / "train", header, "desk.jpg,desk-left.png,the mug, left")
    write_commas(tmp_path / "val", header)
    write_split(write_commas(tmp_path / "test", header) / "test", [line("desk.jpg", None, "mug")])
    with pytest.raises(ValueError, match=r"metadata\.csv, row 1 must have a value for each column"):
        load_image_folder(tmp_path)
    for split in ("val", "test"):
        with pytest.raises(ValueError, match=r"metadata\.csv must have at least one row, got none"):
            load_image_folder(tmp_path, split)


def test_masks_too_large_to_open_are_named(tmp_path, monkeypatch):
    folder = write_split(tmp_path / "train", [line("desk.jpg", "huge.png", "mug")])
    Image.new("1", (200, 100), 1).save(folder / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)
    with pytest.raises(ValueError, match=r"huge\.png cannot be read"):
        load_image_folder(tmp_path)


def test_missing_folders_and_splits_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"must be a folder, got .*nowhere'"):
        load_image_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="`root` must hold a folder train, val, test"):
        load_image_folder(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"train must hold metadata\.csv or metadata\.jsonl, got neither"):
        load_image_folder(tmp_path)
    write_split(tmp_path / "more" / "train", [line("desk.jpg", "desk-left.png", "mug")])
    with pytest.raises(ValueError, match=r"`split` must be one of \['train'\].*got 'val'"):
        load_image_folder(tmp_path / "more", "val")


def test_the_guide_to_fine_tuning_runs(tmp_path, monkeypatch):
    """Both ways of docs/finetune.md, word for word."""
    guide = (Path(__file__).parents[1] / "docs" / "finetune.md").read_text()
    pictures, program = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (command,) = re.findall(r"```bash\nhf-ris (train .*?)```", guide, re.DOTALL)
    assert len(program.strip().splitlines()) <= 20
    monkeypatch.chdir(tmp_path)
    exec(pictures, {})
    exec(program, {"__name__": "__main__"})
    result = CliRunner().invoke(app, command.replace("\\\n", " ").split())
    assert result.exit_code == 0, result.output
    assert {path.name for path in Path("runs").iterdir()} == {"by-hand", "by-command"}
