"""Trains a small model from nothing on drawings: `hf-ris train` with the recipes of `tiny_recipes.py`, and all of its options.

python scripts/train_tiny.py magnet-tiny-refshapes --output-dir runs/magnet-tiny-refshapes    # the bundled checkpoint
python scripts/train_tiny.py cris-tiny-refshapes --output-dir runs/cris-tiny-refshapes
"""

import os
import sys


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported; see `hf-ris train`
    from tiny_recipes import RECIPES as TINY_RECIPES

    from hf_ris.cli import app
    from hf_ris.training import RECIPES

    RECIPES.clear()
    RECIPES.update(TINY_RECIPES)
    options = sys.argv[1:] or ["--help"]
    app(["train", *options] if options[0].startswith("-") else ["train", "--recipe", *options])
