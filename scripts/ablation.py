"""Trains a small MagNet with none, each and all of the paper's contributions, and compares them on unseen scenes.

python scripts/ablation.py runs/ablation docs/ablation.md            # goes on where it was stopped
python scripts/ablation.py runs/ablation docs/ablation.md --runs 2   # two more runs, no more, then writes what there is

All runs of a seed begin with the same weights (an image encoder that has learned what things look like, as the published system
begins with one from photos; the rest is random) and see the same rows in the same order, as many of them. What was tuned was tuned
on val; the tables are of testA and testB, which nothing was chosen on.
"""

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from transformers import pipeline

from hf_ris.data import load_refshapes
from hf_ris.data.refshapes import NAMES
from hf_ris.evaluation import evaluate
from hf_ris.evaluation_report import LENGTHS, length_of
from hf_ris.evaluation_shards import read_shards
from hf_ris.referring_segmentation_iou import summarize
from hf_ris.reporting import draw_curves, machine, table, write_section
from hf_ris.training import RECIPES, train
from hf_ris.training.building import build_magnet_tiny
from hf_ris.training.checkpoints import number_of_steps
from hf_ris.training.recipes import Stage


MODULE = {"alignment_module": True}
GROUNDING = {"mask_grounding_loss_weight": 1.0}
ALIGNMENT = {"alignment_loss_weight": 0.5}
VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "+ alignment module": MODULE,
    "+ Mask Grounding": GROUNDING,
    "+ alignment loss": ALIGNMENT,
    "all": MODULE | GROUNDING | ALIGNMENT,
}
SPLITS = ("testA", "testB")
FIGURES = ("mIoU", "oIoU", "P@0.5")
CURVE = 7  # evaluations on the way
BUNDLED = RECIPES["magnet-tiny-refshapes"]
LOOKS, NAMES_STAGE, REFERRING, _ = BUNDLED.stages


def build(seed: int, config: dict[str, Any]) -> Any:
    """The bundled checkpoint's model. Whatever its parts, those that two variants share begin with the same weights."""
    everything, _ = build_magnet_tiny(seed, VARIANTS["all"])
    model, processor = build_magnet_tiny(seed, {"alignment_module": False, **config})
    weights = everything.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("document", nargs="?", help="Markdown file with a section named ablation")
    parser.add_argument("--curves", type=Path, help="picture of val mIoU on the way (needs matplotlib)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs", type=int, default=10**6, help="how many runs to do now, at most")
    parser.add_argument("--names-steps", type=int, default=120)
    parser.add_argument("--steps", type=int, default=280, help="of whole expressions, after those of names")
    parser.add_argument(
        "--rows", type=int, default=500, help="referents of each manner and split that are asked about"
    )
    arguments = parser.parse_args()

    RECIPES["looks"] = replace(BUNDLED, stages=(LOOKS,), config={})
    RECIPES["ablation"] = replace(
        BUNDLED,
        build=build,
        config={},
        stages=(LOOKS, shortened(NAMES_STAGE, arguments.names_steps), shortened(REFERRING, arguments.steps)),
    )

    looks = arguments.output / "looks"
    if not (looks / "config.json").exists():
        train("looks", looks, resume=any(looks.glob("stage-1/checkpoint-*")))
    left = arguments.runs
    runs = [(variant, seed) for seed in range(arguments.seeds) for variant in VARIANTS]
    for variant, seed in runs:
        if left and not result_file(arguments.output, variant, seed).exists():
            run(arguments.output, variant, seed, arguments)
            left -= 1
    done = {
        each: json.loads(path.read_text()) for each in runs if (path := result_file(arguments.output, *each)).exists()
    }
    report = render(done, arguments)
    print(report)
    if arguments.document:
        write_section(arguments.document, "ablation", report)
    if arguments.curves:
        draw_curves(arguments.curves, val_curves(done), "step", "mIoU on val, over the manners")


def shortened(stage: Stage, steps: int) -> Stage:
    return replace(stage, arguments={**stage.arguments, "max_steps": steps})


def val_curves(done: dict[tuple[str, int], dict[str, Any]]) -> dict[str, dict[float, float]]:
    """Variant -> step -> val mIoU, the mean over its seeds."""
    curves = {}
    for variant in VARIANTS:
        of_seeds = [
            {entry["step"]: entry["eval_mIoU"] for entry in result["log"] if "eval_mIoU" in entry}
            for (name, _), result in done.items()
            if name == variant
        ]
        steps = sorted(set.intersection(*map(set, of_seeds))) if of_seeds else []
        curves[variant] = {step: mean(curve[step] for curve in of_seeds) for step in steps}
    return curves


def result_file(output: Path, variant: str, seed: int) -> Path:
    return output / f"{variant.strip('+ ').replace(' ', '-')}-{seed}" / "results.json"


def run(output: Path, variant: str, seed: int, arguments: argparse.Namespace) -> None:
    """Trains and evaluates one variant; `results.json` is written last."""
    folder = result_file(output, variant, seed).parent
    if not (folder / "stage-1").exists():
        shutil.copytree(output / "looks" / "stage-1", folder / "copy")
        (folder / "copy").rename(folder / "stage-1")
    start = time.monotonic()
    if not (folder / "config.json").exists():
        train(
            "ablation",
            folder,
            resume=True,
            config=VARIANTS[variant],
            seed=seed,
            samples=0,
            logging_steps=10,
            eval_steps=max(1, arguments.steps // CURVE),
        )
    seconds = time.monotonic() - start

    ris = pipeline("referring-segmentation", model=str(folder), device="cpu")
    answers: dict[str, list[Any]] = {}
    for name in NAMES:
        for split in SPLITS:
            rows = load_refshapes(name, split, num_rows=arguments.rows)
            evaluate(ris, rows, output=folder / f"{name}-{split}")
            texts = [[each["sent"] for each in of_row] for of_row in rows["expressions"]]
            answers.setdefault(name, []).extend(
                [*answer["counts"], length_of(texts[answer["row"]][answer["expression"]])]
                for answer in read_shards(folder / f"{name}-{split}").values()
            )
    last = max(folder.glob("stage-3/checkpoint-*"), key=number_of_steps)
    log = json.loads((last / "trainer_state.json").read_text())["log_history"]
    results = {"seconds": seconds, "answers": answers, "log": log}
    (folder / "results.json").write_text(json.dumps(results))


def render(done: dict[tuple[str, int], dict[str, Any]], arguments: argparse.Namespace) -> str:
    def cell(variant: str, figure: str, chosen: Any) -> str:
        """Mean over seeds, and half the distance between the best and the worst."""
        found = [
            summarize([answer[:3] for answer in chosen(result["answers"])])[figure]
            for (name, _), result in done.items()
            if name == variant
        ]
        if not found:
            return ""
        spread = f" ± {(max(found) - min(found)) / 2:.3f}" if len(found) > 1 else ""
        return f"{mean(found):.3f}{spread}"

    def of_length(length: str) -> Any:
        return lambda answers: [each for of_name in answers.values() for each in of_name if length in (each[3], "any")]

    groups = {f"`{name}`": (lambda answers, name=name: answers[name]) for name in NAMES}
    groups |= {length: of_length(length) for length in LENGTHS}
    counts = {variant: sum(name == variant for name, _ in done) for variant in VARIANTS}
    overall = table(
        ["variant", "seeds", *FIGURES, "minutes a run"],
        [
            [
                variant,
                str(counts[variant]),
                *(cell(variant, figure, of_length("any")) for figure in FIGURES),
                f"{mean(result['seconds'] for (name, _), result in done.items() if name == variant) / 60:.1f}",
            ]
            for variant in VARIANTS
            if counts[variant]
        ],
    )
    parts = [overall]
    for figure in FIGURES:
        rows = [
            [variant, *(cell(variant, figure, group) for group in groups.values())]
            for variant in VARIANTS
            if counts[variant]
        ]
        parts.append(f"{figure} by manner and length of the expression:\n\n{table(['variant', *groups], rows)}")
    note = (
        f"Mean over seeds ± half the distance between them. {arguments.names_steps} + {arguments.steps} steps of 48 referents at 80 x 80 "
        f"pixels after the image encoder's own training; testA and testB, {arguments.rows} referents of each manner and split, every "
        f"expression. Measured on {machine()}."
    )
    return "\n\n".join([*parts, note])


if __name__ == "__main__":
    main()
