"""`hf-ris train`, with the same options, for `accelerate launch`.

accelerate launch --num_processes 4 scripts/train.py --recipe magnet --dataset refcoco --root refer/data --output-dir runs/magnet
"""

import sys

from hf_ris.cli import app


if __name__ == "__main__":
    app(["train", *sys.argv[1:]])
