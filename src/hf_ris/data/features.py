"""The columns that every dataset here has: one row per referent, whatever it was made from."""

from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
from PIL import ExifTags, Image


FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "mask": {"size": datasets.List(datasets.Value("int32")), "counts": datasets.Value("string")},
        "bbox": datasets.List(datasets.Value("float32")),
        "area": datasets.Value("int64"),
        "category": datasets.Value("string"),
        "ref_id": datasets.Value("int64"),
        "ann_ids": datasets.List(datasets.Value("int64")),
        "image_id": datasets.Value("int64"),
        "file_name": datasets.Value("string"),
        "split": datasets.Value("string"),
        "expressions": datasets.List(
            {"sent_id": datasets.Value("int64"), "raw": datasets.Value("string"), "sent": datasets.Value("string")}
        ),
    }
)
"""
- `image`: PIL, RGB or as the file is.
- `mask`: compressed COCO RLE, (height, width) and counts; [`~hf_ris.data.decode_mask`] makes an array of it. All zero where
  the expressions are true of nothing.
- `bbox`: x, y, width, height in pixels. `area`: pixels of the mask.
- `category`: its name; several, joined by ", ", where the referent is several objects; "" where there is none or it is not known.
- `ref_id`, `image_id`, `file_name`; `ann_ids`: the objects' annotations, mostly one.
- `expressions`: `raw`, as written, and `sent`, cleaned and in lower case, each with its `sent_id`.
"""


def plain_split(split: str) -> str:
    """The name that a split has here: the Hub's "validation" is "val"."""
    return "val" if split == "validation" else split


def check_text_column(name: str) -> None:
    """Raises a ValueError unless expressions have such a text."""
    if name not in ("sent", "raw"):
        raise ValueError(f"text_column={name!r} is unknown; allowed are 'sent' and 'raw'")


def expression_text(expression: dict[str, Any], text_column: str) -> str:
    """What is read of an expression. Where cleaning left nothing of it ("?"), it is the text as written."""
    return expression[text_column] if expression[text_column].strip() else expression["raw"]


def image_size(image: str | Path | bytes) -> tuple[int, int]:
    """(height, width) of a picture as `datasets` will decode it: upright."""
    try:
        with Image.open(BytesIO(image) if isinstance(image, bytes) else image) as picture:
            on_its_side = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (picture.width, picture.height) if on_its_side else (picture.height, picture.width)
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{'a picture' if isinstance(image, bytes) else image} cannot be read: {error}") from error


__all__ = ["FEATURES", "check_text_column", "image_size", "plain_split", "expression_text"]
