"""A saved folder carries its code: it loads where this package is not installed, and needs no trust where it is."""

import filecmp
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

from hf_ris import MagNetForReferringSegmentation, MagNetProcessor


# A process in which none of these can be imported, as on a machine where they were never installed.
STRANGER = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"hf_ris", "modeling", "spacy", "skimage", "pycocotools"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import numpy as np
from transformers import pipeline

folder, picture, out = sys.argv[1:]
try:
    pipeline("referring-segmentation", model=folder, device="cpu")
except ValueError as error:
    assert "trust_remote_code=True" in str(error)
else:
    raise AssertionError("it should have asked for trust")
ris = pipeline("referring-segmentation", model=folder, device="cpu", trust_remote_code=True)
assert type(ris).__module__.startswith("transformers_modules")
np.save(out, ris(picture, text="the red mug", output_format="array")["mask"])
ris.save_pretrained(folder + "-again")
"""


@pytest.fixture(params=["pipeline", "model and processor"])
def saved_folder(request, ris, model_folder, tmp_path):
    if request.param == "pipeline":
        return model_folder
    ris.model.save_pretrained(tmp_path / "parts")
    ris.processor.save_pretrained(tmp_path / "parts")
    return tmp_path / "parts"


def test_loads_without_this_package(saved_folder, ris, images, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    picture, out = tmp_path / "picture.png", tmp_path / "mask.npy"
    images[0].save(picture)
    command = [sys.executable, "-c", STRANGER, str(saved_folder), str(picture), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    expected = ris(picture, text="the red mug", output_format="array")["mask"]
    assert expected.any()
    np.testing.assert_array_equal(np.load(out), expected)

    again = saved_folder.with_name(saved_folder.name + "-again")
    code = sorted(path.name for path in saved_folder.glob("*.py"))
    assert code == sorted(path.name for path in again.glob("*.py")), "saved from there, it carries its code again"
    assert filecmp.cmpfiles(saved_folder, again, code, shallow=False) == (code, [], [])


def test_needs_no_trust_with_this_package(saved_folder):
    model, processor = (
        MagNetForReferringSegmentation.from_pretrained(saved_folder),
        MagNetProcessor.from_pretrained(saved_folder),
    )

    assert type(model).__module__ == "hf_ris.modeling.modeling_magnet"
    assert not hasattr(model.config, "custom_pipelines")
    assert type(processor.image_processor).__module__ == "hf_ris.modeling.processing_magnet"


CONFIGURATION_FIRST = """
import sys
import hf_ris
from transformers import AutoConfig
assert "transformers.pipelines" not in sys.modules
config = AutoConfig.from_pretrained(sys.argv[1])
from transformers import pipeline
ris = pipeline("referring-segmentation", model=sys.argv[1], config=config, device="cpu")
assert type(ris).__module__.startswith("hf_ris.")
"""


def test_trust_does_not_depend_on_the_order_of_imports(model_folder, tmp_path):
    command = [sys.executable, "-c", CONFIGURATION_FIRST, str(model_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_saved_magnet_carries_its_own_code_alone(model_folder):
    code = {path.name for path in model_folder.glob("*.py")}
    assert len(code) <= 14
    assert not {name for name in code if re.match("cris|tas|language|zero_shot|as_published|clip", name)}


def test_folders_saved_by_the_earlier_layout_give_the_same_masks(tmp_path):
    """Saved when MagNet's code was in 23 files; its answers are those of then."""
    with zipfile.ZipFile(Path(__file__).parent / "fixtures" / "saved_by_the_earlier_layout.zip") as archive:
        archive.extractall(tmp_path)
    ris = pipeline("referring-segmentation", model=str(tmp_path), device="cpu")
    expected = json.loads((tmp_path / "answers.json").read_text())
    found = ris(tmp_path / "picture.png", text=[answer["label"] for answer in expected], output_format="rle")

    assert type(ris).__module__.startswith("hf_ris.")
    assert [answer["mask"] for answer in found] == [answer["mask"] for answer in expected]
    assert [answer["score"] for answer in found] == pytest.approx([answer["score"] for answer in expected], abs=1e-5)
