"""Evaluates the bundled checkpoint on unseen RefShapes scenes and writes the figures where they are quoted.

python scripts/report_bundled_checkpoint.py README.md src/hf_ris/checkpoints/magnet-tiny-refshapes/README.md
"""

import argparse

from transformers import pipeline

from hf_ris.data import load_refshapes
from hf_ris.data.refshapes import NAMES
from hf_ris.evaluation import evaluate, shuffle_expressions
from hf_ris.reporting import machine, table, write_section


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="*", help="Markdown files with a section named bundled-figures")
    parser.add_argument("--model", help="a folder or Hub id; by default the bundled checkpoint")
    parser.add_argument("--split", default="val", help="val, testA or testB")
    parser.add_argument("--scenes", type=int, default=500, help="unseen scenes per manner, two referents each")
    arguments = parser.parse_args()

    ris = pipeline("referring-segmentation", model=arguments.model, device="cpu")
    rows = []
    for name in NAMES:
        dataset = load_refshapes(name, arguments.split, num_rows=2 * arguments.scenes)
        metrics = evaluate(ris, dataset)
        shuffled = evaluate(ris, shuffle_expressions(dataset))
        figures = [f"{metrics[key]:.3f}" for key in ("mIoU", "oIoU", "P@0.5", "P@0.7", "P@0.9")]
        rows.append([f"`{name}`", str(metrics["expressions"]), *figures, f"{shuffled['mIoU']:.3f}"])
        print(rows[-1], flush=True)

    header = ["manner", "expressions", "mIoU", "oIoU", "P@0.5", "P@0.7", "P@0.9", "mIoU, expressions shuffled"]
    note = (
        f"Split `{arguments.split}`, {arguments.scenes} scenes per manner, every expression, masks at the picture's own "
        f"320 x 320 pixels, probability above 0.5. Measured by `scripts/report_bundled_checkpoint.py` on {machine()}."
    )
    for document in arguments.documents:
        write_section(document, "bundled-figures", f"{table(header, rows)}\n\n{note}")


if __name__ == "__main__":
    main()
