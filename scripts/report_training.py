"""Writes what a training run measured on its way into a document, and draws its curve.

python scripts/report_training.py runs/magnet-tiny-refshapes docs/training.md --curve src/hf_ris/checkpoints/magnet-tiny-refshapes/curve.png
"""

import argparse
import json
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from hf_ris.reporting import draw_curves, machine, table, write_section


# What the evaluations of each kind of stage report: heading and name of the metric.
COLUMNS = (
    {
        "val loss": "loss",
        "category right": "category_accuracy",
        "colour right": "colour_accuracy",
        "pattern right": "pattern_accuracy",
    },
    {"val loss": "loss", "val mIoU": "mIoU", "val oIoU": "oIoU", "val P@0.5": "P@0.5"},
)
CURVES = {
    "categories right, val": "eval_category_accuracy",
    "mIoU, val": "eval_mIoU",
    "P@0.5, val": "eval_P@0.5",
    "Dice loss, training": "loss_dice",
}
TERMS = "loss_"  # begins the names of the terms of the training loss
SHOWN_TERMS = 6  # rows of a stage, or a few more
DENSE = 5  # points that make a curve
History = tuple[str, list[dict[str, float]]]  # a stage's number, and what was logged in it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a training run, with the last checkpoint of each stage")
    parser.add_argument("document", nargs="?", help="Markdown file with the section")
    parser.add_argument("--section", default="training-curve", help="where in it the tables go")
    parser.add_argument("--curve", help="where an image goes (needs matplotlib)")
    parser.add_argument("--machine", default=machine(), help="where the training ran; by default this machine")
    arguments = parser.parse_args()

    histories = []
    for stage in sorted(arguments.run.glob("stage-*")):
        checkpoint = get_last_checkpoint(str(stage))
        if checkpoint is None:
            parser.error(f"{stage} holds no checkpoint")
        state = json.loads((Path(checkpoint) / "trainer_state.json").read_text())
        histories.append((stage.name.removeprefix("stage-"), state["log_history"]))

    note = f"Val figures at the stage's image size; terms of the training loss with their weights. Measured on {arguments.machine}."
    if arguments.document:
        tables = [*evaluation_tables(histories), *term_tables(histories), note]
        write_section(arguments.document, arguments.section, "\n\n".join(tables))
    if arguments.curve:
        draw(histories, arguments.curve)


def evaluation_tables(histories: list[History]) -> list[str]:
    """A table for each kind of stage: what its evaluations report."""
    tables = []
    for columns in COLUMNS:
        rows = []
        for stage_number, history in histories:
            losses = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
            rows += [
                [stage_number, str(entry["step"]), f"{losses[entry['step']]:.3f}"]
                + [f"{entry[f'eval_{name}']:.3f}" for name in columns.values()]
                for entry in history
                if all(f"eval_{name}" in entry for name in columns.values())
            ]
        if rows:
            tables.append(table(["stage", "step", "training loss", *columns], rows))
    return tables


def term_tables(histories: list[History]) -> list[str]:
    """A table of the terms of the training loss, if any are logged: some steps of each stage, the last among them."""
    entries = [entry for _, history in histories for entry in history]
    names = list(dict.fromkeys(name for entry in entries for name in entry if name.startswith(TERMS)))
    rows = []
    for stage_number, history in histories:
        logged = [entry for entry in history if any(name in entry for name in names)]
        for entry in logged[:: -max(1, len(logged) // SHOWN_TERMS)][::-1]:
            terms = [f"{entry[name]:.3f}" if name in entry else "" for name in names]
            rows.append([stage_number, str(entry["step"]), *terms])
    headings = [name.removeprefix(TERMS).replace("_", " ") for name in names]
    return [table(["stage", "step", *headings], rows)] if rows else []


def draw(histories: list[History], path: str) -> None:
    """Draw what was measured often enough to make a curve, over the steps of all stages."""
    curves: dict[str, dict[float, float]] = {name: {} for name in CURVES}
    ends = [0]
    for _, history in histories:
        for entry in history:
            for name, key in CURVES.items():
                if key in entry:
                    curves[name][ends[-1] + entry["step"]] = entry[key]
        ends.append(ends[-1] + history[-1]["step"])
    dense = {name: points for name, points in curves.items() if len(points) >= DENSE}
    draw_curves(path, dense, "step of all stages", "share, or loss", marks=ends[1:-1])


if __name__ == "__main__":
    main()
