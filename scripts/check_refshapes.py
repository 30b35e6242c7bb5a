"""Re-derives RefShapes' expressions by `refshapes_checker.py`, and reports what a training on them relies on.

```bash
python scripts/check_refshapes.py --num-expressions 10000
python scripts/check_refshapes.py --document docs/refshapes.md --contact-sheet docs/images/refshapes.jpg
```
"""

import argparse
import time

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from pycocotools import mask as coco_mask
from refshapes_checker import true_of

from hf_ris.data.refshapes import NAMES, SPLITS, draw_scene, vocabulary
from hf_ris.data.refshapes.rows import scene_rows, scene_targets
from hf_ris.reporting import machine, table, write_section


def check(name: str, split: str, num_expressions: int) -> dict[str, float]:
    """Count over the first expressions of a variant and split."""
    counts = {"expressions": 0, "agree": 0, "rivals": 0, "longest": 0}
    smallest, hidden, index = 1.0, 1.0, 0
    while counts["expressions"] < num_expressions:
        scene, referents = scene_targets(name, split, index)
        _, masks = draw_scene(scene)
        for target, texts in referents:
            category = scene.objects[target].category
            rivals = sum(item.category == category for item in scene.objects) > 1
            smallest = min(smallest, float(masks[target].mean()))
            hidden = min(hidden, float(masks[target].sum()) / scene.objects[target].size ** 2)
            for text in texts:
                counts["expressions"] += 1
                counts["agree"] += true_of(scene, text) == {target}
                counts["rivals"] += rivals
                counts["longest"] = max(counts["longest"], len(text.split()))
        index += 1
    total = counts["expressions"]
    return {
        "expressions": total,
        "of these agree": counts["agree"],
        "with a rival of the category": counts["rivals"] / total,
        "smallest target share": smallest,
        "smallest visible share": hidden,
        "longest, in words": counts["longest"],
    }


def images_per_second(name: str, scenes: int = 200) -> float:
    """Measure how many scenes with their masks, expressions and run-length codes one core makes in a second."""
    scene_rows(name, "train", 0)
    start = time.perf_counter()
    for index in range(scenes):
        scene_rows(name, "train", index)
    return scenes / (time.perf_counter() - start)


def contact_sheet(path: str, split: str, columns: int = 4, rows: int = 4, first: int = 0) -> None:
    """Draw a sheet of rows of all variants, referents outlined, expressions below."""
    width, height = 330, 430
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    painter = ImageDraw.Draw(sheet)
    for cell in range(columns * rows):
        row = scene_rows(NAMES[cell % len(NAMES)], split, first + cell)[cell % 2]
        left, top = (cell % columns) * width + 5, (cell // columns) * height + 5
        mask = Image.fromarray(coco_mask.decode(row["mask"]) * np.uint8(255))
        rim = mask.filter(ImageFilter.MaxFilter(7))
        rim.paste(0, mask=mask.filter(ImageFilter.MaxFilter(3)))
        image = row["image"].copy()
        image.paste((255, 0, 170), mask=rim)
        sheet.paste(image, (left, top))
        lines: list[str] = []
        for expression in row["expressions"]:
            for word_number, word in enumerate(expression["raw"].split()):
                if word_number == 0:
                    lines.append("- " + word)
                elif len(lines[-1]) + len(word) < 54:
                    lines[-1] += " " + word
                else:
                    lines.append("  " + word)
        for number, line in enumerate(lines[:9]):
            painter.text((left, top + 322 + 11 * number), line, fill="black")
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-expressions", type=int, default=10_000, help="expressions to check of each variant")
    parser.add_argument("--split", choices=SPLITS, default="val")
    parser.add_argument("--contact-sheet", metavar="PATH", help="write a sheet of captioned examples")
    parser.add_argument("--document", metavar="PATH", help="write the figures into its section refshapes-check")
    arguments = parser.parse_args()
    figures: dict[str, list[str]] = {}
    wrong = 0.0
    for name in NAMES:
        print(name)
        measured = check(name, arguments.split, arguments.num_expressions)
        wrong += measured["expressions"] - measured["of these agree"]
        measured["images/s on one core"] = images_per_second(name)
        for key, value in measured.items():
            text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
            figures.setdefault(key, [key]).append(text)
            print(f"  {key}: {text}")
    if arguments.document:
        note = f"Split `{arguments.split}`; the vocabulary has {len(vocabulary())} words. `scripts/check_refshapes.py`, {machine()}."
        header = ["", *(f"`{name}`" for name in NAMES)]
        write_section(arguments.document, "refshapes-check", f"{table(header, list(figures.values()))}\n\n{note}")
    if arguments.contact_sheet:
        contact_sheet(arguments.contact_sheet, arguments.split)
    if wrong:
        raise SystemExit(f"{wrong:.0f} expressions are not true of exactly their target")


if __name__ == "__main__":
    main()
