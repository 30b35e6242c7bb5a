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
CURVES = {"categories right": "category_accuracy", "mIoU": "mIoU", "P@0.5": "P@0.5"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a training run, with the last checkpoint of each stage")
    parser.add_argument("document", nargs="?", help="Markdown file with the section")
    parser.add_argument("--section", default="training-curve", help="where in it the tables go")
    parser.add_argument("--curve", help="where an image goes (needs matplotlib)")
    arguments = parser.parse_args()

    histories = []
    for stage in sorted(arguments.run.glob("stage-*")):
        checkpoint = get_last_checkpoint(str(stage))
        if checkpoint is None:
            parser.error(f"{stage} holds no checkpoint")
        state = json.loads((Path(checkpoint) / "trainer_state.json").read_text())
        histories.append((stage.name.removeprefix("stage-"), state["log_history"]))

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
    note = f"Val figures at the stage's image size. Measured on {machine()}."
    if arguments.document:
        write_section(arguments.document, arguments.section, "\n\n".join([*tables, note]))
    if arguments.curve:
        curves: dict[str, dict[float, float]] = {name: {} for name in CURVES}
        ends = [0]
        for _, history in histories:
            for entry in history:
                for name, metric in CURVES.items():
                    if f"eval_{metric}" in entry:
                        curves[name][ends[-1] + entry["step"]] = entry[f"eval_{metric}"]
            ends.append(ends[-1] + history[-1]["step"])
        draw_curves(arguments.curve, curves, "step of all stages", "on val", marks=ends[1:-1])


if __name__ == "__main__":
    main()
