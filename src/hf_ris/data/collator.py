"""From rows of a referring segmentation dataset to a padded training batch."""

from itertools import groupby
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from transformers import BatchFeature, ProcessorMixin


EXPRESSION_CHOICES = ("random", "first")


def decode_mask(rle: dict[str, Any]) -> np.ndarray:
    """Decodes a row's `mask` (compressed COCO RLE) to a boolean array of shape (height, width)."""
    counts = rle["counts"]
    counts = counts.encode("ascii") if isinstance(counts, str) else counts
    return coco_mask.decode({"size": rle["size"], "counts": counts}).astype(bool)


class ReferringSegmentationCollator:
    """
    Turns rows into a batch: one expression per referent, the image and its mask at the processor's size.

    Neighbouring rows of the same image share it when every image of the batch has the same number of rows, so that the
    model encodes it once.

    Args:
        processor (`ProcessorMixin`): The model's processor.
        expression (`str`, *optional*, defaults to `"random"`): Which of a referent's expressions is taken: a random one,
            as the published systems train, or the first.
        text_column (`str`, *optional*, defaults to `"sent"`): `"sent"` (cleaned) or `"raw"` (as written).
        padding (`str`, *optional*, defaults to `"max_length"`): How the processor pads the expressions: `"max_length"`, or
            `"longest"` to the batch's longest only, for models that do not depend on padding.

    Raises:
        ValueError: If `expression` or `text_column` is not one of the above.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        expression: str = "random",
        text_column: str = "sent",
        padding: str = "max_length",
    ) -> None:
        if expression not in EXPRESSION_CHOICES:
            raise ValueError(f"expression={expression!r} is unknown; allowed are {', '.join(EXPRESSION_CHOICES)}")
        if text_column not in ("sent", "raw"):
            raise ValueError(f"text_column={text_column!r} is unknown; allowed are 'sent' and 'raw'")
        self.processor = processor
        self.expression = expression
        self.text_column = text_column
        self.padding = padding

    def __call__(self, rows: list[dict[str, Any]]) -> BatchFeature:
        """Rows with `image`, `mask`, `image_id` and `expressions` to `pixel_values`, `input_ids`, `attention_mask`, `labels`."""
        pictures = [list(group) for _, group in groupby(rows, key=lambda row: row["image_id"])]
        shared = len({len(group) for group in pictures}) == 1
        return self.processor(
            images=[group[0]["image"] for group in pictures] if shared else [row["image"] for row in rows],
            text=[self._choose(row["expressions"]) for row in rows],
            segmentation_maps=[decode_mask(row["mask"]) for row in rows],
            padding=self.padding,
            return_tensors="pt",
        )

    def _choose(self, expressions: list[dict[str, Any]]) -> str:
        index = 0 if self.expression == "first" else int(torch.randint(len(expressions), ()))
        return expressions[index][self.text_column]


__all__ = ["ReferringSegmentationCollator", "decode_mask"]
