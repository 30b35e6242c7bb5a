"""Write a dataset as Parquet files with the images inside."""

import os
import shutil
from pathlib import Path
from typing import Any

import datasets

from ..output_folder import write_whole
from .features import image_size
from .segmentation import check_mask


MARK = "<!-- Written by hf-ris data export, which keeps the list of splits above. -->"


def export_parquet(dataset: datasets.Dataset, output: str | Path, shard_size: int = 400 * 2**20) -> Path:
    """
    Write a split to the folder `output/{split}`, and list it on the card `output/README.md`, so that `load_refcoco` and
    `datasets.load_dataset` read `output`, here or from the Hub.

    Args:
        dataset (`datasets.Dataset`): Rows with the columns of [`~hf_ris.data.FEATURES`], all of one split.
        output (`str` or `Path`): The folder; made if missing. It may hold other splits.
        shard_size (`int`, *optional*, defaults to 400 MiB): Approximate size of a file, in bytes.

    Returns:
        `Path`: The split's folder. It appears once all of its files are written.

    Raises:
        ValueError: If the split exists already, the folder's card is not from an export, there is no row, or a mask is damaged or
            of another size than its image.
    """
    if not len(dataset):
        raise ValueError("`dataset` must have at least one row, got none.")
    output, split = Path(output), dataset["split"][0]
    card = output / "README.md"
    if card.exists() and MARK not in card.read_text(encoding="utf-8"):
        raise ValueError(f"`output` must be a folder without a README.md of yours, got {str(output)!r}.")
    if (output / split).exists():
        raise ValueError(f"`output` must be a folder without the split {split!r}, got {str(output)!r}.")
    unfinished = output / f".{split}-unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    undecoded = dataset.cast_column("image", datasets.Image(decode=False))
    sample = undecoded.select(range(0, len(dataset), max(1, len(dataset) // 50)))
    row_size = sum(len(_with_bytes(row)["image"]["bytes"]) for row in sample) / len(sample)
    shards = min(len(dataset), int(row_size * len(dataset) // shard_size) + 1)
    for number in range(shards):
        rows = undecoded.shard(shards, number, contiguous=True)
        rows = rows.map(_with_bytes, features=undecoded.features, keep_in_memory=True, writer_batch_size=100)
        rows = rows.cast_column("image", datasets.Image())
        rows.to_parquet(unfinished / f"{number:05d}-of-{shards:05d}.parquet", batch_size=100)
    os.replace(unfinished, output / split)

    splits = sorted({path.parent.name for path in output.glob("*/*-of-*.parquet") if path.parent.name[0] != "."})
    files = "".join(f"  - split: {name}\n    path: {name}/*.parquet\n" for name in splits)
    header = f"task_categories:\n- image-segmentation\nconfigs:\n- config_name: default\n  data_files:\n{files}"
    write_whole(card, f"---\n{header}---\n\n{MARK}\n")
    return output / split


def _with_bytes(row: dict[str, Any]) -> dict[str, Any]:
    content = row["image"]["bytes"] or Path(row["image"]["path"]).read_bytes()
    try:
        check_mask(row["mask"], *image_size(content))
    except ValueError as error:
        raise ValueError(f"referent {row['ref_id']} of {row['file_name']}: {error}") from error
    return {"image": {"bytes": content, "path": row["file_name"]}}


__all__ = ["export_parquet"]
