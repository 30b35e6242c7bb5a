"""Make padded training batches from rows, with words hidden for Mask Grounding."""

from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from ..modeling.grounding_losses import NOT_HIDDEN
from ..modeling.language_places import swap_sides
from .features import check_text_column, expression_text
from .segmentation import check_mask, decode_mask


EXPRESSION_CHOICES = ("random", "first", "all")


def hide_words(
    input_ids: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase,
    probability: float,
    kept_share: float = 0.1,
    generator: torch.Generator | None = None,
    is_word: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Hide words of one expression, each with the same probability and at least one. MagNet's authors refer to captioning models,
    which mask words this way.

    Args:
        input_ids (`torch.LongTensor` of shape `(L,)`): Token ids.
        tokenizer (`PreTrainedTokenizerBase`): Names the special tokens and the mask token.
        probability (`float`): Probability that a word is hidden.
        kept_share (`float`, *optional*, defaults to 0.1): Share of the hidden words that stay readable but have to be predicted too.
        generator (`torch.Generator`, *optional*): Random numbers; by default torch's.
        is_word (`torch.Tensor` of shape `(L,)`, *optional*): 0 for padding, which need not be a special token.

    Returns:
        Ids with the mask token in place of hidden words, and the ids of the hidden words, -100 elsewhere, each (L,).
    """
    special = torch.tensor(tokenizer.all_special_ids)
    # A pair of numbers for each word, so that padding behind them changes nothing.
    to_choose, to_keep = torch.rand(len(input_ids), 2, generator=generator).unbind(1)
    to_choose = to_choose.masked_fill(torch.isin(input_ids, special), torch.inf)
    if is_word is not None:
        to_choose = to_choose.masked_fill(is_word == 0, torch.inf)
    is_chosen = (to_choose < probability) | ((to_choose == to_choose.min()) & to_choose.isfinite())
    masked = torch.where(is_chosen & (to_keep >= kept_share), tokenizer.mask_token_id, input_ids)
    return masked, torch.where(is_chosen, input_ids, NOT_HIDDEN)


class Sample(NamedTuple):
    """One expression with its image and mask, and the row's random numbers."""

    text: str
    image_id: Any
    image: Image.Image
    mask: np.ndarray
    is_mirrored: bool
    generator: torch.Generator | None
    candidates: int


class ReferringSegmentationCollator:
    """
    Make a batch of rows: one expression per referent, the image and its mask at the processor's size.

    Neighbouring rows of the same image share it when every image of the batch has the same number of rows, so that the
    model encodes it once.

    A row's `seed` decides all that is random about it, so a resumed training or one in several processes sees the same rows.
    With `seed=None` nothing is random: the first expression, no flip, no hidden words; [`~hf_ris.training.rows.EvaluationRows`] sets it.
    Rows without the column, of whatever split, use torch's random state.

    A row whose expressions may mean one of several things says how many in the column `candidates`: its mask covers all of them, and
    its labels are divided by their number. A label is the probability that a pixel belongs to what is meant.

    Args:
        processor (`ProcessorMixin`): The model's processor.
        expression (`str`, *optional*, defaults to `"random"`): Which of a referent's expressions to take: a "random" one,
            as the published systems train, the "first", or "all" of them.
        text_column (`str`, *optional*, defaults to `"sent"`): `"sent"` (cleaned) or `"raw"` (as written).
        padding (`str`, *optional*, defaults to `"max_length"`): How the processor pads the expressions: `"max_length"`, or
            `"longest"` to the batch's longest only, for models that do not depend on padding.
        flip_probability (`float`, *optional*, defaults to 0.0): Probability that an image is mirrored, with its masks, and with
            left and right swapped in its expressions.
        mask_probability (`float`, *optional*, defaults to 0.0): Probability that a word is hidden, for Mask Grounding (its
            authors have 0.15); see [`hide_words`]. Above 0, batches also hold `masked_input_ids` and `hidden_words`.
        full_size_labels (`bool`, *optional*, defaults to `False`): Whether labels have the images' size, which must be one, instead
            of the input's: for images that are larger than the input. The processor must fill its input with the image.

    Raises:
        ValueError: If `expression` or `text_column` is unknown, a probability is not between 0 and 1, words are to be hidden and
            the tokenizer has no mask token, or the processor does not fill its input with the image and `full_size_labels` is set.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        expression: str = "random",
        text_column: str = "sent",
        padding: str = "max_length",
        flip_probability: float = 0.0,
        mask_probability: float = 0.0,
        full_size_labels: bool = False,
    ) -> None:
        if expression not in EXPRESSION_CHOICES:
            raise ValueError(f"`expression` must be one of {list(EXPRESSION_CHOICES)}, got {expression!r}.")
        check_text_column(text_column)
        for name, value in (("flip_probability", flip_probability), ("mask_probability", mask_probability)):
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` must be between 0 and 1, got {value}.")
        if mask_probability and processor.tokenizer.mask_token_id is None:
            raise ValueError(
                f"`mask_probability` must be 0 for a tokenizer without a mask token, got {mask_probability}."
            )
        if full_size_labels and getattr(processor, "keeps_aspect_ratio", False):
            raise ValueError("`full_size_labels` needs a processor that fills its input with the image.")
        self.processor = processor
        self.full_size_labels = full_size_labels
        self.expression = expression
        self.text_column = text_column
        self.padding = padding
        self.flip_probability = flip_probability
        self.mask_probability = mask_probability

    def __call__(self, rows: list[dict[str, Any]]) -> BatchFeature:
        """
        Make `pixel_values`, `input_ids`, `attention_mask` and `labels` of rows.

        Raises:
            ValueError: If an image is none of PIL's, a row has no expression, a mask is damaged or of another size than its image, or
                images differ in size and `full_size_labels` is set.
        """
        is_random = any(row.get("seed", 0) is not None for row in rows)
        samples = [sample for row in rows for sample in self._read(row, is_random)]
        by_image = [list(group) for _, group in groupby(samples, key=lambda each: (each.image_id, each.is_mirrored))]
        is_shared = len({len(group) for group in by_image}) == 1
        batch = self.processor(
            images=[each.image for group in by_image for each in (group[:1] if is_shared else group)],
            text=[each.text for each in samples],
            segmentation_maps=None if self.full_size_labels else [each.mask for each in samples],
            padding=self.padding,
            return_tensors="pt",
        )
        if self.full_size_labels:
            sizes = {each.mask.shape for each in samples}
            if len(sizes) > 1:
                raise ValueError(
                    f"`full_size_labels` needs images of one size in a batch, got (height, width) of {sorted(sizes)}."
                )
            batch["labels"] = torch.from_numpy(np.stack([each.mask for each in samples])).float()
        batch["labels"] /= torch.tensor([float(each.candidates) for each in samples])[:, None, None]
        if self.mask_probability and is_random:
            hidden = [
                hide_words(
                    ids, self.processor.tokenizer, self.mask_probability, generator=sample.generator, is_word=is_word
                )
                for ids, is_word, sample in zip(batch["input_ids"], batch["attention_mask"], samples, strict=True)
            ]
            batch["masked_input_ids"], batch["hidden_words"] = map(torch.stack, zip(*hidden, strict=True))
        return batch

    def _read(self, row: dict[str, Any], is_random: bool) -> list[Sample]:
        seed = row.get("seed")
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        image = row["image"]
        try:
            if not isinstance(image, Image.Image):
                raise ValueError(f"its image must be a PIL image, got {type(image).__name__}")
            if not row["expressions"]:
                raise ValueError("it has no expression")
            check_mask(row["mask"], image.height, image.width)
        except ValueError as error:
            raise ValueError(f"referent {row.get('ref_id')} of image {row['image_id']}: {error}") from error
        expressions = [expression_text(expression, self.text_column) for expression in row["expressions"]]
        if self.expression == "first" or not is_random:
            expressions = expressions[:1]
        elif self.expression == "random":
            expressions = [expressions[int(torch.randint(len(expressions), (), generator=generator))]]
        mask = decode_mask(row["mask"])
        may_flip = is_random and self.flip_probability > 0
        is_mirrored = may_flip and bool(torch.rand((), generator=generator) < self.flip_probability)
        if is_mirrored:
            image, mask = ImageOps.mirror(image), mask[:, ::-1]
            expressions = [swap_sides(text) for text in expressions]
        return [
            Sample(text, row["image_id"], image, mask, is_mirrored, generator, row.get("candidates") or 1)
            for text in expressions
        ]


__all__ = ["ReferringSegmentationCollator", "hide_words", "swap_sides"]
