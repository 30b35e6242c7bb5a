"""The door: an image, its expressions and its regions are loaded and checked once in a call, whoever calls."""

import json
from collections import Counter

import numpy as np
import pytest
import tiny_parts
from typer.testing import CliRunner

import hf_ris
from hf_ris import cli
from hf_ris.modeling import inputs, processing_referring_segmentation
from hf_ris.modeling.inputs import Request, read_request


@pytest.fixture
def counts(monkeypatch):
    """How often each function of the door runs."""
    counter: Counter[str] = Counter()

    def counted(name):
        function = getattr(inputs, name)

        def call(*args, **kwargs):
            counter[name] += 1
            return function(*args, **kwargs)

        return call

    for name in ("load_image", "check_expressions", "load_regions"):
        call = counted(name)
        for module in (inputs, processing_referring_segmentation):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, call)
    return counter


@pytest.fixture(scope="module")
def zero_shot(tmp_path_factory):
    parts = tiny_parts.save_clip(tmp_path_factory.mktemp("clip"))
    return hf_ris.zero_shot("tas", image_text=parts, proposer="none", captioner="none", device="cpu")


@pytest.mark.parametrize("text", ["the red mug", ["the red mug", "a tree"]])
def test_a_call_loads_and_checks_once(ris, images, counts, text):
    ris(images[0], text=text)
    assert counts == {"load_image": 1, "check_expressions": 1}


def test_a_batch_loads_and_checks_each_input_once(ris, images, counts):
    ris([{"image": images[0], "text": ["a tree"] * number} for number in (1, 2, 1, 3)], batch_size=4)
    assert counts == {"load_image": 4, "check_expressions": 4}


def test_regions_are_read_once(zero_shot, images, counts):
    regions = np.zeros((2, images[0].height, images[0].width), bool)
    regions[0, :30, :30] = regions[1, 40:, 40:] = True
    zero_shot(images[0], text=["a dog on the left", "a cat"], regions=regions)
    assert counts == {"load_image": 1, "check_expressions": 1, "load_regions": 1}


def test_the_command_line_enters_by_the_same_door(images, model_folder, counts, tmp_path):
    images[0].save(tmp_path / "image.png")
    command = ["segment", str(tmp_path / "image.png"), "a tree", "the red mug", "--model", str(model_folder), "--json"]
    done = CliRunner().invoke(cli.app, command)
    assert done.exit_code == 0, done.output
    assert [result["label"] for result in json.loads(done.stdout)] == ["a tree", "the red mug"]
    assert counts == {"load_image": 1, "check_expressions": 1}


def test_a_request_is_an_input(ris, images):
    request = read_request(images[0], ["the red mug", "a tree"])
    assert request.size == (images[0].height, images[0].width)
    expected = ris(images[0], text=["the red mug", "a tree"], output_format="rle")
    assert ris(request, output_format="rle") == expected
    first, second = ris([request, read_request(images[0], "a tree")], output_format="rle")
    assert first == expected
    assert second["mask"] == expected[1]["mask"]
    with pytest.raises(ValueError, match="`text` was given twice"):
        ris(request, text="a tree")


def test_a_request_without_regions_is_refused_where_nothing_finds_them(zero_shot, images):
    request = Request(images[0], ["a dog"])
    with pytest.raises(ValueError, match="`regions` are missing"):
        zero_shot(request)
    with pytest.raises(ValueError, match="`regions` were given twice"):
        zero_shot(request, regions=np.ones((1, images[0].height, images[0].width), bool))
