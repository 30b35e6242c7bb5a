"""What is published: whole, checked, private unless asked otherwise, and loadable anywhere."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from local_hub import TOKEN, endpoint, local_hub
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from hf_ris import CRISConfig, GlobalLocalConfig, MagNetConfig, TASConfig, endpoint_handler
from hf_ris.data import load_refshapes
from hf_ris.data.export import export_parquet
from hf_ris.hub import check_access, check_model, push_dataset, push_model, push_space, retry, stage_model, upload
from hf_ris.output_folder import weights_fingerprint
from hf_ris.published_card import HERE
from hf_ris.visitors import check_bounds


SPACE = Path(__file__).parents[1] / "spaces_demo"


@pytest.fixture
def some_files(tmp_path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\nSomething\n", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(bytes(300_000))
    return folder


@pytest.fixture
def results(ris) -> dict:
    return {
        "dataset": "refshapes val",
        "protocol": "original",
        "text_column": "sent",
        "expressions": 7,
        "weights": weights_fingerprint(ris.model),
        **dict.fromkeys(("oIoU", "mIoU", "P@0.5", "P@0.7", "P@0.9"), 0.25),
    }


def test_a_model_is_pushed_whole_and_loads_by_its_id(model_folder, results, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (tmp_path / "hub").mkdir()
    with local_hub(tmp_path / "hub") as hub:
        environment = {**os.environ, **endpoint(hub, tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        options = ["--license", "apache-2.0", "--results", str(tmp_path / "results.json"), "--revision", "v2"]
        command = [sys.executable, "-m", "hf_ris.cli", "push", str(model_folder), "me/mine", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "/me/mine/commit/" in done.stdout
        assert TOKEN not in done.stdout + done.stderr
        assert "me/mine" in hub.private
        load = "import sys, hf_ris; from transformers import pipeline; print(pipeline('referring-segmentation', model='me/mine', revision=sys.argv[1], device='cpu').model.name_or_path)"
        loaded = subprocess.run(
            [sys.executable, "-c", load, "v2"], env=environment, capture_output=True, text=True, check=False
        )
        assert loaded.returncode == 0, loaded.stderr
        stranger = {**environment, "HF_TOKEN": "hf_nobody", "HF_HOME": str(tmp_path / "other")}
        refused = subprocess.run(
            [sys.executable, "-c", load, "v2"], env=stranger, capture_output=True, text=True, check=False
        )
        assert refused.returncode != 0
        assert "me/mine" in refused.stderr
    pushed = tmp_path / "hub" / ".branches" / "v2" / "me" / "mine"
    assert {"README.md", "config.json", "handler.py", "model.safetensors", "modeling_magnet.py"} <= {
        path.name for path in pushed.iterdir()
    }
    assert not any(TOKEN.encode() in path.read_bytes() for path in pushed.iterdir())
    card = ModelCard.load(pushed / "README.md")
    assert card.data.license == "apache-2.0"
    assert {(result.metric_type, result.dataset_split) for result in card.data.eval_results} >= {
        ("oiou", "val"),
        ("miou", "val"),
    }
    assert 'model="me/mine"' in card.text
    assert "| refshapes val | original | sent | 7 | 0.250 |" in card.text


def test_nothing_is_uploaded_in_a_dry_run(model_folder, hub):
    lines = []
    assert push_model(model_folder, "me/mine", licence="mit", dry_run=True, note=lines.append) is None
    assert hub.asked == []
    assert any("model.safetensors" in line for line in lines)
    assert lines[-1].startswith("nothing was uploaded: ")


def test_what_does_not_answer_is_not_published(model_folder, hub, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    stage_model(broken, "me/mine", tmp_path / "staged", [], "mit")
    (tmp_path / "staged" / "modeling_magnet.py").write_text("raise RuntimeError('half a file')", encoding="utf-8")
    with pytest.raises(ValueError, match=r"(?s)cannot be loaded and asked.*half a file"):
        check_model(tmp_path / "staged")
    weights = load_file(broken / "model.safetensors")
    name, _ = weights.popitem()
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks weights of MagNetForReferringSegmentation, such as '{name}'"):
        push_model(broken, "me/mine", licence="mit", dry_run=True)


def test_only_what_was_loaded_is_published(model_folder, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(model_folder, source)
    for name in (".env", "optimizer.pt", "notes.txt"):
        (source / name).write_text("secret", encoding="utf-8")
    (source / "checkpoint-5").mkdir()
    (source / "README.md").write_text(f"---\nlicense: mit\n---\nLoad {HERE}. ![](curve.png)", encoding="utf-8")
    (source / "curve.png").write_bytes(b"picture")
    stage_model(source, "me/mine", tmp_path / "staged", [], None)
    names = {path.name for path in (tmp_path / "staged").iterdir()}
    assert not names & {".env", "optimizer.pt", "notes.txt", "checkpoint-5"}
    assert "curve.png" in names
    assert "Load me/mine." in (tmp_path / "staged" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"weights": "0123"}, "other weights"), ({"mIoU": None}, None)],
)
def test_results_must_be_of_these_weights(model_folder, results, tmp_path, change, message):
    changed = {name: value for name, value in {**results, **change}.items() if value is not None}
    (tmp_path / "results.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ValueError, match=message or "lacks 'mIoU'"):
        push_model(model_folder, "me/mine", [tmp_path / "results.json"], "mit", dry_run=True)


def test_a_licence_is_asked_for(model_folder, tmp_path):
    with pytest.raises(ValueError, match="`licence` is missing"):
        stage_model(model_folder, "me/mine", tmp_path / "staged", [], None)


def test_a_public_repository_must_be_meant(hub):
    (hub.root / "me" / "seen").mkdir(parents=True)
    with pytest.raises(ValueError, match="public"):
        check_access("me/seen", "model", public=False)
    check_access("me/seen", "model", public=True)
    check_access("me/new", "model", public=False)
    for unfit, message in (("mine", "user/name"), ("you/mine", "you/mine.*allowed are.*me")):
        with pytest.raises((ValueError, OSError), match=message):
            check_access(unfit, "model", public=False)


def test_without_a_login_it_says_so(hub, monkeypatch, some_files):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(OSError, match="hf auth login"):
        check_access("me/mine", "model", public=False)
    with pytest.raises(OSError, match="hf auth login"):
        upload(some_files, "me/mine", "model", False, False, None, print)


def test_a_busy_hub_is_asked_again(hub, some_files):
    hub.busy = 3
    check_access("me/mine", "model", public=False)
    hub.busy = 3
    url = upload(some_files, "me/mine", "model", False, False, None, print)
    assert url.endswith(hub.head("me/mine", "main"))
    hub.busy = 100
    with pytest.raises(HfHubHTTPError):
        retry(HfApi().whoami)


def test_a_broken_upload_publishes_nothing(hub, some_files):
    upload(some_files, "me/mine", "model", False, False, None, print)
    before = {path.name: path.read_bytes() for path in (hub.root / "me" / "mine").iterdir()}
    (some_files / "README.md").write_text("---\nlicense: mit\n---\nNew\n", encoding="utf-8")
    (some_files / "model.safetensors").write_bytes(bytes(range(200)) * 2000)
    hub.cut_uploads_after = 1000
    with pytest.raises(OSError, match="nothing was published"):
        upload(some_files, "me/mine", "model", False, False, None, print)
    assert {path.name: path.read_bytes() for path in (hub.root / "me" / "mine").iterdir()} == before
    hub.cut_uploads_after = None
    upload(some_files, "me/mine", "model", False, False, None, print)
    assert (hub.root / "me" / "mine" / "model.safetensors").read_bytes() == bytes(range(200)) * 2000


def test_a_dataset_is_pushed_and_loads_by_its_id(hub, tmp_path):
    rows = load_refshapes("refshapes", "val", num_rows=6)
    export_parquet(rows, tmp_path / "rows")
    (tmp_path / "rows" / "secret.txt").write_text("secret", encoding="utf-8")
    push_dataset(tmp_path / "rows", "me/rows")
    pushed = hub.root / "datasets" / "me" / "rows"
    assert sorted(path.name for path in pushed.rglob("*") if path.is_file()) == ["00000-of-00001.parquet", "README.md"]
    assert "datasets/me/rows" in hub.private
    shutil.rmtree(tmp_path / "rows")
    export_parquet(rows, tmp_path / "rows", shard_size=1)
    lines = []
    push_dataset(tmp_path / "rows", "me/rows", note=lines.append)
    assert sorted(path.name for path in pushed.rglob("*.parquet")) == [f"0000{n}-of-00006.parquet" for n in range(6)]
    assert any("deleted" in line and "00000-of-00001.parquet" in line for line in lines)
    with pytest.raises(ValueError, match="hf-ris data export"):
        push_dataset(SPACE, "me/rows", dry_run=True)


# In a process of its own, since libraries read where the Hub is when they are imported.
BY_IDS = """
import sys
from datasets import load_dataset
from transformers import AutoProcessor, Trainer, TrainingArguments, pipeline
from hf_ris import AutoModelForReferringSegmentation
from hf_ris.data.collator import ReferringSegmentationCollator
from hf_ris.demo_backend import Models

rows = load_dataset("me/rows", split="val")
model, processor = (auto.from_pretrained("you/start") for auto in (AutoModelForReferringSegmentation, AutoProcessor))
arguments = TrainingArguments(
    "out", hub_model_id="me/trained", push_to_hub=True, hub_private_repo=True, max_steps=1, use_cpu=True, report_to="none",
    remove_unused_columns=False,
)
collator = ReferringSegmentationCollator(processor)
Trainer(model, arguments, collator, rows, processing_class=processor).train()
print(pipeline("referring-segmentation", model="me/trained", device="cpu")(rows[0]["image"], text="the mug")["label"])
with Models({}).fetch("you/start") as get:
    print(get()(rows[0]["image"], text="the tree")["label"])
try:
    Models({}).fetch("me/trained").__enter__()
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_rows_models_and_trainings_go_by_their_ids(hub, model_folder, tmp_path):
    export_parquet(load_refshapes("refshapes", "val", num_rows=6), tmp_path / "rows")
    push_dataset(tmp_path / "rows", "me/rows")
    shutil.copytree(model_folder, hub.root / "you" / "start")
    environment = {**os.environ, **endpoint(hub, tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BY_IDS], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()[-3:]
    assert answers == ["the mug", "the tree", "me/trained is no model that everyone can see on the Hub."]
    assert "me/trained" in hub.private


def test_the_endpoint_bounds_what_it_is_asked(ris, images, monkeypatch):
    monkeypatch.setattr(endpoint_handler, "load_pipeline", lambda path: ris)
    handler = endpoint_handler.EndpointHandler("anywhere")

    def ask(image, text):
        return handler({"inputs": {"image": image, "text": text}})

    def encode(picture):
        file = io.BytesIO()
        picture.save(file, "png")
        return base64.b64encode(file.getvalue()).decode()

    small = encode(images[0])
    assert [answer["label"] for answer in ask(small, ["the red mug", "a tree"])] == ["the red mug", "a tree"]
    for image, text, message in (
        (small, ["a tree"] * 65, "at most 64 expressions, got 65"),
        ("no base64", ["a tree"] * 65, "at most 64 expressions, got 65"),
        (small, "a tree " * 200, "at most 1000 characters, got 1400"),
        (small, {"text": "a tree"}, "`text` must be a string or a list of strings, got dict"),
        (encode(Image.new("1", (8000, 7000))), "a tree", "at most 50000000 pixels, got 56000000"),
        ("A" * (endpoint_handler.LONGEST_FILE + 1), "a tree", "at most 67108864 characters"),
        (base64.b64encode(b"no picture").decode(), "a tree", "an image file that can be read"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(image, text)


VISITORS = """
import sys, threading
from pathlib import Path
from huggingface_hub import HfApi
from hf_ris import visitors

models, root = visitors.VisitorModels(sys.argv[1]), Path(sys.argv[1])
found = []

def fetch(name):
    with models.use(name) as folder:
        assert (folder / "model.safetensors").exists()
        return folder

def on_disk():
    return sorted(path.name for path in root.glob("models--*") if list(path.rglob("*.safetensors")))

threads = [threading.Thread(target=lambda: found.append(fetch("you/one"))) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(set(found)) == 1 and len(found) == 3, found
assert not models._users and not models._locks and not models._promised
for name in ("you/deep", "you/wide", "you/side", "you/other"):
    try:
        fetch(name)
    except ValueError as error:
        print(error)

size = sum(path.stat().st_size for path in found[0].iterdir())
visitors.LARGEST_CACHE = int(2.5 * size)
for name in ("you/two", "you/one", "you/three"):
    fetch(name)
print(on_disk())

# What is used stays, and what others are about to download counts.
with models.use("you/one") as one, models.use("you/three"):
    try:
        fetch("you/two")
    except ValueError as error:
        print(error)
    assert (one / "model.safetensors").exists()
fetch("you/two")
models._promised["you/four"] = size
fetch("you/one")
print(on_disk())
models._promised.clear()

# Of a model that is published anew, the earlier commit goes.
HfApi().upload_file(path_or_fileobj=b"new", path_in_repo="notes.txt", repo_id="you/one")
print(fetch("you/one") != one, one.exists(), on_disk())
"""


def test_visitors_models_are_refused_by_their_configuration_and_bounded_on_the_disk(hub, model_folder, tmp_path):
    changes = {
        "one": {},
        "two": {},
        "three": {},
        "deep": {"decoder_layers": 4000},
        "wide": {"hidden_dim": 16_384, "decoder_feedforward_dim": 16_384, "decoder_layers": 60},
        "other": {"model_type": "bert"},
        "side": {},
    }
    for name, change in changes.items():
        folder = hub.root / "you" / name
        shutil.copytree(model_folder, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **change}))
    processor = hub.root / "you" / "side" / "processor_config.json"
    values = json.loads(processor.read_text())
    values["image_processor"]["size"] = {"height": 60_000, "width": 60_000}
    processor.write_text(json.dumps(values))
    environment = {**os.environ, **endpoint(hub, tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", VISITORS, str(tmp_path / "visitors")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    deep, wide, side, other, kept, no_room, beside, anew = done.stdout.splitlines()
    assert deep == "you/deep: config.json has decoder_layers=4000; this page takes up to 128."
    assert "you/wide has" in wide and "million parameters" in wide
    assert side == "you/side: processor_config.json has image_processor.size.height=60000; this page takes up to 2048."
    assert "you/other is a 'bert'" in other
    assert kept == "['models--you--one', 'models--you--three']", "the least recently asked went"
    assert no_room == "There is no room for you/two beside what others use just now; ask again in a while."
    assert beside == "['models--you--one']"
    assert anew == "True False ['models--you--one']"
    fetched = [line for line in hub.asked if line.startswith("GET") and line.endswith("model.safetensors")]
    assert sum("/you/one/" in line for line in fetched[: fetched.index(next(x for x in fetched if "/two/" in x))]) == 1
    assert not any(f"/you/{name}/" in line for line in fetched for name in ("deep", "wide", "side", "other"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decoder": {"decoder_layers": 4000}}, "it has decoder.decoder_layers=4000; this page takes up to 128."),
        ({"depths": [64, 64, 1]}, "it has depths of 129 together; this page takes up to 128."),
        ({"iou_head_depth": 100_000}, "it has iou_head_depth=100000; this page takes up to 128."),
        ({"points_per_side": 1e4}, "it has points_per_side=10000.0; this page takes up to 64."),
        ({"max_size": float("inf")}, "it has max_size=inf; this page takes up to 2048."),
        ({"text_length": 10**6}, "it has text_length=1000000; this page takes up to 4096."),
        ({"cache_size": 10**6}, "it has cache_size=1000000; this page takes up to 256."),
        ({"scales": [100] * 300}, "it has 300 entries of scales; this page takes up to 256."),
        ({"image_size": 1024, "patch_size": 4}, "it has 1024 / 4 patches a side"),
        ({"whatever": 10**6}, "it has whatever=1000000; this page takes up to 100000."),
    ],
)
def test_sizes_in_a_configuration_are_bounded(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_bounds(values, "it")


def test_published_sizes_are_within_the_bounds():
    parts = (
        "clip",
        "metaclip_2",
        "siglip",
        "siglip2",
        "sam",
        "mask2former",
        "maskformer",
        "blip",
        "blip-2",
        "florence2",
        "swin",
        "bert",
    )
    configs = [AutoConfig.for_model(name) for name in parts]
    configs += [MagNetConfig(), CRISConfig(), TASConfig(), GlobalLocalConfig()]
    for config in configs:
        check_bounds(json.loads(config.to_json_string(use_diff=False)), config.model_type)
    check_bounds({"mask_weight": 1e6, "is_deep": True, "size": {"height": 480, "width": 480}}, "it")


def test_a_space_takes_the_wheel_along(hub, tmp_path):
    push_space(SPACE, "me/demo", "gradio")
    pushed = {path.name for path in (hub.root / "spaces" / "me" / "demo").iterdir()}
    assert {"README.md", "app.py", "requirements.txt"} < pushed
    assert [name for name in pushed if name.startswith("hf_ris-") and name.endswith(".whl")]
    with pytest.raises(ValueError, match=r"must hold a README\.md"):
        push_space(tmp_path, "me/demo", "gradio", dry_run=True)
    with pytest.raises(ValueError, match="must be a wheel of hf_ris"):
        push_space(SPACE, "me/demo", "gradio", wheel=tmp_path / "other-1.0-py3-none-any.whl", dry_run=True)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(SPACE, elsewhere)
    with pytest.raises(ValueError, match="`wheel` is missing"):
        push_space(elsewhere, "me/demo", "gradio", dry_run=True)
