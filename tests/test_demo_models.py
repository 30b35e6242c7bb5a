"""The models that the demo offers and takes, with a Hub on this machine, behind a gate, and without a connection."""

import json
import os
import shutil
import subprocess
import sys
import threading

import pytest
from typer.testing import CliRunner


pytest.importorskip("gradio")

from local_hub import endpoint, local_hub
from test_hub_models import save_clipseg, save_florence2, save_sam3, save_sam3_video
from tiny_grounded import save_grounding_dino, save_sam2
from tiny_parts import save_sam

import hf_ris
from hf_ris import demo_models, visitors
from hf_ris.cli import app
from hf_ris.demo_backend import DemoBackend, Models, load
from hf_ris.demo_models import BUNDLED_NAME, DETECTOR, SAM3, SEGMENTER, photo_models
from hf_ris.systems import BUNDLED_CHECKPOINT, PHOTO_MODEL


CLIPSEG_NAME, PAIR_NAME, SAM3_NAME, TAS_NAME = [model.name for model in photo_models()]


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory):
    """Repositories under the published ids, with tiny random weights, but none of TAS's parts; and what visitors publish."""
    root = tmp_path_factory.mktemp("hub")
    save_clipseg(root / PHOTO_MODEL)
    save_grounding_dino(root / DETECTOR)
    save_sam2(root / SEGMENTER)
    save_sam3_video(root / SAM3)
    for name, save in (("clipseg", save_clipseg), ("sam3", save_sam3), ("florence2", save_florence2)):
        save(root / "you" / name)
    pair = hf_ris.grounded(root / DETECTOR, save_sam(root / "you" / "sam"), device="cpu")
    pair.save_pretrained(root / "you" / "pair")
    shutil.copytree(root / "you" / "clipseg", root / "you" / "pickled")
    (root / "you" / "pickled" / "model.safetensors").rename(root / "you" / "pickled" / "pytorch_model.bin")
    return root


PREAMBLE = """
import json, sys, threading
import gradio as gr
from hf_ris.demo_backend import DemoBackend
from hf_ris.demo_models import make_offer

offer = make_offer()
backend = DemoBackend(offer.models)
said = {}

def ask(name):
    try:
        (answer,) = backend.segment(sys.argv[1], "the red mug on the left", name)
        said[name] = [*answer, answer["mask"]["size"]]
    except gr.Error as error:
        said[name] = str(error)

"""
CONNECTED = """
threads = [threading.Thread(target=ask, args=(backend.default,)) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for name in sys.argv[2:]:
    ask(name)
said["choice"] = list(backend.on_choice(backend.default))
"""
SAY = "print(json.dumps({'names': list(offer.models), 'photos': offer.takes_photos, **said}))"


def run(script, environment, image, *names):
    command = [sys.executable, "-c", PREAMBLE + script + SAY, str(image), *names]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=environment, cwd=image.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_photos_come_first_where_the_hub_answers_or_its_models_are_here(hub_folder, images, tmp_path):
    image, home = tmp_path / "image.png", tmp_path / "home"
    images[0].save(image)
    size = [images[0].height, images[0].width]
    answer = ["label", "score", "mask", "box", size]
    with local_hub(hub_folder) as hub:
        hub.gated.add(SAM3)
        environment = endpoint(hub, home, token="")
        asked = (PAIR_NAME, SAM3_NAME, TAS_NAME, "you/clipseg", "you/sam3", "you/florence2", "you/pair", "you/pickled")
        said = run(CONNECTED, environment, image, *asked)
        weights = [
            line for line in hub.asked if line.startswith("GET") and PHOTO_MODEL in line and "safetensors" in line
        ]
    assert said["names"][:4] == [CLIPSEG_NAME, PAIR_NAME, SAM3_NAME, TAS_NAME] and said["photos"]
    for name in (CLIPSEG_NAME, PAIR_NAME, "you/clipseg", "you/sam3", "you/florence2", "you/pair"):
        assert said[name] == answer, name
    assert len(weights) == 1, "two visitors, one download"
    assert "This model is gated. Whoever runs this page asks for access" in said[SAM3_NAME]
    assert "cannot be fetched from the Hub just now" in said[TAS_NAME]
    assert "you/pickled has no safetensors" in said["you/pickled"]
    assert said["choice"] == [f"**{CLIPSEG_NAME}** is ready."]

    # The Hub is gone now: what was downloaded still answers.
    said = run("ask(backend.default)\n", environment, image)
    assert said["names"][:3] == [CLIPSEG_NAME, PAIR_NAME, BUNDLED_NAME] and said["photos"]
    assert said["names"][-2:] == [SAM3_NAME, TAS_NAME]
    assert said[CLIPSEG_NAME] == answer


def test_without_a_connection_the_bundled_models_come_first(images, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_models, "try_to_load_from_cache", lambda *_: None)
    images[0].save(tmp_path / "image.png")
    offer = demo_models.make_offer([str(BUNDLED_CHECKPOINT)])
    assert not offer.takes_photos
    photos = [CLIPSEG_NAME, PAIR_NAME, SAM3_NAME, TAS_NAME]
    assert [*offer.models] == [*offer.for_drawings, str(BUNDLED_CHECKPOINT), *photos]
    backend = DemoBackend(offer.models)
    assert backend.segment(str(tmp_path / "image.png"), "the red mug", BUNDLED_NAME)
    *_, said = backend.on_choice(CLIPSEG_NAME)
    assert "the bundled models need no connection" in said


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch):
    """As where names are not resolved, which no timeout of a request covers."""
    goes_on = threading.Event()
    monkeypatch.setattr(demo_models.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(demo_models, "model_info", lambda *_, **__: goes_on.wait(60))
    monkeypatch.setattr(demo_models, "PATIENCE", 0.05)
    assert not demo_models.hub_answers()
    goes_on.set()


def test_visitors_who_choose_alike_wait_for_one_loading(ris):
    begun, goes_on, loaded = threading.Event(), threading.Event(), []

    def load_slowly():
        begun.set()
        assert goes_on.wait(60)
        loaded.append(ris)
        return ris

    backend = DemoBackend({"slow": load_slowly})
    said = []
    visitors_ = [threading.Thread(target=lambda: said.append(list(backend.on_choice("slow")))) for _ in range(2)]
    for visitor in visitors_:
        visitor.start()
    assert begun.wait(60)
    goes_on.set()
    for visitor in visitors_:
        visitor.join()
    assert len(loaded) == 1
    assert all("is loading" in first and last == "**slow** is ready." for first, last in said)


def test_a_model_that_fails_is_named_and_tried_again(ris):
    attempts = iter([OSError("no such repository"), ris])

    def load_or_fail():
        attempt = next(attempts)
        if isinstance(attempt, OSError):
            raise attempt
        return attempt

    backend = DemoBackend({"<b>new</b>": load_or_fail})
    *_, failed = backend.on_choice("<b>new</b>")
    assert failed.startswith("**&lt;b&gt;new&lt;/b&gt;** cannot be asked. The model cannot be fetched")
    *_, ready = backend.on_choice("<b>new</b>")
    assert ready.endswith("is ready.")


@pytest.mark.parametrize("name", ["you/sam3", "you/pair"])
def test_what_finds_instances_chooses_by_place_and_explains(hub_folder, images, tmp_path, name):
    images[0].save(tmp_path / "image.png")
    backend = DemoBackend({"it": lambda: load(str(hub_folder / name))})
    asked = (str(tmp_path / "image.png"), "the red mug on the left\nthe tree", "it", 0.5, "", 0.8)
    *_, last = backend.on_page(*asked)
    _slider, set_for, _, _, _, drawing, tab, _ = last
    assert set_for == "it" and tab.visible
    assert drawing.height > 2 * images[0].height, "the image for each expression"
    explanation = backend.ask("it", lambda: None, backend.read(*asked[:2]), explain=True)[0]["explanation"]
    assert explanation["select"] == "place"


def test_the_command_line_draws_boxes(hub_folder, images, tmp_path):
    images[0].save(tmp_path / "image.png")
    command = [
        "segment",
        str(tmp_path / "image.png"),
        "the red mug",
        "--explain",
        str(tmp_path / "why.png"),
        "--model",
    ]
    done = CliRunner().invoke(app, [*command, str(hub_folder / "you" / "pair")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "why.png").exists()
    done = CliRunner().invoke(app, [*command, str(hub_folder / "you" / "clipseg")])
    assert done.exit_code == 2
    assert "--explain must be left out: CLIPSegForReferringSegmentation does not choose" in done.stderr


def test_a_pair_remembers_one_image(hub_folder):
    with Models({"pair": lambda: load(str(hub_folder / "you" / "pair"))}).fetch("pair") as get:
        assert get().model.config.cache_size == 1


def test_published_configurations_of_transformers_are_within_the_bounds():
    for name in ("CLIPSegConfig", "Sam3Config", "Florence2Config"):
        visitors.check_bounds(getattr(__import__("transformers"), name)().to_dict(), name)
    visitors.check_bounds(hf_ris.GroundedConfig().to_dict(), "a pair")


def test_weights_in_other_files_are_refused():
    with pytest.raises(ValueError, match="it has no safetensors; this page reads weights from no other"):
        visitors.check_sizes({"config.json": 10}, "it")
