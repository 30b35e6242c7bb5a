"""Exported models against torch, for `benchmark.py`: one image with one expression, in turn in one process."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime
import torch
from tiny_models import build_tokenizer
from transformers import pipeline

from hf_ris.conversion import PUBLISHED_SYSTEMS
from hf_ris.data.refshapes import vocabulary
from hf_ris.export import export_model
from hf_ris.hub import CHECK_IMAGE, CHECK_TEXT
from hf_ris.modeling.inputs import read_request
from hf_ris.onnx import ExportedModel
from hf_ris.reporting import machine, table
from hf_ris.systems import BUNDLED_CHECKPOINT, TASK


# A process of its own for each: ask a folder once, and print the peak of its memory in kB.
ASK_ONCE = {
    "torch": "import hf_ris, transformers; ask = transformers.pipeline(hf_ris.systems.TASK, model=sys.argv[1], device='cpu')",
    "onnx": "from hf_ris.onnx import ExportedModel; ask = ExportedModel(sys.argv[1]); assert 'torch' not in sys.modules",
}
ASK_AND_REPORT = """import sys
from PIL import Image
{load}
ask(Image.new("RGB", (640, 480)), text="the red circle")
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
PASSES = 5  # of one side, before the other's turn; each side's first one after a turn does not count


def report_onnx(repeats: int, measure_apart: Callable[..., Any]) -> str:
    rows = []
    with tempfile.TemporaryDirectory() as parent:
        for title, save in {"MagNet tiny, bundled": None, "CRIS R50": "cris", "MagNet Swin-B": "magnet"}.items():
            source = BUNDLED_CHECKPOINT if save is None else save_published(save, Path(parent) / "model")
            for precision in ("float32", "int8"):
                folder = Path(parent) / "export"
                quantize = None if precision == "float32" else precision
                export_model(source, folder, quantize=quantize, note=lambda line: print(line, file=sys.stderr))
                passes = repeats * (20 if save is None else 1)
                case = {"source": str(source), "folder": str(folder), "repeats": passes}
                found = measure_apart("onnx", case)
                size = sum(
                    file["bytes"] for file in json.loads((folder / "config.json").read_text())["files"].values()
                )
                rows.append(
                    [
                        title,
                        precision,
                        f"{found['torch'] * 1e3:.1f} ms",
                        f"{found['onnx'] * 1e3:.1f} ms",
                        f"{found['onnx'] / found['torch']:.2f}",
                        f"{peak_memory('torch', source) / 1e6:.0f} MB",
                        f"{peak_memory('onnx', folder) / 1e6:.0f} MB",
                        f"{size / 1e6:.1f} MB",
                        f"{found['error']:.0e}",
                    ]
                )
                shutil.rmtree(folder)
    headings = [
        "model",
        "precision of the graphs",
        "torch, float32",
        "onnxruntime",
        "ratio",
        "memory, torch",
        "memory, onnxruntime",
        "graphs",
        "largest difference of a logit",
    ]
    return f"{table(headings, rows)}\n\n" + (
        "A forward pass of one image with one expression; medians of passes in turn in one process. The full-size models have random "
        f"weights. Memory is the peak of a process that loads a folder and asks once; onnxruntime's has no torch. The difference is a share of the largest logit. onnxruntime {onnxruntime.__version__}, {torch.get_num_threads()} threads each. Measured on {machine()}."
    )


def peak_memory(side: str, folder: str | Path) -> int:
    """Measure the bytes at the peak of a process that loads a folder and asks it once (on Linux)."""
    program = ASK_AND_REPORT.format(load=ASK_ONCE[side])
    done = subprocess.run([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1]) * 1024


def save_published(name: str, folder: Path) -> Path:
    """Save a model of the published size with random weights."""
    torch.manual_seed(0)
    published = PUBLISHED_SYSTEMS[name]
    system = published.system
    tokenizer = build_tokenizer(vocabulary())
    model = system.model()(system.config()())
    processor = system.processor()(system.image_processor()(), tokenizer)
    pipeline(TASK, model=model, processor=processor, device="cpu").save_pretrained(folder)
    return folder


def measure_onnx(source: str, folder: str, repeats: int) -> dict[str, Any]:
    """Measure seconds a pass of both, and the largest difference of a logit."""
    ris = pipeline(TASK, model=source, device="cpu")
    features = ris.processor.prepare([read_request(CHECK_IMAGE, CHECK_TEXT)])
    arrays = [features[name].numpy() for name in ("pixel_values", "input_ids", "attention_mask")]

    def ask_torch() -> Any:
        return ris.model(**features).logits.numpy()

    with torch.inference_mode():
        for _ in range(3):
            expected = ask_torch()
        exported = ExportedModel(folder, threads=torch.get_num_threads())
        sides: dict[str, Callable[[], Any]] = {"torch": ask_torch, "onnx": lambda: exported.run(*arrays).logits}
        seconds: dict[str, list[float]] = {"torch": [], "onnx": []}
        error = abs(sides["onnx"]() - expected).max() / abs(expected).max()
        for _ in range(repeats):
            for name, side in sides.items():
                for number in range(PASSES):
                    start = time.perf_counter()
                    side()
                    if (
                        number
                    ):  # torch's threads go on waiting for a while after a pass, and disturb the first of the other
                        seconds[name].append(time.perf_counter() - start)
    return {**{name: median(values) for name, values in seconds.items()}, "error": float(error)}
