"""Load a folder of one's own images, masks and expressions as a dataset."""

import os
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from .features import FEATURES, image_size, plain_split
from .segmentation import encode_mask, mask_geometry


COLUMNS = {"image", "mask", "text"}


def load_image_folder(root: str | Path, split: str = "train", num_proc: int | None = None) -> datasets.Dataset:
    """
    Load a split from a folder of images, masks and a table, laid out as for 🤗 Datasets' ImageFolder:

        root/train/metadata.csv         file_name,mask_file_name,text
        root/train/desk.jpg             desk.jpg,desk-mug.png,the red mug
        root/train/desk-mug.png         desk.jpg,desk-lamp.png,the lamp on the left
        root/val/…

    or `metadata.jsonl` with these keys, where `text` may also be a list of expressions of one referent. A mask has the size
    of its image; every pixel that is not black belongs to the referent. Expressions that refer to nothing have no `mask_file_name`.

    Args:
        root (`str` or `Path`): The folder.
        split (`str`, *optional*, defaults to `"train"`): "train", "val" (or "validation") or "test".
        num_proc (`int`, *optional*): Processes that read the masks.

    Returns:
        `datasets.Dataset`: A row per line of the table with the columns of [`FEATURES`]. The rows of an image stand together.

    Raises:
        ValueError: If the folder, the split, the table, one of its columns, or a file it names is missing, or a mask is empty or
            of another size than its image.
    """
    split = plain_split(split)
    if not Path(root).is_dir():
        raise ValueError(f"`root` must be a folder, got {str(root)!r}.")
    try:
        splits = datasets.load_dataset("imagefolder", data_dir=str(Path(root).resolve()))
    except (datasets.exceptions.DatasetGenerationError, FileNotFoundError, IndexError, ValueError) as error:
        raise ValueError(f"{str(root)!r} cannot be read: {error.__cause__ or error}") from error
    name = {"val": "validation"}.get(split, split)
    if name not in splits:
        raise ValueError(f"`split` must be one of {list(splits)}, the splits of {str(root)!r}, got {split!r}.")
    rows = splits[name]
    if missing := COLUMNS - set(rows.column_names):
        raise ValueError(
            f"{str(root)!r}: its {split} table (metadata.csv or metadata.jsonl) must have the columns file_name, "
            f"mask_file_name and text; missing is the one for {', '.join(sorted(missing))}."
        )
    rows = rows.cast_column("image", datasets.Image(decode=False)).cast_column("mask", datasets.Image(decode=False))
    if None in rows["image"]:
        raise ValueError(f"{str(root)!r}: in its {split} table, file_name must be the first column.")
    paths = [image["path"] for image in rows["image"]]
    # Numbers that no other folder's images have, so that datasets can be joined.
    base = int.from_bytes(blake2b(os.fsencode(Path(root, split).resolve()), digest_size=4).digest()) // 2 << 32
    image_ids = {path: base + number for number, path in enumerate(dict.fromkeys(paths))}
    convert = partial(_convert, image_ids=image_ids, split=split)
    surplus = [column for column in rows.column_names if column not in FEATURES]
    rows = rows.map(convert, with_indices=True, remove_columns=surplus, features=FEATURES, num_proc=num_proc)
    return rows.sort(["image_id", "ref_id"])


def _convert(row: dict[str, Any], number: int, image_ids: dict[str, int], split: str) -> dict[str, Any]:
    path = row["image"]["path"]
    texts = row["text"] if isinstance(row["text"], list) else [row["text"]]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{path}: `text` must be an expression or a list of expressions, got {row['text']!r}.")
    height, width = image_size(path)
    mask = np.zeros((height, width), dtype=bool)
    if row["mask"] is not None:
        mask = _read_mask(row["mask"]["path"])
        if mask.shape != (height, width):
            got, needed = (" x ".join(map(str, shape)) for shape in (mask.shape, (height, width)))
            raise ValueError(f"{row['mask']['path']} is {got}, its image {path} is {needed} (height x width).")
        if not mask.any():
            raise ValueError(
                f"{row['mask']['path']} is empty; leave out its mask_file_name if the expression refers to nothing."
            )
    code = encode_mask(mask)
    return {
        "image": {"path": path, "bytes": None},
        "mask": code,
        **mask_geometry(code),
        "category": "",
        "ref_id": number,
        "ann_ids": [number] if row["mask"] is not None else [],
        "image_id": image_ids[path],
        "file_name": Path(path).name,
        "split": split,
        "expressions": [
            {"sent_id": order, "raw": text, "sent": text.strip().lower()} for order, text in enumerate(texts)
        ],
    }


def _read_mask(path: str) -> np.ndarray:
    """Read which pixels are not black, boolean (height, width); an alpha channel is ignored."""
    try:
        with Image.open(path) as mask:
            pixels: np.ndarray = np.asarray(mask if mask.mode in ("1", "L", "I", "I;16") else mask.convert("RGB"))
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return np.asarray(pixels.any(axis=-1) if pixels.ndim == 3 else pixels != 0)


__all__ = ["load_image_folder"]
