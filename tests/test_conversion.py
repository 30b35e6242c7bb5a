"""Published checkpoint files become folders, whole or not at all."""

import argparse
import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_states import draw_state, magnet_config, read_tensors
from huggingface_hub.errors import LocalEntryNotFoundError
from local_hub import COMMIT, endpoint, local_hub
from transformers import pipeline
from typer.testing import CliRunner

from hf_ris import MagNetConfig, MagNetForReferringSegmentation
from hf_ris.cli import app
from hf_ris.conversion import convert, folders
from hf_ris.conversion.files import Checkpoint, read_state_dict
from hf_ris.conversion.mapping_magnet import convert_state_dict, target_keys


STATE = draw_state("magnet")
PACKINGS = {
    "bare": lambda state: state,
    "model, with arguments": lambda state: {
        "model": state,
        "args": argparse.Namespace(lr=5e-5, size=480),
        "epoch": 39,
    },
    "state_dict of DataParallel": lambda state: {
        "state_dict": {f"module.{key}": value for key, value in state.items()}
    },
}


@pytest.fixture
def given(tokenizer, tmp_path):
    """The configuration and tokenizer of the golden network, as options of `convert`."""
    magnet_config().save_pretrained(tmp_path / "config")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return {"config": tmp_path / "config", "tokenizer": tmp_path / "tokenizer"}


def pack(content, tmp_path, name="weights.pth"):
    torch.save(content, tmp_path / name)
    return str(tmp_path / name)


@pytest.mark.parametrize("packing", PACKINGS)
def test_converted_weights_give_the_golden_masks(packing, given, tmp_path, images, monkeypatch):
    monkeypatch.setattr(folders, "SHARD_SIZE", 2**20)  # several shards, as at full size
    source = pack(PACKINGS[packing](STATE), tmp_path)
    convert("magnet", source, tmp_path / "out", **given)
    ris = pipeline("referring-segmentation", model=str(tmp_path / "out"), device="cpu")

    inputs = {
        name[2:]: tensor for name, tensor in read_tensors("magnet", "inputs.safetensors").items() if name[0] == "A"
    }
    expected = read_tensors("magnet", "outputs.safetensors")["A.pred_masks_all"][-1]
    with torch.no_grad():
        logits = ris.model(**inputs).logits
    torch.testing.assert_close(
        logits.reshape(expected.shape), expected, rtol=0, atol=2e-5 * expected.abs().max().item()
    )
    assert ris.processor.image_processor.size == {"height": 480, "width": 480}
    assert ris.processor.text_length == 20
    assert ris(images[0], text="the red mug")["mask"].size == images[0].size
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1


def test_the_card_says_where_the_weights_are_from(given, tmp_path):
    source = pack(STATE, tmp_path)
    convert("magnet", source, tmp_path / "out", **given)
    card = (tmp_path / "out" / "README.md").read_text()

    assert hashlib.sha256(Path(source).read_bytes()).hexdigest() in card
    assert "license: agpl-3.0" in card and "`weights.pth`" in card
    assert str(tmp_path) not in card


@pytest.mark.slow
def test_a_file_of_the_hub_is_fetched_converted_and_used(given, tokenizer, tmp_path, images):
    repository = tmp_path / "hub" / "yxchng" / "magnet_weights"
    repository.mkdir(parents=True)
    pack({"model": STATE}, repository, "magnet_all.pth")
    tokenizer.save_pretrained(tmp_path / "hub" / "google-bert" / "bert-base-uncased")
    source, out = "yxchng/magnet_weights::magnet_all.pth", tmp_path / "hub" / "me" / "magnet"
    picture = tmp_path / "picture.png"
    images[0].save(picture)

    with local_hub(tmp_path / "hub") as hub:
        # With as many threads as here, the masks are the same to the last bit.
        environment = {**os.environ, **endpoint(hub, tmp_path / "home"), "OMP_NUM_THREADS": "1"}

        def hf_ris(*arguments):
            command = [sys.executable, "-c", "from hf_ris.cli import app; app()", *map(str, arguments)]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)

        hub.cut_off_after = 1000
        cut_off = hf_ris("convert", "magnet", source, tmp_path / "out", "--config", given["config"])
        hub.cut_off_after = None
        converted = hf_ris("convert", "magnet", source, out, "--config", given["config"])
        used = hf_ris("segment", picture, "the red mug", "--model", "me/magnet", "--json")

    assert cut_off.returncode == 2 and "magnet_all.pth' could not be downloaded" in cut_off.stderr
    assert not (tmp_path / "out").exists()
    assert converted.returncode == 0, converted.stderr
    card = (out / "README.md").read_text()
    assert "huggingface.co/yxchng/magnet_weights" in card and f"`{COMMIT}`" in card
    assert used.returncode == 0, used.stderr
    ris = pipeline("referring-segmentation", model=str(out), device="cpu")
    assert json.loads(used.stdout) == [ris(images[0], text="the red mug", output_format="rle")]
    assert ris.processor.image_processor.size == {"height": 448, "width": 448}, "the published size of this file"


def test_a_partial_configuration_changes_what_it_says_alone(given, tmp_path):
    whole = json.loads((given["config"] / "config.json").read_text())
    del whole["language_attention_mask"]
    (tmp_path / "part.json").write_text(json.dumps(whole))
    convert("magnet", pack(STATE, tmp_path), tmp_path / "out", tmp_path / "part.json", given["tokenizer"])

    assert MagNetConfig.from_pretrained(tmp_path / "out").language_attention_mask == "published"


class Evil:
    """Would run a command when unpickled."""

    def __reduce__(self):
        return os.system, ("touch evil",)


def changed(**entries):
    return {**STATE, **entries}


KEY = "image_model.patch_embed.proj.weight"


@pytest.mark.parametrize(
    "content, message",
    [
        ({"model": STATE, "args": Evil()}, "holds Python code beside its weights"),
        ({key: value for key, value in STATE.items() if key != KEY}, "lacks 1 tensors"),
        (changed(**{"visual.conv1.weight": torch.zeros(1)}), r"'visual\.conv1\.weight'"),  # a part of CRIS
        (changed(**{KEY: torch.zeros(7, 3, 4, 4)}), r"proj\.weight' has shape \(7, 3, 4, 4\)"),
        (changed(**{KEY: STATE[KEY] * float("nan")}), "not finite"),
        (changed(**{KEY: "text"}), r"got a str under 'image_model\.patch_embed"),
        (changed(**{KEY: torch.tensor(1.0)}), "does not fit MagNet"),
        ({1: torch.zeros(1)}, "got a Tensor under 1"),
        ([1, 2], "must hold a state dict, got a list"),
        ({}, "holds no weights"),
    ],
)
def test_unfit_weights_are_named_and_leave_nothing(content, message, given, tmp_path):
    source = pack(content, tmp_path)
    with pytest.raises(ValueError, match=message):
        convert("magnet", source, tmp_path / "out", **given)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["config", "tokenizer", "weights.pth"]


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_a_truncated_download_is_named(size, given, tmp_path):
    whole = pack(STATE, tmp_path)
    (tmp_path / "half.pth").write_bytes(Path(whole).read_bytes()[:size])
    with pytest.raises(ValueError, match=r"half\.pth' is not a complete torch checkpoint"):
        convert("magnet", str(tmp_path / "half.pth"), tmp_path / "out", **given)

    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_named_and_leaves_nothing(given, tmp_path, monkeypatch):
    source = pack(STATE, tmp_path)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: argparse.Namespace(free=1000))
    with pytest.raises(OSError, match="disk has") as caught:
        convert("magnet", source, tmp_path / "out", **given)
    assert caught.value.errno == errno.ENOSPC

    def full(*arguments, **options):
        raise folders.SafetensorError("No space left on device")

    monkeypatch.undo()
    monkeypatch.setattr(folders, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        convert("magnet", source, tmp_path / "out", **given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config", "tokenizer", "weights.pth"]


def test_wrong_arguments_are_named(given, tmp_path, monkeypatch):
    source = pack(STATE, tmp_path)
    with pytest.raises(ValueError, match=r"`system` must be one of .*magnet.*got 'lavt'"):
        convert("lavt", source, tmp_path / "out")
    with pytest.raises(ValueError, match="there is no file"):
        convert("magnet", str(tmp_path / "none.pth"), tmp_path / "out")
    with pytest.raises(ValueError, match="hub-id::file"):
        convert("magnet", "::magnet.pth", tmp_path / "out")
    with pytest.raises(ValueError, match="local file"):
        convert("magnet", source, tmp_path / "out", revision="main")
    with pytest.raises(ValueError, match="exists"):
        convert("magnet", source, tmp_path, **given)
    with pytest.raises(ValueError, match=r"`text_length` must be between 1 and .*, got 1000"):
        convert("magnet", source, tmp_path / "out", **given, text_length=1000)
    with pytest.raises(ValueError, match="can be replaced"):
        convert("magnet", source, "/", **given)
    monkeypatch.chdir(tmp_path / "config")
    with pytest.raises(ValueError, match="can be replaced"):
        convert("magnet", source, ".", **given)
    (tmp_path / "unfit.json").write_text('{"hidden_dim": 100}')
    with pytest.raises(ValueError, match=r"`config` must be .*unfit\.json'"):
        convert("magnet", source, tmp_path / "out", config=tmp_path / "unfit.json", tokenizer=given["tokenizer"])
    torch.jit.script(torch.nn.Identity()).save(tmp_path / "program.pt")
    with pytest.raises(ValueError, match="holds no weights"):
        convert("magnet", str(tmp_path / "program.pt"), tmp_path / "out", **given)
    with pytest.raises(LocalEntryNotFoundError):
        convert("magnet", "no/such::magnet.pth", tmp_path / "out", **given)
    with pytest.raises(ValueError, match="does not fit MagNet as configured"):
        convert("magnet", source, tmp_path / "out", tokenizer=given["tokenizer"])

    done = CliRunner().invoke(app, ["convert", "magnet", str(tmp_path / "none.pth"), str(tmp_path / "out")])
    assert done.exit_code == 2 and "none.pth" in done.stderr and done.stdout == ""


FULL_SIZE = """
import re, sys
from pathlib import Path
from hf_ris.conversion import convert

convert("magnet", sys.argv[1], sys.argv[2], tokenizer=sys.argv[3])
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_the_published_size_needs_little_memory(given, tmp_path):
    """A file of 1.2 GB with random weights, converted in a process of its own."""
    with torch.device("meta"):
        model = MagNetForReferringSegmentation(MagNetConfig())
    state = {name: torch.randn(shape) * 0.02 for name, shape in released_shapes(model).items()}
    source = pack({"model": state}, tmp_path, "magnet_refcoco.pth")
    del state
    command = [sys.executable, "-c", FULL_SIZE, source, str(tmp_path / "out"), str(given["tokenizer"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    size = Path(source).stat().st_size
    assert size > 1.18e9
    assert int(done.stdout) < 1.3 * size, f"{int(done.stdout) / size:.2f} times the file"
    converted = MagNetForReferringSegmentation.from_pretrained(tmp_path / "out")
    released = read_state_dict(Checkpoint(Path(source), source))
    expected = convert_state_dict(released, converted)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in converted.named_parameters())


def released_shapes(model) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released full-size checkpoint: the golden network's keys, with more of what it repeats."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    repeated = {
        r"(image_model\.layers\.2\.blocks\.)0\.": model.config.backbone_config.depths[2],
        r"(pixel_decoder\.transformer\.encoder\.layers\.)0\.": model.config.encoder_layers,
    }
    released = {}
    for key, tensor in STATE.items():
        names = [key]
        for pattern, count in repeated.items():
            if re.search(pattern, key):
                names = [re.sub(pattern, rf"\g<1>{number}.", key) for number in range(count)]
        for name in names:
            targets = target_keys(name)
            if targets:
                first, *rest = shapes[targets[0]]
                released[name] = (first * len(targets), *rest, *[1] * (tensor.ndim - 1 - len(rest)))
            else:
                released[name] = tuple(tensor.shape)
    return released
