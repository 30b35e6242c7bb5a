"""
The annotation files of RefCOCO, RefCOCO+, RefCOCOg, RefClef (REFER's layout) and gRefCOCO, as their authors published them:

    ROOT/refcoco/refs(unc).p, ROOT/refcoco/refs(google).p, ROOT/refcoco/instances.json
    ROOT/refcocog/refs(umd).p, ROOT/refcocog/refs(google).p, ROOT/refcocog/instances.json
    ROOT/refclef/refs(unc).p, ROOT/refclef/refs(berkeley).p, ROOT/refclef/instances.json
    ROOT/grefcoco/grefs(unc).json, ROOT/grefcoco/instances.json
    ROOT/images/mscoco/images/train2014/COCO_train2014_….jpg, ROOT/images/saiapr_tc-12/….jpg

ROOT may also be a dataset's own folder, and any of the refs may be JSON instead of a pickle.
"""

import json
import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn


COCO_FOLDERS = ("images/mscoco/images/train2014", "images/train2014", "train2014", "coco/train2014", "images", "")
SAIAPR_FOLDERS = ("images/saiapr_tc-12", "saiapr_tc-12", "images", "")


@dataclass(frozen=True)
class Partition:
    """
    One division of one dataset into splits.

    Attributes:
        name (`str`): The dataset, such as "refcoco".
        split_by (`str`): Who divided it: "unc", "umd", "google" or "berkeley".
        splits (`tuple[str, ...]`): What into.
        stem (`str`): What the file of the expressions is called before that.
        image_folders (`tuple[str, ...]`): Where its images may lie, below a root.
        refuses_crowds (`bool`): Whether the dataset's own loader refuses annotations of crowds.
        may_lack_sentences (`bool`): Whether the authors' files hold referents without a sentence, which are left out.
    """

    name: str
    split_by: str
    splits: tuple[str, ...]
    stem: str = "refs"
    image_folders: tuple[str, ...] = COCO_FOLDERS
    refuses_crowds: bool = False
    may_lack_sentences: bool = False

    @property
    def refs_files(self) -> tuple[str, str]:
        """What the file of the expressions may be called."""
        return f"{self.stem}({self.split_by}).p", f"{self.stem}({self.split_by}).json"

    def find_folder(self, root: str | Path) -> Path | None:
        """The dataset's folder below `root`, or `root` itself if it holds the files; `None` if neither does."""
        below = Path(root, self.name)
        if below.is_dir():
            return below
        others = {partition.name for partition in PARTITIONS} - {self.name}
        is_own = Path(root).name not in others and any(Path(root, name).is_file() for name in self.refs_files)
        return Path(root) if is_own else None

    def find_refs(self, folder: Path) -> Path:
        """The file of the expressions in the dataset's folder; the first that it may be called, if there is none."""
        paths = [folder / name for name in self.refs_files]
        return next((path for path in paths if path.is_file()), paths[0])


FOUR = ("train", "val", "testA", "testB")
THREE = ("train", "val", "test")
PARTITIONS = (  # the first of a name is its default
    Partition("refcoco", "unc", FOUR),
    Partition("refcoco", "google", THREE),
    Partition("refcoco+", "unc", FOUR),
    Partition("refcocog", "umd", THREE),
    Partition("refcocog", "google", ("train", "val")),
    Partition("refclef", "unc", (*FOUR, "testC"), image_folders=SAIAPR_FOLDERS),
    Partition("refclef", "berkeley", THREE, image_folders=SAIAPR_FOLDERS),
    Partition("grefcoco", "unc", FOUR, "grefs", refuses_crowds=True, may_lack_sentences=True),
)


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
        folder = partition.find_folder(root) or Path(root, partition.name)
        refs, instances = partition.find_refs(folder), folder / "instances.json"
        self.refs_name, self.instances_name = (str(path.relative_to(self.root)) for path in (refs, instances))
        self.refs, self.instances = _read(refs), _read(instances)
        if not isinstance(self.refs, list) or not {"images", "annotations"} <= set(self.instances):
            raise ValueError(f"root={str(root)!r}: {self.refs_name} or {self.instances_name} is none of REFER's")

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
                split in ("testA", "testB", "testC") and split[-1] in ref["split"].removeprefix("test")
            ):
                yield ref

    def referents(self, split: str) -> list[dict[str, Any]]:
        """
        The rows of a split without picture and mask; the latter's `segmentations`, `height` and `width` instead.

        Rows of one image stand together. Referents of gRefCOCO without a sentence are left out.

        Raises:
            ValueError: If another's referent has no sentence, or its image or object is missing or a crowd that the dataset's own
                loader refuses; the message names it.
        """
        try:
            rows = [self._referent(ref, split) for ref in self.select(split) if not self._is_left_out(ref)]
        except KeyError as error:
            raise ValueError(f"root={str(self.root)!r}: an entry of {self.partition.name} lacks {error}") from error
        return sorted(rows, key=lambda row: (row["image_id"], row["ref_id"]))

    def count_left_out(self, split: str) -> int:
        """How many referents of a split are left out, as they have no sentence."""
        return sum(map(self._is_left_out, self.select(split)))

    def _is_left_out(self, ref: dict[str, Any]) -> bool:
        return self.partition.may_lack_sentences and not ref["sentences"]

    def _referent(self, ref: dict[str, Any], split: str) -> dict[str, Any]:
        where = f"{self.refs_name}: referent {ref['ref_id']}"
        ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        if ref.get("no_target") or ids == [-1]:  # gRefCOCO's sign for expressions that are true of nothing
            ids = []
        missing = [number for number in ids if number not in self.objects]
        if missing:
            raise ValueError(f"{where} names annotation {missing[0]}, which {self.instances_name} lacks")
        if ref["image_id"] not in self.images:
            raise ValueError(f"{where} names image {ref['image_id']}, which {self.instances_name} lacks")
        if not ref["sentences"]:
            raise ValueError(f"{where} has no sentence")
        image = self.images[ref["image_id"]]
        objects = [self.objects[number] for number in ids]
        crowds = [each["id"] for each in objects if each.get("iscrowd")]
        if crowds and self.partition.refuses_crowds:
            raise ValueError(
                f"{where} names annotation {crowds[0]}, a crowd, which {self.partition.name}'s own loader refuses"
            )
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


def find_images(base: str | Path, folders: Sequence[str] = COCO_FOLDERS) -> Path:
    """
    The folder that holds the photos: `base` itself, or one of those below it that they usually lie in.

    Raises:
        ValueError: If `base` is no folder.
    """
    found = [Path(base, name).resolve() for name in folders if Path(base, name).is_dir()]
    if not found:
        raise ValueError(f"there is no folder {str(base)!r} to look for photos in")
    return next((folder for folder in found if next(folder.glob("*.jpg"), None)), found[0])


def images_of(partition: Partition, root: str | Path, image_root: str | Path | None = None) -> Path:
    """The folder of a partition's photos: at or below `image_root`, or else `root`, or what a dataset's own folder lies in."""
    if image_root is not None:
        return find_images(image_root, partition.image_folders)
    folder = find_images(root, partition.image_folders)
    if partition.find_folder(root) == Path(root) and not next(folder.glob("*.jpg"), None):
        return find_images(Path(root).resolve().parent, partition.image_folders)
    return folder


def missing_images(folder: Path, names: list[str]) -> list[str]:
    """The names that the folder lacks, each once, in their order."""
    present = set(os.listdir(folder))
    return [
        name
        for name in dict.fromkeys(names)
        if name not in present and not ("/" in name and Path(folder, name).is_file())
    ]


def fingerprint(root: str | Path, partition: Partition) -> str:
    """A hash of the contents of a partition's files."""
    folder = partition.find_folder(root) or Path(root, partition.name)
    digest = blake2b(digest_size=8)
    for path in (partition.find_refs(folder), folder / "instances.json"):
        try:
            digest.update(blake2b(path.read_bytes()).digest())
        except OSError as error:
            raise ValueError(
                f"root={str(root)!r} lacks {path.relative_to(root)} of {partition.name}, or it cannot be read: {error}"
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


__all__ = [
    "PARTITIONS",
    "Annotations",
    "Partition",
    "find_images",
    "find_partition",
    "fingerprint",
    "images_of",
    "missing_images",
]
