"""Writes what a training run measured on its way into a document.

python scripts/report_training.py runs/magnet-tiny-refshapes docs/training.md
"""

import argparse
import json
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from hf_ris.reporting import machine, table, write_section


# What the evaluations of each kind of stage report: heading and name of the metric.
COLUMNS = (
    {
        "val loss": "loss",
        "category told": "category_accuracy",
        "colour told": "colour_accuracy",
        "pattern told": "pattern_accuracy",
    },
    {"val loss": "loss", "val mIoU": "mIoU", "val oIoU": "oIoU", "val P@0.5": "P@0.5"},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a training run, with the last checkpoint of each stage")
    parser.add_argument("document", help="Markdown file with a section named training-curve")
    arguments = parser.parse_args()

    histories = []
    for stage in sorted(Path(arguments.run).glob("stage-*")):
        checkpoint = get_last_checkpoint(str(stage))
        if checkpoint is None:
            parser.error(f"{stage} holds no checkpoint")
        state = json.loads((Path(checkpoint) / "trainer_state.json").read_text())
        histories.append((stage.name.removeprefix("stage-"), state["log_history"]))

    curves = []
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
            curves.append(table(["stage", "step", "training loss", *columns], rows))
    note = f"Val figures at the stage's own image size. Measured on {machine()}."
    write_section(arguments.document, "training-curve", "\n\n".join([*curves, note]))


if __name__ == "__main__":
    main()
