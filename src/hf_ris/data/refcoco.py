"""RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO and RefClef as a `datasets.Dataset`, from whatever copy a user has."""

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
from .features import FEATURES, image_size, plain_split
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
NAMED_AT_MOST = 20  # missing images in an error; `hf-ris data check` lists them all
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
    Loads a split from

    - the authors' own files: `root/refcoco/refs(unc).p`, `root/refcoco/instances.json` and COCO's train2014 photos (for
      gRefCOCO `root/grefcoco/grefs(unc).json`, for RefClef the photos of SAIAPR TC-12), where `root` may also be the folder
      refcoco itself;
    - a copy on the Hub, by its id or as a local folder: `jxu124/refcoco`, `jxu124/refcocoplus`, `jxu124/refcocog`, which
      hold no photos and need `image_root`, `jxu124/refcoco-benchmark`, `lmms-lab/RefCOCO` and its siblings, or
      `moondream/refcoco-m`, a part of RefCOCO's val with new masks;
    - Parquet files that `hf-ris data export` wrote or [`~datasets.Dataset.push_to_hub`] uploaded.

    Args:
        name (`str`): "refcoco", "refcoco+", "refcocog", "grefcoco" or "refclef".
        split (`str`): "train", "val" (or "validation"), and "testA" and "testB", or "test".
        root (`str` or `Path`): The folder or Hub id.
        split_by (`str`, *optional*): Who divided it into splits: for RefCOCOg "umd" (the default) or "google", for RefCOCO "unc"
            (the default) or "google", for RefClef "unc" (the default, with a "testC") or "berkeley", "unc" for the others.
        image_root (`str` or `Path`, *optional*): Where the photos lie, if not below `root`.
        streaming (`bool`, *optional*, defaults to `False`): Whether to make rows on the fly instead of keeping them in the cache.
        num_proc (`int`, *optional*): Processes that make the rows.
        cache_dir (`str` or `Path`, *optional*): Where they are kept; by default the datasets cache. It holds the photos' paths,
            not the photos.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: A row per referent with the columns of [`FEATURES`]. The rows of an
        image stand together.

    Raises:
        ValueError: If an argument is unknown, files are missing or damaged, or photos are missing; the message names what.

    Example:

    ```python
    >>> from hf_ris.data import decode_mask, load_refcoco

    >>> rows = load_refcoco("refcoco", "val", root="refer/data")
    >>> rows[0]["expressions"][0]["sent"], decode_mask(rows[0]["mask"]).shape  # doctest: +SKIP
    ```
    """
    partition, split = find_partition(name, split_by), plain_split(split)
    if split not in partition.splits:
        allowed = ", ".join(partition.splits)
        raise ValueError(f"split={split!r} is unknown for {name} ({partition.split_by}); allowed are {allowed}")
    cache = None if cache_dir is None else str(cache_dir)
    if find_annotations(root, partition) is None:
        if Path(root).is_dir() and not any(Path(root).rglob("*.parquet")):
            raise ValueError(
                f"root={str(root)!r} holds neither the folder {partition.name} nor Parquet files, "
                f"nor is it that folder, with {' or '.join(partition.refs_names)}"
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
        raise ValueError(f"root={str(root)!r}: {_reason(error)}") from error
    rows = builder.as_dataset(split)
    check_images(builder.config.image_folder, rows["file_name"])  # those of a cached split may be gone by now
    return rows


def _reason(error: BaseException) -> str:
    """What went wrong while rows were made. From another process, that is known by its traceback alone: the last error of ours."""
    text = str(error.__cause__)
    told = re.findall(r"^(?!\S*DatasetGenerationError)(?:\w+\.)*\w*Error: (.*)$", text, re.MULTILINE)
    return str(told[-1]) if told and "Traceback" in text else text


@dataclass
class ReferConfig(datasets.BuilderConfig):
    """
    What a cached split depends on, beside the annotation files' contents.

    Args:
        root (`str`): Folder of the annotations.
        image_folder (`str`): Folder of the photos.
        partition (`Partition`): Which dataset, divided by whom.
        split (`str`): Which of its splits.
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
            raise ValueError(f"{annotations.refs_file} holds no referent of the split {config.split!r}")
        if left_out := annotations.count_left_out(config.split):
            logger.warning(
                f"{annotations.refs_file}: {left_out:,} of {left_out + len(referents):,} referents of {config.split} are left "
                "out, as by gRefCOCO's own reader: they have no sentence, or nothing but crowds."
            )
        check_images(config.image_folder, [referent["file_name"] for referent in referents])
        # `datasets` shares a list among its processes.
        facts = {"referents": referents, "file": annotations.instances_file}
        return [datasets.SplitGenerator(name=config.split, gen_kwargs=facts)]

    def _generate_examples(self, referents: list[dict[str, Any]], file: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, referent in enumerate(referents):
            path = Path(self.config.image_folder, referent["file_name"])
            size, claimed = image_size(path), (referent["height"], referent["width"])
            if size != claimed:
                raise ValueError(f"{path} is {size} (height, width), its annotation says {claimed}")
            try:
                row = _with_mask(referent, referent["segmentations"], *size, box=referent["bbox"])
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
            yield number, {**row, "image": {"path": str(path), "bytes": None}}


def check_images(folder: str | Path, names: Iterable[str]) -> None:
    """
    Makes sure that a folder has these photos.

    Raises:
        ValueError: If some are missing; the message names them.
    """
    names = list(names)
    missing = missing_images(Path(folder), names)
    if missing:
        more = f" and {len(missing) - NAMED_AT_MOST} more" if len(missing) > NAMED_AT_MOST else ""
        raise ValueError(
            f"{len(missing)} of {len(set(names))} images are missing from {folder}: {', '.join(missing[:NAMED_AT_MOST])}"
            f"{more}. `hf-ris data check` lists them all and says where to get them."
        )


def _with_mask(
    facts: dict[str, Any], segmentations: list[Any], height: int, width: int, box: list[float] | None
) -> dict[str, Any]:
    """A row without its picture, from what is known of a referent. The annotation's own box is more exact than its mask's."""
    name = f"referent {facts['ref_id']}"
    if not facts["expressions"]:
        raise ValueError(f"{name} has no sentence")
    try:
        mask = encode_segmentations(segmentations, height, width)
    except ValueError as error:
        raise ValueError(f"{name}, annotation {facts['ann_ids']}: {error}") from error
    if box and (len(box) != 4 or not all(isinstance(each, int | float) and math.isfinite(each) for each in box)):
        raise ValueError(f"{name}, annotation {facts['ann_ids']}: its bbox is {box}; allowed are four numbers")
    row = {key: facts[key] for key in FEATURES if key in facts}
    measured = mask_geometry(mask)
    return {**row, "mask": mask, "area": measured["area"], "bbox": box or measured["bbox"]}


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
    # The Hub's names of splits: "validation" for val, and "test" for testA.
    aliases = {"val": ["val", "validation"], "testA": ["testA", "test"]}.get(split, [split])
    aliases.insert(0, f"{partition.name.replace('+', '_plus')}_{partition.split_by}_{split}")  # refcoco-benchmark's
    found = [name for name in aliases if name in available]
    if not found:
        raise ValueError(f"split={split!r} is not in {source}, which has {', '.join(available)}")
    rows = datasets.load_dataset(source, split=found[0], streaming=streaming, cache_dir=cache_dir)
    columns = set(rows.features)
    if set(FEATURES) <= columns:
        rows = rows.select_columns(list(FEATURES))
        return rows if rows.features == FEATURES else rows.cast(FEATURES)

    convert = next((convert for known, convert in COPIES if known <= columns), None)
    if convert is None:
        raise ValueError(
            f"root={source!r} is no copy of RefCOCO that is known here: its columns are {sorted(columns)}"
        )
    folder = None
    if "image_path" in columns:
        if image_root is None:
            raise ValueError(f"root={source!r} holds no photos: image_root must name the folder of COCO's train2014")
        folder = find_images(image_root, partition)
        rows = rows.filter(partial(_belongs, split=split))
        if not streaming:
            check_images(folder, (Path(path).name for path in rows["image_path"]))
    if "image" in columns:
        rows = rows.cast_column("image", datasets.Image(decode=False))
    make_rows = partial(_convert, convert=partial(convert, split=split, folder=folder), source=source)
    options = {"batched": True, "batch_size": 32, "remove_columns": sorted(columns)}  # small batches: they hold photos
    if streaming:
        return rows.map(make_rows, **options).cast(FEATURES)
    rows = rows.map(make_rows, **options, features=FEATURES, num_proc=num_proc)
    if not len(rows):
        raise ValueError(f"{source} holds no referent of the split {split!r} by {partition.split_by}")
    whole = f"{partition.name} ({partition.split_by})"
    published = PUBLISHED.get((partition.name, partition.split_by, split), {}).get("referents", len(rows))
    if "samples" in columns:
        whole, published = "RefCOCO-M", REFCOCO_M_REFERENTS
    if published != len(rows):
        logger.warning(
            f"{source} has {len(rows):,} rows in {found[0]}, {whole} has {published:,} referents in {split}: it may be "
            "another dataset, or several (lmms-lab/RefCOCO's val has as many as those by unc and by google together). What is "
            "measured on it cannot be compared with published figures."
        )
    return rows.sort(["image_id", "ref_id"])


def _convert(
    batch: dict[str, list[Any]], convert: Callable[[dict[str, Any]], Iterator[dict[str, Any]]], source: str
) -> dict[str, list[Any]]:
    """Makes the rows of a batch of a copy's rows."""
    made: list[dict[str, Any]] = []
    for values in zip(*batch.values(), strict=True):
        try:
            made += convert(dict(zip(batch, values, strict=True)))
        except (KeyError, TypeError, ValueError) as error:
            reason = error if isinstance(error, ValueError) else f"a row is damaged: {error!r}"
            raise ValueError(f"root={source!r}: {reason}") from error
    return {column: [row[column] for row in made] for column in FEATURES}


def _belongs(row: dict[str, Any], split: str) -> bool:
    return row["split"] == split


def _from_jxu124(row: dict[str, Any], split: str, folder: Path) -> Iterator[dict[str, Any]]:
    annotation = json.loads(row["raw_anns"])
    path = folder / Path(row["image_path"]).name
    facts = _facts(row, path.name, split)
    made = _with_mask(facts, [annotation["segmentation"]], *image_size(path), box=annotation["bbox"])
    yield {**made, "image": {"path": str(path), "bytes": None}}


def _from_benchmark(row: dict[str, Any], split: str, folder: None) -> Iterator[dict[str, Any]]:
    size = image_size(_content(row["image"]))
    for each in row["ref_list"]:
        annotation = each["ann_info"]
        facts = _facts(each["ref_info"], row["image_info"]["file_name"], split)
        yield {**_with_mask(facts, [annotation["segmentation"]], *size, box=annotation["bbox"]), "image": row["image"]}


def _facts(ref: dict[str, Any], file_name: str, split: str) -> dict[str, Any]:
    """What a copy of REFER's own entry says, which has no category's name."""
    return {
        "ref_id": ref["ref_id"],
        "ann_ids": [ref["ann_id"]],
        "image_id": ref["image_id"],
        "file_name": file_name,
        "split": split,
        "category": "",
        "expressions": [{key: each[key] for key in ("sent_id", "raw", "sent")} for each in ref["sentences"]],
    }


def _from_lmms_lab(row: dict[str, Any], split: str, folder: None) -> Iterator[dict[str, Any]]:
    numbered = re.search(r"_(\d{12})", row["file_name"])  # COCO_train2014_000000040346_5.jpg
    if numbered is None:
        raise ValueError(f"file_name={row['file_name']!r} holds no number of a COCO image")
    facts = {
        "ref_id": int(row["question_id"]),
        "ann_ids": [],
        "image_id": int(numbered[1]),
        "file_name": row["file_name"],
        "split": split,
        "category": "",
        "expressions": _number(row["answer"]),
    }
    size = image_size(_content(row["image"]))
    yield {**_with_mask(facts, [[row["segmentation"]]], *size, box=row["bbox"]), "image": row["image"]}


def _from_refcoco_m(row: dict[str, Any], split: str, folder: None) -> Iterator[dict[str, Any]]:
    size = image_size(_content(row["image"]))
    for sample in row["samples"]:
        facts = {
            "ref_id": sample["id"],
            "ann_ids": [sample["id"]],
            "image_id": row["image_id"],
            "file_name": row["file_name"],
            "split": split,
            "category": sample["category"],
            "expressions": _number(sample["sentences"]),
        }
        yield {**_with_mask(facts, [sample["mask"]], *size, box=sample["bbox"]), "image": row["image"]}


def _number(texts: list[str]) -> list[dict[str, Any]]:
    """Expressions of a copy that has their text alone."""
    return [{"sent_id": order, "raw": text, "sent": text.lower().strip()} for order, text in enumerate(texts)]


def _content(image: dict[str, Any]) -> str | bytes:
    """What a picture is read from that is not decoded."""
    return image["path"] if image["bytes"] is None else image["bytes"]


# The columns that a copy is known by, and what makes rows of one of its rows.
COPIES: tuple[tuple[set[str], Callable[..., Iterator[dict[str, Any]]]], ...] = (
    ({"sentences", "raw_anns", "image_path", "split"}, _from_jxu124),
    ({"image", "image_info", "ref_list"}, _from_benchmark),
    ({"image", "segmentation", "answer", "file_name"}, _from_lmms_lab),
    ({"image", "image_id", "file_name", "samples"}, _from_refcoco_m),
)


__all__ = ["load_refcoco"]
