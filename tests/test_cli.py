"""The `hf-ris` command: results on stdout, progress on stderr, wrong input without a traceback."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from hf_ris import __version__
from hf_ris.cli import app
from hf_ris.cli_data import DRAWN, READ
from hf_ris.data.refer import PARTITIONS
from hf_ris.data.refshapes import NAMES


@pytest.fixture
def picture(images, tmp_path) -> str:
    path = tmp_path / "picture.png"
    images[0].save(path)
    return str(path)


@pytest.fixture
def segment(picture, model_folder):
    def run(*arguments, image=picture, model=str(model_folder)):
        return CliRunner().invoke(app, ["segment", image, "--model", model, "--device", "cpu", *arguments])

    return run


def test_json_is_all_there_is_on_stdout(segment, ris, images):
    done = segment("a tree", "the red mug", "--json")
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)
    expected = ris(images[0], text=["a tree", "the red mug"], output_format="array")
    assert [result["label"] for result in results] == ["a tree", "the red mug"]
    for result, other in zip(results, expected, strict=True):
        assert list(result) == ["label", "score", "mask", "box"]
        np.testing.assert_array_equal(coco_mask.decode(result["mask"]).astype(bool), other["mask"])
        assert result["box"] == other["box"]
    assert "loading model" in done.stderr


def test_table_is_readable(segment):
    done = segment("a tree", "the red mug", "--threshold", "1.0")
    header, *rows = done.stdout.splitlines()
    assert header.split()[0] == "score" and len(rows) == 2
    assert all("nothing found" in row for row in rows)
    assert rows[1].endswith("the red mug")


def test_overlay_and_masks_are_written(segment, tmp_path, images):
    overlay, folder = tmp_path / "new" / "overlay.jpg", tmp_path / "masks"
    done = segment("a tree", "the/red mug?", "--output", str(overlay), "--mask-dir", str(folder))
    assert done.exit_code == 0, done.output
    assert Image.open(overlay).width >= images[0].width
    assert sorted(path.name for path in folder.iterdir()) == ["01-a-tree.png", "02-the-red-mug.png"]
    mask = Image.open(folder / "01-a-tree.png")
    assert mask.size == images[0].size and mask.mode == "L" and set(np.unique(mask)) <= {0, 255}


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        (["a tree"], {"image": "nothing.png"}, "nothing.png"),
        ([" "], {}, "must say what to look for"),
        (["a tree"], {"model": "./no-such-folder"}, "no-such-folder"),
        (["a tree"], {"model": "no-such/model"}, ""),
        (["a tree", "--threshold", "35"], {}, "Invalid value for '--threshold'"),
        (["a tree", "--no-target-threshold", "-1"], {}, "Invalid value for '--no-target-threshold'"),
        (["a tree", "--output", "overlay.txt"], {}, "--output must end like an image"),
        (["a tree", "--output", "overlay.psd"], {}, "--output must end like an image"),  # PIL can only read these
        (["a tree", "--output", "overlay.xbm"], {}, "--output must end like an image"),  # black and white only
        (["a tree", "--device", "banana"], {}, "--device must name a device"),
        ([], {}, "EXPRESSION is missing"),
        (["a tree", "--expressions", "all.csv"], {}, "--expressions goes with a folder of images"),
        (["a tree", "--mask-dir", __file__], {}, "--mask-dir must lie in a folder that can be written to"),
        (["a tree", "--output", f"{__file__}/overlay.png"], {}, "--output must lie in a folder"),
        (["a tree", "--model", "nowhere"], {}, "nowhere is no folder here"),
    ],
)
def test_wrong_input_ends_with_a_message(segment, arguments, options, message):
    done = segment(*arguments, **options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output and done.stdout == ""


def test_messages_name_the_option_that_was_typed(tmp_path):
    for command, message in (
        (["evaluate", "bundled", "refshapes", "--protocol", "nope"], "--protocol must be one of"),
        (["evaluate", "bundled", "refshapes", "--text", "nope"], "--text must be 'sent' or 'raw', got 'nope'"),
        (["evaluate", "bundled", "refcocoo"], "The dataset must be one of ['refshapes', "),
        (
            ["train", "--dataset", "labels", "--root", ".", "--output-dir", str(tmp_path)],
            "--eval-split must be none for the dataset labels",
        ),
        (
            ["train", "--dataset", "refshapes", "--model", "bundled", "--output-dir", str(tmp_path)],
            "--max-steps must be given",
        ),
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2
        assert f"hf-ris: {message}" in done.stderr


def test_help_and_version():
    assert "segment" in CliRunner().invoke(app, ["--help"]).stdout
    assert CliRunner().invoke(app, ["--version"]).stdout.strip() == __version__
    assert "--mask-dir" in CliRunner().invoke(app, ["segment", "--help"]).stdout


def test_datasets_are_those_that_can_be_read():
    assert list(DRAWN) == list(NAMES)
    assert list(READ[:-1]) == list(dict.fromkeys(partition.name for partition in PARTITIONS))
