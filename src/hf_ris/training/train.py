"""Runs a recipe with plain `Trainer`."""

from pathlib import Path
from typing import Any

import torch
from datasets import concatenate_datasets
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..data import load_refshapes
from ..data.collator import ReferringSegmentationCollator
from ..metrics import trainer_counts, trainer_metrics
from .recipes import RECIPES


DEFAULT_ARGUMENTS = {
    "remove_unused_columns": False,  # the collator needs every column
    "label_names": ["labels"],
    "eval_strategy": "steps",
    "eval_steps": 600,
    "save_steps": 600,
    "save_total_limit": 2,
    "logging_steps": 50,
    "report_to": "none",
    "dataloader_pin_memory": torch.cuda.is_available(),
    # A batch has fewer images than expressions: each process must take its own rows of the stream, because a batch made
    # by the first process could not be cut into equal parts.
    "accelerator_config": {"dispatch_batches": False},
    # A resumed stream is started where it was left instead.
    "ignore_data_skip": True,
}


def train(
    recipe: str, output_dir: str | Path, eval_rows: int = 100, resume: bool = False, **overrides: Any
) -> dict[str, float]:
    """
    Trains a recipe's model from scratch and saves it with its processor to `output_dir`.

    Args:
        recipe (`str`): A key of [`RECIPES`].
        output_dir (`str` or `Path`): Where checkpoints and the trained model go.
        eval_rows (`int`, *optional*, defaults to 100): Rows of each manner's val split that are evaluated on.
        resume (`bool`, *optional*, defaults to `False`): Whether to continue from the last checkpoint in `output_dir`, with
            the batch size and the number of processes it was written with.
        overrides: Any field of `TrainingArguments`; takes precedence over the recipe.

    Returns:
        `dict[str, float]`: The metrics of the last evaluation.

    Raises:
        ValueError: If the recipe is unknown, there is no checkpoint to resume from, or there is one and it would be lost.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe={recipe!r} is unknown; allowed are {', '.join(RECIPES)}")
    chosen = RECIPES[recipe]
    checkpoint = get_last_checkpoint(str(output_dir)) if Path(output_dir).is_dir() else None
    if resume and checkpoint is None:
        raise ValueError(f"output_dir={str(output_dir)!r} holds no checkpoint to resume from")
    if checkpoint is not None and not resume:
        raise ValueError(
            f"output_dir={str(output_dir)!r} holds {checkpoint!r}: resume that run or name another folder"
        )

    arguments = TrainingArguments(str(output_dir), **{**DEFAULT_ARGUMENTS, **chosen.arguments, **overrides})
    model, processor = chosen.build(arguments.seed)
    finished_steps = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
    rows_per_batch = arguments.train_batch_size * arguments.world_size
    rows_per_step = rows_per_batch * arguments.gradient_accumulation_steps
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=chosen.stream(start=finished_steps * rows_per_step, block_size=rows_per_batch),
        eval_dataset=EvaluationRows(chosen.evaluation, eval_rows),
        data_collator=ReferringSegmentationCollator(processor),
        processing_class=processor,
        compute_metrics=trainer_metrics,
        preprocess_logits_for_metrics=trainer_counts,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    return trainer.evaluate()


class EvaluationRows(Dataset):
    """
    The first rows of each manner's val split, with one expression each, so that every evaluation asks the same.

    Args:
        names (`tuple[str, ...]`): Manners of RefShapes.
        num_rows (`int`): Rows of each.
    """

    def __init__(self, names: tuple[str, ...], num_rows: int) -> None:
        self.rows = concatenate_datasets([load_refshapes(name, "val", num_rows=num_rows) for name in names])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return {**row, "expressions": row["expressions"][:1]}


__all__ = ["train"]
