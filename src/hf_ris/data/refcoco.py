"""Load RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO and RefClef from their authors' files or from copies on the Hub."""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from transformers.utils import logging

from .check import PUBLISHED
from .features import FEATURES, generation_error, image_size, plain_split
from .refer import (
    Annotations,
    Partition,
    find_annotations,
    find_images,
    find_partition,
    fingerprint,
    missing_images,
)
from .segmentation import encode_segmentations, mask_geometry


logger = logging.get_logger(f"transformers.{__name__}")  # under transformers' verbosity

VERSION = "1.1.0"
NAMED_IMAGES = 20  # missing ones in an error; `hf-ris data check` lists them all
REFCOCO_M_REFERENTS = 2_080


def load_refcoco(
    name: str,
    split: str,
    root: str | Path,
    split_by: str | None = None,
    image_root: str | Path | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    cache_dir: str | Path | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """
    Load a split from

    - the authors' own files: `root/refcoco/refs(unc).p`, `root/refcoco/instances.json` and COCO's train2014 photos (for
      gRefCOCO `root/grefcoco/grefs(unc).json`, for RefClef the photos of SAIAPR TC-12), where `root` may also be the folder
      refcoco itself;
    - a copy on the Hub, by its id or as a local folder: `jxu124/refcoco`, `jxu124/refcocoplus`, `jxu124/refcocog`, which
      hold no photos and need `image_root`, `jxu124/refcoco-benchmark`, `lmms-lab/RefCOCO` and its siblings, or
      `moondream/refcoco-m`, a part of RefCOCO's val with new masks;
    - Parquet files that `hf-ris data export` or [`~datasets.Dataset.push_to_hub`] wrote.

    Args:
        name (`str`): "refcoco", "refcoco+", "refcocog", "grefcoco" or "refclef".
        split (`str`): "train", "val" (or "validation"), and "testA" and "testB", or "test".
        root (`str` or `Path`): The folder or Hub id.
        split_by (`str`, *optional*): Authors of the splits: for RefCOCOg "umd" (the default) or "google", for RefCOCO "unc"
            (the default) or "google", for RefClef "unc" (the default, with a "testC") or "berkeley", "unc" for the others.
        image_root (`str` or `Path`, *optional*): Folder of the photos, if not below `root`.
        streaming (`bool`, *optional*, defaults to `False`): Whether to make rows on the fly instead of keeping them in the cache.
        num_proc (`int`, *optional*): Processes that make the rows.
        cache_dir (`str` or `Path`, *optional*): Folder of the cache, by default that of datasets. It holds the photos' paths,
            not the photos.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: A row per referent with the columns of [`FEATURES`]. The rows of an
        image stand together.

    Raises:
        ValueError: If an argument is unknown, files are missing or damaged, or photos are missing. A photo that cannot be read is
            warned of, and raises an error when it is decoded.

    Example:

    ```python
    >>> from hf_ris.data import decode_mask, load_refcoco

    >>> rows = load_refcoco("refcoco", "val", root="refer/data")
    >>> rows[0]["expressions"][0]["sent"], decode_mask(rows[0]["mask"]).shape  # doctest: +SKIP
    ```
    """
    partition, split = find_partition(name, split_by), plain_split(split)
    if split not in partition.splits:
        allowed = list(partition.splits)
        raise ValueError(f"`split` must be one of {allowed} for {name} by {partition.split_by}, got {split!r}.")
    cache = None if cache_dir is None else str(cache_dir)
    if find_annotations(root, partition) is None:
        if Path(root).is_dir() and not any(Path(root).rglob("*.parquet")):
            raise ValueError(
                f"`root` must hold the folder {partition.name} or Parquet files, or be that folder, with "
                f"{' or '.join(partition.refs_names)}, got {str(root)!r}."
            )
        return _load_copy(partition, split, str(root), image_root, streaming, num_proc, cache)

    builder = ReferBuilder(
        cache_dir=cache,
        dataset_name=f"{name.replace('+', 'plus')}_{partition.split_by}",
        config_name=split,
        hash=fingerprint(root, partition),
        version=VERSION,
        root=str(Path(root).resolve()),
        image_folder=str(find_images(image_root or root, partition)),
        partition=partition,
        split=split,
    )
    if streaming:
        return builder.as_streaming_dataset(split)
    try:
        builder.download_and_prepare(num_proc=num_proc)
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(f"{str(root)!r}: {generation_error(error)}") from error
    rows = builder.as_dataset(split)
    check_images(builder.config.image_folder, rows["file_name"])  # a cached split's photos may have been removed
    return rows


@dataclass
class ReferConfig(datasets.BuilderConfig):
    """
    Settings that a cached split depends on, beside the annotation files' contents.

    Args:
        root (`str`): Folder of the annotations.
        image_folder (`str`): Folder of the photos.
        partition (`Partition`): The dataset and its division.
        split (`str`): One of its splits.
    """

    root: str = ""
    image_folder: str = ""
    partition: Partition | None = None
    split: str = ""


class ReferBuilder(datasets.GeneratorBasedBuilder):
    """Makes the rows of one split from the authors' files; see [`load_refcoco`]."""

    BUILDER_CONFIG_CLASS = ReferConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=FEATURES)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        config = self.config
        annotations = Annotations(config.root, config.partition)
        referents = annotations.referents(config.split)
        if not referents:
            raise ValueError(f"{annotations.refs_file} holds no referent of the split {config.split!r}.")
        if left_out := annotations.count_left_out(config.split):
            logger.warning(
                f"{annotations.refs_file}: {left_out:,} of {left_out + len(referents):,} referents of {config.split} are left "
                "out, as by gRefCOCO's reader: they have no expression, or nothing but crowds."
            )
        check_images(config.image_folder, [referent["file_name"] for referent in referents])
        # `datasets` shares a list among its processes.
        options = {"referents": referents, "file": annotations.instances_file}
        return [datasets.SplitGenerator(name=config.split, gen_kwargs=options)]

    def _generate_examples(self, referents: list[dict[str, Any]], file: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, referent in enumerate(referents):
            path = Path(self.config.image_folder, referent["file_name"])
            annotated = referent["height"], referent["width"]
            size = image_size(path, fallback=annotated)
            if size != annotated:
                raise ValueError(f"{path} is {size} (height, width), its annotation says {annotated}")
            try:
                yield number, _make_row(referent, {"path": str(path), "bytes": None}, *size)
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error


def check_images(folder: str | Path, names: Iterable[str]) -> None:
    """
    Check that a folder has these photos.

    Raises:
        ValueError: If some are missing.
    """
    names = list(names)
    missing = missing_images(Path(folder), names)
    if missing:
        more = f" and {len(missing) - NAMED_IMAGES} more" if len(missing) > NAMED_IMAGES else ""
        raise ValueError(
            f"{len(missing)} of {len(set(names))} images are missing from {folder}: {', '.join(missing[:NAMED_IMAGES])}"
            f"{more}. `hf-ris data check` lists them all and says where to get them."
        )


def _make_row(referent: dict[str, Any], image: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Make a row of a referent with `segmentations` and `bbox`. An annotated box is more exact than its mask's."""
    name = f"referent {referent['ref_id']}"
    if not referent["expressions"]:
        raise ValueError(f"{name} has no sentence")
    name += f", annotation {referent['ann_ids']}"
    try:
        mask = encode_segmentations(referent["segmentations"], height, width)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    box = referent["bbox"]
    if box and (len(box) != 4 or not all(isinstance(each, int | float) and math.isfinite(each) for each in box)):
        raise ValueError(f"{name}: its bbox must be four numbers, got {box}")
    row = {key: referent[key] for key in FEATURES if key in referent}
    measured = mask_geometry(mask)
    return {**row, "image": image, "mask": mask, "area": measured["area"], "bbox": box or measured["bbox"]}


# The copies on the Hub.


def _load_copy(
    partition: Partition,
    split: str,
    source: str,
    image_root: str | Path | None,
    streaming: bool,
    num_proc: int | None,
    cache_dir: str | None,
) -> datasets.Dataset | datasets.IterableDataset:
    available = datasets.get_dataset_split_names(source)
    # The Hub's names of splits: refcoco-benchmark's, then "validation" for val and "test" for testA.
    benchmark_name = f"{partition.name.replace('+', '_plus')}_{partition.split_by}_{split}"
    aliases = [benchmark_name, split, {"val": "validation", "testA": "test"}.get(split, split)]
    found = next((name for name in aliases if name in available), None)
    if found is None:
        raise ValueError(f"`split` must be one of {available}, the splits of {source}, got {split!r}.")
    rows = datasets.load_dataset(source, split=found, streaming=streaming, cache_dir=cache_dir)
    columns = set(rows.features)
    if set(FEATURES) <= columns:
        rows = rows.select_columns(list(FEATURES))
        return rows if rows.features == FEATURES else rows.cast(FEATURES)

    read = next((read for known, read in LAYOUTS if known <= columns), None)
    if read is None:
        raise ValueError(f"`root` must be a known copy of RefCOCO; {source!r} has the columns {sorted(columns)}.")
    folder = None
    if "image_path" in columns:
        if image_root is None:
            raise ValueError(f"`image_root` must be the folder of COCO's train2014: {source!r} holds no photos.")
        folder = find_images(image_root, partition)
        rows = rows.filter(lambda row: row["split"] == split)
        if not streaming:
            check_images(folder, (Path(path).name for path in rows["image_path"]))
    if "image" in columns:
        rows = rows.cast_column("image", datasets.Image(decode=False))
    make_rows = partial(_make_rows, read=read, split=split, folder=folder, source=source)
    options = {"batched": True, "batch_size": 32, "remove_columns": sorted(columns)}  # small batches: they hold photos
    if streaming:
        return rows.map(make_rows, **options).cast(FEATURES)
    rows = rows.map(make_rows, **options, features=FEATURES, num_proc=num_proc)
    if not len(rows):
        raise ValueError(f"{source!r} holds no referent of the split {split!r} by {partition.split_by}.")
    whole = f"{partition.name} ({partition.split_by})"
    published = PUBLISHED.get((partition.name, partition.split_by, split), {}).get("referents", len(rows))
    if "samples" in columns:
        whole, published = "RefCOCO-M", REFCOCO_M_REFERENTS
    if published != len(rows):
        logger.warning(
            f"{source} has {len(rows):,} rows in {found}, {whole} has {published:,} referents in {split}: it may be "
            "another dataset, or several (lmms-lab/RefCOCO's val has as many as those by unc and by google together). Its figures "
            "cannot be compared with published ones."
        )
    return rows.sort(["image_id", "ref_id"])


def _make_rows(
    batch: dict[str, list[Any]],
    read: Callable[[dict[str, Any]], list[dict[str, Any]]],
    split: str,
    folder: Path | None,
    source: str,
) -> dict[str, list[Any]]:
    """Make the rows of a batch of a copy's rows."""
    made: list[dict[str, Any]] = []
    for values in zip(*batch.values(), strict=True):
        row = dict(zip(batch, values, strict=True))
        try:
            image = row["image"] if folder is None else {"path": str(folder / _image_name(row)), "bytes": None}
            size = image_size(image, fallback=_annotated_size(row))
            made += [_make_row({"split": split, "category": "", **each}, image, *size) for each in read(row)]
        except (KeyError, TypeError, ValueError) as error:
            reason = error if isinstance(error, ValueError) else f"a row is damaged: {error!r}"
            raise ValueError(f"{source!r}: {reason}") from error
    return {column: [row[column] for row in made] for column in FEATURES}


def _annotated_size(row: dict[str, Any]) -> tuple[int, int] | None:
    """Read an image's (height, width) from what a copy says of it; lmms-lab's says nothing."""
    if "samples" in row:
        return next((tuple(sample["mask"]["size"]) for sample in row["samples"]), None)
    raw = row.get("raw_image_info")
    about = json.loads(raw) if raw else row.get("image_info") or {}
    return (about["height"], about["width"]) if {"height", "width"} <= set(about) else None


def _image_name(row: dict[str, Any]) -> str:
    return Path(row["image_path"]).name


def _read_jxu124(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [_read_ref(row, json.loads(row["raw_anns"]), _image_name(row))]


def _read_benchmark(row: dict[str, Any]) -> list[dict[str, Any]]:
    file_name = row["image_info"]["file_name"]
    return [_read_ref(each["ref_info"], each["ann_info"], file_name) for each in row["ref_list"]]


def _read_ref(ref: dict[str, Any], annotation: dict[str, Any], file_name: str) -> dict[str, Any]:
    """Read a copy of REFER's entry and of COCO's annotation."""
    return {
        "ref_id": ref["ref_id"],
        "ann_ids": [ref["ann_id"]],
        "image_id": ref["image_id"],
        "file_name": file_name,
        "segmentations": [annotation["segmentation"]],
        "bbox": annotation["bbox"],
        "expressions": [{key: each[key] for key in ("sent_id", "raw", "sent")} for each in ref["sentences"]],
    }


def _read_lmms_lab(row: dict[str, Any]) -> list[dict[str, Any]]:
    numbered = re.search(r"_(\d{12})", row["file_name"])  # COCO_train2014_000000040346_5.jpg
    if numbered is None:
        raise ValueError(f"file_name={row['file_name']!r} holds no number of a COCO image")
    referent = {
        "ref_id": int(row["question_id"]),
        "ann_ids": [],
        "image_id": int(numbered[1]),
        "file_name": row["file_name"],
        "segmentations": [[row["segmentation"]]],
        "bbox": row["bbox"],
        "expressions": _number(row["answer"]),
    }
    return [referent]


def _read_refcoco_m(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "ref_id": sample["id"],
            "ann_ids": [sample["id"]],
            "image_id": row["image_id"],
            "file_name": row["file_name"],
            "category": sample["category"],
            "segmentations": [sample["mask"]],
            "bbox": sample["bbox"],
            "expressions": _number(sample["sentences"]),
        }
        for sample in row["samples"]
    ]


def _number(texts: list[str]) -> list[dict[str, Any]]:
    """Make expressions of a copy that has their text alone."""
    return [{"sent_id": order, "raw": text, "sent": text.lower().strip()} for order, text in enumerate(texts)]


# Columns of each copy, and the function that reads the referents of one of its rows.
LAYOUTS: tuple[tuple[set[str], Callable[[dict[str, Any]], list[dict[str, Any]]]], ...] = (
    ({"sentences", "raw_anns", "image_path", "split"}, _read_jxu124),
    ({"image", "image_info", "ref_list"}, _read_benchmark),
    ({"image", "segmentation", "answer", "file_name"}, _read_lmms_lab),
    ({"image", "image_id", "file_name", "samples"}, _read_refcoco_m),
)


__all__ = ["load_refcoco"]
