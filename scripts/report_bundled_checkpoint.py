"""Evaluates the bundled checkpoint on unseen RefShapes scenes and writes figures, and images of failures, where they are quoted.

python scripts/report_bundled_checkpoint.py runs/report README.md --card src/hf_ris/checkpoints/magnet-tiny-refshapes/README.md
python scripts/report_bundled_checkpoint.py runs/report-cris docs/training.md --model runs/cris-tiny-refshapes --section cris-tiny --scenes 300

Goes on where it was stopped. Whatever a wrong mask covers instead is known from the drawn scene.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import datasets
import numpy as np
from PIL import Image
from refshapes_checker import KINDS, kind_of
from transformers import pipeline

from hf_ris.data import decode_mask, load_refshapes
from hf_ris.data.refshapes import NAMES, draw_scene
from hf_ris.data.refshapes.rows import ROWS_PER_SCENE, scene_of
from hf_ris.evaluation import evaluate, shuffle_expressions
from hf_ris.evaluation_shards import read_shards
from hf_ris.referring_segmentation_iou import sample_ious
from hf_ris.reporting import machine, table, write_section
from hf_ris.visualization import draw_comparison, draw_sheet


RIGHT = "IoU at least 0.5"
FAILURES = ("another of its category", "another category", "several objects", "a part, or loosely", "nothing")
COLUMNS = 4  # failures of a kind that are shown


@dataclass(frozen=True)
class Answer:
    """
    An expression and its answer.

    Attributes:
        row (`dict`): The row of the dataset, without its image.
        text (`str`): The expression.
        score (`float`): Of the predicted mask.
        predicted (`dict`): Its mask, as run-length code.
        iou (`float`): Of predicted and annotated mask.
        verdict (`str`): `RIGHT` or one of `FAILURES`.
    """

    row: dict[str, Any]
    text: str
    score: float
    predicted: dict[str, Any]
    iou: float
    verdict: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for all answers")
    parser.add_argument("documents", nargs="*", help="Markdown files with the section")
    parser.add_argument("--section", default="bundled-figures", help="where in these the figures go")
    parser.add_argument(
        "--card", type=Path, help="one with the section, and one named bundled-kinds; beside it failures.jpg"
    )
    parser.add_argument("--model", help="a folder or Hub id; by default the bundled checkpoint")
    parser.add_argument("--split", default="val", help="val, testA or testB")
    parser.add_argument("--scenes", type=int, default=1000, help="unseen scenes per variant, two referents each")
    parser.add_argument("--worst", type=Path, help="an image of the 50 worst answers")
    arguments = parser.parse_args()

    ris = pipeline("referring-segmentation", model=arguments.model, device="cpu")
    rows = []
    answers: list[Answer] = []
    for name in NAMES:
        dataset = load_refshapes(name, arguments.split, num_rows=ROWS_PER_SCENE * arguments.scenes)
        metrics = evaluate(ris, dataset, output=arguments.output / name)
        shuffled = evaluate(ris, shuffle_expressions(dataset), output=arguments.output / f"{name}-shuffled")
        figures = [f"{metrics[key]:.3f}" for key in ("mIoU", "oIoU", "P@0.5", "P@0.7", "P@0.9")]
        rows.append([f"`{name}`", str(metrics["expressions"]), *figures, f"{shuffled['mIoU']:.3f}"])
        print(rows[-1], flush=True)
        answers += read_answers(dataset, arguments.output / name)

    header = ["variant", "expressions", "mIoU", "oIoU", "P@0.5", "P@0.7", "P@0.9", "mIoU, expressions shuffled"]
    note = (
        f"Split `{arguments.split}`, {arguments.scenes} scenes per variant, every expression, masks at the image's "
        f"320 x 320 pixels, probability above {ris.processor.threshold}. Measured by `scripts/report_bundled_checkpoint.py` on {machine()}."
    )
    for document in [*arguments.documents, *filter(None, [arguments.card])]:
        write_section(document, arguments.section, f"{table(header, rows)}\n\n{note}")
    kinds = by_kind(answers)
    print(kinds)
    if arguments.card:
        write_section(arguments.card, "bundled-kinds", kinds)
        draw_failures(answers).save(arguments.card.with_name("failures.jpg"), quality=60)
    if arguments.worst:
        draw_answers(sorted(answers, key=lambda answer: answer.iou)[:50]).save(arguments.worst)


def read_answers(dataset: datasets.Dataset, folder: Path) -> Iterable[Answer]:
    rows = list(dataset.remove_columns("image"))  # images are drawn again where they are needed
    answers = sorted(read_shards(folder).items())
    ious = sample_ious([found["counts"] for _, found in answers]).tolist()
    for ((number, order), found), iou in zip(answers, ious, strict=True):
        row = rows[number]
        verdict = RIGHT if iou >= 0.5 else judge(row, decode_mask(found["mask"]))
        yield Answer(row, row["expressions"][order]["sent"], found["score"], found["mask"], iou, verdict)


def judge(row: dict[str, Any], predicted: np.ndarray) -> str:
    """Which of `FAILURES` a mask is, by what it covers."""
    if not predicted.any():
        return "nothing"
    scene = scene_of(row["image_id"])
    masks = draw_scene(scene)[1]
    covered = (masks & predicted).sum(axis=(1, 2)) / masks.sum(axis=(1, 2)) > 0.5
    target = row["ann_ids"][0] % 10
    if covered.sum() > 1:
        return "several objects"
    if not covered.any() or covered[target]:
        return "a part, or loosely"
    same_category = scene.objects[int(covered.argmax())].category == scene.objects[target].category
    return "another of its category" if same_category else "another category"


def by_kind(answers: list[Answer]) -> str:
    """A table: a line for each kind of expression, and one for all."""
    groups: dict[str, list[Answer]] = {kind: [] for kind in KINDS}
    for answer in answers:
        groups[kind_of(answer.text)].append(answer)
    lines = [
        [
            f"{kind}: *{KINDS[kind]}*" if kind in KINDS else kind,
            str(len(group)),
            f"{mean(answer.iou for answer in group):.3f}",
            *(f"{mean(answer.verdict == verdict for answer in group):.1%}" for verdict in (RIGHT, *FAILURES)),
        ]
        for kind, group in [*groups.items(), ("all", answers)]
        if group
    ]
    return table(["expression names", "asked", "mIoU", RIGHT, *FAILURES], lines)


def draw_failures(answers: list[Answer]) -> Image.Image:
    """The worst of each failure that is not rare."""
    shown: list[Answer] = []
    for verdict in FAILURES:
        failed = sorted((answer for answer in answers if answer.verdict == verdict), key=lambda answer: answer.iou)
        images = {answer.row["image_id"]: answer for answer in reversed(failed)}
        if len(images) >= COLUMNS:
            shown += list(images.values())[-COLUMNS:]
    return draw_answers(shown)


def draw_answers(answers: list[Answer]) -> Image.Image:
    images = [
        draw_comparison(
            draw_scene(scene_of(answer.row["image_id"]))[0],
            f"{answer.text} [{answer.verdict}]",
            answer.score,
            decode_mask(answer.predicted),
            decode_mask(answer.row["mask"]),
        )
        for answer in answers
    ]
    return draw_sheet(images, COLUMNS, width=300)


if __name__ == "__main__":
    main()
