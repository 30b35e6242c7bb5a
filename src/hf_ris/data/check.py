"""Count the rows of a copy of RefCOCO and compare them with the published numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .refer import Annotations, find_images, find_partitions, missing_images


# Referents, expressions and images of each split, where they are known.
PUBLISHED: dict[tuple[str, str, str], dict[str, int]] = {
    ("refcoco", "unc", "train"): {"referents": 42_404},
    ("refcoco", "unc", "val"): {"referents": 3_811, "expressions": 10_834, "images": 1_500},
    ("refcoco", "unc", "testA"): {"referents": 1_975, "expressions": 5_657, "images": 750},
    ("refcoco", "unc", "testB"): {"referents": 1_810, "expressions": 5_095, "images": 750},
    ("refcoco", "google", "train"): {"images": 19_213},
    ("refcoco", "google", "val"): {"referents": 5_000, "images": 4_559},
    ("refcoco", "google", "test"): {"referents": 5_000, "images": 4_527},
    ("refcoco+", "unc", "train"): {"referents": 42_278},
    ("refcoco+", "unc", "val"): {"referents": 3_805},
    ("refcoco+", "unc", "testA"): {"referents": 1_975},
    ("refcoco+", "unc", "testB"): {"referents": 1_798},
    ("refcocog", "umd", "train"): {"referents": 42_226},
    ("refcocog", "umd", "val"): {"referents": 2_573},
    ("refcocog", "umd", "test"): {"referents": 5_023},
}

LAYOUT = """\
ROOT/
  refcoco/   refs(unc).p, refs(google).p, instances.json
  refcoco+/  refs(unc).p, instances.json
  refcocog/  refs(umd).p, refs(google).p, instances.json
  grefcoco/  grefs(unc).p, instances.json
  refclef/   refs(unc).p, refs(berkeley).p, instances.json
  images/mscoco/images/train2014/  COCO_train2014_000000000009.jpg, ...
  images/saiapr_tc-12/  the photos of refclef
Each .p may also be a .json. One of the first five folders is enough, and it may be ROOT itself. refcoco.zip, refcoco+.zip,
refcocog.zip, refclef.zip and images/saiapr_tc-12.zip were at bvisionweb1.cs.unc.edu/licheng/referit/data, which is gone; the
Internet Archive (web.archive.org) keeps that folder. gRefCOCO: github.com/henghuiding/gRefCOCO."""

PHOTOS = """\
The photos are COCO's train2014 (but those of refclef): fetch http://images.cocodataset.org/zips/train2014.zip (13 GB), unpack it, and put the folder
train2014 at ROOT/images/mscoco/images/train2014, or say where it is with --images."""


@dataclass(frozen=True)
class SplitCounts:
    """
    Numbers of one split of a copy.

    Attributes:
        name, split_by, split (`str`): Dataset, authors of the division, and split.
        counts (`dict[str, int]`): Number of "referents", "expressions" and "images".
        missing (`list[str]`): Names of missing images.
        left_out (`int`): Referents of gRefCOCO that are not counted: they have no expression, or nothing but crowds.
    """

    name: str
    split_by: str
    split: str
    counts: dict[str, int]
    missing: list[str] = field(default_factory=list)
    left_out: int = 0

    @property
    def published(self) -> dict[str, int]:
        """The published numbers, where they are known."""
        return PUBLISHED.get((self.name, self.split_by, self.split), {})

    @property
    def differing(self) -> dict[str, int]:
        """The published numbers that differ from the counts."""
        return {key: number for key, number in self.published.items() if self.counts[key] != number}


def check_refer(root: str | Path, image_root: str | Path | None = None) -> Iterator[SplitCounts]:
    """
    Count every split of every dataset at or below `root` in REFER's layout.

    Args:
        root (`str` or `Path`): The folder.
        image_root (`str` or `Path`, *optional*): Folder of COCO's train2014 photos, if not below `root`.

    Yields:
        `SplitCounts`: One for each split.

    Raises:
        ValueError: If there is no dataset, or a file is damaged.
    """
    partitions = find_partitions(root)
    if not partitions:
        raise ValueError(f"{str(root)!r} holds none of the datasets. They are expected as\n{LAYOUT}")
    for partition in partitions:
        folder = find_images(image_root or root, partition)
        annotations = Annotations(root, partition)
        for split in partition.splits:
            referents = annotations.referents(split)
            names = list(dict.fromkeys(referent["file_name"] for referent in referents))
            counts = {
                "referents": len(referents),
                "expressions": sum(len(referent["expressions"]) for referent in referents),
                "images": len(names),
            }
            missing, left_out = missing_images(folder, names), annotations.count_left_out(split)
            yield SplitCounts(partition.name, partition.split_by, split, counts, missing, left_out)


__all__ = ["LAYOUT", "PHOTOS", "PUBLISHED", "SplitCounts", "check_refer"]
