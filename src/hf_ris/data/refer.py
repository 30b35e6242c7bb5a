"""
Read the annotation files of RefCOCO, RefCOCO+, RefCOCOg, RefClef (REFER's layout) and gRefCOCO, as published:

    ROOT/refcoco/refs(unc).p, ROOT/refcoco/refs(google).p, ROOT/refcoco/instances.json
    ROOT/refcocog/refs(umd).p, ROOT/refcocog/refs(google).p, ROOT/refcocog/instances.json
    ROOT/refclef/refs(unc).p, ROOT/refclef/refs(berkeley).p, ROOT/refclef/instances.json
    ROOT/grefcoco/grefs(unc).json, ROOT/grefcoco/instances.json
    ROOT/images/mscoco/images/train2014/COCO_train2014_….jpg
    ROOT/images/saiapr_tc-12/….jpg

ROOT may also be the folder of a dataset. A file of expressions may be a pickle or JSON.
"""

import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn


@dataclass(frozen=True)
class Partition:
    """
    One division of one dataset into splits.

    Attributes:
        name (`str`): The dataset: "refcoco", "refcoco+", "refcocog", "grefcoco" or "refclef".
        split_by (`str`): Authors of the division: "unc", "umd", "google" or "berkeley".
        splits (`tuple[str, ...]`): Names of its splits.
    """

    name: str
    split_by: str
    splits: tuple[str, ...]

    @property
    def refs_names(self) -> tuple[str, str]:
        """Possible names of the file of expressions. gRefCOCO's reader takes the first that exists."""
        name = f"{'grefs' if self.name == 'grefcoco' else 'refs'}({self.split_by})"
        return f"{name}.p", f"{name}.json"


FOUR = ("train", "val", "testA", "testB")
PARTITIONS = (  # the first of a name is its default
    Partition("refcoco", "unc", FOUR),
    Partition("refcoco", "google", ("train", "val", "test")),
    Partition("refcoco+", "unc", FOUR),
    Partition("refcocog", "umd", ("train", "val", "test")),
    Partition("refcocog", "google", ("train", "val")),
    Partition("grefcoco", "unc", FOUR),
    Partition("refclef", "unc", (*FOUR, "testC")),
    Partition("refclef", "berkeley", ("train", "val", "test")),
)
IMAGE_FOLDERS = ("images/mscoco/images/train2014", "images/train2014", "train2014", "coco/train2014", "images", "")
REFCLEF_IMAGE_FOLDERS = ("images/saiapr_tc-12", "saiapr_tc-12", "images/refclef", "images", "")


def find_partition(name: str, split_by: str | None = None) -> Partition:
    """
    Find the partition of this name.

    Raises:
        ValueError: If there is none.
    """
    named = {partition.split_by: partition for partition in PARTITIONS if partition.name == name}
    if not named:
        allowed = list(dict.fromkeys(partition.name for partition in PARTITIONS))
        raise ValueError(f"`name` must be one of {allowed}, got {name!r}.")
    if split_by is None:
        return next(iter(named.values()))
    if split_by not in named:
        raise ValueError(f"`split_by` must be one of {list(named)} for {name}, got {split_by!r}.")
    return named[split_by]


def find_annotations(root: str | Path, partition: Partition) -> Path | None:
    """
    Find the folder with a partition's annotations: the dataset's folder below `root`, or `root` itself; else None.

    Raises:
        ValueError: If `root` is the folder of another dataset.
    """
    if Path(root, partition.name).is_dir():
        return Path(root, partition.name)
    if not any(Path(root, name).is_file() for name in partition.refs_names):
        return None
    folder = Path(root).resolve().name
    if folder != partition.name and folder in {each.name for each in PARTITIONS}:
        raise ValueError(f"`root` must be the folder of {partition.name}, got {folder}'s, {str(root)!r}.")
    return Path(root)


def find_partitions(root: str | Path) -> list[Partition]:
    """
    Find the partitions whose expressions are below `root` or in it. A refs(unc).p in `root`, which several datasets have, belongs
    to the dataset that `root` is named after.
    """
    folder_name = Path(root).resolve().name
    all_refs_names = [each.refs_names for each in PARTITIONS]
    found = []
    for partition in PARTITIONS:
        folders = [Path(root, partition.name)]
        if folder_name == partition.name or all_refs_names.count(partition.refs_names) == 1:
            folders.append(Path(root))
        if any((folder / name).is_file() for folder in folders for name in partition.refs_names):
            found.append(partition)
    return found


def annotation_files(root: str | Path, partition: Partition) -> tuple[Path, Path]:
    """
    Find the file of expressions, and the one of images and objects.

    Raises:
        ValueError: If one is missing.
    """
    folder = find_annotations(root, partition) or Path(root, partition.name)
    refs = next((folder / name for name in partition.refs_names if (folder / name).is_file()), None)
    instances = folder / "instances.json"
    if refs is None or not instances.is_file():
        names = [" or ".join(partition.refs_names)] * (refs is None) + ["instances.json"] * (not instances.is_file())
        lacking = " and ".join(_relative(folder / name, root) for name in names)
        raise ValueError(f"{str(root)!r} lacks {lacking} of {partition.name}.")
    return refs, instances


def _relative(path: Path, root: str | Path) -> str:
    return path.relative_to(root).as_posix()


class Annotations:
    """
    Contents of one partition's files.

    Args:
        root (`str` or `Path`): The folder described above.
        partition (`Partition`): The partition.

    Raises:
        ValueError: If a file is missing, damaged, or a pickle that constructs anything.
    """

    def __init__(self, root: str | Path, partition: Partition) -> None:
        self.root = Path(root)
        self.partition = partition
        files = annotation_files(root, partition)
        self.refs_file, self.instances_file = (_relative(path, root) for path in files)
        self.refs, self.instances = map(_read, files)
        is_whole = isinstance(self.instances, dict) and {"images", "annotations"} <= set(self.instances)
        if not (isinstance(self.refs, list) and is_whole):
            raise ValueError(f"{str(root)!r}: {self.refs_file} or {self.instances_file} is none of REFER's.")

    @cached_property
    def images(self) -> dict[int, dict[str, Any]]:
        """`file_name`, `height` and `width` of each image, by its id."""
        return {image["id"]: image for image in self.instances["images"]}

    @cached_property
    def objects(self) -> dict[int, dict[str, Any]]:
        """COCO's annotation of each object, by its id."""
        return {annotation["id"]: annotation for annotation in self.instances["annotations"]}

    @cached_property
    def categories(self) -> dict[int, str]:
        """Names of the categories, by their id."""
        return {category["id"]: category["name"] for category in self.instances.get("categories", [])}

    def select(self, split: str) -> Iterator[dict[str, Any]]:
        """Select the refs of a split. Some belong to several test splits ("testAB")."""
        for ref in self.refs:
            is_named = split in ("testA", "testB", "testC") and split[-1] in ref["split"].removeprefix("test")
            if is_named or ref["split"] == split:
                yield ref

    def referents(self, split: str) -> list[dict[str, Any]]:
        """
        Make the rows of a split, sorted by image, with `segmentations`, `height` and `width` instead of image and mask.

        Raises:
            ValueError: If a referent has no expression, or its image or object is missing.
        """
        try:
            rows = [self._referent(ref, split) for ref in self.select(split) if not self._is_left_out(ref)]
        except (AttributeError, KeyError, TypeError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else f"is none of REFER's: {error}"
            raise ValueError(f"{str(self.root)!r}: an entry of {self.partition.name} {reason}.") from error
        return sorted(rows, key=lambda row: (row["image_id"], row["ref_id"]))

    def count_left_out(self, split: str) -> int:
        """Count the referents of a split that [`~Annotations.referents`] leaves out: some of gRefCOCO's."""
        return sum(map(self._is_left_out, self.select(split)))

    def _is_left_out(self, ref: dict[str, Any]) -> bool:
        """Whether gRefCOCO's readers skip a ref: it has no expression, or nothing but crowds."""
        if self.partition.name != "grefcoco":
            return False
        ids = _annotation_ids(ref)
        return not ref["sentences"] or (len(ids) > 0 and all(map(self._is_crowd, ids)))

    def _is_crowd(self, number: int) -> bool:
        return bool(self.objects.get(number, {}).get("iscrowd"))

    def _referent(self, ref: dict[str, Any], split: str) -> dict[str, Any]:
        where = f"{self.refs_file}: referent {ref['ref_id']}"
        ids = _annotation_ids(ref)
        if ref.get("no_target") or ids == [-1]:  # gRefCOCO's mark of expressions that refer to nothing
            ids = []
        for number in ids:
            if number not in self.objects:
                raise ValueError(f"{where} names annotation {number}, which {self.instances_file} lacks")
        if ref["image_id"] not in self.images:
            raise ValueError(f"{where} names image {ref['image_id']}, which {self.instances_file} lacks")
        for number in ids:
            if self.objects[number]["image_id"] != ref["image_id"]:
                raise ValueError(f"{where} is in image {ref['image_id']}, and annotation {number} in another")
        # The other datasets' readers fail on a crowd, so none is referred to there.
        if self.partition.name == "grefcoco":
            ids = [number for number in ids if not self._is_crowd(number)]
        if not ref["sentences"]:
            raise ValueError(f"{where} has no sentence")
        image = self.images[ref["image_id"]]
        objects = [self.objects[number] for number in ids]
        names = [self.categories.get(each["category_id"], "") for each in objects]
        return {
            "ref_id": ref["ref_id"],
            "ann_ids": ids,
            "image_id": ref["image_id"],
            "file_name": image["file_name"],
            "height": image["height"],
            "width": image["width"],
            "split": split,
            "category": ", ".join(dict.fromkeys(names)),
            "segmentations": [each["segmentation"] for each in objects],
            "bbox": objects[0].get("bbox") if len(objects) == 1 else None,
            "expressions": [
                {"sent_id": each["sent_id"], "raw": each["raw"], "sent": each["sent"]} for each in ref["sentences"]
            ],
        }


def _annotation_ids(ref: dict[str, Any]) -> list[int]:
    return ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]


def find_images(base: str | Path, partition: Partition) -> Path:
    """
    Find the folder of a partition's photos: `base`, a usual folder below it, or, if `base` is the dataset's folder, beside it.

    Raises:
        ValueError: If `base` is not a folder.
    """
    is_refclef = partition.name == "refclef"
    names = REFCLEF_IMAGE_FOLDERS if is_refclef else IMAGE_FOLDERS
    bases = [Path(base)]
    if Path(base).is_dir() and find_annotations(base, partition) == Path(base):
        bases.append(Path(base).resolve().parent)
    folders = [(each / name).resolve() for each in bases for name in names if (each / name).is_dir()]
    if not folders:
        raise ValueError(f"`image_root` must be a folder with photos; there is no folder {str(base)!r}.")
    pattern = "**/*.jpg" if is_refclef else "*.jpg"  # the photos of SAIAPR TC-12 lie in subfolders
    return next((folder for folder in folders if next(folder.glob(pattern), None)), folders[0])


def missing_images(folder: Path, names: list[str]) -> list[str]:
    """List the names that the folder lacks, each once, in their order."""
    present = set(os.listdir(folder))
    return [name for name in dict.fromkeys(names) if name not in present and not Path(folder, name).is_file()]


def fingerprint(root: str | Path, partition: Partition) -> str:
    """Hash the contents of a partition's files."""
    digest = blake2b(digest_size=8)
    for path in annotation_files(root, partition):
        try:
            digest.update(blake2b(path.read_bytes()).digest())
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
    return digest.hexdigest()


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries, numbers and text, and calls no function that a pickle names."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it wants to construct {module}.{name}, which is not done")


def _read(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load() if path.suffix == ".p" else json.load(file)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing.") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path} is damaged: {error}.") from error


__all__ = [
    "PARTITIONS",
    "Annotations",
    "Partition",
    "find_annotations",
    "find_images",
    "find_partition",
    "find_partitions",
    "fingerprint",
    "missing_images",
]
