"""Trains a small MagNet with none, each and all of the paper's contributions, and compares them on unseen scenes.

python scripts/ablation.py runs/ablation docs/ablation.md            # goes on where it was stopped
python scripts/ablation.py runs/ablation docs/ablation.md --runs 2   # two more runs, no more, then writes what there is

All runs of a seed begin with the same weights (an image encoder that has learned what things look like, as the published system
begins with one from photos; the rest is random) and see the same rows in the same order, as many of them. Remedies are what was tried
where a contribution did not help, with one seed; they were chosen on val. The tables are of testA and testB.
"""

import argparse
import json
import re
import shutil
import time
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Variant:
    """
    Attributes:
        name (`str`): What the tables call it.
        config (`dict`): Fields of the model's configuration.
        mask_probability (`float`): How often a word is hidden.
        times (`int`): How many times as long it learns whole expressions.
    """

    name: str
    config: dict[str, Any]
    mask_probability: float = 0.15
    times: int = 1


MODULE = {"alignment_module": True}
GROUNDING = {"mask_grounding_loss_weight": 1.0}
ALIGNMENT = {"alignment_loss_weight": 0.5}
CONTRIBUTIONS = (
    Variant("baseline", {}),
    Variant("+ alignment module", MODULE),
    Variant("+ Mask Grounding", GROUNDING),
    Variant("+ alignment loss", ALIGNMENT),
    Variant("all", MODULE | GROUNDING | ALIGNMENT),
)
REMEDIES = (
    Variant("+ Mask Grounding, a third of its weight", {"mask_grounding_loss_weight": 0.33}),
    Variant("+ Mask Grounding, 30 % of words hidden", GROUNDING, mask_probability=0.3),
    Variant("+ Mask Grounding, words named from the deepest map alone", GROUNDING | {"mask_grounding_stages": (-1,)}),
    Variant("all but Mask Grounding, 4 times as long", MODULE | ALIGNMENT, times=4),
    Variant("all, 4 times as long", MODULE | GROUNDING | ALIGNMENT, times=4),
)
Results = dict[str, list[dict[str, Any]]]  # of a variant's name, those of each seed
SPLITS = ("testA", "testB")
FIGURES = ("mIoU", "oIoU", "P@0.5")
CURVE = 7  # evaluations on the way
BUNDLED = RECIPES["magnet-tiny-refshapes"]
LOOKS, NAMES_STAGE, REFERRING, _ = BUNDLED.stages


def build(seed: int, config: dict[str, Any]) -> Any:
    """The bundled checkpoint's model. Whatever its parts, those that two variants share begin with the same weights."""
    everything, _ = build_magnet_tiny(seed, CONTRIBUTIONS[-1].config)
    model, processor = build_magnet_tiny(seed, {"alignment_module": False, **config})
    weights = everything.state_dict()
    own = model.state_dict()
    model.load_state_dict(
        {name: weights[name] if weights[name].shape == own[name].shape else own[name] for name in own}
    )
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
    looks = arguments.output / "looks"
    if not (looks / "model.safetensors").exists():
        train("looks", looks, resume=any(looks.glob("stage-1/checkpoint-*")))
    runs = [(variant, seed) for seed in range(arguments.seeds) for variant in CONTRIBUTIONS]
    runs += [(variant, 0) for variant in REMEDIES]
    missing = [each for each in runs if not result_file(arguments.output, *each).exists()]
    for variant, seed in missing[: arguments.runs]:
        run(variant, seed, arguments)
    done: Results = {}
    for variant, seed in runs:
        path = result_file(arguments.output, variant, seed)
        if path.exists():
            done.setdefault(variant.name, []).append(json.loads(path.read_text()))
    report = render(done, arguments)
    print(report)
    if arguments.document:
        write_section(arguments.document, "ablation", report)
    if arguments.curves:
        curves = {each.name: val_curve(done[each.name]) for each in CONTRIBUTIONS if each.name in done}
        draw_curves(arguments.curves, curves, "step", "mIoU on val, over the manners")


def shortened(stage: Stage, steps: int) -> Stage:
    return replace(stage, arguments={**stage.arguments, "max_steps": steps})


def val_curve(results: list[dict[str, Any]]) -> dict[float, float]:
    """Step -> val mIoU, the mean over seeds."""
    of_seeds = [
        {entry["step"]: entry["eval_mIoU"] for entry in result["log"] if "eval_mIoU" in entry} for result in results
    ]
    return {step: mean(curve[step] for curve in of_seeds) for step in sorted(set.intersection(*map(set, of_seeds)))}


def result_file(output: Path, variant: Variant, seed: int) -> Path:
    return output / f"{re.sub(r'[^0-9a-zA-Z]+', '-', variant.name).strip('-')}-{seed}" / "results.json"


def run(variant: Variant, seed: int, arguments: argparse.Namespace) -> None:
    """Trains and evaluates one variant; `results.json` is written last."""
    folder = result_file(arguments.output, variant, seed).parent
    steps = variant.times * arguments.steps
    RECIPES["ablation"] = replace(
        BUNDLED,
        build=build,
        config={},
        mask_probability=variant.mask_probability,
        stages=(LOOKS, shortened(NAMES_STAGE, arguments.names_steps), shortened(REFERRING, steps)),
    )
    was_stopped = any(folder.glob("stage-[23]/checkpoint-*"))
    if not (folder / "stage-1").exists():
        shutil.copytree(arguments.output / "looks" / "stage-1", folder / "copy")
        (folder / "copy").rename(folder / "stage-1")
    start = time.monotonic()
    if not (folder / "config.json").exists():
        options = {"samples": 0, "logging_steps": 10, "eval_steps": max(1, steps // CURVE)}
        train("ablation", folder, resume=True, config=variant.config, seed=seed, **options)
    seconds = None if was_stopped else time.monotonic() - start

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


def render(done: Results, arguments: argparse.Namespace) -> str:
    contributions = [variant for variant in CONTRIBUTIONS if variant.name in done]
    overall = [
        [
            variant.name,
            str(len(done[variant.name])),
            *(cell(done[variant.name], figure) for figure in FIGURES),
            minutes(done[variant.name]),
        ]
        for variant in contributions
    ]
    parts = [table(["variant", "seeds", *FIGURES, "minutes a run"], overall)]
    for figure in FIGURES:
        rows = [
            [variant.name]
            + [cell(done[variant.name], figure, name=name) for name in NAMES]
            + [cell(done[variant.name], figure, length=length) for length in LENGTHS]
            for variant in contributions
        ]
        header = ["variant", *(f"`{name}`" for name in NAMES), *LENGTHS]
        parts.append(f"{figure} by manner and length of the expression:\n\n{table(header, rows)}")
    remedies = [
        [
            variant.name,
            f"{max(val_curve(done[variant.name][:1]).items())[1]:.3f}",
            *(cell(done[variant.name][:1], figure) for figure in FIGURES),
            minutes(done[variant.name][:1]),
        ]
        for variant in (*CONTRIBUTIONS, *REMEDIES)
        if variant.name in done
    ]
    parts.append(f"Remedies, seed 0:\n\n{table(['variant', 'val mIoU', *FIGURES, 'minutes'], remedies)}")
    parts.append(
        f"Mean over seeds ± half the distance between them. {arguments.names_steps} + {arguments.steps} steps of 48 referents at 80 x 80 "
        f"pixels after the image encoder's own training; testA and testB, {arguments.rows} referents of each manner and split, every "
        f"expression. Measured on {machine()}."
    )
    return "\n\n".join(parts)


def cell(results: list[dict[str, Any]], figure: str, name: str = "", length: str = "") -> str:
    """A figure's mean over seeds, and half the distance between the best and the worst; of one manner or length, or all."""
    found = [
        summarize(
            [
                answer[:3]
                for of_name, answers in result["answers"].items()
                for answer in answers
                if name in ("", of_name) and length in ("", answer[3])
            ]
        )[figure]
        for result in results
    ]
    spread = f" ± {(max(found) - min(found)) / 2:.3f}" if len(found) > 1 else ""
    return f"{mean(found):.3f}{spread}"


def minutes(results: list[dict[str, Any]]) -> str:
    """The mean time of training, of runs that were never stopped."""
    seconds = [result["seconds"] for result in results if result["seconds"] is not None]
    return f"{mean(seconds) / 60:.1f}" if seconds else ""


if __name__ == "__main__":
    main()
