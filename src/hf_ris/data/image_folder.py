"""Load a folder of one's own images, masks and expressions as a dataset."""

import csv
import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from ..tables import read_table
from .features import FEATURES, generation_error, image_size, plain_split
from .segmentation import encode_mask, mask_geometry


VERSION = 2  # of the rows that are made of the same files
SPLITS = {"train": ["train"], "val": ["val", "validation"], "test": ["test"]}  # names of their folders
TABLES = ("metadata.csv", "metadata.jsonl")
COLUMNS = ("file_name", "mask_file_name", "text")


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
        ValueError: If the folder, the split, the table, one of its columns, or a file it names is missing, or a mask cannot be read, is
            empty or of another size than its image. An image that cannot be read is warned of, and raises an error when it is decoded.
    """
    folder = _find_folder(Path(root), split := plain_split(split))
    table = _find_table(folder)
    lines = [_read_line(*numbered, table) for numbered in enumerate(_read_table(table))]
    if not lines:
        raise ValueError(f"{table} must have at least one row, got none.")
    # Numbers that no other folder's images have, so that datasets can be joined.
    base = int.from_bytes(blake2b(os.fsencode(folder.resolve()), digest_size=4).digest()) // 2 << 32
    image_ids = {path: base + number for number, path in enumerate(dict.fromkeys(line["image"] for line in lines))}
    lines = [{**line, "image_id": image_ids[line["image"]]} for line in lines]
    try:
        rows = datasets.Dataset.from_generator(
            _make_rows,
            features=FEATURES,
            gen_kwargs={"lines": lines, "split": split, "version": VERSION},
            num_proc=num_proc,
            split=datasets.NamedSplit(split),
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(generation_error(error)) from error
    rows.info.dataset_name = "folder"
    return rows.sort(["image_id", "ref_id"])


def _find_folder(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise ValueError(f"`root` must be a folder, got {str(root)!r}.")
    found = {name: folder for name, names in SPLITS.items() for each in names if (folder := root / each).is_dir()}
    if not found:
        raise ValueError(f"`root` must hold a folder {', '.join(SPLITS)} or several, got {str(root)!r}.")
    if split not in found:
        raise ValueError(f"`split` must be one of {list(found)}, the folders of {str(root)!r}, got {split!r}.")
    return found[split]


def _find_table(folder: Path) -> Path:
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) != 1:
        raise ValueError(f"{folder} must hold {' or '.join(TABLES)}, got {'both' if tables else 'neither'}.")
    return tables[0]


def _read_table(table: Path) -> list[dict[str, Any]]:
    """Read the rows of a table, and check its columns."""
    try:
        rows = [row for _, row in read_table(table)]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{table} cannot be read: {error}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or None in row:
            raise ValueError(f"{table}, row {number} must have a value for each column, got {row!r}.")
    columns = {name for row in rows for name in row}
    missing = [name for name in COLUMNS if name not in columns]
    # Where all refers to nothing, there may be no column of masks. Another column may be meant for it.
    if rows and missing and columns != {"file_name", "text"}:
        raise ValueError(f"{table} must have the columns {', '.join(COLUMNS)}; missing is {', '.join(missing)}.")
    return rows


def _read_line(number: int, row: dict[str, Any], table: Path) -> dict[str, Any]:
    """Check a row of a table, and find its files, with the times when they changed: these decide whether rows are made anew."""
    where = f"{table}, row {number + 1}"
    texts = row.get("text")
    texts = texts if isinstance(texts, list) else [texts]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{where}: text must be an expression or a list of expressions, got {row.get('text')!r}.")
    files = {"image": _find_file(row.get("file_name"), "file_name", table, where), "mask": None}
    if row.get("mask_file_name") not in (None, ""):
        files["mask"] = _find_file(row["mask_file_name"], "mask_file_name", table, where)
    changed = [os.stat(path).st_mtime_ns for path in files.values() if path]
    return {"number": number, "texts": texts, **files, "changed": changed}


def _find_file(name: Any, column: str, table: Path, where: str) -> str:
    """Find a file that a table names, from its own folder on and not outside of the root."""
    path = os.path.abspath(table.parent / str(name))
    is_inside = Path(path).is_relative_to(os.path.abspath(table.parent.parent))
    if not isinstance(name, str) or not is_inside or not os.path.isfile(path):
        raise ValueError(f"{where}: {column} must name a file in {table.parent}, got {name!r}.")
    return path


def _make_rows(lines: list[dict[str, Any]], split: str, version: int) -> Iterator[dict[str, Any]]:
    for line in lines:
        mask = None if line["mask"] is None else _read_mask(line["mask"])
        size = image_size(line["image"], fallback=(1, 1) if mask is None else mask.shape)
        code = encode_mask(np.zeros(size, dtype=bool) if mask is None else mask)
        if code["size"] != list(size):
            got, needed = (" x ".join(map(str, shape)) for shape in (code["size"], size))
            raise ValueError(f"{line['mask']} is {got}, its image {line['image']} is {needed} (height x width).")
        yield {
            "image": {"path": line["image"], "bytes": None},
            "mask": code,
            **mask_geometry(code),
            "category": "",
            "ref_id": line["number"],
            "ann_ids": [] if mask is None else [line["number"]],
            "image_id": line["image_id"],
            "file_name": Path(line["image"]).name,
            "split": split,
            "expressions": [
                {"sent_id": order, "raw": text, "sent": text.strip().lower()}
                for order, text in enumerate(line["texts"])
            ],
        }


def _read_mask(path: str) -> np.ndarray:
    """Read which pixels are not black, boolean (height, width); an alpha channel is ignored."""
    try:
        with Image.open(path) as mask:
            pixels: np.ndarray = np.asarray(mask if mask.mode in ("1", "L", "I", "I;16") else mask.convert("RGB"))
    except Exception as error:  # decoders raise anything on damaged files
        raise ValueError(f"{path} cannot be read: {error}") from error
    is_inside = np.asarray(pixels.any(axis=-1) if pixels.ndim == 3 else pixels != 0)
    if not is_inside.any():
        raise ValueError(f"{path} is empty; leave out its mask_file_name if the expression refers to nothing.")
    return is_inside


__all__ = ["load_image_folder"]
