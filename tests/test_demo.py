"""The demo as its API's users meet it, over HTTP on this machine."""

import importlib.util
import io
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest


gr = pytest.importorskip("gradio")

from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from hf_ris import demo, demo_backend  # noqa: E402
from hf_ris.hub import CHECK_IMAGE, CHECK_TEXT, build_wheel  # noqa: E402
from hf_ris.modeling.without_torch import rle_to_mask  # noqa: E402
from hf_ris.visitors import hold_free_folder  # noqa: E402


@pytest.fixture(scope="module")
def served(ris, tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    page = demo.build(demo.Offer({"tiny": lambda: ris}), folder)
    _, url, _ = demo.serve(page, folder, prevent_thread_lock=True, quiet=True)
    yield url
    page.close()


@pytest.fixture(scope="module")
def client(served):
    return Client(served, verbose=False)


@pytest.fixture
def image_file(images, tmp_path):
    path = tmp_path / "image.png"
    images[0].save(path)
    return path


def test_the_api_answers_as_the_pipeline(client, image_file, ris):
    answers = client.predict(handle_file(image_file), "the red mug\n\n the tree ", "tiny", 0.5, api_name="/segment")
    expected = ris(Image.open(image_file), text=["the red mug", "the tree"], threshold=0.5, output_format="array")
    assert [answer["label"] for answer in answers] == ["the red mug", "the tree"]
    for answer, result in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(rle_to_mask(answer["mask"]), result["mask"])
        assert answer["score"] == pytest.approx(result["score"], abs=1e-5)
        assert answer["box"] == result["box"]


def test_each_model_starts_with_its_own_threshold(client, image_file, ris, monkeypatch):
    monkeypatch.setattr(ris.processor, "threshold", 0.35)
    (answer,) = client.predict(handle_file(image_file), "the red mug", "tiny", api_name="/segment")
    (expected,) = ris(Image.open(image_file), text=["the red mug"], threshold=0.35, output_format="rle")
    assert answer["mask"] == expected["mask"]

    backend = demo_backend.DemoBackend({"tiny": lambda: ris})
    asked = {"path": str(image_file), "text": "the red mug", "name": "tiny", "opacity": 0.8}
    slider, set_for, *_ = next(backend.on_page(**asked, threshold=0.9, set_for=""))
    assert (slider, set_for) == (0.35, "tiny")
    _, again = [
        slider for slider, *_ in backend.on_page(**{**asked, "text": "the mug\nthe tree"}, threshold=0.9, set_for="")
    ]
    assert again != 0.35, "it may have been moved since the first answer"
    by_hand, _, _, _, (result,), *_ = next(backend.on_page(**asked, threshold=0.9, set_for="tiny"))
    assert by_hand != 0.35, "what was set by hand stays"
    (expected,) = ris(Image.open(image_file), text=["the red mug"], threshold=0.9, output_format="rle")
    assert result["mask"] == expected["mask"]


def test_the_api_is_documented(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/segment"], "and nothing else of the page can be called"
    assert [argument["parameter_name"] for argument in endpoints["/segment"]["parameters"]] == [
        "image",
        "text",
        "model",
        "threshold",
    ]


@pytest.mark.parametrize(
    ("text", "model", "message"),
    [
        ("  \n", "tiny", "no expression yet"),
        ("\n".join(["the mug"] * 9), "tiny", "9 expressions"),
        ("a" * 201, "tiny", "201 characters"),
        ("the mug", "../../etc", "no model on the Hub"),
        ("the mug", "src/hf_ris", "no model on the Hub"),
        ("!?", "tiny", "got '!\\?'"),
    ],
)
def test_what_is_wrong_is_said(client, image_file, text, model, message):
    with pytest.raises(AppError, match=message):
        client.predict(handle_file(image_file), text, model, 0.5, api_name="/segment")


def test_an_image_is_asked_for(client):
    with pytest.raises(AppError, match="no image yet"):
        client.predict(None, "the mug", "tiny", 0.5, api_name="/segment")


def test_huge_images_are_refused(client, tmp_path):
    Image.new("1", (8000, 7000)).save(tmp_path / "huge.png")
    with pytest.raises(AppError, match="56 million pixels"):
        client.predict(handle_file(tmp_path / "huge.png"), "the mug", "tiny", 0.5, api_name="/segment")


def test_a_broken_file_is_named_in_plain_words(client, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(AppError, match=r"^The file is no image that can be read\.$"):
        client.predict(handle_file(tmp_path / "broken.png"), "the mug", "tiny", 0.5, api_name="/segment")


def test_large_images_are_reduced(client, tmp_path):
    Image.new("L", (4096, 1024)).save(tmp_path / "large.png")
    (answer,) = client.predict(handle_file(tmp_path / "large.png"), "the mug", "tiny", 0.5, api_name="/segment")
    assert answer["mask"]["size"] == [512, 2048]


def test_models_of_others_are_not_loaded(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "bert", "auto_map": {"AutoConfig": "evil.Config"}}), encoding="utf-8"
    )
    (tmp_path / "evil.py").write_text("raise SystemExit", encoding="utf-8")
    with pytest.raises(ValueError, match=r"'bert'.*magnet"):
        demo_backend.load(str(tmp_path))
    (tmp_path / "user" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no model on the Hub"), demo_backend.Models({}).fetch("user/name"):
        pass


def test_models_that_lack_weights_are_not_asked(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights"):
        demo_backend.load(str(tmp_path / "model"))
    with pytest.raises(OSError, match="nowhere"):
        demo.launch(["runs/nowhere"])


def test_of_visitors_models_one_stays_loaded(monkeypatch):
    made = []
    monkeypatch.setattr(demo_backend, "load", lambda name: made.append(name) or name)
    monkeypatch.setattr(demo_backend, "limit_cache", lambda ris: ris)
    monkeypatch.setattr(demo_backend.VisitorModels, "use", lambda self, name: nullcontext(name))
    models = demo_backend.Models({name: lambda name=name: made.append(name) or name for name in "ab"})
    for name in ("a", "b", "me/one", "a", "me/one", "me/two", "b", "me/one"):
        with models.fetch(name) as get:
            assert get() == name
    assert made == ["a", "b", "me/one", "me/two", "me/one"]


def test_a_visitors_model_may_not_compute_for_long(ris, image_file, monkeypatch):
    monkeypatch.setattr(demo_backend.VisitorModels, "use", lambda self, name: nullcontext(name))
    monkeypatch.setattr(demo_backend, "load", lambda name: ris)
    backend = demo_backend.DemoBackend({"tiny": lambda: ris})
    assert backend.segment(str(image_file), "the red mug", "you/slow")
    monkeypatch.setattr(demo_backend, "LONGEST_ANSWER", -1)
    with pytest.raises(gr.Error, match="you/slow computes for more than"):
        backend.segment(str(image_file), "the red mug", "you/slow")
    assert backend.segment(str(image_file), "the red mug", "tiny"), "the page's own may, and the limit is gone"


def test_two_demos_do_not_share_a_folder(tmp_path):
    one, first = hold_free_folder(tmp_path / "visitors")
    two, second = hold_free_folder(tmp_path / "visitors")
    assert (one.name, two.name) == ("visitors", "visitors-2")
    first.release()
    assert hold_free_folder(tmp_path / "visitors")[0] == one
    second.release()


@pytest.mark.parametrize("name", ["you/slow", "offered"])
def test_nobody_waits_for_anothers_download(ris, image_file, monkeypatch, name):
    """While a model is fetched, a visitor's or one of the page's own from the Hub, another visitor is answered."""
    begun, goes_on = threading.Event(), threading.Event()

    def fetch(*_):
        begun.set()
        assert goes_on.wait(60)
        raise ValueError("too large")

    monkeypatch.setattr(demo_backend.VisitorModels, "_fetch", fetch)
    backend = demo_backend.DemoBackend({"tiny": lambda: ris, "offered": fetch})
    errors = []

    def visit():
        try:
            backend.segment(str(image_file), "the red mug", name)
        except gr.Error as error:
            errors.append(str(error))

    slow = threading.Thread(target=visit)
    slow.start()
    assert begun.wait(60)
    assert backend.segment(str(image_file), "the red mug", "tiny")[0]["label"] == "the red mug"
    goes_on.set()
    slow.join()
    assert "too large" in errors[0]


def test_masks_are_packed_once_all_are_there(ris, image_file, monkeypatch):
    packed = []
    monkeypatch.setattr(demo_backend, "pack", lambda answers, opacity: packed.append(len(answers.results)) or b"")
    backend = demo_backend.DemoBackend({"tiny": lambda: ris})
    answers = list(backend.on_page(str(image_file), "the red mug\nthe tree\nthe star", "tiny", 0.5, "tiny", 0.8))
    assert len(answers) == 3 and packed == [3]


def test_the_space_installs_the_newest_wheel(tmp_path, monkeypatch):
    shutil.copy(Path(__file__).parents[1] / "spaces_demo" / "app.py", tmp_path)
    for version in ("0.9.0", "0.10.0", "0.10.0rc1"):
        (tmp_path / f"hf_ris-{version}-py3-none-any.whl").touch()
    installed = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: installed.append(command[-1].name))
    monkeypatch.setattr(demo, "launch", lambda: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(tmp_path / "app.py"))
    assert installed == ["hf_ris-0.10.0-py3-none-any.whl"]


def test_what_can_be_downloaded(ris, images):
    results = ris(images[0], text=["the red mug", "the tree"], output_format="array")
    archive = zipfile.ZipFile(io.BytesIO(demo_backend.pack(demo_backend.Answers(images[0], results, ""), 0.5)))
    assert archive.namelist() == ["01-the-red-mug.png", "02-the-tree.png", "overlay.jpg", "results.json"]
    mask = np.asarray(Image.open(archive.open("01-the-red-mug.png")))
    np.testing.assert_array_equal(mask > 0, results[0]["mask"])
    assert [line["label"] for line in json.loads(archive.read("results.json"))] == ["the red mug", "the tree"]


def test_expressions_are_no_markup(ris, images):
    results = ris(images[0], text=["<script>alert(1)</script>"], output_format="array")
    assert "<script>" not in demo_backend.to_html(demo_backend.Answers(images[0], results, ""), 0.5)


def test_a_drawn_scene_comes_with_expressions():
    image, text = demo.draw_me_a_scene()
    assert image.size == (320, 320)
    assert 1 <= len(text.splitlines()) <= 3


ROOT = Path(__file__).parents[1]
# As where this package was never installed: the finder of an editable install goes.
BOOT = """
import runpy, sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in str(finder)]
runpy.run_path("app.py", run_name="__main__")
"""


def test_the_space_starts_from_its_own_files(tmp_path):
    """The folder that a push uploads, with the wheel and nothing else of this package."""
    space = tmp_path / "space"
    shutil.copytree(ROOT / "spaces_demo", space)
    build_wheel(ROOT, space)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    log_file = tmp_path / "log"
    with log_file.open("w") as log:
        server = subprocess.Popen([sys.executable, "-c", BOOT], cwd=space, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(240):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0 or server.poll() is not None:
                    break
            time.sleep(0.5)
        assert server.poll() is None, log_file.read_text()
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        answers = client.predict(handle_file(CHECK_IMAGE), CHECK_TEXT, demo.BUNDLED_NAME, 0.5, api_name="/segment")
    finally:
        server.kill()
        server.wait()
    assert re.search("Successfully installed hf[-_]ris", log_file.read_text())
    assert rle_to_mask(answers[0]["mask"]).any()
