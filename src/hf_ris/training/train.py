"""Runs a recipe with plain `Trainer`."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from datasets import concatenate_datasets
from safetensors.torch import load_file
from torch.utils.data import Dataset
from transformers import PreTrainedModel, ProcessorMixin, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import SAFE_WEIGHTS_NAME

from ..data import load_refshapes
from ..data.collator import ReferringSegmentationCollator
from ..metrics import trainer_counts, trainer_metrics
from .optimizer import MuonWithAdamW
from .pretraining import (
    VIEWS,
    AttributeModel,
    AttributeStream,
    NameStream,
    attribute_counts,
    attribute_metrics,
    tell_places,
)
from .recipes import RECIPES, Recipe


DEFAULT_ARGUMENTS = {
    "remove_unused_columns": False,  # the collator needs every column
    "label_names": ["labels"],
    "eval_strategy": "steps",
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
    Trains a recipe's model from scratch, stage by stage, and saves it with its processor to `output_dir`.

    Args:
        recipe (`str`): A key of [`RECIPES`].
        output_dir (`str` or `Path`): Where the trained model goes; checkpoints go to its folders `stage-1`, `stage-2`, …
        eval_rows (`int`, *optional*, defaults to 100): Rows of each manner's val split that are evaluated on.
        resume (`bool`, *optional*, defaults to `False`): Whether to continue from the last checkpoint in `output_dir`, with
            the batch size and the number of processes it was written with.
        overrides: Any field of `TrainingArguments` but `optim`; takes precedence over the recipe, in every stage.

    Returns:
        `dict[str, float]`: The metrics of the last evaluation.

    Raises:
        ValueError: If the recipe is unknown, there is no checkpoint to resume from, or there is one and it would be lost.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe={recipe!r} is unknown; allowed are {', '.join(RECIPES)}")
    chosen = RECIPES[recipe]
    folders = [Path(output_dir) / f"stage-{number}" for number in range(1, len(chosen.stages) + 1)]
    checkpoints = [get_last_checkpoint(str(folder)) if folder.is_dir() else None for folder in folders]
    if resume and not any(checkpoints):
        raise ValueError(f"output_dir={str(output_dir)!r} holds no checkpoint to resume from")
    if any(checkpoints) and not resume:
        raise ValueError(f"output_dir={str(output_dir)!r} holds checkpoints: resume that run or name another folder")

    model, processor = chosen.build(overrides.get("seed", TrainingArguments.seed))
    seen_rows: Counter[str] = Counter()
    for stage, folder, checkpoint in zip(chosen.stages, folders, checkpoints, strict=True):
        options = {**DEFAULT_ARGUMENTS, **chosen.arguments, **stage.arguments, **overrides}
        arguments = TrainingArguments(str(folder), **options)
        rows_per_batch = arguments.train_batch_size * arguments.world_size
        rows_per_step = rows_per_batch * arguments.gradient_accumulation_steps
        finished_steps = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
        processor.image_processor.size = {"height": stage.image_size, "width": stage.image_size}
        block = {"start": seen_rows[stage.task] + finished_steps * rows_per_step, "block_size": rows_per_batch}
        optimizer = {"lr": arguments.learning_rate, "weight_decay": arguments.weight_decay}
        trainer = Trainer(
            args=arguments,
            optimizer_cls_and_kwargs=(lambda: MuonWithAdamW, optimizer),
            **TASKS[stage.task](chosen, model, processor, block, eval_rows),
        )
        if checkpoint and finished_steps >= arguments.max_steps:
            trainer.model.load_state_dict(load_file(Path(checkpoint) / SAFE_WEIGHTS_NAME))
        else:
            trainer.train(resume_from_checkpoint=checkpoint)
        if isinstance(trainer.model, AttributeModel):
            trainer.model.lend_to(model.get_input_embeddings(), processor.tokenizer)
            tell_places(trainer.model.image_encoder)
        seen_rows[stage.task] += arguments.max_steps * rows_per_step
    trainer.save_model(str(output_dir))
    return trainer.evaluate()


def _referring(
    recipe: Recipe, model: PreTrainedModel, processor: ProcessorMixin, block: dict[str, int], eval_rows: int
) -> dict[str, Any]:
    """The whole model: `Trainer`'s arguments."""
    return {
        "model": model,
        "train_dataset": recipe.stream(**block),
        "eval_dataset": EvaluationRows(recipe.evaluation, eval_rows),
        "data_collator": ReferringSegmentationCollator(processor, padding="longest"),
        "processing_class": processor,
        "compute_metrics": trainer_metrics,
        "preprocess_logits_for_metrics": trainer_counts,
    }


def _attributes(
    recipe: Recipe, model: PreTrainedModel, processor: ProcessorMixin, block: dict[str, int], eval_rows: int
) -> dict[str, Any]:
    """The image encoder alone: `Trainer`'s arguments."""
    return {
        "model": AttributeModel(model.encoder.image_encoder, model.config.text_config.hidden_size),
        "train_dataset": AttributeStream(processor.image_processor, "train", **block, views=VIEWS),
        "eval_dataset": AttributeStream(processor.image_processor, "val", stop=eval_rows),
        "compute_metrics": attribute_metrics,
        "preprocess_logits_for_metrics": attribute_counts,
    }


def _names(
    recipe: Recipe, model: PreTrainedModel, processor: ProcessorMixin, block: dict[str, int], eval_rows: int
) -> dict[str, Any]:
    """The whole model on single words: `Trainer`'s arguments."""
    return {**_referring(recipe, model, processor, block, eval_rows), "train_dataset": NameStream(**block)}


TASKS = {"attributes": _attributes, "names": _names, "referring": _referring}


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
