"""
The annotation files of RefCOCO, RefCOCO+, RefCOCOg (REFER's layout) and gRefCOCO, as their authors published them:

    ROOT/refcoco/refs(unc).p, ROOT/refcoco/instances.json
    ROOT/refcocog/refs(umd).p, ROOT/refcocog/refs(google).p, ROOT/refcocog/instances.json
    ROOT/grefcoco/grefs(unc).json, ROOT/grefcoco/instances.json
    ROOT/images/mscoco/images/train2014/COCO_train2014_….jpg
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
        name (`str`): The dataset: "refcoco", "refcoco+", "refcocog" or "grefcoco".
        split_by (`str`): Who divided it: "unc", "umd" or "google".
        splits (`tuple[str, ...]`): What into.
    """

    name: str
    split_by: str
    splits: tuple[str, ...]

    @property
    def refs_file(self) -> str:
        """Where the expressions stand, below the root."""
        name = f"grefs({self.split_by}).json" if self.name == "grefcoco" else f"refs({self.split_by}).p"
        return f"{self.name}/{name}"

    @property
    def instances_file(self) -> str:
        """Where images and objects stand, below the root."""
        return f"{self.name}/instances.json"


FOUR = ("train", "val", "testA", "testB")
PARTITIONS = (  # the first of a name is its default
    Partition("refcoco", "unc", FOUR),
    Partition("refcoco+", "unc", FOUR),
    Partition("refcocog", "umd", ("train", "val", "test")),
    Partition("refcocog", "google", ("train", "val")),
    Partition("grefcoco", "unc", FOUR),
)
IMAGE_FOLDERS = ("images/mscoco/images/train2014", "images/train2014", "train2014", "coco/train2014", "images", "")


def find_partition(name: str, split_by: str | None = None) -> Partition:
    """
    The partition of this name.

    Raises:
        ValueError: If there is none.
    """
    named = [partition for partition in PARTITIONS if partition.name == name]
    if not named:
        allowed = ", ".join(dict.fromkeys(partition.name for partition in PARTITIONS))
        raise ValueError(f"name={name!r} is unknown; allowed are {allowed}")
    for partition in named:
        if split_by in (None, partition.split_by):
            return partition
    allowed = ", ".join(partition.split_by for partition in named)
    raise ValueError(f"split_by={split_by!r} is unknown for {name}; allowed: {allowed}")


class Annotations:
    """
    What the files of one partition say.

    Args:
        root (`str` or `Path`): The folder described above.
        partition (`Partition`): Which one.

    Raises:
        ValueError: If a file is missing, damaged, or a pickle that wants to construct anything.
    """

    def __init__(self, root: str | Path, partition: Partition) -> None:
        self.root = Path(root)
        self.partition = partition
        self.refs = _read(self.root / partition.refs_file)
        self.instances = _read(self.root / partition.instances_file)
        if not isinstance(self.refs, list) or not {"images", "annotations"} <= set(self.instances):
            raise ValueError(
                f"root={str(root)!r}: {partition.refs_file} or {partition.instances_file} is none of REFER's"
            )

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
        """The refs of a split as they stand in the file. Some belong to two test splits ("testAB")."""
        for ref in self.refs:
            if ref["split"] == split or (
                split in ("testA", "testB") and split[-1] in ref["split"].removeprefix("test")
            ):
                yield ref

    def referents(self, split: str) -> list[dict[str, Any]]:
        """
        The rows of a split without picture and mask; the latter's `segmentations`, `height` and `width` instead.

        Rows of one image stand together.

        Raises:
            ValueError: If a referent has no sentence, or its image or object is missing; the message names it.
        """
        try:
            rows = [self._referent(ref, split) for ref in self.select(split)]
        except KeyError as error:
            raise ValueError(f"root={str(self.root)!r}: an entry of {self.partition.name} lacks {error}") from error
        return sorted(rows, key=lambda row: (row["image_id"], row["ref_id"]))

    def _referent(self, ref: dict[str, Any], split: str) -> dict[str, Any]:
        where = f"{self.partition.refs_file}: referent {ref['ref_id']}"
        ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        if ref.get("no_target") or ids == [-1]:  # gRefCOCO's sign for expressions that are true of nothing
            ids = []
        missing = [number for number in ids if number not in self.objects]
        if missing:
            raise ValueError(f"{where} names annotation {missing[0]}, which {self.partition.instances_file} lacks")
        if ref["image_id"] not in self.images:
            raise ValueError(f"{where} names image {ref['image_id']}, which {self.partition.instances_file} lacks")
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


def find_images(base: str | Path) -> Path:
    """
    The folder that holds the photos: `base` itself, or one of those below it that they usually lie in.

    Raises:
        ValueError: If `base` is no folder.
    """
    folders = [Path(base, name).resolve() for name in IMAGE_FOLDERS if Path(base, name).is_dir()]
    if not folders:
        raise ValueError(f"there is no folder {str(base)!r} to look for photos in")
    return next((folder for folder in folders if next(folder.glob("*.jpg"), None)), folders[0])


def missing_images(folder: Path, names: list[str]) -> list[str]:
    """The names that the folder lacks, each once, in their order."""
    present = set(os.listdir(folder))
    return [name for name in dict.fromkeys(names) if name not in present]


def fingerprint(root: str | Path, partition: Partition) -> str:
    """A hash of the contents of a partition's files."""
    digest = blake2b(digest_size=8)
    for name in (partition.refs_file, partition.instances_file):
        try:
            digest.update(blake2b(Path(root, name).read_bytes()).digest())
        except OSError as error:
            raise ValueError(
                f"root={str(root)!r} lacks {name} of {partition.name}, or it cannot be read: {error}"
            ) from error
    return digest.hexdigest()


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries, numbers and text. A pickle could name any function to be called: none is."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it wants to construct {module}.{name}, which is not done")


def _read(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load() if path.suffix == ".p" else json.load(file)
    except FileNotFoundError as error:
        raise ValueError(f"there is no {path}") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path} is damaged: {error}") from error


__all__ = ["PARTITIONS", "Annotations", "Partition", "find_images", "find_partition", "fingerprint", "missing_images"]
