"""What a training is given to learn from and to be measured on."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Dataset
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

from ..data import load_refshapes
from ..data.collator import ReferringSegmentationCollator
from ..data.features import check_text_column, expression_text, image_size
from ..data.segmentation import check_mask, mask_geometry
from ..modeling.inputs import check_expressions
from .rows import DrawnRows, EvaluationRows, RowsOfEpochs


DRAWN_EVALUATION_ROWS = 100  # of each manner


class TrainingData:
    """
    A dataset, or drawings without end.

    Args:
        train_dataset (`datasets.Dataset`, *optional*): Rows as the loaders of `hf_ris.data` give them.
        eval_dataset (`datasets.Dataset`, *optional*): Rows that are evaluated on.
        drawn (`Sequence[str]`): Manners of RefShapes; used when there is no `train_dataset`.
        eval_rows (`int`, *optional*): How many rows are evaluated on.
        text_column (`str`): "sent" or "raw".
        flip_probability (`float`): How often a picture is mirrored.

    Raises:
        ValueError: If there is nothing to train on, or too much.
    """

    def __init__(
        self,
        train_dataset: datasets.Dataset | None,
        eval_dataset: datasets.Dataset | None,
        drawn: Sequence[str],
        eval_rows: int | None,
        text_column: str,
        flip_probability: float,
    ) -> None:
        check_text_column(text_column)
        if train_dataset is None and not drawn:
            raise ValueError(
                "this recipe has no data of its own: name some (train_dataset; on the command line, --dataset)"
            )
        if train_dataset is None and eval_dataset is not None:
            raise ValueError("eval_dataset came without a train_dataset")
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.drawn = drawn
        self.eval_rows = eval_rows
        self.text_column = text_column
        self.flip_probability = flip_probability

    @property
    def is_drawn(self) -> bool:
        return self.train_dataset is None

    @property
    def has_evaluation(self) -> bool:
        return self.is_drawn or self.eval_dataset is not None

    def check(self, tokenizer: PreTrainedTokenizerBase, hides_words: bool) -> None:
        """Raises a ValueError that names the first row which is unfit; see [`check_rows`]."""
        if self.train_dataset is not None:
            check_rows(self.train_dataset, "train_dataset", self.text_column, tokenizer if hides_words else None)
        if self.eval_dataset is not None:
            check_rows(self.eval_dataset, "eval_dataset", self.text_column)

    def training_rows(self, start: int, num_rows: int, seed: int) -> DrawnRows | RowsOfEpochs:
        """The dataset's, or `num_rows` drawn ones from number `start` on."""
        if self.train_dataset is None:
            return DrawnRows(self.drawn, num_rows, start)
        return RowsOfEpochs(self.train_dataset, seed)

    def evaluation_rows(self) -> Dataset | None:
        if self.is_drawn:
            number = self.eval_rows or DRAWN_EVALUATION_ROWS
            rows = [load_refshapes(name, "val", num_rows=number) for name in self.drawn]
            return EvaluationRows(datasets.concatenate_datasets(rows))
        if self.eval_dataset is None:
            return None
        number = min(self.eval_rows or len(self.eval_dataset), len(self.eval_dataset))
        return EvaluationRows(self.eval_dataset.select(range(number)))

    def collator(
        self, processor: ProcessorMixin, config: PreTrainedConfig, mask_probability: float
    ) -> ReferringSegmentationCollator:
        # Less padding is less work, for models that do not depend on it.
        pads_less = getattr(config, "language_attention_mask", "binary") == "binary"
        return ReferringSegmentationCollator(
            processor,
            text_column=self.text_column,
            padding="longest" if pads_less else "max_length",
            flip_probability=self.flip_probability,
            mask_probability=mask_probability,
        )


def check_rows(
    rows: datasets.Dataset, name: str, text_column: str = "sent", tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """
    Looks through a dataset before anything is trained on it.

    Args:
        rows (`datasets.Dataset`): Rows as the loaders of `hf_ris.data` give them.
        name (`str`): What to call it in a message.
        text_column (`str`, *optional*, defaults to `"sent"`): Which text of the expressions is read.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): If given, each expression must have a word that it can hide.

    Raises:
        ValueError: If there are no rows, or one has no expression, a blank one, one without a word that can be hidden, an empty
            mask although it refers to something (`ann_ids` is not empty), or a mask that is damaged or of another size than
            its image.
    """
    if not len(rows):
        raise ValueError(f"{name} has no rows")
    sizes: dict[int, tuple[int, int]] = {}
    for number, row in enumerate(rows.cast_column("image", datasets.Image(decode=False))):
        where = f"{name}[{number}] (ref_id {row['ref_id']})"
        if not row["expressions"]:
            raise ValueError(f"{where} has no expression")
        check_expressions(
            [expression_text(each, text_column) for each in row["expressions"]], argument=f"the text of {where}"
        )
        image_id = row["image_id"]
        if image_id not in sizes:
            sizes[image_id] = image_size(row["image"])
        try:
            check_mask(row["mask"], *sizes[image_id])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if row["ann_ids"] and mask_geometry(row["mask"])["area"] == 0:
            raise ValueError(f"{where} has an empty mask; allowed only where nothing is referred to, with ann_ids=[]")
    if tokenizer is not None:
        _check_words(rows["expressions"], name, text_column, tokenizer)


def _check_words(
    expressions: Sequence[list[dict[str, Any]]], name: str, text_column: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    special = np.array(tokenizer.all_special_ids)
    for number, texts in enumerate(expressions):
        read = [expression_text(each, text_column) for each in texts]
        for ids, text in zip(tokenizer(read)["input_ids"], read, strict=True):
            if np.isin(ids, special).all():
                raise ValueError(f"{name}[{number}]: {text!r} has no word that Mask Grounding can hide")


__all__ = ["DRAWN_EVALUATION_ROWS", "TrainingData", "check_rows"]
