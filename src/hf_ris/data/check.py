"""Is a copy of RefCOCO whole? Counts what is there and compares it with what was published."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .refer import PARTITIONS, Annotations, find_images, missing_images


# Referents, expressions and images of each split, where they are known.
PUBLISHED: dict[tuple[str, str, str], dict[str, int]] = {
    ("refcoco", "unc", "train"): {"referents": 42_404},
    ("refcoco", "unc", "val"): {"referents": 3_811, "expressions": 10_834, "images": 1_500},
    ("refcoco", "unc", "testA"): {"referents": 1_975, "expressions": 5_657, "images": 750},
    ("refcoco", "unc", "testB"): {"referents": 1_810, "expressions": 5_095, "images": 750},
    ("refcocog", "umd", "train"): {"referents": 42_226},
    ("refcocog", "umd", "val"): {"referents": 2_573},
    ("refcocog", "umd", "test"): {"referents": 5_023},
}

LAYOUT = """\
ROOT/
  refcoco/   refs(unc).p, instances.json
  refcoco+/  refs(unc).p, instances.json
  refcocog/  refs(umd).p, refs(google).p, instances.json
  grefcoco/  grefs(unc).json, instances.json
  images/mscoco/images/train2014/  COCO_train2014_000000000009.jpg, ...
One of the first four is enough. refcoco.zip, refcoco+.zip and refcocog.zip were at bvisionweb1.cs.unc.edu/licheng/referit/data,
which is gone; the Internet Archive (web.archive.org) keeps that folder. gRefCOCO: github.com/henghuiding/gRefCOCO."""

PHOTOS = """\
The photos are COCO's train2014: fetch http://images.cocodataset.org/zips/train2014.zip (13 GB), unpack it, and put the folder
train2014 at ROOT/images/mscoco/images/train2014, or say where it is with --images."""


@dataclass(frozen=True)
class SplitCounts:
    """
    What a copy holds of one split.

    Attributes:
        name, split_by, split (`str`): Which.
        counts (`dict[str, int]`): Number of "referents", "expressions" and "images".
        missing (`list[str]`): Images that are not there.
    """

    name: str
    split_by: str
    split: str
    counts: dict[str, int]
    missing: list[str] = field(default_factory=list)

    @property
    def published(self) -> dict[str, int]:
        """The published numbers, where they are known."""
        return PUBLISHED.get((self.name, self.split_by, self.split), {})

    @property
    def differing(self) -> dict[str, int]:
        """The published numbers that these are not."""
        return {key: number for key, number in self.published.items() if self.counts[key] != number}


def check_refer(root: str | Path, image_root: str | Path | None = None) -> Iterator[SplitCounts]:
    """
    Counts every split of every dataset that is found below `root` in REFER's layout.

    Args:
        root (`str` or `Path`): The folder.
        image_root (`str` or `Path`, *optional*): Where COCO's train2014 photos lie, if not below `root`.

    Yields:
        `SplitCounts`: One for each split.

    Raises:
        ValueError: If none is found, or a file is damaged.
    """
    found = [partition for partition in PARTITIONS if Path(root, partition.refs_file).is_file()]
    if not found:
        raise ValueError(f"root={str(root)!r} holds none of the datasets. They are expected as\n{LAYOUT}")
    folder = find_images(image_root or root)
    for partition in found:
        annotations = Annotations(root, partition)
        for split in partition.splits:
            referents = annotations.referents(split)
            names = list(dict.fromkeys(referent["file_name"] for referent in referents))
            counts = {
                "referents": len(referents),
                "expressions": sum(len(referent["expressions"]) for referent in referents),
                "images": len(names),
            }
            yield SplitCounts(partition.name, partition.split_by, split, counts, missing_images(folder, names))


__all__ = ["LAYOUT", "PHOTOS", "PUBLISHED", "SplitCounts", "check_refer"]
