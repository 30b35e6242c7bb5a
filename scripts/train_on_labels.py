"""Label drawings with the bundled zero-shot model, train a small MagNet on the labels, and compare it with one that learned the true masks.

python scripts/train_on_labels.py runs/labels docs/labelling.md   # about two hours on two CPU cores; goes on where it was stopped

All trainings see the same images and expressions (those above a score see a part of them), as many steps, and begin with the same
weights: an image encoder that has learned what things look like, as the published systems begin with one from photos; the rest is random.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets
from safetensors.torch import load_file
from tiny_models import build_magnet_mini
from tiny_recipes import RECIPES
from transformers import pipeline

from hf_ris.data import load_labels, load_refshapes
from hf_ris.data.refshapes import NAMES
from hf_ris.data.refshapes.rows import scene_rows
from hf_ris.data.segmentation import compare_masks, mask_geometry
from hf_ris.evaluation import evaluate
from hf_ris.labelling import ModelChoice, find_source, label
from hf_ris.reporting import machine, table, write_section
from hf_ris.training import train


LOOKS_STEPS = 2000
STEPS = 900
FIGURES = ("mIoU", "oIoU", "P@0.5")
TRUTH = "the true masks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("document", type=Path, nargs="?", help="Markdown file with a section named train-on-labels")
    parser.add_argument("--scenes", type=int, default=800, help="drawn scenes of each variant that are labelled")
    parser.add_argument("--min-scores", type=float, nargs="*", default=[0.0, 0.15])
    parser.add_argument("--rows", type=int, default=500, help="referents of each variant's val that are asked about")
    parser.add_argument("--only", help="train and evaluate these alone: truth, or a score")
    arguments = parser.parse_args()

    for variant in NAMES:
        source = find_source(variant, num_rows=arguments.scenes, partition_rows=50)
        label(
            source,
            arguments.output / variant,
            ModelChoice("bundled-zero-shot"),
            format="dataset",
            batch_size=1,
            note=print,
        )
    looks = learn_looks(arguments.output)
    runs: dict[str, Callable[[], datasets.Dataset]] = {"truth": partial(true_rows, arguments.output)}
    runs |= {str(score): partial(labelled_rows, arguments.output, score) for score in arguments.min_scores}
    lines = []
    for name, make_rows in runs.items():
        if arguments.only in (None, name):
            lines.append(compare(name, make_rows(), looks, arguments))
    report = (
        table(["learned from", "expressions", "mIoU of their masks", *(f"{each} on val" for each in FIGURES)], lines)
        + f"\n\nMagNet of 3 M parameters at 80 x 80 pixels, {STEPS} steps of 48 expressions; {arguments.rows} unseen referents of each variant's val. "
        f"Labels: TAS, composed of a CLIP and a BLIP that saw captions of drawings alone, on regions of like colour. Measured on {machine()}."
    )
    print(report)
    if arguments.document and arguments.only is None:
        write_section(arguments.document, "train-on-labels", report)


def labelled_rows(output: Path, min_score: float) -> datasets.Dataset:
    return datasets.concatenate_datasets([load_labels(output / variant, min_score) for variant in NAMES])


def true_rows(output: Path) -> datasets.Dataset:
    """The images and expressions of all labels, with the masks that they should have."""

    def correct(row: dict[str, Any], variant: str) -> dict[str, Any]:
        mask = true_mask(variant, row)
        return {"mask": mask, **mask_geometry(mask)}

    parts = []
    for variant in NAMES:
        rows = load_labels(output / variant)
        others = rows.remove_columns("image").map(correct, fn_kwargs={"variant": variant})
        parts.append(datasets.concatenate_datasets([rows.select_columns("image"), others], axis=1))
    return datasets.concatenate_datasets(parts)


def true_mask(variant: str, row: dict[str, Any]) -> dict[str, Any]:
    return masks_of(variant, int(Path(row["file_name"]).stem.rpartition("_")[2]))[row["expressions"][0]["sent"]]


@cache
def masks_of(variant: str, scene: int) -> dict[str, Any]:
    """The true mask of each expression of a scene."""
    rows = scene_rows(variant, "train", scene)
    return {each["sent"]: row["mask"] for row in rows for each in row["expressions"]}


def quality(output: Path, min_score: float) -> float:
    """Mean IoU of labels with the true masks."""
    ious = []
    for variant in NAMES:
        for row in load_labels(output / variant, min_score).remove_columns("image"):
            shared, found, true = compare_masks(row["mask"], true_mask(variant, row))
            ious.append(shared / (found + true - shared))
    return sum(ious) / len(ious)


def learn_looks(output: Path) -> Path:
    recipe = RECIPES["magnet-mini-refshapes"]
    first = replace(recipe.stages[0], arguments={**recipe.stages[0].arguments, "max_steps": LOOKS_STEPS})
    looks = output / "looks"
    if not (looks / "model.safetensors").exists():
        resume = any(looks.glob("stage-1/checkpoint-*/trainer_state.json"))
        train(replace(recipe, stages=(first,), config={}), looks, resume=resume, samples=0)
    return looks


def compare(name: str, rows: datasets.Dataset, looks: Path, arguments: argparse.Namespace) -> list[str]:
    """Train on rows, and evaluate; a line of the table."""
    folder = arguments.output / f"learned-from-{name}"
    recipe = RECIPES["magnet-mini-refshapes"]
    stage = replace(recipe.stages[2], arguments={**recipe.stages[2].arguments, "max_steps": STEPS})
    recipe = replace(
        recipe, build=partial(build, looks), stages=(stage,), config={"alignment_loss_weight": 0.5}, refshapes=()
    )
    if not (folder / "model.safetensors").exists():
        resume = any(folder.glob("stage-1/checkpoint-*/trainer_state.json"))
        train(recipe, folder, rows, resume=resume, samples=0, eval_strategy="no", save_steps=300)
    found = []
    for variant in NAMES:
        results = folder / f"{variant}-val" / "results.json"
        if not results.exists():
            ris = pipeline("referring-segmentation", model=str(folder), device="cpu")
            evaluate(ris, load_refshapes(variant, "val", num_rows=arguments.rows), output=results.parent)
        found.append(json.loads(results.read_text()))
    means = [sum(each[figure] for each in found) / len(found) for figure in FIGURES]
    is_truth = name == "truth"
    quality_of = "1" if is_truth else f"{quality(arguments.output, float(name)):.3f}"
    what = TRUTH if is_truth else "labels" if float(name) == 0 else f"labels with a score of at least {name}"
    return [what, f"{len(rows):,}", quality_of, *(f"{mean:.3f}" for mean in means)]


def build(looks: Path, seed: int, config: dict[str, Any]) -> Any:
    """A MagNet whose image encoder has learned what things look like."""
    model, processor = build_magnet_mini(seed, config)
    start = "image_encoder."
    learned = {
        name.removeprefix(start): weight
        for name, weight in load_file(looks / "model.safetensors").items()
        if name.startswith(start)
    }
    model.image_encoder.load_state_dict(learned)
    return model, processor


if __name__ == "__main__":
    main()
