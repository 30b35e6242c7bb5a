"""MagNet's processor: images and expressions to tensors, the model's logits to masks at the original size."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from .masks import enlarge_logits, foreground_score, read_target_sizes
from .text_inputs import check_expressions, expressions_per_image


logger = logging.get_logger(__name__)


class MagNetProcessor(ProcessorMixin):
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

    _auto_class = "AutoProcessor"
    text_kwargs = {"padding": "max_length"}

    def __init__(self, image_processor=None, tokenizer=None, text_length: int = 20):
        if text_length < 1:
            raise ValueError(f"`text_length` must be at least 1, got {text_length}.")
        self.text_length = text_length
        super().__init__(image_processor, tokenizer)

    def __call__(
        self,
        images: Any | None = None,
        text: str | list[str] | None = None,
        segmentation_maps: Any | None = None,
        **kwargs,
    ) -> BatchFeature:
        """
        Args:
            images (an image or a list of images, *optional*):
                B images, as [`MagNetImageProcessor`] takes them.
            text (`str` or `list[str]`, *optional*):
                N = B * k expressions, the k of the first image first.
            segmentation_maps (a mask or a list of masks, *optional*):
                The N masks that the expressions refer to.
            padding (`bool` or `str`, *optional*, defaults to `"max_length"`):
                `"max_length"`, or `True` / `"longest"` to pad to the longest expression only: for models whose
                `language_attention_mask` is `"binary"`, which do not depend on padding.
            max_length (`int`, *optional*, defaults to `text_length`):
                Number of tokens to cut and pad to.
            return_tensors (`str`, *optional*):
                `"pt"` for torch tensors.

        Returns:
            [`BatchFeature`]: `pixel_values` (B, 3, height, width), `input_ids` and `attention_mask` (N, length), `labels`
            (N, height, width), each where its argument was given.

        Raises:
            ValueError: If an image, an expression or a mask is unfit, or their numbers do not match.
        """
        if images is None and text is None:
            raise ValueError("`images` and `text` are both missing; at least one is needed.")
        if images is None and segmentation_maps is not None:
            raise ValueError("`segmentation_maps` came without the `images` they belong to.")
        merged = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        return_tensors = merged["text_kwargs"].get("return_tensors")

        data: dict[str, Any] = {}
        if text is not None:
            data |= self._encode(check_expressions(text), **merged["text_kwargs"])
        if images is not None:
            data |= self.image_processor(images, segmentation_maps, **merged["images_kwargs"])
        self._check_counts(data)
        return BatchFeature(data, tensor_type=return_tensors)

    @torch.no_grad()
    def post_process_referring_segmentation(
        self, outputs: Any, target_sizes: Sequence[Sequence[int]] | torch.Tensor, threshold: float = 0.5
    ) -> list[dict[str, Any]]:
        """
        Turn logits into masks, each at the size of its image.

        Args:
            outputs ([`ReferringSegmentationOutput`]):
                The model's outputs, with `logits` of shape (N, height, width).
            target_sizes (`list[tuple[int, int]]` or `torch.Tensor` of shape (N, 2)):
                (height, width) in pixels for each expression.
            threshold (`float`, *optional*, defaults to 0.5):
                A pixel belongs to the mask if its foreground probability is above this.

        Returns:
            `list[dict]`: For each expression `mask` (boolean `torch.Tensor` of shape (height, width)) and `score`
            (`float`: the mean foreground probability inside the mask, 0.0 if it is empty).

        Raises:
            ValueError: If there is not one target size for each expression, or the threshold is not between 0 and 1.
        """
        logits = outputs.logits
        sizes = read_target_sizes(target_sizes, len(logits), threshold)

        results = []
        for expression_logits, (height, width) in zip(logits, sizes, strict=True):
            # One at a time: a large photo must not be multiplied by the number of its expressions.
            probabilities = enlarge_logits(expression_logits[None], (height, width))[0].sigmoid_()
            mask = probabilities > threshold
            results.append({"mask": mask, "score": foreground_score(probabilities, mask)})
        return results

    def _encode(
        self,
        expressions: list[str],
        padding: bool | str = "max_length",
        max_length: int | None = None,
        return_tensors: str | None = None,
        **kwargs,
    ) -> dict[str, list[list[int]]]:
        """Tokenize, cut and pad: `input_ids` and `attention_mask`, lists of equal length (with `padding`)."""
        max_length = self.text_length if max_length is None else max_length
        all_ids = self.tokenizer(expressions, verbose=False, return_attention_mask=False)["input_ids"]
        special = set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        for expression, ids in zip(expressions, all_ids, strict=True):
            if set(ids) - special <= {self.tokenizer.unk_token_id}:
                logger.warning(
                    f"The tokenizer knows no word of the expression {expression!r:.80}: its mask means nothing."
                )
            if len(ids) > max_length:
                logger.warning(
                    f"The expression {expression!r:.200} has {len(ids)} tokens; only the first {max_length} are read: "
                    f"{self.tokenizer.decode(ids[:max_length], skip_special_tokens=True)!r}."
                )
        # Not the tokenizer's own truncation, which would put [SEP] back at the end.
        all_ids = [ids[:max_length] for ids in all_ids]

        longest = max(map(len, all_ids))
        lengths: dict[bool | str, int] = {"max_length": max_length, True: longest, "longest": longest, False: 0}
        if padding not in lengths:
            raise ValueError(f"`padding` must be one of {list(lengths)}, got {padding!r}.")
        length = lengths[padding]
        return {
            "input_ids": [ids + [self.tokenizer.pad_token_id] * (length - len(ids)) for ids in all_ids],
            "attention_mask": [[1] * len(ids) + [0] * (length - len(ids)) for ids in all_ids],
        }

    def _check_counts(self, data: dict[str, Any]) -> None:
        images, expressions, masks = (len(data.get(key, [])) for key in ("pixel_values", "input_ids", "labels"))
        if images:
            expressions_per_image(expressions, images)
        if masks and expressions and masks != expressions:
            raise ValueError(
                f"`segmentation_maps` holds {masks} masks for {expressions} expressions; one each is needed."
            )


__all__ = ["MagNetProcessor"]
