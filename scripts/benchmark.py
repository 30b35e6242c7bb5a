"""Measure latency, memory and arithmetic rate at the published size, and write the table into a document.

python scripts/benchmark.py magnet docs/performance.md             # or cris
python scripts/benchmark.py magnet --compile docs/performance.md   # compiled, which takes minutes a row
python scripts/benchmark.py evaluate docs/performance.md           # all of an evaluation but the model
python scripts/benchmark.py train docs/performance.md              # a training step; --compile as above
python scripts/benchmark.py count docs/performance.md              # operations of a training step at the published size
python scripts/benchmark.py bundled docs/performance.md            # a call of the pipeline with the bundled checkpoint
python scripts/benchmark.py zero-shot docs/zero_shot.md            # further expressions, and regions in batches
python scripts/benchmark.py onnx docs/onnx.md                      # exported models against torch; exports for minutes
python scripts/benchmark.py hub docs/performance.md                # models of the Hub: a first and a further expression
python scripts/benchmark.py label docs/labelling.md                # labelling on Ray; half an hour

Every row is measured in a process of its own. A rate is only meaningful beside what the machine can do at that moment, so
each process also times a product of two 2048 x 2048 matrices after each pass.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmark_label import measure_label, peak_host_memory, report_label
from benchmark_onnx import measure_onnx, report_onnx
from PIL import Image
from transformers import TrainerCallback

from hf_ris import MagNetConfig, MagNetForReferringSegmentation, ReferringSegmentationOutput
from hf_ris.conversion import PUBLISHED_SYSTEMS
from hf_ris.reporting import machine, table, write_section


GFLOP = {"magnet": 327.7, "cris": 131.7}  # of one forward pass with one expression, as counted of the originals
HUB_EXPRESSIONS = 3  # of an image
ARITHMETIC = ("float32", "bfloat16")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=[*GFLOP, "evaluate", "train", "count", "bundled", "zero-shot", "hub", "onnx", "label"]
    )
    parser.add_argument(
        "document",
        nargs="?",
        help="Markdown file with sections named magnet-speed-cpu, magnet-speed-cuda, the same of cris, train-speed-cpu, train-speed-cuda, all with "
        "-compiled too, evaluate-speed, train-count, bundled-speed, zero-shot-speed, hub-speed, onnx-speed and label-speed",
    )
    parser.add_argument("--compile", action="store_true", help="measure torch.compile(fullgraph=True) instead")
    parser.add_argument("--repeats", type=int, default=5, help="timed forward passes of each row, or tens of steps")
    parser.add_argument("--photo", help="image file for the models of the Hub; a drawing without it")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args()
    what, repeats = arguments.what, arguments.repeats
    if arguments.row is not None:
        measures = {"train": measure_training, "hub": measure_hub, "onnx": measure_onnx, "label": measure_label}
        measure_row = measures.get(what, measure)
        print(json.dumps(measure_row(**arguments.row)))
        return

    reports = {
        **{name: partial(report_network, name, arguments.compile, repeats) for name in GFLOP},
        "train": partial(report_training, arguments.compile, repeats),
        "evaluate": report_evaluate,
        "count": report_count,
        "bundled": partial(report_bundled, repeats),
        "zero-shot": partial(report_zero_shot, repeats),
        "hub": partial(report_hub, arguments.photo, repeats),
        "onnx": partial(report_onnx, repeats, measure_apart),
        "label": partial(report_label, measure_apart),
    }
    report = reports[what]()
    print(report)
    if arguments.document:
        section = "train-count" if what == "count" else f"{what}-speed"
        if what in ("train", *GFLOP):
            section += f"-{DEVICE}" + ("-compiled" if arguments.compile else "")
        write_section(arguments.document, section, report)


def report_network(name: str, compiled: bool, repeats: int) -> str:
    rows = [network_row({**case, "name": name, "repeats": repeats}) for case in cases(compiled)]
    published = PUBLISHED_SYSTEMS[name]
    headings = [
        "device",
        "arithmetic",
        "images",
        "expressions each",
        "latency",
        "rate",
        "share of a matrix product's rate",
        "peak memory",
        "mask IoU with float32",
    ]
    return f"{table(headings, rows)}\n\n" + (
        f"Published configuration, random weights, {published.image_size} x {published.image_size} pixels, {published.text_length} tokens, "
        f"median of {repeats} passes. Rate: {GFLOP[name]} GFLOP, the published network's work for one expression, over latency; its share is of the "
        f"rate of a 2048 x 2048 x 2048 float32 matrix product in the same process. Measured on {machine()}."
    )


def cases(compiled: bool) -> list[dict[str, Any]]:
    shapes = [(1, 1), (16, 1)] if DEVICE == "cuda" else [(1, 1), (1, 4)]
    return [
        {
            "device": DEVICE,
            "arithmetic": arithmetic,
            "compiled": compiled,
            "images": images,
            "expressions": expressions,
        }
        for arithmetic in ARITHMETIC
        for images, expressions in shapes[: 1 if compiled else None]
    ]


def measure_apart(what: str, case: dict[str, Any]) -> dict[str, Any]:
    """Measure a row in a fresh process, so that its peak memory is its own."""
    command = [sys.executable, __file__, what, "--row", json.dumps(case)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def network_row(case: dict[str, Any]) -> list[str]:
    found = measure_apart(case["name"], case)
    rate = GFLOP[case["name"]] * case["images"] / found["latency"] if case["expressions"] == 1 else None
    return [
        case["device"],
        case["arithmetic"] + (", compiled" if case["compiled"] else ""),
        str(case["images"]),
        str(case["expressions"]),
        f"{found['latency']:.3f} s",
        "" if rate is None else f"{rate:.0f} GFLOP/s",
        "" if rate is None else f"{rate / found['matmul']:.0%}",
        f"{found['memory'] / 1e6:.0f} MB",
        "" if found["iou"] is None else f"{found['iou']:.4f}",
    ]


def measure(
    name: str, device: str, arithmetic: str, compiled: bool, images: int, expressions: int, repeats: int
) -> dict[str, Any]:
    """Measure a row: seconds a pass, GFLOP/s of a float32 matrix product, bytes at the peak, IoU of the masks with float32's."""
    torch.manual_seed(0)
    published = PUBLISHED_SYSTEMS[name]
    config = published.system.config()()
    model = published.system.model()(config).eval().to(device)
    pixel_values = torch.randn(images, 3, published.image_size, published.image_size, device=device)
    input_ids = torch.randint(1000, 30000, (images * expressions, published.text_length), device=device)
    input_ids[:, -1] = model.config.text_config.eos_token_id or input_ids[:, -1]
    attention_mask = torch.ones_like(input_ids)
    run: Callable[..., Any] = torch.compile(model, fullgraph=True) if compiled else model

    def forward() -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16, enabled=arithmetic == "bfloat16"):
            return run(pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask).logits

    forward()
    # In turn, since the machine's pace changes from second to second.
    pairs = [(timed(forward, device), matmul_rate(device)) for _ in range(repeats)]
    latency, rate = (median(column) for column in zip(*pairs, strict=True))
    memory = peak_memory()
    iou = None
    if arithmetic != "float32":
        masks = forward() > 0
        with torch.inference_mode():
            exact = model(pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask).logits > 0
        iou = ((masks & exact).sum() / (masks | exact).sum()).item()
    return {"latency": latency, "matmul": rate, "memory": memory, "iou": iou}


class InstantModel(MagNetForReferringSegmentation):
    """A model that answers without computing anything: round masks, at the published stride."""

    def forward(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, **kwargs: Any
    ) -> ReferringSegmentationOutput:
        rows = torch.linspace(-1, 1, PUBLISHED_SYSTEMS["magnet"].image_size // 4)
        logits = 5 - 20 * (rows[:, None] ** 2 + rows**2)
        return ReferringSegmentationOutput(logits=logits.expand(len(input_ids), -1, -1))


def report_evaluate() -> str:
    """Time an evaluation outside of the model, on one core, with as many expressions an image as RefCOCO's val has."""
    # Here, because these libraries would count as the model's memory.
    from benchmark_cases import drawn_photos
    from transformers import pipeline

    from hf_ris.evaluation import evaluate

    torch.set_num_threads(1)
    bundled = pipeline("referring-segmentation", device="cpu")
    side = PUBLISHED_SYSTEMS["magnet"].image_size
    bundled.processor.image_processor.size = {"height": side, "width": side}
    model = InstantModel(bundled.model.config)
    ris = pipeline("referring-segmentation", model=model, processor=bundled.processor, device="cpu")
    lines = []
    for per_image in (7, 1):
        with tempfile.TemporaryDirectory() as folder:
            dataset = drawn_photos(Path(folder), number=280 // per_image, expressions=per_image)
            evaluate(ris, dataset)  # what is read once, is read
            start = time.perf_counter()
            results = evaluate(ris, dataset, output=Path(folder) / "out")
            seconds = (time.perf_counter() - start) / results["expressions"]
        lines.append(["640 x 480", str(per_image), f"{1000 * seconds:.1f} ms"])
    return f"{table(['image', 'expressions each', 'per expression'], lines)}\n\n" + (
        "Reading and decoding JPEG files, preprocessing, masks at the image's size, run-length code, counting, writing the "
        f"results and the report; a model that answers at once; one thread. Measured on {machine()}."
    )


def report_bundled(repeats: int) -> str:
    """Time a call of the pipeline with the bundled checkpoint, from an image and expressions to masks at the image's size."""
    from transformers import pipeline

    from hf_ris.data.refshapes import draw_scene, sample_scene

    ris = pipeline("referring-segmentation", device="cpu")
    image, _ = draw_scene(sample_scene("val", 0))
    lines = []
    for expressions in (1, 4):
        texts = ["the red mug on the left"] * expressions
        rate = matmul_rate("cpu")
        ris(image, text=texts)
        seconds = median(timed(lambda texts=texts: ris(image, text=texts), "cpu") for _ in range(10 * repeats))
        product = 2 * 2048**3 / rate / 1e9
        lines.append([str(expressions), f"{1000 * seconds:.0f} ms", f"{seconds / product:.2f}"])
    return f"{table(['expressions', 'latency', 'in 2048 x 2048 matrix products'], lines)}\n\n" + (
        f"One image of {image.width} x {image.height} pixels, median of {10 * repeats} calls, float32. Measured on {machine()}."
    )


def report_hub(photo: str | None, repeats: int) -> str:
    """Time the models of the Hub at their published size, whose weights are random."""
    from benchmark_cases import FLORENCE2_TOKENS, HUB_MODELS

    rows = []
    for name in HUB_MODELS:
        found = measure_apart("hub", {"name": name, "photo": photo, "repeats": repeats})
        rows.append(
            [
                f"{name}, {found['parameters'] / 1e6:.0f} M",
                f"{found['first']:.2f} s",
                f"{found['further']:.3f} s",
                f"{found['further'] / found['first']:.1%}",
                f"{found['memory'] / 1e6:.0f} MB",
            ]
        )
    headings = ["model", "first expression", "a further expression", "of the first", "peak memory"]
    return f"{table(headings, rows)}\n\n" + (
        f"Published sizes, random weights, float32, on the CPU, one {'photo' if photo else 'drawing'} of {' x '.join(map(str, found['size']))} "
        f"pixels, from it to masks of its size. A further expression: a call with {HUB_EXPRESSIONS} expressions less one with the first alone, "
        f"over {HUB_EXPRESSIONS - 1}; medians of {repeats} such pairs after one that is not counted. Florence-2 writes {FLORENCE2_TOKENS} tokens for each, "
        f"with three beams. Measured on {machine()}."
    )


def measure_hub(name: str, photo: str | None, repeats: int) -> dict[str, Any]:
    """Measure a row: seconds of an image's first expression and of a further one, bytes at the peak."""
    from benchmark_cases import build_hub_model
    from transformers import pipeline

    from hf_ris.data.refshapes import draw_scene, sample_scene
    from hf_ris.modeling.modeling_composed import ComposedPreTrainedModel

    model, processor = build_hub_model(name)
    ris = pipeline("referring-segmentation", model=model, processor=processor, device="cpu")
    image = Image.open(photo).convert("RGB") if photo else draw_scene(sample_scene("val", 0))[0].resize((640, 480))
    texts = [f"the red mug on the left of tree number {number}" for number in range(HUB_EXPRESSIONS)]

    # In turn, since the machine's pace changes from second to second.
    def ask(count: int) -> None:
        if isinstance(model, ComposedPreTrainedModel):
            model.forget()
        ris(image, text=texts[:count])

    pairs = [[timed(partial(ask, count), "cpu") for count in (1, HUB_EXPRESSIONS)] for _ in range(1 + repeats)][1:]
    return {
        "parameters": model.num_parameters(),
        "size": image.size,
        "first": median(alone for alone, _ in pairs),
        "further": median(together - alone for alone, together in pairs) / (HUB_EXPRESSIONS - 1),
        "memory": peak_memory(),
    }


def report_zero_shot(repeats: int) -> str:
    """Time an image's first expression, a further one, and regions in batches; ViT-B/32, random weights."""
    torch.set_num_threads(2)
    from benchmark_cases import noise_image, random_global_local
    from torch.utils.flop_counter import FlopCounterMode

    rows = []
    for mode, regions in (("paper", 20), ("default", 50)):
        model = random_global_local(mode)
        image, masks = noise_image(regions)

        def ask(text: str, model: Any = model, image: Any = image, masks: Any = masks) -> None:
            model([image], [text], [masks])

        def forget_and_ask(model: Any = model, ask: Any = ask) -> None:
            model.forget()
            ask("the red mug on the left of the tree")

        with FlopCounterMode(display=False) as counted:
            forget_and_ask()
        rate = matmul_rate("cpu")
        first = median(timed(forget_and_ask, "cpu") for _ in range(repeats))
        rate = (rate + matmul_rate("cpu")) / 2
        further = median(
            timed(lambda n=n: ask(f"the blue house number {n}, to the right of the mug"), "cpu")
            for n in range(repeats)
        )
        crops = model.image_text.prepare([image] * regions, whole=True)

        def encode(model: Any = model, crops: Any = crops, masks: Any = masks) -> None:
            with torch.no_grad():
                model.mix_visual(crops[:1], crops, torch.from_numpy(masks))

        seconds = {}
        for size in (1, model.config.batch_size):
            model.config.batch_size = size
            encode()
            seconds[size] = median(timed(encode, "cpu") for _ in range(repeats))
        one_by_one, batched = seconds.values()
        gflop = counted.get_total_flops() / 1e9
        rows.append(
            [
                mode,
                str(regions),
                f"{first:.2f} s",
                f"{gflop:.0f}",
                f"{gflop / first / rate:.0%}",
                f"{1000 * further:.0f} ms ({further / first:.1%})",
                f"{one_by_one / batched:.1f} x",
            ]
        )
    headings = [
        "mode",
        "regions",
        "first expression",
        "GFLOP",
        "of a matrix product's rate",
        "a further expression",
        "crops in batches, against one by one",
    ]
    return f"{table(headings, rows)}\n\n" + (
        f"Global-Local, CLIP ViT-B/32 with random weights, float32, one image of 640 x 480 pixels whose regions are given, medians "
        f"of {repeats} calls. GFLOP: matrix products and convolutions, as torch counts them. The original took 0.90 s for 20 regions on two "
        f"cores of such a machine, and computes 236.0 GFLOP. "
        f"Measured on {machine()}."
    )


LOSSES = {
    "mask": {},
    "mask, Mask Grounding": {"mask_grounding_loss_weight": 1.0},
    "mask, Mask Grounding, alignment": {"mask_grounding_loss_weight": 1.0, "alignment_loss_weight": 0.5},
}
PEAK_TFLOPS = {
    "H100": 989,
    "H200": 989,
    "A100": 312,
    "L4": 121,
}  # bfloat16 without sparsity, as their maker states them


def report_training(compiled: bool, repeats: int) -> str:
    if DEVICE == "cuda":
        shared = {"size": "full", "batch_size": 8, "compiled": compiled}
    else:
        shared = {"size": "tiny", "batch_size": 24, "compiled": compiled}
    rows = []
    plain = None
    for losses in LOSSES if not compiled else list(LOSSES)[-1:]:
        found = measure_apart("train", {**shared, "losses": losses, "steps": 10 * repeats})
        plain = plain or found["flops"]
        rows.append(
            [
                f"MagNet, {found['parameters'] / 1e6:.1f} M, {found['side']} px",
                losses,
                "bfloat16" if DEVICE == "cuda" else "float32",
                f"{found['images']} / {shared['batch_size']}",
                f"{shared['batch_size'] / found['step']:.1f}",
                f"{found['step']:.3f} s",
                f"{found['flops'] / plain:.2f}",
                f"{found['waiting']:.1%}",
                f"{found['memory'] / 1e6:.0f} MB",
                f"{found['utilisation']:.0%}",
            ]
        )
    headings = [
        "model",
        "losses",
        "arithmetic",
        "images / referents a step",
        "referents/s",
        "step",
        "arithmetic, of the mask loss's alone",
        "waiting for data",
        "peak memory",
        "utilisation",
    ]
    return f"{table(headings, rows)}\n\n" + (
        f"Steps of `Trainer`, one expression of each referent; means of {10 * repeats} steps after 5. "
        "Utilisation: floating-point operations of the forward and backward pass over step time, of "
        f"{'the bfloat16 peak its maker states' if DEVICE == 'cuda' else 'the rate of a 2048 x 2048 x 2048 float32 matrix product in the same process'}. "
        f"Measured on {machine()}."
    )


def report_count() -> str:
    """Count what each loss adds to a training step of the published configuration; any machine will do."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    side, tokens = PUBLISHED_SYSTEMS["magnet"].image_size, PUBLISHED_SYSTEMS["magnet"].text_length
    rows = []
    plain = None
    for losses, config in LOSSES.items():
        model = MagNetForReferringSegmentation(MagNetConfig(language_attention_mask="binary", **config)).train()
        words = torch.randint(1000, 2000, (1, tokens))
        batch = {"pixel_values": torch.randn(1, 3, side, side), "input_ids": words, "masked_input_ids": words}
        labels = torch.zeros(1, side, side)
        labels[:, side // 4 : side // 2, side // 4 : side // 2] = 1
        with FlopCounterMode(display=False) as counted:
            model(**batch, hidden_words=words, labels=labels).loss.backward()
        flops = counted.get_total_flops()
        plain = plain or flops
        rows.append([losses, f"{model.num_parameters() / 1e6:.1f} M", f"{flops / 1e9:.0f}", f"{flops / plain:.2f}"])
    headings = ["losses", "parameters", "GFLOP of a step", "of the mask loss's alone"]
    return f"{table(headings, rows)}\n\n" + (
        f"Published configuration, forward and backward pass, one image of {side} x {side} pixels and one expression of {tokens} "
        "tokens; matrix products, convolutions and attention as torch counts them."
    )


class Clock(TrainerCallback):
    """Seconds of steps, and of waiting for data between them, after the first few."""

    def __init__(self, skipped: int) -> None:
        self.skipped = skipped
        self.stepping = self.waiting = self.last = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        if state.global_step >= self.skipped:
            self.waiting += now - self.last
        self.last = now

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if state.global_step > self.skipped:
            self.stepping += now - self.last
        self.last = now


def measure_training(size: str, losses: str, batch_size: int, compiled: bool, steps: int) -> dict[str, Any]:
    """Measure a row: seconds a step, share of them waited for data, operations a step, share of the device's rate, bytes at the peak."""
    from benchmark_cases import drawn_photos
    from tiny_models import build_magnet_mini, build_tokenizer
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Trainer, TrainingArguments

    from hf_ris import MagNetImageProcessor, MagNetProcessor
    from hf_ris.data import ReferringSegmentationCollator
    from hf_ris.data.refshapes import NAMES, vocabulary
    from hf_ris.training.rows import EpochRows, RefShapesRows

    skipped = 5
    rate = matmul_rate(DEVICE)
    with tempfile.TemporaryDirectory() as folder:
        if size == "tiny":
            model, processor = build_magnet_mini(0, LOSSES[losses])
            rows: Any = RefShapesRows(NAMES, batch_size * (skipped + steps))
        else:
            model = MagNetForReferringSegmentation(MagNetConfig(**LOSSES[losses]))
            processor = MagNetProcessor(MagNetImageProcessor(), build_tokenizer(vocabulary()))
            # An epoch as long as the measurement: between epochs the loader's workers start anew.
            photos = drawn_photos(Path(folder), number=64, expressions=3)
            order = [index % 64 for index in range(batch_size * (skipped + steps))]
            rows = EpochRows(photos.select(order), seed=0)
        collator = ReferringSegmentationCollator(processor, padding="longest", mask_probability=0.15)
        batch = collator([rows[index] for index in range(batch_size)]).to(DEVICE)
        with FlopCounterMode(display=False) as counted:
            model.to(DEVICE).train()(**batch).loss.backward()
        model.zero_grad()
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        clock = Clock(skipped)
        arguments = TrainingArguments(
            folder,
            max_steps=skipped + steps,
            per_device_train_batch_size=batch_size,
            train_sampling_strategy="sequential",
            dataloader_num_workers=1 if DEVICE == "cpu" else 8,
            bf16=DEVICE == "cuda",
            torch_compile=compiled,
            remove_unused_columns=False,
            label_names=["labels"],
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        Trainer(model, arguments, data_collator=collator, train_dataset=rows, callbacks=[clock]).train()
    rate = (rate + matmul_rate(DEVICE)) / 2 * 1e9
    if DEVICE == "cuda":
        name = torch.cuda.get_device_name()
        rate = next(1e12 * peak for known, peak in PEAK_TFLOPS.items() if known in name)
    total = clock.stepping + clock.waiting
    flops = counted.get_total_flops()
    return {
        "parameters": model.num_parameters(),
        "side": processor.image_processor.size["height"],
        "images": len(batch["pixel_values"]),
        "step": total / steps,
        "waiting": clock.waiting / total,
        "flops": flops,
        "utilisation": flops * steps / total / rate,
        "memory": peak_memory(),
    }


def peak_memory() -> int:
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    return peak_host_memory()


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
