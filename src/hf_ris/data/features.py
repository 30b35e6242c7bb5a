"""Columns of every dataset, one row per referent, and functions that read them."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
from PIL import ExifTags, Image
from transformers.utils import logging


logger = logging.get_logger(f"transformers.{__name__}")  # under transformers' verbosity

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
- `mask`: compressed COCO RLE, (height, width) and counts, which [`~hf_ris.data.decode_mask`] decodes; empty if the expressions
  refer to nothing.
- `bbox`: x, y, width, height in pixels. `area`: pixels of the mask.
- `category`: name of the referent's category, or names joined by ", "; "" where there is none or it is not known.
- `ref_id`, `image_id`, `file_name`; `ann_ids`: the objects' annotations, mostly one.
- `expressions`: `raw`, as written, and `sent`, cleaned and in lower case, each with its `sent_id`.
"""


def plain_split(split: str) -> str:
    """Rename the Hub's "validation" to "val"."""
    return "val" if split == "validation" else split


def check_text_column(name: str) -> None:
    """Raise a ValueError unless expressions have such a text."""
    if name not in ("sent", "raw"):
        raise ValueError(f"`text_column` must be 'sent' or 'raw', got {name!r}.")


def expression_text(expression: dict[str, Any], text_column: str) -> str:
    """Get an expression's text. Where cleaning left nothing of it ("?"), it is the text as written."""
    return expression[text_column] if expression[text_column].strip() else expression["raw"]


def image_size(image: str | Path | bytes | dict[str, Any], fallback: tuple[int, int] | None = None) -> tuple[int, int]:
    """
    Read the (height, width) of a file, its bytes, or an undecoded column's value, upright as `datasets` will decode it. With a
    `fallback`, an image that cannot be read is warned of and has this size: whoever decodes it finds out again.

    Raises:
        ValueError: If it cannot be read and there is no `fallback`; the message names the file.
    """
    source = (image["path"] if image["bytes"] is None else image["bytes"]) if isinstance(image, dict) else image
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as opened:
            is_rotated = opened.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return opened.size if is_rotated else opened.size[::-1]
    except Exception as error:  # a PNG is decoded here, and decoders raise anything on damaged files
        message = f"{'an image' if isinstance(source, bytes) else source} cannot be read: {error}"
        if fallback is None:
            raise ValueError(message) from error
        logger.warning_once(f"{message}. Its rows are kept, and cannot be decoded.")
        return fallback


def generation_error(error: datasets.exceptions.DatasetGenerationError) -> str:
    """Read why rows could not be made. An error in another process comes as a traceback, which ends with its message."""
    text = str(error.__cause__)
    messages = re.findall(r"^(?!\S*DatasetGenerationError)(?:\w+\.)*\w*Error: (.*)$", text, re.MULTILINE)
    return str(messages[-1]) if messages and "Traceback" in text else text


__all__ = ["FEATURES", "check_text_column", "expression_text", "generation_error", "image_size", "plain_split"]
