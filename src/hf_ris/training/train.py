"""Runs a recipe with plain `Trainer`."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..data import load_refshapes
from ..data.collator import ReferringSegmentationCollator
from ..metrics import trainer_counts, trainer_metrics
from .recipes import RECIPES


FIXED_ARGUMENTS = {
    "remove_unused_columns": False,  # the collator needs every column
    "label_names": ["labels"],
    "logging_steps": 50,
    "dataloader_pin_memory": torch.cuda.is_available(),
    "save_total_limit": 2,
    "ignore_data_skip": True,  # a resumed stream is started where it was left instead
    "report_to": "none",
}


def train(
    recipe: str,
    output_dir: str | Path,
    eval_rows: int = 100,
    eval_steps: int = 600,
    resume: bool = False,
    **overrides: Any,
) -> dict[str, float]:
    """
    Trains a recipe's model from scratch and saves it with its processor to `output_dir`.

    Args:
        recipe (`str`): A key of [`RECIPES`].
        output_dir (`str` or `Path`): Where checkpoints and the trained model go.
        eval_rows (`int`, *optional*, defaults to 100): Rows of each manner's val split that are evaluated on.
        eval_steps (`int`, *optional*, defaults to 600): Steps between evaluations, and between checkpoints.
        resume (`bool`, *optional*, defaults to `False`): Whether to continue from the last checkpoint in `output_dir`.
        overrides: Any field of `TrainingArguments`; takes precedence over the recipe.

    Returns:
        `dict[str, float]`: The metrics of the last evaluation.

    Raises:
        ValueError: If the recipe is unknown, or there is no checkpoint to resume from.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe={recipe!r} is unknown; allowed are {', '.join(RECIPES)}")
    chosen = RECIPES[recipe]
    checkpoint = get_last_checkpoint(str(output_dir)) if resume and Path(output_dir).is_dir() else None
    if resume and checkpoint is None:
        raise ValueError(f"output_dir={str(output_dir)!r} holds no checkpoint to resume from")

    arguments = TrainingArguments(
        output_dir=str(output_dir),
        eval_strategy="steps",
        eval_steps=eval_steps,
        save_steps=eval_steps,
        **{**FIXED_ARGUMENTS, **chosen.arguments, **overrides},
    )
    model, processor = chosen.build(arguments.seed)
    finished_steps = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
    batch_size = arguments.train_batch_size
    rows_per_step = batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=chosen.stream(start=finished_steps * rows_per_step, block_size=batch_size),
        eval_dataset=evaluation_rows(chosen.evaluation, eval_rows),
        data_collator=ReferringSegmentationCollator(processor),
        processing_class=processor,
        compute_metrics=trainer_metrics,
        preprocess_logits_for_metrics=trainer_counts,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    return trainer.evaluate()


def evaluation_rows(names: tuple[str, ...], num_rows: int) -> Dataset:
    """The first rows of each manner's val split."""
    return concatenate_datasets([load_refshapes(name, "val", num_rows=num_rows) for name in names])


__all__ = ["train"]
