"""A pipeline's results as files and text: JSON, a table, masks as images."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from .modeling.without_torch import mask_to_rle


def to_plain(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Convert results for JSON: `label`, `score`, `box`, and the `mask` as COCO's run-length code.

    Args:
        results (`Sequence[dict]`): Results of the pipeline with `output_format="array"`.
    """
    return [
        {
            **{name: value for name, value in result.items() if name != "explanation"},
            "mask": mask_to_rle(result["mask"]),
        }
        for result in results
    ]


def to_json(results: Sequence[dict[str, Any]]) -> str:
    """Convert results to JSON, a line for each."""
    return "[\n  " + ",\n  ".join(json.dumps(line, ensure_ascii=False) for line in to_plain(results)) + "\n]"


def to_table(results: Sequence[dict[str, Any]]) -> str:
    """Convert results to a table for a terminal: score, pixels, box and expression."""
    rows = [("score", "pixels", "box (xmin ymin xmax ymax)", "expression")]
    for result in results:
        box = "nothing found" if result["box"] is None else " ".join(str(corner) for corner in result["box"].values())
        rows.append((f"{result['score']:.2f}", str(int(result["mask"].sum())), box, result["label"]))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([row[0].rjust(widths[0]), row[1].rjust(widths[1]), row[2].ljust(widths[2]), row[3]]) for row in rows
    )


def mask_images(results: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Image.Image]]:
    """Yield, for each result, a file name such as "01-the-red-mug.png", and its mask as an image (mode `L`, 0 and 255)."""
    for number, result in enumerate(results, start=1):
        name = re.sub(r"\W+", "-", result["label"].lower()).strip("-")[:60]
        yield f"{number:02d}-{name}.png", Image.fromarray(np.asarray(result["mask"]).astype(np.uint8) * 255)


__all__ = ["mask_images", "to_json", "to_plain", "to_table"]
