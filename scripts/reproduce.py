"""Measures the published models on RefCOCO's copies on the Hub, beside what was published. It needs a connection and a GPU, and can be
stopped and started again.

python scripts/reproduce.py --output results/reproduction
python scripts/reproduce.py --output results/try --only clipseg magnet --rows 50
python scripts/reproduce.py --output results/reproduction --weights cris-r50=best_model.pth   # a file that you have
"""

import argparse
import sys

from hf_ris import reproduction


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", required=True, help="folder for the table and for all that was computed")
    parser.add_argument("--only", nargs="+", metavar="MODEL", help=f"of {', '.join(reproduction.MODELS)}")
    parser.add_argument("--rows", type=int, help="measure on the first referents only")
    parser.add_argument("--weights", nargs="+", default=[], metavar="MODEL=FILE", help="authors' files that you have")
    parser.add_argument("--device", help="such as cpu or cuda:0; by default the first accelerator")
    parser.add_argument("--batch-size", type=int, default=16, help="expressions in one forward pass")
    options = parser.parse_args()
    weights = dict(each.partition("=")[::2] for each in options.weights)
    try:
        lines = reproduction.reproduce(
            options.output,
            options.only,
            options.rows,
            weights,
            options.device,
            options.batch_size,
            note=lambda message: print(message, file=sys.stderr),
        )
    except ValueError as error:
        parser.error(str(error))
    print(reproduction.render_lines(lines, options.rows))


if __name__ == "__main__":
    main()
