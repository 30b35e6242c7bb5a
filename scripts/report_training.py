"""Writes what a training run measured on its way into a document.

python scripts/report_training.py runs/magnet-tiny-refshapes docs/training.md
"""

import argparse
import json
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from hf_ris.reporting import machine, table, write_section


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a training run, with the last checkpoint of each stage")
    parser.add_argument("document", help="Markdown file with a section named training-curve")
    arguments = parser.parse_args()

    rows = []
    for stage in sorted(Path(arguments.run).glob("stage-*")):
        checkpoint = get_last_checkpoint(str(stage))
        if checkpoint is None:
            parser.error(f"{stage} holds no checkpoint")
        history = json.loads((Path(checkpoint) / "trainer_state.json").read_text())["log_history"]
        losses = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
        rows += [
            [stage.name.removeprefix("stage-"), str(entry["step"]), f"{losses[entry['step']]:.3f}"]
            + [f"{entry[f'eval_{name}']:.3f}" for name in ("loss", "mIoU", "oIoU", "P@0.5")]
            for entry in history
            if "eval_mIoU" in entry
        ]
    curve = table(["stage", "step", "training loss", "val loss", "val mIoU", "val oIoU", "val P@0.5"], rows)
    write_section(
        arguments.document,
        "training-curve",
        f"{curve}\n\nVal figures at the stage's own image size. Measured on {machine()}.",
    )


if __name__ == "__main__":
    main()
