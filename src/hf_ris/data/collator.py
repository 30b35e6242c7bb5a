"""From rows of a referring segmentation dataset to a padded training batch, with words hidden for Mask Grounding."""

import re
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from ..modeling.grounding_losses import NOT_HIDDEN
from .features import check_text_column, expression_text
from .segmentation import check_mask, decode_mask


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


def hide_words(
    input_ids: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase,
    probability: float,
    kept_share: float = 0.1,
    generator: torch.Generator | None = None,
    is_word: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Hides words of one expression: each with the same probability, but one at least, if it has any but special tokens. The
    authors of MagNet point to this way of masking, which is that of captioning models.

    Args:
        input_ids (`torch.LongTensor` of shape `(L,)`): Token ids.
        tokenizer (`PreTrainedTokenizerBase`): Tells special tokens, and what hides a word.
        probability (`float`): Of each word to be hidden.
        kept_share (`float`, *optional*, defaults to 0.1): Share of these that stay readable, but are to be named too.
        generator (`torch.Generator`, *optional*): Source of chance.
        is_word (`torch.Tensor` of shape `(L,)`, *optional*): 0 for padding, which need not be a special token.

    Returns:
        The ids with the mask token in the place of hidden words, and the ids of the hidden words, -100 elsewhere, each (L,).
    """
    special = torch.tensor(tokenizer.all_special_ids)
    # Drawn word by word, so that padding behind them changes nothing.
    to_choose, to_keep = torch.rand(len(input_ids), 2, generator=generator).unbind(1)
    to_choose = to_choose.masked_fill(torch.isin(input_ids, special), torch.inf)
    if is_word is not None:
        to_choose = to_choose.masked_fill(is_word == 0, torch.inf)
    is_chosen = (to_choose < probability) | ((to_choose == to_choose.min()) & to_choose.isfinite())
    masked = torch.where(is_chosen & (to_keep >= kept_share), tokenizer.mask_token_id, input_ids)
    return masked, torch.where(is_chosen, input_ids, NOT_HIDDEN)


class Referent(NamedTuple):
    """An expression, its picture, what it refers to there, and what chance about it comes from."""

    text: str
    image_id: Any
    image: Image.Image
    mask: np.ndarray
    is_mirrored: bool
    chance: torch.Generator | None


class ReferringSegmentationCollator:
    """
    Turns rows into a batch: one expression per referent, the image and its mask at the processor's size.

    Neighbouring rows of the same image share it when every image of the batch has the same number of rows, so that the
    model encodes it once.

    What is random about a row follows from its `draw`, a number, where it has one: so it is the same in a training that was
    stopped and continued, and in any number of processes. Where its `draw` is None, nothing is: the first expression, no flip,
    no hidden words. Without one it follows from torch's own state.

    Args:
        processor (`ProcessorMixin`): The model's processor.
        expression (`str`, *optional*, defaults to `"random"`): Which of a referent's expressions is taken: a "random" one,
            as the published systems train, the "first", or "all" of them.
        text_column (`str`, *optional*, defaults to `"sent"`): `"sent"` (cleaned) or `"raw"` (as written).
        padding (`str`, *optional*, defaults to `"max_length"`): How the processor pads the expressions: `"max_length"`, or
            `"longest"` to the batch's longest only, for models that do not depend on padding.
        flip_probability (`float`, *optional*, defaults to 0.0): How often a picture is mirrored, with its masks, and with left
            and right swapped in its expressions.
        mask_probability (`float`, *optional*, defaults to 0.0): How often a word is hidden, for models that are trained with
            Mask Grounding, whose authors have 0.15; see [`hide_words`]. Above 0, batches also hold `masked_input_ids` and
            `hidden_words`.

    Raises:
        ValueError: If `expression` or `text_column` is not one of the above, a probability not between 0 and 1, or words are to
            be hidden and the tokenizer has no mask token.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        expression: str = "random",
        text_column: str = "sent",
        padding: str = "max_length",
        flip_probability: float = 0.0,
        mask_probability: float = 0.0,
    ) -> None:
        if expression not in EXPRESSION_CHOICES:
            raise ValueError(f"expression={expression!r} is unknown; allowed are {', '.join(EXPRESSION_CHOICES)}")
        check_text_column(text_column)
        for name, value in (("flip_probability", flip_probability), ("mask_probability", mask_probability)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} is out of range; allowed are numbers from 0 to 1")
        if mask_probability and processor.tokenizer.mask_token_id is None:
            raise ValueError(f"mask_probability={mask_probability} needs a tokenizer with a mask token; this has none")
        self.processor = processor
        self.expression = expression
        self.text_column = text_column
        self.padding = padding
        self.flip_probability = flip_probability
        self.mask_probability = mask_probability

    def __call__(self, rows: list[dict[str, Any]]) -> BatchFeature:
        """
        Rows with `image`, `mask`, `image_id` and `expressions` to `pixel_values`, `input_ids`, `attention_mask`, `labels`.

        Raises:
            ValueError: If a mask is damaged or of another size than its image.
        """
        is_random = any(row.get("draw", 0) is not None for row in rows)
        referents = [referent for row in rows for referent in self._read(row, is_random)]
        pictures = [list(shown) for _, shown in groupby(referents, key=lambda each: (each.image_id, each.is_mirrored))]
        shared = len({len(shown) for shown in pictures}) == 1
        batch = self.processor(
            images=[each.image for shown in pictures for each in (shown[:1] if shared else shown)],
            text=[each.text for each in referents],
            segmentation_maps=[each.mask for each in referents],
            padding=self.padding,
            return_tensors="pt",
        )
        if self.mask_probability and is_random:
            hidden = [
                hide_words(
                    ids, self.processor.tokenizer, self.mask_probability, generator=referent.chance, is_word=is_word
                )
                for ids, is_word, referent in zip(batch["input_ids"], batch["attention_mask"], referents, strict=True)
            ]
            batch["masked_input_ids"], batch["hidden_words"] = map(torch.stack, zip(*hidden, strict=True))
        return batch

    def _read(self, row: dict[str, Any], is_random: bool) -> list[Referent]:
        """What is asked about a row's picture."""
        draw = row.get("draw")
        chance = None if draw is None else torch.Generator().manual_seed(draw)
        expressions = [expression_text(expression, self.text_column) for expression in row["expressions"]]
        if self.expression == "first" or not is_random:
            expressions = expressions[:1]
        elif self.expression == "random":
            expressions = [expressions[int(torch.randint(len(expressions), (), generator=chance))]]
        image = row["image"]
        try:
            check_mask(row["mask"], image.height, image.width)
        except ValueError as error:
            raise ValueError(f"referent {row.get('ref_id')} of image {row['image_id']}: {error}") from error
        mask = decode_mask(row["mask"])
        mirrors = bool(
            is_random and self.flip_probability and torch.rand((), generator=chance) < self.flip_probability
        )
        if mirrors:
            image, mask = ImageOps.mirror(image), mask[:, ::-1]
            expressions = [swap_sides(text) for text in expressions]
        return [Referent(text, row["image_id"], image, mask, mirrors, chance) for text in expressions]


__all__ = ["ReferringSegmentationCollator", "hide_words", "swap_sides"]
