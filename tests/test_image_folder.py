"""A folder of one's own pictures, masks and expressions becomes rows, and a model."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_ris.cli import app
from hf_ris.data import FEATURES, decode_mask, load_image_folder


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


def test_a_table_of_commas_will_do(tmp_path):
    folder = write_split(tmp_path / "train", [])
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text('file_name,mask_file_name,text\ndesk.jpg,desk-left.png,"the mug, left"\n')
    (row,) = load_image_folder(tmp_path)
    assert [each["sent"] for each in row["expressions"]] == ["the mug, left"]


@pytest.mark.parametrize(
    "lines, message",
    [
        ([line("desk.jpg", "nowhere.png", "mug")], r"nowhere\.png"),
        ([line("nowhere.jpg", "desk-left.png", "mug")], r"nowhere\.jpg"),
        ([line("desk.jpg", "room-left.png", "mug")], r"room-left\.png is 20 x 50, its image \S*desk\.jpg is 30 x 40"),
        ([line("desk.jpg", "empty.png", "mug")], r"empty\.png is empty"),
        ([line("desk.jpg", "desk-left.png", "  ")], r"desk\.jpg: `text` must be .* got '  '"),
        ([line("desk.jpg", "metadata.jsonl", "mug")], r"metadata\.jsonl"),
        ([{"file_name": "desk.jpg", "mask_file_name": "desk-left.png"}], r"must have the columns.*text"),
        ([{"file_name": "desk.jpg", "text": "mug"}], r"must have the columns.*mask"),
    ],
)
def test_unfit_lines_are_named(tmp_path, lines, message):
    write_split(tmp_path / "train", lines)
    with pytest.raises(ValueError, match=message):
        load_image_folder(tmp_path)


def test_pictures_and_masks_too_large_to_open_are_named(tmp_path, monkeypatch):
    folder = write_split(tmp_path / "train", [line("desk.jpg", "huge.png", "mug")])
    Image.new("1", (200, 100), 1).save(folder / "huge.png")
    for limit, name in ((5_000, "huge.png"), (500, "desk.jpg")):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match=rf"{name} cannot be read"):
            load_image_folder(tmp_path)


def test_missing_folders_and_splits_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"must be a folder, got .*nowhere'"):
        load_image_folder(tmp_path / "nowhere")
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="cannot be read"):
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
