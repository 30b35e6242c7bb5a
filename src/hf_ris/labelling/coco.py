"""Labels in COCO's format, which pycocotools loads."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..data.segmentation import mask_geometry
from .output import LabelFolder


INSTANCES = "instances.json"
ANY = "referent"  # the category where every image has expressions of its own


def write_coco(folder: LabelFolder, fixed: Sequence[str] = ()) -> Path:
    """
    Write all labels of a folder as `instances.json` in it. Nothing but a row is held in memory.

    Args:
        folder ([`LabelFolder`]): All partitions are written.
        fixed (`Sequence[str]`, *optional*): The expressions of every image, which become the categories; else there is one, "referent".
            Each annotation has its expression as `label`, too.

    Returns:
        `Path`: The file. Failed rows and empty masks are not in it.
    """
    names = tuple(dict.fromkeys(fixed)) or (ANY,)
    categories = {name: number for number, name in enumerate(names, start=1)}
    with folder.create(INSTANCES) as file:
        file.write(b'{"info": {"description": "labels of hf-ris"}, "licenses": [],\n"categories": [')
        _write_items(file, ({"id": number, "name": name} for name, number in categories.items()))
        file.write(b'],\n"images": [')
        _write_items(file, _images(folder))
        file.write(b'],\n"annotations": [')
        _write_items(file, _annotations(folder, categories))
        file.write(b"]}\n")
    return Path(folder.path, INSTANCES)


def _numbered_rows(folder: LabelFolder, columns: list[str]) -> Iterator[tuple[int, bool, dict[str, Any]]]:
    """Yield the number of the image, whether it is the image's first, and the row, of rows with a mask."""
    number, last = 0, None
    for partition in range(folder.partitions):
        for row in folder.read(partition, ["file_name", "mask", *columns]):
            if row["mask"] is None:
                continue
            is_first = row["file_name"] != last
            number, last = number + is_first, row["file_name"]
            yield number, is_first, row


def _images(folder: LabelFolder) -> Iterator[dict[str, Any]]:
    for number, is_first, row in _numbered_rows(folder, []):
        if is_first:
            height, width = row["mask"]["size"]
            yield {"id": number, "file_name": row["file_name"], "width": width, "height": height}


def _annotations(folder: LabelFolder, categories: dict[str, int]) -> Iterator[dict[str, Any]]:
    annotation = 0
    for number, _, row in _numbered_rows(folder, ["label", "score", "box"]):
        if row["box"] is None:
            continue
        annotation += 1
        yield {
            "id": annotation,
            "image_id": number,
            "category_id": categories.get(row["label"], 1),
            "segmentation": row["mask"],
            **mask_geometry(row["mask"]),
            "iscrowd": 0,
            "score": row["score"],
            "label": row["label"],
        }


def _write_items(file: Any, items: Iterable[dict[str, Any]]) -> None:
    for number, item in enumerate(items):
        file.write((",\n" if number else "\n").encode() + json.dumps(item, ensure_ascii=False).encode())


__all__ = ["write_coco"]
