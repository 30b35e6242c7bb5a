"""Measures latency, memory and arithmetic rate at the published size, and writes the table into a document.

python scripts/benchmark.py magnet docs/performance.md
python scripts/benchmark.py magnet --compile docs/performance.md   # the compiled rows too; compiling takes minutes

Every row is measured in a process of its own. A rate is only meaningful beside what the machine can do at that moment, so
each process also times a product of two 2048 x 2048 matrices before and after.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from hf_ris import MagNetConfig, MagNetForReferringSegmentation
from hf_ris.reporting import machine, table, write_section


GFLOP = 327.7  # of one forward pass at 480 x 480 pixels with one expression, as the original counts it
SIDE, TOKENS = 480, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=["magnet"])
    parser.add_argument("document", nargs="?", help="Markdown file with a section named magnet-speed")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile(fullgraph=True) too")
    parser.add_argument("--repeats", type=int, default=5, help="timed forward passes of each row")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args()
    if arguments.row is not None:
        print(json.dumps(measure(**arguments.row)))
        return

    rows = [measure_apart({**case, "repeats": arguments.repeats}) for case in cases(arguments.compile)]
    headings = [
        "device",
        "arithmetic",
        "images",
        "expressions each",
        "latency",
        "rate",
        "share of a matrix product's rate",
    ]
    headings += ["peak memory", "mask IoU with float32"]
    report = table(headings, rows)
    print(report)
    if arguments.document:
        note = (
            f"Published configuration, random weights, {SIDE} x {SIDE} pixels, {TOKENS} tokens, median of {arguments.repeats} "
            f"passes. Rate: {GFLOP} GFLOP, the published network's work for one expression, over latency; its share is of the "
            f"rate of a 2048 x 2048 x 2048 float32 matrix product in the same process. Measured on {machine()}."
        )
        write_section(arguments.document, "magnet-speed", f"{report}\n\n{note}")


def cases(compiled: bool) -> list[dict[str, Any]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = [(1, 1), (16, 1)] if device == "cuda" else [(1, 1), (1, 4)]
    kinds = [("float32", False), ("bfloat16", False)]
    if compiled:
        kinds += [("float32", True), ("bfloat16", True)]
    return [
        {
            "device": device,
            "arithmetic": arithmetic,
            "compiled": is_compiled,
            "images": images,
            "expressions": expressions,
        }
        for arithmetic, is_compiled in kinds
        for images, expressions in shapes
    ]


def measure_apart(case: dict[str, Any]) -> list[str]:
    """Measures one row in a fresh process, so that its peak memory is its own."""
    command = [sys.executable, __file__, "magnet", "--row", json.dumps(case)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    one = case["images"] == case["expressions"] == 1
    return [
        case["device"],
        case["arithmetic"] + (", compiled" if case["compiled"] else ""),
        str(case["images"]),
        str(case["expressions"]),
        f"{found['latency']:.3f} s",
        f"{GFLOP / found['latency']:.0f} GFLOP/s" if one else "",
        f"{GFLOP / found['latency'] / found['matmul']:.0%}" if one else "",
        f"{found['memory'] / 1e6:.0f} MB",
        "" if found["iou"] is None else f"{found['iou']:.4f}",
    ]


def measure(
    device: str, arithmetic: str, compiled: bool, images: int, expressions: int, repeats: int
) -> dict[str, Any]:
    """One row: seconds a pass, GFLOP/s of a float32 matrix product, bytes at the peak, IoU of the masks with float32's."""
    torch.manual_seed(0)
    model = MagNetForReferringSegmentation(MagNetConfig()).eval().to(device)
    pixel_values = torch.randn(images, 3, SIDE, SIDE, device=device)
    input_ids = torch.randint(1000, 30000, (images * expressions, TOKENS), device=device)
    attention_mask = torch.ones_like(input_ids)
    run: Callable[..., Any] = torch.compile(model, fullgraph=True) if compiled else model

    def forward() -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16, enabled=arithmetic == "bfloat16"):
            return run(pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask).logits

    before = matmul_rate(device)
    forward()
    latency = median(timed(forward, device) for _ in range(repeats))
    rate = (before + matmul_rate(device)) / 2
    if device == "cuda":
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    iou = None
    if arithmetic != "float32":
        masks = forward() > 0
        with torch.inference_mode():
            exact = model(pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask).logits > 0
        iou = ((masks & exact).sum() / (masks | exact).sum()).item()
    return {"latency": latency, "matmul": rate, "memory": memory, "iou": iou}


def matmul_rate(device: str) -> float:
    """GFLOP/s of a product of two 2048 x 2048 float32 matrices."""
    left, right = torch.randn(2, 2048, 2048, device=device)
    seconds = [timed(lambda: left @ right, device) for _ in range(8)]
    return 2 * 2048**3 / median(seconds[1:]) / 1e9


def timed(action: Callable[[], Any], device: str) -> float:
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    action()
    synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
