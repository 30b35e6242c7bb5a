"""Run a recipe with plain `Trainer`."""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import torch
from huggingface_hub import create_branch, file_exists, upload_file, upload_folder
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, ProcessorMixin, Trainer, TrainingArguments
from transformers.utils import logging

from ..data.collator import ReferringSegmentationCollator
from ..metrics import TrainerMetrics
from ..published_card import HERE, trained_card
from .building import add_lora, load_checkpoint
from .callbacks import DrawSamples, WatchLoss
from .checkpoints import check_checkpoint, find_checkpoints
from .data import GENERATED_EVALUATION_ROWS, TrainingData
from .optimizer import MuonWithAdamW
from .recipes import RECIPES, Recipe, Stage
from .rows import EpochRows, SetEpoch


logger = logging.get_logger(f"transformers.{__name__}")  # under transformers' verbosity

DEFAULT_ARGUMENTS = {
    "remove_unused_columns": False,  # the collator needs every column
    "label_names": ["labels"],
    "eval_strategy": "steps",
    "save_total_limit": 2,
    "logging_steps": 50,
    "logging_nan_inf_filter": False,  # `WatchLoss` stops the training instead
    "report_to": "none",
    "ddp_find_unused_parameters": False,  # there are none
    "hub_strategy": "end",
    "hub_private_repo": True,
}
# Fields of `TrainingArguments` that have no effect on a recipe with its own optimizer or schedule.
OPTIMIZER_FIELDS = {"adam_beta1", "adam_beta2", "adam_epsilon", "optim", "optim_args"}
SCHEDULE_FIELDS = OPTIMIZER_FIELDS | {
    "lr_scheduler_kwargs",
    "lr_scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "weight_decay",
}
PUSHED_SUFFIXES = (".safetensors", ".json", ".jinja", ".py")  # without training_args.bin, which may hold a token
EVALUATIONS = 20  # in a training on generated rows, which has no epochs


def train(
    recipe: str | Recipe,
    output_dir: str | Path,
    train_dataset: datasets.Dataset | None = None,
    eval_dataset: datasets.Dataset | None = None,
    *,
    refshapes: Sequence[str] = (),
    parts: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    lora: int | None = None,
    text_column: str | None = None,
    flip_probability: float = 0.0,
    eval_rows: int | None = None,
    samples: int = 8,
    resume: bool = False,
    **overrides: Any,
) -> dict[str, float]:
    """
    Train a recipe's model, stage by stage, and save it with its processor to `output_dir`.

    Runs in one process, or in each of those that `torchrun` or `accelerate launch` started.

    Args:
        recipe (`str` or [`Recipe`]): A key of [`RECIPES`], or a recipe that is not among them.
        output_dir (`str` or `Path`): Folder for the trained model; checkpoints go to its folders `stage-1`, `stage-2`, …, and
            drawn predictions to their folders `samples`.
        train_dataset (`datasets.Dataset`, *optional*): Rows as the loaders of `hf_ris.data` give them.
        eval_dataset (`datasets.Dataset`, *optional*): Rows to evaluate on, with the first expression of each; by default none, or
            generated ones where the training's are generated.
        refshapes (`Sequence[str]`, *optional*): Variants of RefShapes, instead of `train_dataset`. Scenes are drawn on the way
            and never come twice. By default the recipe's.
        parts (`dict`, *optional*): Parts of the model: `backbone` and `text`, folders or Hub ids of pretrained encoders, or, for
            CRIS, `init_from`, a CLIP; and `from_scratch`, to take their configurations alone; or `model`, a checkpoint to start from.
        config (`dict`, *optional*): Fields of the model's configuration; they take precedence over the recipe's.
        lora (`int`, *optional*): Rank of adapters, the only weights that are then trained. They are saved in
            `output_dir/adapter`, the model with the adapters merged into it in `output_dir`.
        text_column (`str`, *optional*): The text to read: "sent" (cleaned) or "raw" (as written); by default the recipe's.
        flip_probability (`float`, *optional*, defaults to 0.0): Share of images that are mirrored, left and right swapped in their
            expressions.
        eval_rows (`int`, *optional*): Number of rows of `eval_dataset` to evaluate on, from its first; by default all, or 100
            generated ones of each variant.
        samples (`int`, *optional*, defaults to 8): Number of rows whose predictions are drawn at each evaluation.
        resume (`bool`, *optional*, defaults to `False`): Whether to continue from the last checkpoint in `output_dir`, with
            the batch size and the number of processes it was written with.
        overrides: Any field of `TrainingArguments`; takes precedence over the recipe, in every stage.

    Returns:
        `dict[str, float]`: The metrics of the last evaluation, or of the training where there is none.

    Raises:
        ValueError: If the recipe is unknown, its data or its parts are missing, a row is unfit, there is no checkpoint to resume
            from, it is of another architecture, or a checkpoint or model would be overwritten.
        MemoryError: If the device's memory does not suffice; the message says what to change.
        FloatingPointError: If the loss or its gradient is not finite.
    """
    chosen = find_recipe(recipe)
    check_request(chosen, train_dataset, parts or {}, lora)
    data = TrainingData(
        train_dataset,
        eval_dataset,
        tuple(refshapes) or chosen.refshapes,
        eval_rows,
        text_column or chosen.text_column,
        flip_probability,
        chosen.no_target_share,
        chosen.ambiguous_share,
        chosen.full_size_labels,
    )
    folders = [Path(output_dir) / f"stage-{number}" for number in range(1, len(chosen.stages) + 1)]
    checkpoints = find_checkpoints(folders, resume)
    all_arguments = [
        make_arguments(chosen, stage, folder, data, overrides)
        for stage, folder in zip(chosen.stages, folders, strict=True)
    ]
    model, processor = build(chosen, parts or {}, {**chosen.config, **(config or {})}, all_arguments[0].seed)
    hides_words = getattr(model.config, "mask_grounding_loss_weight", 0) > 0
    with all_arguments[0].main_process_first(desc="looking at the data"):
        data.check(processor.tokenizer, hides_words)
        evaluation = data.evaluation_rows()
    collator = data.collator(processor, model.config, chosen.mask_probability if hides_words else 0.0)
    trained = model if lora is None else add_lora(model, lora)

    seen_rows = 0
    for stage, arguments, checkpoint in zip(chosen.stages, all_arguments, checkpoints, strict=True):
        if stage.image_size is not None:
            processor.image_processor.size = {"height": stage.image_size, "width": stage.image_size}
        if not stage.mask_grounding:
            model.auxiliary_losses.drop_mask_grounding()
            collator.mask_probability = 0.0
        rows_per_step = arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
        num_rows = max(0, arguments.max_steps) * rows_per_step  # of generated rows, which are trained on by steps
        pretraining = None
        if stage.pretraining is not None:
            pretraining = stage.pretraining(model, processor, num_rows, eval_rows or GENERATED_EVALUATION_ROWS)
            options = dict(pretraining.trainer_arguments)
        elif stage.rows is not None:
            options = learn_masks(trained, processor, collator, stage.rows(num_rows), evaluation)
        else:
            rows = data.training_rows(seen_rows, num_rows, arguments.seed)
            options = learn_masks(trained, processor, collator, rows, evaluation)
            seen_rows += num_rows
        options |= choose_optimizer(chosen, stage, trained, arguments, len(options["train_dataset"]))
        # Batch norms use the images of all GPUs, except under adapters, which leave them frozen.
        if lora is None and arguments.world_size > 1 and arguments.device.type == "cuda":
            options["model"] = nn.SyncBatchNorm.convert_sync_batchnorm(options["model"])

        trainer = Trainer(args=arguments, **options)
        # First, so that the callbacks that write the logs see the terms it adds.
        trainer.callback_handler.callbacks.insert(0, WatchLoss())
        if pretraining is None and evaluation is not None:
            folder = Path(arguments.output_dir) / "samples"
            trainer.add_callback(DrawSamples(evaluation, processor, folder, samples, data.text_column))
        if checkpoint is not None:
            check_checkpoint(trainer.model, checkpoint, lora)
        with memory_advice(trainer, processor):
            result = trainer.train(resume_from_checkpoint=checkpoint)
        if pretraining is not None:
            pretraining.finish()

    trainer.remove_callback(DrawSamples)  # the last drawing stays
    with memory_advice(trainer, processor):
        metrics = trainer.evaluate() if data.has_evaluation else result.metrics
    save(trainer, processor, Path(output_dir), has_adapters=lora is not None)
    return metrics


def find_recipe(recipe: str | Recipe) -> Recipe:
    """
    Look a recipe up by its name.

    Raises:
        ValueError: If there is none.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise ValueError(f"`recipe` must be one of {list(RECIPES)}, got {recipe!r}.")
    return RECIPES[recipe]


def check_request(
    recipe: Recipe, train_dataset: datasets.Dataset | None, parts: dict[str, Any], lora: int | None
) -> None:
    """Raise a ValueError unless a recipe can be run with these arguments."""
    if recipe.refshapes and train_dataset is not None:
        raise ValueError("`train_dataset` must be left out: this recipe generates its own rows.")
    if lora is not None and "model" not in parts:
        raise ValueError(f"`model` must be given with lora={lora}: the checkpoint to adapt.")
    if lora is not None and any(stage.pretraining is not None for stage in recipe.stages):
        raise ValueError("`lora` must be left out: this recipe trains an image encoder from random weights.")


def save(trainer: Trainer, processor: ProcessorMixin, folder: Path, has_adapters: bool) -> None:
    """Save the trained model, and push it if `push_to_hub` is set. Adapters are saved alone, and merged into the model."""
    model = trainer.model
    if not has_adapters:
        trainer.save_model(str(folder), _internal_call=True)  # without it, Trainer would push the stage's folder
    elif trainer.is_world_process_zero():
        trainer.model.save_pretrained(folder / "adapter")
        model = trainer.model.merge_and_unload()
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    if trainer.args.push_to_hub and trainer.is_world_process_zero():
        push(model, folder, trainer.hub_model_id, trainer.args)


def push(model: PreTrainedModel, folder: Path, repo_id: str, arguments: TrainingArguments) -> None:
    """Push the files of the trained model alone, and a card if the repository has none."""
    names = [
        path.name
        for path in folder.iterdir()
        if path.suffix in PUSHED_SUFFIXES or path.name in ("merges.txt", "vocab.txt")
    ]
    target = {"repo_id": repo_id, "token": arguments.hub_token, "revision": arguments.hub_revision}
    if arguments.hub_revision is not None:
        create_branch(repo_id, branch=arguments.hub_revision, token=arguments.hub_token, exist_ok=True)
    upload_folder(**target, folder_path=folder, allow_patterns=[*names, "adapter/*"])
    if not file_exists(repo_id, "README.md", revision=arguments.hub_revision, token=arguments.hub_token):
        card = trained_card(folder.resolve().name, model, licence=None, note="Trained with `hf-ris train`.")
        card.text = card.text.replace(HERE, repo_id)
        upload_file(**target, path_or_fileobj=str(card).encode(), path_in_repo="README.md")


def build(
    recipe: Recipe, parts: dict[str, Any], config: dict[str, Any], seed: int
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    Build a recipe's model and processor from the given parts, or from the recipe's.

    Raises:
        ValueError: If a part does not fit the recipe, or the recipe needs a checkpoint.
    """
    builder = load_checkpoint if "model" in parts else recipe.build
    if builder is load_checkpoint and "model" not in parts:
        raise ValueError("`model` must be given: this recipe starts from a checkpoint.")
    surplus = parts.keys() - inspect.signature(builder).parameters.keys()
    if surplus:
        start = "a checkpoint" if "model" in parts else "this recipe"
        raise ValueError(f"`{min(surplus)}` must be left out: {start} has no use for it.")
    return builder(seed, config, **parts)


def make_arguments(
    recipe: Recipe, stage: Stage, folder: Path, data: TrainingData, overrides: dict[str, Any]
) -> TrainingArguments:
    """
    Make a stage's `TrainingArguments`.

    Raises:
        ValueError: If a training on generated rows has no `max_steps`, or the recipe decides an option itself.
    """
    # Not at the top of the module: a process that has asked for CUDA cannot be forked any more.
    has_cuda = torch.cuda.is_available()
    hardware = {
        "dataloader_pin_memory": has_cuda,
        "use_cpu": not torch.accelerator.is_available(),  # several processes on the CPU need it
    }
    options = {**DEFAULT_ARGUMENTS, **hardware, **recipe.arguments, **stage.arguments}
    decided = SCHEDULE_FIELDS if recipe.schedule is not None else OPTIMIZER_FIELDS if recipe.muon else set()
    if ignored := sorted(decided & overrides.keys()):
        kind = "schedule" if recipe.schedule is not None else "optimizer"
        raise ValueError(f"`{ignored[0]}` must be left out: this recipe has its own {kind}.")
    if "eval_steps" in overrides:
        by_steps = {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": overrides["eval_steps"]}
        overrides = {**by_steps, **overrides}
    own_schedule = options.get("lr_scheduler_type")
    if overrides.get("lr_scheduler_type", own_schedule) != own_schedule:
        options.pop("lr_scheduler_kwargs", None)  # those of the recipe's own schedule
    if not has_cuda or overrides.get("bf16") or overrides.get("use_cpu"):
        options.pop("fp16", None)
    options |= overrides
    if data.is_generated:
        if options.get("max_steps", -1) < 1:
            raise ValueError("`max_steps` must be given with generated rows, which never end.")
        options["train_sampling_strategy"] = "sequential"
        if options["eval_strategy"] == "epoch":
            steps = max(1, options["max_steps"] // EVALUATIONS)
            options |= {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": steps, "save_steps": steps}
    if not data.has_evaluation:
        options |= {"eval_strategy": "no", "load_best_model_at_end": False}
    if stage is not recipe.stages[-1]:
        options |= {"push_to_hub": False, "load_best_model_at_end": False}
    options.setdefault("hub_model_id", folder.parent.resolve().name)
    options.setdefault("batch_eval_metrics", stage.pretraining is None)
    arguments = TrainingArguments(str(folder), **options)
    if arguments.n_gpu > 1:
        # `Trainer` would split images and expressions apart, and their numbers may differ.
        logger.warning(
            f"One of {arguments.n_gpu} GPUs is used. Start a process for each by torchrun or accelerate launch."
        )
        arguments._n_gpu = 1
    return arguments


def choose_optimizer(
    recipe: Recipe, stage: Stage, model: nn.Module, arguments: TrainingArguments, num_rows: int
) -> dict[str, Any]:
    """Make `Trainer`'s arguments for the recipe's optimizer; none where the recipe uses `Trainer`'s."""
    if recipe.schedule is not None:
        batches = math.ceil(num_rows / (arguments.train_batch_size * arguments.world_size))
        steps_per_epoch = math.ceil(batches / arguments.gradient_accumulation_steps)
        return {"optimizers": recipe.schedule(model, arguments.learning_rate, steps_per_epoch)}
    if recipe.muon:
        rates = {
            "lr": arguments.learning_rate,
            "weight_decay": arguments.weight_decay,
            "image_encoder_lr": stage.image_encoder_lr,
            "convolutions": recipe.muon_convolutions,
        }
        return {"optimizer_cls_and_kwargs": (lambda: MuonWithAdamW, rates)}
    return {}


def learn_masks(
    model: nn.Module,
    processor: ProcessorMixin,
    collator: ReferringSegmentationCollator,
    rows: Dataset,
    evaluation: Dataset | None,
) -> dict[str, Any]:
    """`Trainer`'s arguments to train the whole model on expressions and masks."""
    return {
        "model": model,
        "train_dataset": rows,
        "eval_dataset": evaluation,
        "data_collator": collator,
        "processing_class": processor,
        **TrainerMetrics(processor).for_trainer(),
        "callbacks": [SetEpoch(rows)] if isinstance(rows, EpochRows) else [],
    }


@contextmanager
def memory_advice(trainer: Trainer, processor: ProcessorMixin) -> Iterator[None]:
    """Raise a MemoryError that says what to change when the device's memory does not suffice."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        size = processor.image_processor.size
        raise MemoryError(
            f"Out of memory with {trainer.args.train_batch_size} referents a step and device at {size['height']} x "
            f"{size['width']} pixels. Halve --per-device-train-batch-size and double --gradient-accumulation-steps, or try "
            f"--activation-checkpointing or --bf16; --resume continues from the last checkpoint ({error})."
        ) from error


__all__ = ["train"]
