"""Trains small models with none, each and all of what the Mask Grounding paper adds, and compares them on unseen scenes.

python scripts/ablation.py runs/ablation docs/ablation.md                          # goes on where it was stopped
python scripts/ablation.py runs/ablation docs/ablation.md --model CRIS --runs 2    # two more runs of one model, then the tables

All runs of a model and seed begin with the same weights (an image encoder that has learned what things look like, as the published
systems begin with one from photos; the rest is random) and see the same rows in the same order, as many of them. Remedies are what was
tried where a contribution did not help, with one seed; they were chosen on val. The tables are of testA and testB. What each run found
is kept beside the document, in a .json of its name, from which the tables are made.
"""

import argparse
import json
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from tiny_models import build_cris_tiny, build_magnet_mini
from tiny_recipes import RECIPES
from transformers import pipeline

from hf_ris.data import load_refshapes
from hf_ris.data.refshapes import NAMES
from hf_ris.evaluation import evaluate
from hf_ris.evaluation_report import LENGTHS, length_of
from hf_ris.evaluation_shards import read_shards
from hf_ris.referring_segmentation_iou import summarize
from hf_ris.reporting import draw_curves, machine, table, write_section
from hf_ris.systems import CRIS, MAGNET
from hf_ris.training import Stage, train
from hf_ris.training.checkpoints import number_of_steps


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


@dataclass(frozen=True)
class Family:
    """
    A model and what is compared of it.

    Attributes:
        recipe (`str`): Whose first three stages are run: looks, names and whole expressions.
        build (`Callable`): Makes the model and its processor from a seed and a configuration.
        contributions (`tuple[Variant, ...]`): With every seed; the last has all.
        names_steps (`int`): Steps of names.
        steps (`int`): Steps of whole expressions, after those.
        remedies (`tuple[Variant, ...]`): With the first seed.
        without (`dict`): What turns off what the model has by default.
    """

    recipe: str
    build: Callable[..., Any]
    contributions: tuple[Variant, ...]
    names_steps: int
    steps: int
    remedies: tuple[Variant, ...] = ()
    without: dict[str, Any] = field(default_factory=dict)


MODULE = {"alignment_module": True}
GROUNDING = {"mask_grounding_loss_weight": 1.0}
ALIGNMENT = {"alignment_loss_weight": 0.5}
# CRIS's mask loss is BCE alone, a fourteenth of MagNet's. Mask Grounding's weight was chosen on val among 1, 0.05 and 0.015.
CRIS_GROUNDING = {"mask_grounding_loss_weight": 0.015}
CRIS_ALIGNMENT = {"alignment_loss_weight": 0.035}
FAMILIES = {
    MAGNET.name: Family(
        "magnet-mini-refshapes",
        build_magnet_mini,
        (
            Variant("baseline", {}),
            Variant("+ alignment module", MODULE),
            Variant("+ Mask Grounding", GROUNDING),
            Variant("+ alignment loss", ALIGNMENT),
            Variant("all", MODULE | GROUNDING | ALIGNMENT),
        ),
        names_steps=120,
        steps=280,
        remedies=(
            Variant("+ Mask Grounding, a third of its weight", {"mask_grounding_loss_weight": 0.33}),
            Variant("+ Mask Grounding, 30 % of words hidden", GROUNDING, mask_probability=0.3),
            Variant(
                "+ Mask Grounding, words named from the deepest map alone",
                GROUNDING | {"mask_grounding_stages": (-1,)},
            ),
            Variant("all but Mask Grounding, 4 times as long", MODULE | ALIGNMENT, times=4),
            Variant("all, 4 times as long", MODULE | GROUNDING | ALIGNMENT, times=4),
        ),
        without={"alignment_module": False},
    ),
    CRIS.name: Family(
        "cris-tiny-refshapes",
        build_cris_tiny,
        (
            Variant("baseline", {}),
            Variant("+ Mask Grounding", CRIS_GROUNDING),
            Variant("+ alignment loss", CRIS_ALIGNMENT),
            Variant("all", CRIS_GROUNDING | CRIS_ALIGNMENT),
        ),
        names_steps=200,
        steps=700,
    ),
}
Run = dict[str, Any]  # model, variant, seed, and what was found
SPLITS = ("testA", "testB")
FIGURES = ("mIoU", "oIoU", "P@0.5")
ALL = "all"  # datasets and lengths together
CURVE = 7  # evaluations on the way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("document", type=Path, help="Markdown file with a section named ablation")
    parser.add_argument("--model", choices=FAMILIES, help="by default each")
    parser.add_argument("--curves", type=Path, help="folder for curves of val mIoU on the way (needs matplotlib)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs", type=int, default=10**6, help="how many runs to do now, at most")
    parser.add_argument(
        "--rows", type=int, default=500, help="referents of each dataset and split that are asked about"
    )
    arguments = parser.parse_args()

    record = arguments.document.with_suffix(".json")
    done: list[Run] = json.loads(record.read_text()) if record.exists() else []
    known = {(run["model"], run["variant"], run["seed"]) for run in done}
    missing = [
        (name, variant, seed)
        for name, family in FAMILIES.items()
        if arguments.model in (None, name)
        for variant, seed in all_runs(family, arguments.seeds)
        if (name, variant.name, seed) not in known
    ]
    for name, variant, seed in missing[: arguments.runs]:
        done.append(run(name, variant, seed, arguments))
        record.write_text(json.dumps(done, indent=1) + "\n")
    report = render(done, arguments)
    print(report)
    write_section(arguments.document, "ablation", report)
    if arguments.curves:
        for name, family in FAMILIES.items():
            curves = {each.name: val_curve(find(done, name, each)) for each in family.contributions}
            if all(curves.values()):
                path = arguments.curves / f"ablation-{name.lower()}.png"
                draw_curves(path, curves, "step", f"{name}: mIoU on val, over the datasets")


def all_runs(family: Family, seeds: int) -> list[tuple[Variant, int]]:
    runs = [(variant, seed) for seed in range(seeds) for variant in family.contributions]
    return runs + [(variant, 0) for variant in family.remedies]


def find(done: list[Run], model: str, variant: Variant) -> list[Run]:
    """A variant's runs."""
    return [run for run in done if (run["model"], run["variant"]) == (model, variant.name)]


def build(family: Family, seed: int, config: dict[str, Any]) -> Any:
    """A recipe's model. Whatever its parts, those that two variants share begin with the same weights."""
    everything, _ = family.build(seed, family.contributions[-1].config)
    model, processor = family.build(seed, {**family.without, **config})
    weights = everything.state_dict()
    shared = {name: weights[name] for name, new in model.state_dict().items() if weights[name].shape == new.shape}
    model.load_state_dict(shared, strict=False)
    return model, processor


def shortened(stage: Stage, steps: int) -> Stage:
    return replace(stage, arguments={**stage.arguments, "max_steps": steps})


def val_curve(runs: list[Run]) -> dict[float, float]:
    """Step -> val mIoU, the mean over seeds."""
    curves = [dict(run["curve"]) for run in runs]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    return {step: mean(curve[step] for curve in curves) for step in steps}


def learn_looks(name: str, arguments: argparse.Namespace) -> Path:
    """Where a model's image encoder has learned what things look like, once for all of its runs."""
    recipe = RECIPES[FAMILIES[name].recipe]
    recipe = replace(recipe, stages=recipe.stages[:1], config={})
    looks = arguments.output / name.lower() / "looks"
    if not (looks / "model.safetensors").exists():
        train(recipe, looks, resume=any(looks.glob("stage-1/checkpoint-*/trainer_state.json")))
    return looks


def run(name: str, variant: Variant, seed: int, arguments: argparse.Namespace) -> Run:
    """Trains and evaluates one variant."""
    family = FAMILIES[name]
    recipe = RECIPES[family.recipe]
    looks = learn_looks(name, arguments)
    folder = arguments.output / name.lower() / f"{re.sub(r'[^0-9a-zA-Z]+', '-', variant.name).strip('-')}-{seed}"
    steps = variant.times * family.steps
    first, names, referring = recipe.stages[:3]
    recipe = replace(
        recipe,
        build=partial(build, family),
        config={},
        mask_probability=variant.mask_probability,
        stages=(first, shortened(names, family.names_steps), shortened(referring, steps)),
    )
    was_stopped = any(folder.glob("stage-[23]/checkpoint-*"))
    if not (folder / "stage-1").exists():
        shutil.copytree(looks / "stage-1", folder / "copy", dirs_exist_ok=True)
        (folder / "copy").rename(folder / "stage-1")
    start = time.monotonic()
    if not (folder / "config.json").exists():
        options = {"samples": 0, "logging_steps": 10, "eval_steps": max(1, steps // CURVE)}
        train(recipe, folder, resume=True, config=variant.config, seed=seed, **options)
    seconds = None if was_stopped else time.monotonic() - start

    ris = pipeline("referring-segmentation", model=str(folder), device="cpu")
    answers: dict[str, list[Any]] = defaultdict(list)
    for dataset in NAMES:
        for split in SPLITS:
            rows = load_refshapes(dataset, split, num_rows=arguments.rows)
            evaluate(ris, rows, output=folder / f"{dataset}-{split}")
            texts = [[each["sent"] for each in of_row] for of_row in rows["expressions"]]
            for answer in read_shards(folder / f"{dataset}-{split}").values():
                length = length_of(texts[answer["row"]][answer["expression"]])
                for group in (ALL, dataset, length):
                    answers[group].append(answer["counts"])
    last = max(folder.glob("stage-3/checkpoint-*"), key=number_of_steps)
    log = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return {
        "model": name,
        "variant": variant.name,
        "seed": seed,
        "minutes": None if seconds is None else round(seconds / 60, 1),
        "figures": {
            group: {figure: round(summarize(counts)[figure], 4) for figure in FIGURES}
            for group, counts in answers.items()
        },
        "curve": [(entry["step"], round(entry["eval_mIoU"], 4)) for entry in log if "eval_mIoU" in entry],
        "measured": machine(),
    }


def render(done: list[Run], arguments: argparse.Namespace) -> str:
    rows = [
        (name, variant, runs)
        for name, family in FAMILIES.items()
        for variant in family.contributions
        if (runs := find(done, name, variant))
    ]
    overall = [
        [name, variant.name, str(len(runs)), *(cell(runs, figure) for figure in FIGURES), minutes(runs)]
        for name, variant, runs in rows
    ]
    parts = [table(["model", "variant", "seeds", *FIGURES, "minutes a run"], overall)]
    groups = (*NAMES, *LENGTHS)
    header = ["model", "variant", *(f"`{name}`" for name in NAMES), *LENGTHS]
    for figure in FIGURES:
        lines = [
            [name, variant.name, *(cell(runs, figure, group) for group in groups)] for name, variant, runs in rows
        ]
        parts.append(f"{figure} by dataset and length of the expression:\n\n{table(header, lines)}")
    remedies = [
        [
            name,
            variant.name,
            f"{run['curve'][-1][1]:.3f}",
            *(f"{run['figures'][ALL][figure]:.3f}" for figure in FIGURES),
            minutes([run]),
        ]
        for name, family in FAMILIES.items()
        for variant in (*family.contributions, *family.remedies)
        for run in find(done, name, variant)[:1]
    ]
    header = ["model", "variant", "val mIoU", *FIGURES, "minutes"]
    parts.append(f"Remedies, seed 0:\n\n{table(header, remedies)}")
    shown = {name: FAMILIES[name] for name, _, _ in rows}
    lengths = " and ".join(
        f"{family.names_steps} + {family.steps} steps ({name}, at {RECIPES[family.recipe].stages[2].image_size} pixels)"
        for name, family in shown.items()
    )
    parts.append(
        f"Mean over seeds ± half the distance between them. {lengths} of 48 referents, of names and of whole expressions, after the image "
        f"encoder's own training; testA and testB, {arguments.rows} referents of each dataset "
        f"and split, every expression. Measured on {', and on '.join(sorted({run['measured'] for run in done}))}."
    )
    return "\n\n".join(parts)


def cell(runs: list[Run], figure: str, group: str = ALL) -> str:
    """A figure's mean over seeds, and half the distance between the best and the worst; of one dataset or length, or all."""
    found = [run["figures"][group][figure] for run in runs]
    spread = f" ± {(max(found) - min(found)) / 2:.3f}" if len(found) > 1 else ""
    return f"{mean(found):.3f}{spread}"


def minutes(runs: list[Run]) -> str:
    """The mean time of training, of runs that were never stopped."""
    found = [run["minutes"] for run in runs if run["minutes"] is not None]
    return f"{mean(found):.1f}" if found else ""


if __name__ == "__main__":
    main()
