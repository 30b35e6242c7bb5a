"""Models of the Hub that cannot be loaded, and inputs that they cannot answer: one message each, which names the thing."""

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from local_hub import local_hub
from PIL import Image
from safetensors.torch import load_file, save_file
from test_hub_models import SAVERS, make
from tiny_parts import save_clip
from transformers import AutoConfig, pipeline
from transformers.utils.hub import hf_api
from typer.testing import CliRunner

import hf_ris
from hf_ris.cli import app


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {name: SAVERS[name](tmp_path_factory.mktemp(name)) for name in ("clipseg", "florence2", "sam3")}


@pytest.fixture(params=["clipseg", "florence2", "sam3"])
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.new("RGB", (40, 30)).save(path)
    return str(path)


def assert_refused(folder: Path | str, photo: str, kind: type[Exception], message: str) -> None:
    """A pipeline and the command line refuse a model with the same message, which is one."""
    with pytest.raises(kind, match=message) as caught:
        pipeline("referring-segmentation", model=str(folder), device="cpu")
    assert "Traceback" not in str(caught.value) and "classes" not in str(caught.value)
    done = CliRunner().invoke(app, ["segment", photo, "a tree", "--model", str(folder), "--device", "cpu"])
    assert done.exit_code == 2
    said = done.stderr.partition("hf-ris: ")[2]
    assert said.strip() == re.sub("^`model`", "--model", str(caught.value)).strip()


# Folders


@pytest.mark.parametrize(
    ("model_type", "use"),
    [
        ("bert", ""),
        ("detr", ""),
        ("clip", r" It can be the `image_text` of `hf_ris.zero_shot`\."),
        ("siglip", r" It can be the `image_text` of `hf_ris.zero_shot`\."),
        ("sam", r" It can be the `segmenter` of `hf_ris.grounded`, or the `proposer` of `hf_ris.zero_shot`\."),
        ("sam2", r" It can be the `segmenter` of `hf_ris.grounded`, or the `proposer` of `hf_ris.zero_shot`\."),
        ("grounding-dino", r" It can be the `detector` of `hf_ris.grounded`\."),
    ],
)
def test_a_model_of_another_task_is_refused_before_its_weights_are_read(model_type, use, photo, tmp_path):
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)  # without weights
    message = (
        rf"`model` must be for referring .*, got '{re.escape(str(tmp_path))}', which is of type {model_type}\.{use}$"
    )
    assert_refused(tmp_path, photo, ValueError, message)
    with pytest.raises(ValueError, match=message):
        hf_ris.AutoModelForReferringSegmentation.from_pretrained(tmp_path)


def test_a_model_that_transformers_does_not_know_is_named(folders, photo, tmp_path):
    folder = shutil.copytree(folders["sam3"], tmp_path / "sam")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "sam3_1"}))
    assert_refused(folder, photo, ValueError, "model type `sam3_1` but Transformers does not recognize")


def drop_a_weight(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def enlarge_a_weight(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name] = torch.zeros([side + 1 for side in weights[name].shape])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def cut_the_weights(folder: Path, name: str) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (
            drop_a_weight,
            ValueError,
            "lacks weights of .*ForReferringSegmentation, such as '{weight}'. Weights in .* are at",
        ),
        (enlarge_a_weight, ValueError, "has weights of other shapes than its configuration says"),
        (cut_the_weights, OSError, "has a damaged file of weights"),
    ],
)
def test_weights_that_do_not_fit(folders, name, photo, tmp_path, damage, kind, message):
    folder = shutil.copytree(folders[name], tmp_path / "model")
    weight = max(load_file(folder / "model.safetensors"))
    damage(folder, weight)
    message = message.format(weight=re.escape(weight))
    assert_refused(folder, photo, kind, f"^`model` '{re.escape(str(folder))}' {message}")
    with pytest.raises(kind, match=message):
        hf_ris.AutoModelForReferringSegmentation.from_pretrained(folder)


def test_no_weights(folders, photo, tmp_path):
    folder = shutil.copytree(folders["clipseg"], tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert_refused(folder, photo, OSError, f"no file named model.safetensors.*{re.escape(str(folder))}")


def test_a_model_of_this_library_with_wrong_shapes(model_folder, photo, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    enlarge_a_weight(folder, min(load_file(folder / "model.safetensors")))
    assert_refused(folder, photo, ValueError, "has weights of other shapes")


def drop_files(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def test_a_folder_without_a_tokenizer(folders, name, photo, tmp_path):
    folder = shutil.copytree(folders[name], tmp_path / "model")
    drop_files(folder, "*token*", "vocab*", "merges*")
    assert_refused(folder, photo, (OSError, ValueError), "`tokenizer` must have a vocabulary|no attribute image_token")


def test_a_folder_without_an_image_processor(folders, name, photo, tmp_path):
    folder = shutil.copytree(folders[name], tmp_path / "model")
    drop_files(folder, "*processor_config.json")
    assert_refused(folder, photo, OSError, f"`model` '{re.escape(str(folder))}' has no whole processor beside it")


def test_a_folder_with_another_models_processor(folders, name, photo, tmp_path):
    folder = shutil.copytree(folders[name], tmp_path / "model")
    drop_files(folder, "*processor_config.json", "*token*", "vocab*", "merges*")
    for path in save_clip(tmp_path / "clip").iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            shutil.copy(path, folder)
    with pytest.raises(ValueError, match=r"`processor` must be a .*Processor for a .*, got CLIPProcessor\."):
        pipeline("referring-segmentation", model=str(folder), device="cpu")


# The Hub


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process take a server for the Hub."""
    monkeypatch.setattr(hf_api(), "endpoint", url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template[template.index("/{repo_id}") :])


@pytest.fixture
def hub(folders, model_folder, tmp_path, monkeypatch):
    """A Hub that this process talks to, with a gated repository and two that are not."""
    for source, repository in ((folders["sam3"], "facebook/sam3"), (folders["clipseg"], "CIDAS/clipseg")):
        shutil.copytree(source, tmp_path / "hub" / repository)
    shutil.copytree(model_folder, tmp_path / "hub" / "me/magnet")
    with local_hub(tmp_path / "hub") as hub:
        hub.gated.add("facebook/sam3")
        point_to(hub.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield hub


def test_a_gated_repository_says_what_to_do(hub, photo):
    done = CliRunner().invoke(app, ["segment", photo, "a tree", "--model", "facebook/sam3", "--device", "cpu"])
    assert done.exit_code == 2
    assert (
        "hf-ris: --model facebook/sam3 is gated: ask for access at https://huggingface.co/facebook/sam3, then run `hf auth login`"
        in done.stderr
    )


def test_repositories_that_cannot_be_read(hub, photo, monkeypatch):
    assert_refused("nobody/nothing", photo, OSError, "^nobody/nothing is not a local folder and is not a valid model")
    point_to("http://127.0.0.1:9", monkeypatch)
    assert_refused("nobody/nothing", photo, OSError, "^We couldn't connect to ")


def test_results_name_the_commit_of_a_model(hub, model_folder):
    for repository, revision in (("CIDAS/clipseg", None), ("me/magnet", "main")):
        ris = pipeline("referring-segmentation", model=repository, revision=revision, device="cpu")
        assert hf_ris.evaluation.describe_model(ris)["revision"] == hub.head(repository, "main")
    ris = pipeline("referring-segmentation", model=str(model_folder), device="cpu")
    assert hf_ris.evaluation.describe_model(ris)["revision"] is None


# Expressions and images


@pytest.mark.parametrize("text", ["<OD>", "<loc_12>", "the mug <loc_12> of St. Bernard", "St. Bernard. Left."])
def test_any_words_are_an_expression(folders, name, photo, text):
    ris = make(folders, name)
    answers = ris(photo, text=[text, "a tree"])
    assert answers[0]["label"] == text
    alone = ris(photo, text="a tree")
    assert answers[1]["score"] == pytest.approx(alone["score"], abs=1e-4)


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_nothing_but_spaces_is_no_expression(folders, name, photo, text):
    with pytest.raises(ValueError, match="`text`"):
        make(folders, name)(photo, text=text)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3000, 3000)])
def test_images_of_any_size(folders, name, size):
    answer = make(folders, name)(Image.new("RGB", size, "red"), text="a tree")
    assert answer["mask"].size == size


def test_what_a_model_does_not_have(folders, name, photo):
    ris = make(folders, name)
    option = {"regions": None} if name == "sam3" else {"select": "all"}
    with pytest.raises(TypeError, match=f"'{next(iter(option))}' is no option of this pipeline.*; allowed are "):
        ris(photo, text="a tree", **option)
    regions = np.ones((1, 30, 40), bool)
    with pytest.raises(ValueError, match=r"'regions' is no part of an input; .*zero-shot-referring-segmentation"):
        ris({"image": photo, "text": "a tree", "regions": regions})
    with pytest.raises(ValueError, match=r"`model` .*regions"):
        pipeline("zero-shot-referring-segmentation", model=str(folders[name]), device="cpu")
