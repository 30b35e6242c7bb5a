"""Measures whether the bundled checkpoint's score can be believed, and writes it, with a reliability plot, into its card.

python scripts/report_calibration.py runs/report --card src/hf_ris/checkpoints/magnet-tiny-refshapes/README.md

The folder is that of `report_bundled_checkpoint.py`, whose answers on val are read. Beside them the model is asked for what is not
there, and for what there are several of.
"""

import argparse
from pathlib import Path

import numpy as np
from report_bundled_checkpoint import Answer, read_answers
from transformers import Pipeline, pipeline

from hf_ris.data import load_refshapes
from hf_ris.data.refshapes import NAMES
from hf_ris.data.refshapes.rows import ROWS_PER_SCENE, ambiguous_rows
from hf_ris.evaluation import evaluate
from hf_ris.evaluation_shards import read_shards
from hf_ris.reporting import draw_curves, machine, table, write_section


BINS = 10
SURE = 0.5  # a score from which an answer counts as one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder with the answers of report_bundled_checkpoint.py")
    parser.add_argument(
        "--card", type=Path, help="one with a section named bundled-calibration; beside it reliability.png"
    )
    parser.add_argument("--scenes", type=int, default=1000, help="scenes per variant that were asked about on val")
    parser.add_argument(
        "--unclear-scenes", type=int, default=200, help="scenes per variant for the other two questions"
    )
    arguments = parser.parse_args()

    ris = pipeline("referring-segmentation", device="cpu")
    answers: list[Answer] = []
    for name in NAMES:
        dataset = load_refshapes(name, "val", num_rows=ROWS_PER_SCENE * arguments.scenes)
        answers += read_answers(dataset, arguments.output / name)
    scores = np.array([answer.score for answer in answers])
    is_right = np.array([answer.iou > 0.5 for answer in answers])
    bins = group_scores(scores, is_right)
    error = sum(count * abs(score - share) for count, score, share in bins) / len(scores)

    asked = {
        "one thing": scores,
        "nothing": scores_of_nothing(ris, arguments.unclear_scenes, arguments.output),
        "several things": scores_of_several(ris, arguments.unclear_scenes),
    }
    rows = [
        [name, str(len(found)), f"{np.mean(found < SURE):.1%}", f"{np.mean(found):.2f}"]
        for name, found in asked.items()
    ]
    text = "\n\n".join(
        [
            f"Expected calibration error of the score against IoU > 0.5, in {BINS} bins: **{error:.3f}**.",
            table(["expressions that are true of", "asked", f"score below {SURE}", "mean score"], rows),
            f"Split `val`, all three variants: {arguments.scenes} scenes each for the first row, {arguments.unclear_scenes} for the others. "
            f"Measured by `scripts/report_calibration.py` on {machine()}.",
        ]
    )
    print(text)
    if arguments.card:
        write_section(arguments.card, "bundled-calibration", text)
        measured = {score: share for _, score, share in bins}
        curves = {"the bundled checkpoint": measured, "a perfect score": {0.0: 0.0, 1.0: 1.0}}
        draw_curves(arguments.card.with_name("reliability.png"), curves, "score", "share with IoU > 0.5")


def group_scores(scores: np.ndarray, is_right: np.ndarray) -> list[tuple[int, float, float]]:
    """Number, mean score and share of right answers of each bin of scores that is not empty."""
    places = np.minimum((scores * BINS).astype(int), BINS - 1)
    groups = [places == place for place in range(BINS)]
    return [
        (int(group.sum()), float(scores[group].mean()), float(is_right[group].mean()))
        for group in groups
        if group.any()
    ]


def scores_of_nothing(ris: Pipeline, scenes: int, output: Path) -> np.ndarray:
    """Scores of the answers to expressions that are true of no object, but near to what is there."""
    scores = []
    for name in NAMES:
        dataset = load_refshapes(name, "val", num_rows=ROWS_PER_SCENE * scenes, no_target_share=1.0)
        evaluate(ris, dataset, output=output / f"{name}-nothing")
        scores += [found["score"] for found in read_shards(output / f"{name}-nothing").values()]
    return np.array(scores)


def scores_of_several(ris: Pipeline, scenes: int) -> np.ndarray:
    """Scores of the answers to expressions that do not say which of several objects they mean."""
    rows = [row for name in NAMES for index in range(scenes) for row in ambiguous_rows(name, "val", index)]
    return np.array([ris(row["image"], text=row["expressions"][0]["sent"])["score"] for row in rows])


if __name__ == "__main__":
    main()
