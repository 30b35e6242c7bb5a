"""Draw the bundled checkpoint's masks of the package's example scenes.

python scripts/draw_examples.py docs/images/examples.jpg
"""

import argparse

from transformers import pipeline

from hf_ris.data.refshapes import EXAMPLES
from hf_ris.visualization import draw_overlay, draw_sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="image file to write")
    output = parser.parse_args().output
    ris = pipeline("referring-segmentation", device="cpu")
    scenes = [(example.draw(), list(example.expressions)) for example in EXAMPLES]
    overlays = [draw_overlay(image, ris(image, text=texts)) for image, texts in scenes]
    draw_sheet(overlays, 5, width=400).save(output, quality=85)
