"""MagNet's processors: images resized to a square, expressions of 20 tokens, masks above a probability of 0.5."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict

from .masks import enlarge_logits
from .processing_referring_segmentation import ReferringSegmentationImageProcessor, ReferringSegmentationProcessor
from .without_torch import row_bands


class MagNetImageProcessor(ReferringSegmentationImageProcessor):
    """
    Prepares images, and the masks to learn from, for MagNet.

    Args:
        size (`dict[str, int]`, *optional*, defaults to `{"height": 480, "width": 480}`):
            What every image is resized to; the aspect ratio is not kept.
        do_resize, do_rescale, do_normalize (`bool`, *optional*, default to `True`):
            Whether to resize, to divide by 255, and to normalise with `image_mean` and `image_std`.

    Example:

    ```python
    >>> from hf_ris import MagNetImageProcessor

    >>> image_processor = MagNetImageProcessor(size={"height": 320, "width": 320})
    >>> image_processor("scene.png", return_tensors="pt").pixel_values.shape
    torch.Size([1, 3, 320, 320])
    ```
    """

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 480, "width": 480}

    def resize_image(self, image: Image.Image, size: SizeDict, **kwargs: Any) -> np.ndarray:
        return np.asarray(image.resize((size.width, size.height), kwargs["resample"]))

    def resize_mask(self, mask: np.ndarray, size: SizeDict) -> np.ndarray:
        resized = Image.fromarray(mask).resize((size.width, size.height), PILImageResampling.NEAREST)
        return np.asarray(resized, dtype=np.float32)


class MagNetProcessor(ReferringSegmentationProcessor):
    """
    Wraps [`MagNetImageProcessor`] and a BERT tokenizer.

    Expressions are cut and padded to exactly `text_length` tokens, special tokens included: released weights are sensitive to the
    amount of padding. An expression that is too long loses its `[SEP]`, as in the published system.

    Args:
        image_processor ([`MagNetImageProcessor`]):
            Prepares images and masks.
        tokenizer (`BertTokenizer`):
            Prepares expressions.
        text_length (`int`, *optional*, defaults to 20):
            Tokens that every expression is cut and padded to; the published number.
        threshold (`float`, *optional*, defaults to 0.5):
            Foreground probability above which a pixel belongs to the mask.

    Example:

    ```python
    >>> from transformers import AutoTokenizer
    >>> from hf_ris import MagNetImageProcessor, MagNetProcessor

    >>> tokenizer = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
    >>> processor = MagNetProcessor(MagNetImageProcessor(), tokenizer)
    >>> inputs = processor(images=image, text=["the left mug", "the tree"], return_tensors="pt")
    ```
    """

    def __init__(self, image_processor=None, tokenizer=None, text_length: int = 20, threshold: float = 0.5):
        super().__init__(image_processor, tokenizer, text_length=text_length, threshold=threshold)

    def input_probabilities(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return enlarge_logits(logits, size).sigmoid_()

    def probability_bands(self, logits: torch.Tensor, size: tuple[int, int]) -> Iterator[torch.Tensor]:
        for rows in row_bands(*size):
            yield enlarge_logits(logits, size, rows).sigmoid_()

    def cut(self, ids: list[int], length: int) -> list[int]:
        # Not the tokenizer's own truncation, which would put [SEP] back at the end.
        return ids[:length]


__all__ = ["MagNetImageProcessor", "MagNetProcessor"]
