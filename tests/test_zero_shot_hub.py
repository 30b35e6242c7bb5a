"""A zero-shot model is one repository: composed of parts on a Hub, pushed, and loaded anywhere by its id."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_parts
from local_hub import endpoint, local_hub
from transformers import pipeline


COMPOSE_AND_PUSH = """
import sys
import hf_ris

ris = hf_ris.zero_shot("tas", image_text="someone/clip", proposer="someone/sam", captioner="someone/blip", device="cpu",
                       proposer_options={"points_per_side": 2, "min_iou": -99.0, "min_stability": 0.0})
ris.model.push_to_hub("me/my-tas")
ris.push_to_hub("me/piped")
print(ris(sys.argv[1], text="the red mug", output_format="rle"))
"""
# A process in which none of these can be imported, as on a machine where they were never installed.
STRANGER = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"hf_ris", "modeling", "spacy", "skimage", "nltk", "pycocotools"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from transformers import pipeline

for task in ("referring-segmentation", "zero-shot-referring-segmentation"):
    ris = pipeline(task, model=sys.argv[2], device="cpu", trust_remote_code=True)
    assert type(ris).__module__.startswith("transformers_modules")
    print(ris(sys.argv[1], text="the red mug", output_format="rle"))
"""


PUSH_TO_BRANCHES = """
from hf_ris.auto import load_whole
from hf_ris.systems import BUNDLED_ZERO_SHOT, find_model

model = load_whole(find_model(BUNDLED_ZERO_SHOT))
for name in ("me/branch-has-one", "me/main-has-one", "me/none-has-one"):
    model.push_to_hub(name, revision="v2")
"""


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    tiny_parts.save_clip(folder / "someone" / "clip")
    (folder / "someone" / "clip" / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    tiny_parts.save_sam(folder / "someone" / "sam")
    tiny_parts.save_blip(folder / "someone" / "blip", tokenizer)
    return folder


def run_python(code: str, environment: dict[str, str], *arguments: str) -> list[dict]:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line.replace("'", '"')) for line in done.stdout.splitlines() if line.startswith("{")]


def test_the_card_of_a_branch_stays(tmp_path):
    """What someone wrote for a branch is not replaced, by an empty form either; a new branch has main's card."""
    with local_hub(tmp_path / "hub") as hub:
        branch_has_one = hub.folder("me/branch-has-one", "v2")
        for folder in (hub.root / "me" / "branch-has-one", branch_has_one, hub.root / "me" / "main-has-one"):
            folder.mkdir(parents=True)
        written = "---\nlicense: mit\n---\n\nWritten by hand.\n"
        for folder in (branch_has_one, hub.root / "me" / "main-has-one"):
            (folder / "README.md").write_text(written, encoding="utf-8")
        run_python(PUSH_TO_BRANCHES, {**os.environ, **endpoint(hub, tmp_path / "home"), "OMP_NUM_THREADS": "1"})
        cards = {
            name: (hub.folder(f"me/{name}", "v2") / "README.md").read_text(encoding="utf-8")
            for name in ("branch-has-one", "main-has-one", "none-has-one")
        }
        assert (branch_has_one / "model.safetensors").is_file()
    assert cards["branch-has-one"] == written
    assert cards["main-has-one"].split() == written.split()
    assert "image_text" in cards["none-has-one"], "the model's own"


@pytest.mark.slow
def test_composed_pushed_and_loaded_by_id(hub_folder, images, tmp_path):
    picture = tmp_path / "picture.png"
    images[0].save(picture)
    with local_hub(hub_folder) as hub:
        environment = {**os.environ, **endpoint(hub, tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        environment["HF_MODULES_CACHE"] = str(tmp_path / "modules")
        composed = run_python(COMPOSE_AND_PUSH, environment, str(picture))
        strangers = run_python(STRANGER, environment, str(picture), "me/my-tas")
    pushed = hub_folder / "me" / "my-tas"
    card = (pushed / "README.md").read_text(encoding="utf-8")
    assert "| image_text | someone/clip | mit |" in card
    assert "- someone/sam" in card
    assert "license:" not in card.split("---")[1], "of two parts nothing is known"
    assert (hub_folder / "me" / "piped" / "README.md").read_text(encoding="utf-8") == card
    assert {path.name for path in pushed.iterdir() if path.is_dir()} >= {"image_text", "proposer", "captioner"}
    assert strangers == composed * 2

    ris = pipeline("referring-segmentation", model=str(pushed), device="cpu")
    assert type(ris.model).__module__ == "hf_ris.modeling.modeling_tas", "no trust is needed where it is installed"
    assert not hasattr(ris.model.config, "custom_pipelines")
    answer = ris(images[0], text="the red mug", output_format="array")
    assert np.isclose(answer["score"], composed[0]["score"], atol=1e-5)
