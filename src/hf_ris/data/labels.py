"""Labels: the masks that `hf-ris label` found, in Parquet files, as rows to train on."""

import glob
import re
from hashlib import blake2b
from pathlib import Path
from typing import Any

import datasets
from transformers.utils import logging

from .features import FEATURES
from .segmentation import mask_geometry


logger = logging.get_logger(f"transformers.{__name__}")  # under transformers' verbosity

LABELS = "labels"  # the folder of the Parquet files
PARTITION = re.compile(r"\d+-of-(\d+)\.parquet")  # the name of one
LABEL_FEATURES = datasets.Features(
    {
        "file_name": datasets.Value("string"),
        "label": datasets.Value("string"),
        "score": datasets.Value("float64"),
        "mask": {"size": datasets.List(datasets.Value("int32")), "counts": datasets.Value("string")},
        "box": {name: datasets.Value("int32") for name in ("xmin", "ymin", "xmax", "ymax")},
        "error": datasets.Value("string"),
        "model": datasets.Value("string"),
        "revision": datasets.Value("string"),
    }
)
"""
A row per expression: `file_name` names the image in its source, `label` is the expression; `score`, `mask` (compressed COCO RLE)
and `box` (pixels, maxima exclusive; null for an empty mask) are the answer, or `error` says why there is none; `model` and its `revision` gave it.
With images inside, `image` comes first.
"""


def load_labels(root: str | Path, min_score: float = 0.0) -> datasets.Dataset:
    """
    Load what `hf-ris label --format dataset` wrote as rows to train on.

    Args:
        root (`str` or `Path`): The folder, here or as fsspec reads it.
        min_score (`float`, *optional*, defaults to 0.0): Labels with a lower score are left out. Failed rows and empty masks always are.

    Returns:
        `datasets.Dataset`: A row per label with the columns of [`FEATURES`] and its `score`; all are of the split "train". The rows
        of an image stand together.

    Raises:
        ValueError: If there are no labels, they have no images inside, or none is left.
    """
    import fsspec
    import pyarrow.compute as pc
    import pyarrow.dataset as pads
    import pyarrow.parquet as pq

    if not 0 <= min_score <= 1:
        raise ValueError(f"`min_score` must be between 0 and 1, got {min_score}.")
    system, path = fsspec.url_to_fs(str(root).removeprefix("file://"))
    folder = f"{path}/{LABELS}"
    names = [each.rpartition("/")[2] for each in (system.ls(folder, detail=False) if system.isdir(folder) else [])]
    names = sorted(name for name in names if PARTITION.fullmatch(name))
    if not names:
        raise ValueError(f"`root` must be a folder that hf-ris label wrote, got {str(root)!r}.")
    if len(names) < (all_of_them := int(PARTITION.fullmatch(names[0])[1])):  # type: ignore[index]
        logger.warning(f"{root} holds {len(names)} of {all_of_them} partitions; hf-ris label finishes it.")
    files = [f"{folder}/{name}" for name in names]
    urls = [glob.escape(file) if "file" in system.protocol else system.unstrip_protocol(file) for file in files]
    with system.open(files[0], "rb") as file:
        columns = pq.read_schema(file).names
    if "image" not in columns:
        raise ValueError(
            f"`root` must hold images, got {str(root)!r}, which holds labels alone; label with --format dataset."
        )
    fit = pc.field("box").is_valid() & (pc.field("score") >= min_score)
    if not pads.dataset(files, filesystem=system).count_rows(filter=fit):
        raise ValueError(f"`root` {str(root)!r} has no mask with a score of at least {min_score}.")
    rows = datasets.load_dataset("parquet", data_files=urls, split="train", filters=fit)
    # Numbers that no other folder's images have, so that datasets can be joined.
    base = int.from_bytes(blake2b(str(root).encode("utf-8", "replace"), digest_size=4).digest()) // 2 << 32
    image_ids = {name: base + number for number, name in enumerate(dict.fromkeys(rows["file_name"]))}
    # Images are not copied: the other columns are made beside them.
    others = rows.remove_columns("image").map(
        _convert,
        with_indices=True,
        fn_kwargs={"image_ids": image_ids},
        remove_columns=["label", "box", "error", "model", "revision"],
        features=datasets.Features(
            {**{name: FEATURES[name] for name in FEATURES if name != "image"}, "score": datasets.Value("float64")}
        ),
    )
    return datasets.concatenate_datasets([rows.select_columns("image"), others], axis=1)


def _convert(row: dict[str, Any], number: int, image_ids: dict[str, int]) -> dict[str, Any]:
    label = row["label"]
    return {
        **mask_geometry(row["mask"]),
        "category": "",
        "ref_id": number,
        "ann_ids": [number],
        "image_id": image_ids[row["file_name"]],
        "split": "train",
        "expressions": [{"sent_id": number, "raw": label, "sent": label.strip().lower()}],
    }


__all__ = ["LABELS", "LABEL_FEATURES", "load_labels"]
