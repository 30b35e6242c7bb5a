"""The rows of `benchmark.py label`: how fast labelling is, what of it is not the model, and what the process that hands out partitions needs."""

import io
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tiny_models import build_magnet_mini
from transformers import pipeline

from hf_ris.data.refshapes.rows import scene_rows
from hf_ris.labelling import ModelChoice, Workers, find_source, label
from hf_ris.reporting import machine, table


SCENES = 240
MEMORY_ROWS = (2_000, 20_000)
IMAGES = 100_000_000
GPUS = (8, 64, 512)


@dataclass(frozen=True)
class TimedChoice(ModelChoice):
    """Writes down when the model's forward passes begin and end, in a file of `log` for each process."""

    log: str = ""

    def load(self, note: Callable[[str], None] = lambda message: None) -> Any:
        ris = super().load(note)
        forward = ris.model.forward

        def timed(*inputs: Any, **named: Any) -> Any:
            start = time.time()
            outputs = forward(*inputs, **named)
            if ris.device.type == "cuda":
                torch.cuda.synchronize()
            with open(Path(self.log, str(os.getpid())), "a") as file:
                file.write(f"{start} {time.time()}\n")
            return outputs

        ris.model.forward = timed
        return ris


def report_label(measure_apart: Callable[..., Any]) -> str:
    shapes: list[dict[str, Any]] = [{"workers": 1}, {"workers": 2}]
    if torch.cuda.is_available():
        shapes = [{"workers": 1}, {"workers": 2, "gpus": 0.5}]
    rates = [measure_apart("label", {"kind": "rate", **shape}) for shape in shapes]
    lines = [
        [
            f"{found['workers']}",
            f"{found['images'] / found['seconds']:.2f}",
            f"{found['expressions'] / found['seconds']:.1f}",
            f"{found['outside']:.1%}",
            f"{found['start']:.0f} s",
        ]
        for found in rates
    ]
    parts = [
        table(
            ["workers", "images/s", "expressions/s", "of their time outside the model", "until the first answer"],
            lines,
        )
    ]
    parts.append(
        f"Bundled model, {rates[0]['images']} drawn scenes of 320 x 320 pixels from Parquet, {rates[0]['expressions']} expressions. "
        f"Measured on {machine()}."
    )
    memory = [measure_apart("label", {"kind": "memory", "rows": rows}) for rows in MEMORY_ROWS]
    lines = [
        [f"{found['rows']:,}", f"{found['seconds'] / 60:.1f} min", f"{found['memory'] / 1e6:.0f} MB"]
        for found in memory
    ]
    parts.append(table(["images", "time", "peak memory of the process that hands out partitions"], lines))
    parts.append(
        "Random MagNet of 3 M parameters, one expression for each scene, drawn on the way, two workers. Measured on the same machine."
    )
    parts.append(on_paper(rates[-1], "GPU" if torch.cuda.is_available() else "core"))
    return "\n\n".join(parts)


def on_paper(found: dict[str, Any], unit: str) -> str:
    """Compute what a hundred million images would take at the measured rate."""
    number = 1 if unit == "GPU" else found["workers"]
    each = found["expressions"] / found["seconds"] / number
    hours = IMAGES / each / 3600
    lines = [[f"{count:,}", f"{hours / count:,.0f} h", f"{hours / count / 24:,.1f} days"] for count in GPUS]
    return table([f"{unit}s", "100 million images", ""], lines) + (
        f"\n\nOn paper: {each:.1f} expressions/s for each {unit}, as measured above with {found['workers']} workers; one expression for each image; "
        f"images of this size, read as fast; no time for starting, for workers that die or for a last partition that others wait for. "
        f"{hours:,.0f} {unit} hours in all: times what one costs an hour."
    )


def measure_label(kind: str, **case: Any) -> dict[str, Any]:
    return {"rate": measure_rate, "memory": measure_memory}[kind](**case)


def measure_rate(workers: int, gpus: float | None = None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for index in range(SCENES):
            scene = scene_rows("refshapes", "val", index)
            file = io.BytesIO()
            scene[0]["image"].save(file, "png")
            texts = [each["sent"] for row in scene for each in row["expressions"]]
            rows.append({"image": {"bytes": file.getvalue(), "path": "scene.png"}, "text": texts})
        pq.write_table(pa.Table.from_pylist(rows), f"{folder}/rows.parquet", row_group_size=10)
        source = find_source(f"{folder}/rows.parquet", partition_rows=10)
        log = Path(folder, "log")
        log.mkdir()
        begun = time.time()
        summary = label(
            source, f"{folder}/labels", TimedChoice(log=str(log)), workers=Workers(workers, workers, gpus=gpus)
        )
        passes = {
            path.name: [tuple(map(float, line.split())) for line in path.read_text().splitlines()]
            for path in log.iterdir()
        }
    first, last = (pick(pick(each)[place] for each in passes.values()) for place, pick in ((0, min), (1, max)))
    spans = sum(max(each)[1] - min(each)[0] for each in passes.values())
    inside = sum(end - start for each in passes.values() for start, end in each)
    return {
        "workers": workers,
        "images": SCENES,
        "expressions": summary.rows,
        "seconds": last - first,
        "outside": 1 - inside / spans,
        "start": first - begun,
    }


def measure_memory(rows: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        model, processor = build_magnet_mini(0, {})
        pipeline("referring-segmentation", model=model, processor=processor, device="cpu").save_pretrained(
            f"{folder}/model"
        )
        del model, processor
        before = peak_host_memory()
        source = find_source("refshapes", ["the red mug"], split="val", num_rows=rows, partition_rows=50)
        begun = time.time()
        label(source, f"{folder}/labels", ModelChoice(f"{folder}/model"), workers=Workers(2, 2))
        return {"rows": rows, "seconds": time.time() - begun, "memory": peak_host_memory(), "before": before}


def peak_host_memory() -> int:
    """Bytes of this process at its peak."""
    if sys.platform == "linux":  # where a process's `ru_maxrss` starts at that of the one that started it
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
