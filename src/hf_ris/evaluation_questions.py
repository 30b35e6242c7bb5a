"""The questions of an evaluation: a dataset as batches of images with their expressions, the true masks, and what an answer says."""

import json
from collections import defaultdict
from hashlib import blake2b
from typing import Any, NamedTuple

import datasets
import numpy as np
from PIL import Image

from .data.features import expression_text
from .data.segmentation import check_mask, compare_masks, decode_mask, encode_mask
from .evaluation_shards import Key
from .modeling.inputs import Request
from .modeling.without_torch import check_expressions, load_image


class ImageQuestions(NamedTuple):
    """
    All expressions of all referents of an image.

    Attributes:
        keys (`list[tuple[int, int]]`): The row of each expression, and its number there; those that can be asked.
        request (`Request`, *optional*): Image and expressions; `None` if the image cannot be read or there is nothing to ask.
        true_masks (`list[dict]`): Run-length code of each expression's true mask, at the size at which masks are compared.
        error (`str`, *optional*): Why the image cannot be read.
    """

    keys: list[Key]
    request: Request | None = None
    true_masks: list[dict[str, Any]] = []
    error: str | None = None


class Questions:
    """
    A dataset as batches of [`ImageQuestions`]. A batch holds images with equally many expressions, so that it needs no padding.

    Args:
        dataset (`datasets.Dataset`): The rows.
        batch_size (`int`): Expressions in a batch.
        text_column (`str`): "sent" or "raw".
        square (`tuple[int, int]`, *optional*): (height, width) at which masks are compared; by default the image's.
        on_error (`str`, *optional*, defaults to `"raise"`): "raise" a ValueError for an image that cannot be read and for an
            expression that asks nothing, or "report" it: as the image's `error`, and in `faults`.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        batch_size: int,
        text_column: str,
        square: tuple[int, int] | None,
        on_error: str = "raise",
    ) -> None:
        if not len(dataset):
            raise ValueError("`dataset` must hold at least one row, got an empty one.")
        self.dataset = dataset
        self.rows = dataset.select_columns(["ref_id", "image_id", "mask", "area", "expressions"])
        self.square = square
        self.on_error = on_error
        self.texts: list[list[str]] = []
        self.faults: dict[Key, str] = {}
        for row, (expressions, ref_id) in enumerate(zip(self.rows["expressions"], self.rows["ref_id"], strict=True)):
            if not expressions:
                raise ValueError(f"Referent {ref_id} has no expression.")
            self.texts.append([expression_text(expression, text_column) for expression in expressions])
            for order, expression in enumerate(expressions):
                try:
                    check_expressions(self.texts[row][order])
                except ValueError as error:
                    fault = f"Expression {expression['sent_id']} of referent {ref_id}: {error}"
                    if on_error == "raise":
                        raise ValueError(fault) from error
                    self.faults[row, order] = fault

        rows_of_image = defaultdict(list)
        for row, image_id in enumerate(self.rows["image_id"]):
            rows_of_image[image_id].append(row)
        images_by_length = defaultdict(list)
        for rows in rows_of_image.values():
            images_by_length[sum(len(self.texts[row]) for row in rows)].append(rows)
        self.batches: list[list[list[int]]] = []  # batch -> image -> its rows
        for length, images in sorted(images_by_length.items()):
            per_batch = max(1, batch_size // length)
            self.batches += [images[start : start + per_batch] for start in range(0, len(images), per_batch)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> list[ImageQuestions]:
        """The images of a batch."""
        return [self._read_image(rows) for rows in self.batches[number]]

    def keys(self, number: int) -> list[Key]:
        """The keys of all expressions of a batch."""
        return [key for rows in self.batches[number] for key in self._keys(rows)]

    def answer(self, key: Key, mask: np.ndarray, score: float | None, true_mask: dict[str, Any]) -> dict[str, Any]:
        """The answer to a question as it is written down."""
        row, order = self.rows[key[0]], key[1]
        code = encode_mask(mask)
        return {
            "row": key[0],
            "expression": order,
            "image_id": row["image_id"],
            "ref_id": row["ref_id"],
            "sent_id": row["expressions"][order]["sent_id"],
            "score": score,
            "mask": code,
            "counts": compare_masks(code, true_mask),
        }

    def miss(self, key: Key, error: str) -> dict[str, Any]:
        """The answer to a question that cannot be asked: an empty mask, or, where that would be right, a single pixel."""
        true_mask = self._true_mask(key[0])
        mask = np.zeros(true_mask["size"], dtype=bool)
        mask[0, 0] = not decode_mask(true_mask).any()
        return {**self.answer(key, mask, 0.0, true_mask), "error": error}

    def numbers(self) -> dict[str, int]:
        return {
            "expressions": sum(map(len, self.texts)),
            "referents": len(self.rows),
            "images": sum(map(len, self.batches)),
        }

    def fingerprint(self) -> str:
        """
        A hash of referents, masks and expressions in their order, the same for any copy of the dataset. Images are numbered as they
        come: the ids of a folder's depend on where it lies. An empty mask has no size: that of an image that cannot be read may be
        unknown.
        """
        digest = blake2b(digest_size=8)
        numbers: dict[int, int] = {}
        for row in self.rows:
            image = numbers.setdefault(row["image_id"], len(numbers))
            mask = row["mask"] if row["area"] else None
            digest.update(json.dumps({**row, "image_id": image, "mask": mask}, sort_keys=True).encode())
        return digest.hexdigest()

    def _keys(self, rows: list[int]) -> list[Key]:
        return [(row, order) for row in rows for order in range(len(self.texts[row]))]

    def _read_image(self, rows: list[int]) -> ImageQuestions:
        keys = [key for key in self._keys(rows) if key not in self.faults]
        try:
            image = load_image(self.dataset[rows[0]]["image"])
        except Exception as error:  # decoders raise anything on damaged files
            name = self.dataset.select_columns(["file_name"])[rows[0]]["file_name"]
            message = f"The image {name} of referent {self.rows[rows[0]]['ref_id']} cannot be read: {error}"
            if self.on_error == "raise":
                raise ValueError(message) from error
            return ImageQuestions(keys, error=message)
        for row in map(self.rows.__getitem__, rows):
            try:
                check_mask(row["mask"], image.height, image.width)
            except ValueError as error:
                raise ValueError(f"Referent {row['ref_id']} of image {row['image_id']}: {error}") from error
        request = Request(image, [self.texts[row][order] for row, order in keys]) if keys else None
        return ImageQuestions(keys, request, [self._true_mask(row) for row, _ in keys])

    def _true_mask(self, row: int) -> dict[str, Any]:
        """Run-length code of a true mask at the size at which masks are compared."""
        code = self.rows[row]["mask"]
        if self.square is None:
            return code
        mask = Image.fromarray(decode_mask(code))
        return encode_mask(np.asarray(mask.resize(self.square[::-1], Image.Resampling.NEAREST)))


__all__ = ["ImageQuestions", "Questions"]
