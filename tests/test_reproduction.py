"""The reproduction of published figures, rehearsed against a Hub on this machine with tiny models."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from golden_states import draw_state, magnet_config
from local_hub import endpoint, local_hub
from test_hub_models import save_clipseg
from test_refer_layouts import ANNOTATIONS, BENCHMARK, LEFT, REFCOCO_M, RIGHT, code_of, photo, ref, sample, write_copy
from tiny_grounded import save_grounding_dino, save_sam2

from hf_ris import reproduction


ROOT = Path(__file__).parents[1]
# The script as it is, but for the size of MagNet.
SCRIPT = """
import dataclasses, sys
sys.path.insert(0, sys.argv.pop(1))
import reproduce
from hf_ris.reproduction import MODELS
MODELS["magnet"] = dataclasses.replace(MODELS["magnet"], conversion={"config": sys.argv.pop(1)})
reproduce.main()
"""


@pytest.fixture(scope="module")
def hub_folder(tokenizer, tmp_path_factory) -> Path:
    """MagNet's weights and CLIPSeg, a SAM 3 that is gated, and RefCOCO's copies but for testB; no Florence-2."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "yxchng" / "magnet_weights").mkdir(parents=True)
    torch.save({"model": draw_state("magnet")}, folder / "yxchng" / "magnet_weights" / "magnet_refcoco.pth")
    tokenizer.save_pretrained(folder / "google-bert" / "bert-base-uncased")
    magnet_config().save_pretrained(folder / "config")
    save_clipseg(folder / "CIDAS" / "clipseg-rd64-refined")
    save_grounding_dino(folder / "IDEA-Research" / "grounding-dino-tiny")
    save_sam2(folder / "facebook" / "sam2.1-hiera-tiny")
    (folder / "facebook" / "sam3").mkdir(parents=True)
    (folder / "facebook" / "sam3" / "config.json").write_text('{"model_type": "sam3_video"}')

    copy = folder / "datasets" / "jxu124" / "refcoco-benchmark"
    for split in ("val", "testA"):
        pairs = [
            (ANNOTATIONS[0], ref(1, 1, split, "left", "the red mug")),
            (ANNOTATIONS[1], ref(2, 2, split, "right")),
        ]
        listed = [{"ann_info": {**a, "area": 1.0}, "ref_info": {**asked, "category_id": 7}} for a, asked in pairs]
        image_info = {"file_name": "photo_1.jpg", "height": 60, "id": 1, "width": 80}
        row = {"image": photo(1), "ref_list": listed, "image_info": image_info}
        write_copy(copy, [row], BENCHMARK, f"refcoco_unc_{split}")
    samples = [sample(4, code_of(LEFT), "left"), sample(5, code_of(RIGHT), "right one")]
    rows = [{"image": photo(1), "image_id": 1, "file_name": "a.jpg", "samples": samples}]
    write_copy(folder / "datasets" / "moondream" / "refcoco-m", rows, REFCOCO_M, "validation")
    return folder


@pytest.mark.slow
def test_a_rehearsal(hub_folder, tmp_path):
    output = tmp_path / "out"
    with local_hub(hub_folder) as hub:
        hub.gated.add("facebook/sam3")
        environment = {**os.environ, **endpoint(hub, tmp_path / "home", "hf_another"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SCRIPT, str(ROOT / "scripts"), str(hub_folder / "config"), "--device", "cpu"]

        def start(*options: str) -> subprocess.Popen:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            return subprocess.Popen([*command, "--output", str(output), *options], env=environment, **pipes)

        killed = start()
        while killed.poll() is None and not list(output.rglob("predictions-*.jsonl")):
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        converted = (output / "weights" / "magnet" / "config.json").stat().st_mtime_ns

        whole = start()
        printed, errors = whole.communicate(timeout=300)
        assert whole.returncode == 0, errors
        few = start("--only", "clipseg", "--rows", "1")
        assert few.communicate(timeout=300)[0].count("| clipseg |") == 4

    assert (output / "weights" / "magnet" / "config.json").stat().st_mtime_ns == converted, "it is converted once"
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    rows = {(cells[0], cells[1]): cells for cells in lines}
    assert len(rows) == 2 + len(reproduction.MODELS) * 4  # a header, its line, and each model on each dataset

    def measured(model: str, data: str) -> dict:
        return json.loads((output / data / model / "results.json").read_text())

    for data in ("RefCOCO-val", "RefCOCO-testA", "RefCOCO-M-val"):
        magnet, clipseg = measured("magnet", data), measured("clipseg", data)
        assert (magnet["protocol"], magnet["text_column"], magnet["mask_size"]) == ("lavt", "raw", [480, 480])
        assert clipseg["expressions"] == magnet["expressions"] == (2 if "M-val" in data else 3)
        assert measured("grounded", data)["expressions"] == clipseg["expressions"]
    cells = rows["magnet", "RefCOCO val"]
    expected = 100 * measured("magnet", "RefCOCO-val")["oIoU"]
    assert cells[2:5] == ["oIoU 75.24, MagNet's repository", f"oIoU {expected:.2f}", f"{expected - 75.24:+.2f}"]
    for model, data, reason in (
        ("sam3", "RefCOCO val", "gated"),
        ("florence-2-base-ft", "RefCOCO val", "not a valid model identifier"),
        ("cris-r50", "RefCOCO-M val", "no Hub id of it is known"),
        ("clipseg", "RefCOCO testB", "`split` must be one of"),
    ):
        assert rows[model, data][3].startswith("not measured: ") and reason in rows[model, data][3]
    first = json.loads((output / "reproduction.json").read_text())
    assert [line["model"] for line in first] == ["clipseg"] * 4 and first[0]["results"]["referents"] == 1
    assert "The first 1 referents alone" in (output / "reproduction.md").read_text()


@pytest.mark.parametrize("options", [{"only": ["nope"]}, {"weights": {"nope": "a.pth"}}])
def test_unknown_names_are_named(options, tmp_path):
    with pytest.raises(ValueError, match=r"must be one of \['magnet', .*\], got 'nope'"):
        reproduction.reproduce(tmp_path, **options)
