"""Measures what a choice by places brings among instances, and writes the table into a document.

python scripts/report_places.py docs/hub_models.md --data FOLDER
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from report_zero_shot import PLACE_WORDS

from hf_ris import GroundedProcessor
from hf_ris.data.refshapes import NAMES, draw_scene
from hf_ris.data.refshapes.categories import CATEGORIES
from hf_ris.data.refshapes.rows import scene_targets
from hf_ris.modeling.instances import InstanceSegmentationOutput
from hf_ris.modeling.language_expression import Expression
from hf_ris.modeling.without_torch import rle_to_mask
from hf_ris.referring_segmentation_iou import summarize
from hf_ris.reporting import machine, table, write_section


SELECTIONS = ("best", "place")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="*", help="Markdown files with a section named places")
    parser.add_argument("--data", type=Path, help="folder with rows.jsonl and proposals of real photos")
    parser.add_argument("--scenes", type=int, default=150, help="scenes of each variant")
    parser.add_argument("--split", default="val", help="split of RefShapes")
    arguments = parser.parse_args()
    report = report_places(arguments.split, arguments.scenes, arguments.data)
    print(report)
    for document in arguments.documents:
        write_section(document, "places", report)


def report_places(split: str, scenes: int, data: Path | None) -> str:
    """Report the figures of either choice, on drawings and on photos."""
    sets: list[tuple[str, list[tuple[InstanceSegmentationOutput, np.ndarray]]]] = [
        (f"`{name}`", list(drawn_instances(name, split, scenes))) for name in NAMES
    ]
    sets += [("photos", list(recorded_instances(data)))] if data else []
    rows = []
    for select in SELECTIONS:
        figures = [measure(cases, select) for _, cases in sets]
        rows.append([f'`select="{select}"`', *(f"{each['mIoU']:.3f} / {each['P@0.5']:.3f}" for each in figures)])
    numbers = ", ".join(f"{len(cases)} of {name}" for name, cases in sets)
    return f"{table(['mIoU / P@0.5', *(name for name, _ in sets)], rows)}\n\nExpressions: {numbers}. Measured on {machine()}."


def measure(cases: list[tuple[InstanceSegmentationOutput, np.ndarray]], select: str) -> dict[str, float]:
    processor, counts = GroundedProcessor(), []
    for outputs, true in cases:
        (segment,) = processor.post_process_referring_segmentation(outputs, [true.shape], select=select)
        mask = segment["mask"].numpy()
        counts.append((int((mask & true).sum()), int(mask.sum()), int(true.sum())))
    return summarize(counts)


def as_outputs(
    masks: np.ndarray, scores: np.ndarray, expression: Expression, phrases: dict[str, np.ndarray]
) -> InstanceSegmentationOutput:
    """Outputs of a model that found these masks (m, height, width), with scores (m,) for the expression and for its phrases."""
    return InstanceSegmentationOutput(
        instance_masks=(torch.from_numpy(masks).float() * 20 - 10,),
        instance_scores=(torch.from_numpy(scores),),
        phrase_scores=({phrase: torch.from_numpy(values) for phrase, values in phrases.items()},),
        expressions=(expression,),
    )


def drawn_instances(name: str, split: str, scenes: int) -> Iterator[tuple[InstanceSegmentationOutput, np.ndarray]]:
    """
    Draw scenes and find in each what a perfect detector finds that ignores places: all things of the kinds that an expression
    names, in random order, each with a random score.
    """
    for index in range(scenes):
        scene, referents = scene_targets(name, split, index)
        _, masks = draw_scene(scene)
        generator = np.random.default_rng(index)
        for number, texts in referents:
            expression = Expression(texts[0])
            phrases = [expression.noun_phrase, *(anchor for place in expression.places for anchor in place.anchors)]
            named = {phrase: np.array([_names(phrase, each.category) for each in scene.objects]) for phrase in phrases}
            found = np.flatnonzero(np.any(list(named.values()), axis=0) & masks.any(axis=(1, 2)))
            found = generator.permutation(found)
            scores = generator.uniform(0.5, 1, len(found))
            if len(found):
                scored = {phrase: np.where(values[found], scores, 0.05) for phrase, values in named.items()}
                # What the referent is related to is found as well, with lower scores, so that it is never the best.
                found_scores = np.where(named[expression.noun_phrase][found], scores, scores / 2)
                yield as_outputs(masks[found], found_scores, expression, scored), masks[number]


def _names(phrase: str, category: str) -> bool:
    kind = CATEGORIES[category]
    words = phrase.lower().split()
    return any(noun in words for noun in (*kind.words, kind.plural, kind.kind))


def recorded_instances(data: Path) -> Iterator[tuple[InstanceSegmentationOutput, np.ndarray]]:
    """Read photos, expressions that speak of places, and a detector's recorded regions, in random order with random scores."""
    generator = np.random.default_rng(0)
    for row in map(json.loads, (data / "rows.jsonl").open()):
        if not PLACE_WORDS & set(row["expression"].lower().split()):
            continue
        stored = np.load(data / "proposals" / f"{Path(row['image']).stem}.npz")
        masks = np.unpackbits(stored["masks"], axis=-1)[..., : stored["shape"][-1]].astype(bool)
        masks = generator.permutation(masks[masks.any(axis=(1, 2))])
        yield (
            as_outputs(masks, generator.uniform(0.5, 1, len(masks)), Expression(row["expression"]), {}),
            rle_to_mask(row["rle"]),
        )


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
