"""MagNet's processor: what the published system does to expressions and logits."""

import torch

from .masks import enlarge_logits
from .processing_referring_segmentation import ReferringSegmentationProcessor


class MagNetProcessor(ReferringSegmentationProcessor):
    """
    Wraps [`MagNetImageProcessor`] and a BERT tokenizer.

    Expressions are cut and padded to exactly `text_length` tokens, special tokens included, whatever the tokenizer's own
    limit: released weights are sensitive to the amount of padding. A sentence that is too long is cut after its ids are
    made, and so loses its `[SEP]`, as in the published system.

    Args:
        image_processor ([`MagNetImageProcessor`]):
            Prepares images and masks.
        tokenizer (`BertTokenizer`):
            Prepares expressions.
        text_length (`int`, *optional*, defaults to 20):
            Tokens that every expression is cut and padded to; the published number.

    Example:

    ```python
    >>> from transformers import AutoTokenizer
    >>> from hf_ris import MagNetImageProcessor, MagNetProcessor

    >>> tokenizer = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
    >>> processor = MagNetProcessor(MagNetImageProcessor(), tokenizer)
    >>> inputs = processor(images=image, text=["the left mug", "the tree"], return_tensors="pt")
    >>> outputs = model(**inputs)
    >>> results = processor.post_process_referring_segmentation(outputs, [(image.height, image.width)] * 2)
    ```
    """

    threshold = 0.5

    def __init__(self, image_processor=None, tokenizer=None, text_length: int = 20):
        super().__init__(image_processor, tokenizer, text_length=text_length)

    def input_probabilities(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return enlarge_logits(logits, size).sigmoid_()

    def probabilities(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return self.input_probabilities(logits, size)  # the input is the picture, squashed

    def cut(self, ids: list[int], length: int) -> list[int]:
        # Not the tokenizer's own truncation, which would put [SEP] back at the end.
        return ids[:length]


__all__ = ["MagNetProcessor"]
