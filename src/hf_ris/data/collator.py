"""From rows of a referring segmentation dataset to a padded training batch."""

import re
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import BatchFeature, ProcessorMixin

from .features import check_text_column
from .segmentation import decode_mask


EXPRESSION_CHOICES = ("random", "first", "all")
SIDES = re.compile(r"\b(left|right)(most|hand)?\b", re.IGNORECASE)
OPPOSITES = {"left": "right", "Left": "Right", "LEFT": "RIGHT", "right": "left", "Right": "Left", "RIGHT": "LEFT"}


def swap_sides(text: str) -> str:
    """
    What to call the same thing in the mirror: "left" becomes "right" and the other way round, as whole words alone.

    Example:

    ```python
    >>> swap_sides("the leftover on the Left, right-hand side")
    'the leftover on the Right, left-hand side'
    ```
    """
    return SIDES.sub(lambda found: OPPOSITES.get(found[1], OPPOSITES[found[1].lower()]) + (found[2] or ""), text)


class ReferringSegmentationCollator:
    """
    Turns rows into a batch: one expression per referent, the image and its mask at the processor's size.

    Neighbouring rows of the same image share it when every image of the batch has the same number of rows, so that the
    model encodes it once.

    Args:
        processor (`ProcessorMixin`): The model's processor.
        expression (`str`, *optional*, defaults to `"random"`): Which of a referent's expressions is taken: a "random" one,
            as the published systems train, the "first", or "all" of them.
        text_column (`str`, *optional*, defaults to `"sent"`): `"sent"` (cleaned) or `"raw"` (as written).
        padding (`str`, *optional*, defaults to `"max_length"`): How the processor pads the expressions: `"max_length"`, or
            `"longest"` to the batch's longest only, for models that do not depend on padding.
        flip_probability (`float`, *optional*, defaults to 0.0): How often a picture is mirrored, with its masks, and with left
            and right swapped in its expressions.

    Raises:
        ValueError: If `expression` or `text_column` is not one of the above, or `flip_probability` not between 0 and 1.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        expression: str = "random",
        text_column: str = "sent",
        padding: str = "max_length",
        flip_probability: float = 0.0,
    ) -> None:
        if expression not in EXPRESSION_CHOICES:
            raise ValueError(f"expression={expression!r} is unknown; allowed are {', '.join(EXPRESSION_CHOICES)}")
        check_text_column(text_column)
        if not 0 <= flip_probability <= 1:
            raise ValueError(f"flip_probability={flip_probability} is out of range; allowed are numbers from 0 to 1")
        self.processor = processor
        self.expression = expression
        self.text_column = text_column
        self.padding = padding
        self.flip_probability = flip_probability

    def __call__(self, rows: list[dict[str, Any]]) -> BatchFeature:
        """Rows with `image`, `mask`, `image_id` and `expressions` to `pixel_values`, `input_ids`, `attention_mask`, `labels`."""
        pictures = [self._show(list(group)) for _, group in groupby(rows, key=lambda row: row["image_id"])]
        shared = len({len(texts) for _, texts, _ in pictures}) == 1
        return self.processor(
            images=[image for image, texts, _ in pictures for _ in range(1 if shared else len(texts))],
            text=[text for _, texts, _ in pictures for text in texts],
            segmentation_maps=[mask for _, _, masks in pictures for mask in masks],
            padding=self.padding,
            return_tensors="pt",
        )

    def _show(self, rows: list[dict[str, Any]]) -> tuple[Image.Image, list[str], list[np.ndarray]]:
        """The picture that all rows share, their expressions, and a mask for each of these."""
        image, texts, masks = rows[0]["image"], [], []
        for row in rows:
            chosen = self._choose(row["expressions"])
            texts += chosen
            masks += [decode_mask(row["mask"])] * len(chosen)
        if self.flip_probability and torch.rand(()) < self.flip_probability:
            image = ImageOps.mirror(image)
            texts = [swap_sides(text) for text in texts]
            masks = [mask[:, ::-1] for mask in masks]
        return image, texts, masks

    def _choose(self, expressions: list[dict[str, Any]]) -> list[str]:
        if self.expression == "all":
            return [expression[self.text_column] for expression in expressions]
        index = 0 if self.expression == "first" else int(torch.randint(len(expressions), ()))
        return [expressions[index][self.text_column]]


__all__ = ["ReferringSegmentationCollator", "swap_sides"]
