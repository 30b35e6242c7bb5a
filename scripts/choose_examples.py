"""Finds unseen scenes in which one changed word lands on another object, and draws what a model makes of them.

python scripts/choose_examples.py candidates.json --scenes 300 --sheet candidates.jpg    # to choose from by eye
python scripts/choose_examples.py --draw docs/images/examples.jpg                        # the chosen ones, of the package

An expression's word is exchanged for another of its kind; the checker of RefShapes tells what the new one is true of.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import pipeline

from hf_ris.data.refshapes import CATEGORIES, COLOURS, EXAMPLES, PATTERNS, draw_scene, true_of
from hf_ris.data.refshapes.examples import Example
from hf_ris.data.refshapes.rows import scene_of, scene_rows
from hf_ris.visualization import draw_overlay, draw_sheet


COLUMNS = 5
SWAPS = [
    list(COLOURS),
    list(PATTERNS),
    ["big", "small"],
    ["large", "little"],
    ["left", "right", "top", "bottom", "middle"],
    ["above", "below"],
    ["first", "second", "third"],
    [category.words[0] for category in CATEGORIES.values()],
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="?", type=Path, help="JSON file for what is found")
    parser.add_argument("--sheet", help="picture of the best of them")
    parser.add_argument("--draw", help="picture of the package's examples")
    parser.add_argument("--split", default="testA")
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--model", help="a folder or Hub id; by default the bundled checkpoint")
    arguments = parser.parse_args()

    ris = pipeline("referring-segmentation", model=arguments.model, device="cpu")
    if arguments.candidates:
        found = sorted(
            (measured(ris, each) for index in range(arguments.scenes) for each in pairs(arguments.split, index)),
            key=lambda candidate: -candidate["iou"],
        )
        arguments.candidates.write_text("\n".join(json.dumps(each) for each in found))
        if arguments.sheet:
            best = [Example(each["image_id"], tuple(each["expressions"])) for each in found[:60]]
            draw(ris, best).save(arguments.sheet)
    if arguments.draw:
        draw(ris, EXAMPLES).save(arguments.draw, quality=85)


def pairs(split: str, index: int) -> Iterator[dict[str, Any]]:
    """Expressions of a scene that differ by a word, with the numbers of their objects."""
    for row in scene_rows("refshapes", split, index):
        scene = scene_of(row["image_id"])
        for text in (expression["sent"] for expression in row["expressions"]):
            words, target = text.split(), true_of(scene, text)
            for place, word in enumerate(words):
                for other in (other for group in SWAPS if word in group for other in group if other != word):
                    changed = " ".join([*words[:place], other, *words[place + 1 :]])
                    try:
                        other_target = true_of(scene, changed)
                    except ValueError:  # "the bottom side"
                        continue
                    if len(other_target) == 1 and other_target != target:
                        yield {
                            "image_id": row["image_id"],
                            "expressions": [text, changed],
                            "targets": [*target, *other_target],
                        }


def measured(ris: Any, candidate: dict[str, Any]) -> dict[str, Any]:
    """With the lower of both expressions' IoU."""
    picture, masks = draw_scene(scene_of(candidate["image_id"]))
    answers = ris(picture, text=candidate["expressions"], output_format="array")
    truths = masks[candidate["targets"]]
    ious = [
        (answer["mask"] & truth).sum() / (answer["mask"] | truth).sum()
        for answer, truth in zip(answers, truths, strict=True)
    ]
    return {**candidate, "iou": round(float(min(ious)), 3)}


def draw(ris: Any, examples: Sequence[Example]) -> Image.Image:
    pictures = [(each.draw(), list(each.expressions)) for each in examples]
    return draw_sheet(
        [draw_overlay(picture, ris(picture, text=texts)) for picture, texts in pictures], COLUMNS, width=400
    )


if __name__ == "__main__":
    main()
