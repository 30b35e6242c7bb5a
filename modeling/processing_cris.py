"""CRIS's processor: what the published system does to expressions and logits."""

from collections.abc import Iterator

import torch
from torch import nn

from .letterbox import cubic, unfit
from .masks import row_bands
from .processing_referring_segmentation import ReferringSegmentationProcessor


class CRISProcessor(ReferringSegmentationProcessor):
    """
    Wraps [`CRISImageProcessor`] and CLIP's tokenizer.

    Expressions are cut to `text_length` tokens of which the last stays the end token, and filled up with token 0, which then
    counts as padding wherever it stands.

    Args:
        image_processor ([`CRISImageProcessor`]):
            Prepares images and masks.
        tokenizer (`CLIPTokenizer`):
            Prepares expressions.
        text_length (`int`, *optional*, defaults to 17):
            Tokens that every expression is cut and padded to; published are 17 for RefCOCO and RefCOCO+, 22 for RefCOCOg.
        threshold (`float`, *optional*, defaults to 0.35):
            Foreground probability above which a pixel belongs to the mask.

    Example:

    ```python
    >>> from transformers import AutoTokenizer
    >>> from hf_ris import CRISImageProcessor, CRISProcessor

    >>> tokenizer = AutoTokenizer.from_pretrained("openai/clip-vit-base-patch32")
    >>> processor = CRISProcessor(CRISImageProcessor(), tokenizer)
    >>> inputs = processor(images=image, text=["the left mug", "the tree"], return_tensors="pt")
    >>> outputs = model(**inputs)
    >>> results = processor.post_process_referring_segmentation(outputs, [(image.height, image.width)] * 2)
    ```
    """

    pad_token_id = 0

    def __init__(self, image_processor=None, tokenizer=None, text_length: int = 17, threshold: float = 0.35):
        super().__init__(image_processor, tokenizer, text_length=text_length, threshold=threshold)

    def input_probabilities(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        # Enlarged after the sigmoid, so that values may lie a little outside of 0 and 1.
        probabilities = logits[:, None].float().sigmoid()
        return nn.functional.interpolate(probabilities, size, mode="bicubic", align_corners=True)[:, 0]

    def probability_bands(self, logits: torch.Tensor, size: tuple[int, int]) -> Iterator[torch.Tensor]:
        fitted = self.input_probabilities(logits, (4 * logits.shape[1], 4 * logits.shape[2]))  # logits are at stride 4
        for rows in row_bands(*size):
            yield unfit(fitted, size, cubic, rows)

    def cut(self, ids: list[int], length: int) -> list[int]:
        return [*ids[: length - 1], ids[-1]]

    def _encode(self, *args, **kwargs) -> dict[str, list[list[int]]]:
        encoded = super()._encode(*args, **kwargs)
        is_word = [[int(token != self.pad_token_id) for token in ids] for ids in encoded["input_ids"]]
        return {**encoded, "attention_mask": is_word}


__all__ = ["CRISProcessor"]
