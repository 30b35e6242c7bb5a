"""The data of a training: rows to learn from, rows to be measured on, and their checks."""

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
from torch.utils.data import Dataset
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

from ..data import load_refshapes
from ..data.collator import ReferringSegmentationCollator
from ..data.features import check_text_column, expression_text, image_size
from ..data.segmentation import check_mask, mask_geometry
from ..modeling.without_torch import check_expressions
from .rows import EpochRows, EvaluationRows, RefShapesRows


GENERATED_EVALUATION_ROWS = 100  # of each variant


@dataclass
class TrainingData:
    """
    A dataset, or rows of RefShapes without end.

    Args:
        train_dataset (`datasets.Dataset`, *optional*): Rows as the loaders of `hf_ris.data` give them.
        eval_dataset (`datasets.Dataset`, *optional*): Rows that are evaluated on.
        refshapes (`Sequence[str]`): Variants of RefShapes; used when there is no `train_dataset`.
        eval_rows (`int`, *optional*): Number of rows that are evaluated on.
        text_column (`str`): "sent" or "raw".
        flip_probability (`float`): Probability that an image is mirrored.
        no_target_share (`float`), ambiguous_share (`float`): Of the rows of RefShapes, see [`RefShapesRows`].
        full_size_labels (`bool`): Whether masks are learned at the images' size.

    Raises:
        ValueError: If there is nothing to train on, or too much.
    """

    train_dataset: datasets.Dataset | None
    eval_dataset: datasets.Dataset | None
    refshapes: Sequence[str]
    eval_rows: int | None
    text_column: str
    flip_probability: float
    no_target_share: float = 0.0
    ambiguous_share: float = 0.0
    full_size_labels: bool = False

    def __post_init__(self) -> None:
        check_text_column(self.text_column)
        if self.train_dataset is None and not self.refshapes:
            raise ValueError("`train_dataset` must be given (on the command line, --dataset): this recipe has none.")
        if self.train_dataset is None and self.eval_dataset is not None:
            raise ValueError("`eval_dataset` must be left out where there is no `train_dataset`.")

    @property
    def is_generated(self) -> bool:
        return self.train_dataset is None

    @property
    def has_evaluation(self) -> bool:
        return self.is_generated or self.eval_dataset is not None

    def check(self, tokenizer: PreTrainedTokenizerBase, hides_words: bool) -> None:
        """Raise a ValueError that names the first unfit row; see [`check_rows`]."""
        if self.train_dataset is not None:
            check_rows(self.train_dataset, "train_dataset", self.text_column, tokenizer if hides_words else None)
        if self.eval_dataset is not None:
            check_rows(self.eval_dataset, "eval_dataset", self.text_column)

    def training_rows(self, start: int, num_rows: int, seed: int) -> RefShapesRows | EpochRows:
        """Return the dataset's rows, or `num_rows` of RefShapes from number `start` on."""
        if self.train_dataset is None:
            return RefShapesRows(self.refshapes, num_rows, start, self.no_target_share, self.ambiguous_share)
        return EpochRows(self.train_dataset, seed)

    def evaluation_rows(self) -> Dataset | None:
        if self.is_generated:
            number = self.eval_rows or GENERATED_EVALUATION_ROWS
            rows = [load_refshapes(name, "val", num_rows=number) for name in self.refshapes]
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
            full_size_labels=self.full_size_labels,
        )


def check_rows(
    rows: datasets.Dataset, name: str, text_column: str = "sent", tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """
    Check every row of a dataset before anything is trained on it.

    Args:
        rows (`datasets.Dataset`): Rows as the loaders of `hf_ris.data` give them.
        name (`str`): The dataset's name in messages.
        text_column (`str`, *optional*, defaults to `"sent"`): Text of the expressions that is read.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): If given, each expression must have a word that it can hide.

    Raises:
        ValueError: If there are no rows, or one has no expression, a blank one, one without a word that can be hidden, an empty
            mask although it refers to something (`ann_ids` is not empty), or a mask that is damaged or of another size than
            its image.
    """
    if not len(rows):
        raise ValueError(f"`{name}` must have rows, got none.")
    sizes: dict[int, tuple[int, int]] = {}
    for number, row in enumerate(rows.cast_column("image", datasets.Image(decode=False))):
        where = f"{name}[{number}] (ref_id {row['ref_id']})"
        if not row["expressions"]:
            raise ValueError(f"{where} has no expression.")
        texts = [expression_text(each, text_column) for each in row["expressions"]]
        check_expressions(texts, argument=f"the text of {where}")
        if tokenizer is not None:
            for ids, text in zip(tokenizer(texts)["input_ids"], texts, strict=True):
                if set(ids) <= set(tokenizer.all_special_ids):
                    raise ValueError(f"{where}: {text!r} has no word that Mask Grounding can hide.")
        image_id = row["image_id"]
        if image_id not in sizes:
            sizes[image_id] = image_size(row["image"])
        try:
            check_mask(row["mask"], *sizes[image_id])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if row["ann_ids"] and mask_geometry(row["mask"])["area"] == 0:
            raise ValueError(f"{where} has an empty mask; allowed only where nothing is referred to, with ann_ids=[].")


__all__ = ["GENERATED_EVALUATION_ROWS", "TrainingData", "check_rows"]
