"""Recipes: what is trained, on what, and how, under one name."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch.utils.data import Dataset

from .building import RN50, RN101, Built, build_cris, build_magnet, load_checkpoint
from .optimizer import cris_schedule


@dataclass(frozen=True)
class Pretraining:
    """
    A task other than expressions and masks, for a part of the model.

    Args:
        trainer_arguments (`dict`): `Trainer`'s arguments: `model`, datasets and metrics.
        finish (`Callable`): Called after the training.
    """

    trainer_arguments: dict[str, Any]
    finish: Callable[[], None]


@dataclass(frozen=True)
class Stage:
    """
    A step of a training, at one image size.

    Args:
        image_size (`int`, *optional*): Height and width of the model's input, in pixels; by default the processor's.
        arguments (`dict`): Fields of `TrainingArguments` that differ from the recipe's.
        rows (`Callable`, *optional*): Makes training rows of its own from their number; by default the training's data.
        pretraining (`Callable`, *optional*): Makes a [`Pretraining`] from the model, its processor and the numbers of training
            and evaluation rows; by default the whole model learns expressions and masks.
        image_encoder_lr (`float`): With Muon, the image encoder's learning rate as a share of the others': small where it would
            otherwise forget what it knows while the rest, still random, disturbs it.
        mask_grounding (`bool`): Whether Mask Grounding goes on, where it is on; a stage without removes its head.
    """

    image_size: int | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    rows: Callable[[int], Dataset] | None = None
    pretraining: Callable[[Any, Any, int, int], Pretraining] | None = None
    image_encoder_lr: float = 1.0
    mask_grounding: bool = True


@dataclass(frozen=True)
class Recipe:
    """
    A named way to train a model.

    Args:
        about (`str`): What it is for, in a sentence.
        build (`Callable`): Makes the model and its processor from a seed, fields of the configuration, and what its other
            arguments name (`backbone` and `text`, or `model`).
        stages (`tuple[Stage, ...]`): Run one after the other; each continues the weights of the one before.
        config (`dict`): Fields of the model's configuration.
        arguments (`dict`): Fields of `TrainingArguments`.
        refshapes (`tuple[str, ...]`): Variants of RefShapes that it is trained on. Without any, a dataset must be given.
        no_target_share (`float`), ambiguous_share (`float`): Of RefShapes' rows, see [`RefShapesRows`]. Mask Grounding takes the mask of
            several things for an empty one.
        full_size_labels (`bool`): Whether masks are learned at the images' size instead of the model's input's; then all images
            must have one size.
        mask_probability (`float`): Probability that a word is hidden, where Mask Grounding is on.
        text_column (`str`): Text of an expression that is read: "sent" (cleaned) or "raw" (as written).
        schedule (`Callable`, *optional*): Makes optimizer and schedule from the model, the learning rate and the steps of an epoch.
        muon (`bool`): Whether linear layers are trained by Muon, for training from nothing; else `Trainer`'s own optimizer.
        muon_convolutions (`bool`): Whether convolutions are trained by Muon, too.
    """

    about: str
    build: Callable[..., Built]
    stages: tuple[Stage, ...]
    config: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    refshapes: tuple[str, ...] = ()
    no_target_share: float = 0.0
    ambiguous_share: float = 0.0
    full_size_labels: bool = False
    mask_probability: float = 0.15
    text_column: str = "sent"
    schedule: Callable[[Any, float, int], tuple[Any, Any]] | None = None
    muon: bool = False
    muon_convolutions: bool = False


# Shared by trainings on photos.
PHOTO_ARGUMENTS = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "dataloader_num_workers": min(4, os.cpu_count() or 1),
}

# MagNet's schedule was never published; this is LAVT's (CVPR 2022, section 4.1), from whose code the authors started: AdamW,
# polynomial decay in each step, no augmentation, and the best epoch on val is kept.
LAVT_ARGUMENTS = {
    **PHOTO_ARGUMENTS,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 5e-5,
    "weight_decay": 0.01,
    "lr_scheduler_type": "polynomial",
    "lr_scheduler_kwargs": {"power": 0.9, "lr_end": 0.0},
    "metric_for_best_model": "oIoU",
}

# CRIS as published (its code; CVPR 2022, section 4.2): batches of 64 in all, in half precision, the best epoch on val is kept. Its
# learning rates are in `cris_schedule`.
CRIS_ARGUMENTS = {
    **PHOTO_ARGUMENTS,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "num_train_epochs": 50,
    "learning_rate": 1e-4,
    "max_grad_norm": 0.0,
    "fp16": True,  # on a CUDA GPU
    "metric_for_best_model": "mIoU",
}


def cris_recipe(clip: str, name: str, dataset: str, text_length: int) -> Recipe:
    """Make one of CRIS's published trainings."""
    return Recipe(
        about=f"CRIS on CLIP's {name} and {dataset}, as published: 50 epochs in batches of 64, on 4 GPUs",
        build=partial(build_cris, init_from=clip, text_length=text_length),
        stages=(Stage(image_size=416),),
        arguments=CRIS_ARGUMENTS,
        schedule=cris_schedule,
    )


RECIPES = {
    "finetune": Recipe(
        about="any checkpoint of this library, on your images",
        build=load_checkpoint,
        stages=(Stage(),),
        arguments={**LAVT_ARGUMENTS, "num_train_epochs": 10},
    ),
    "magnet": Recipe(
        about="MagNet with Mask Grounding on RefCOCO, by LAVT's schedule (MagNet's was never published): batches of 32 in all",
        build=build_magnet,
        stages=(Stage(image_size=480),),
        config={"mask_grounding_loss_weight": 1.0, "alignment_loss_weight": 0.5},
        arguments={**LAVT_ARGUMENTS, "num_train_epochs": 40},
        text_column="raw",
    ),
    # RefCOCO+ is trained as RefCOCO.
    "cris-r50-refcoco": cris_recipe(RN50, "RN50", "RefCOCO", text_length=17),
    "cris-r50-refcocog": cris_recipe(RN50, "RN50", "RefCOCOg", text_length=22),
    "cris-r101-refcoco": cris_recipe(RN101, "RN101", "RefCOCO", text_length=17),
    "cris-r101-refcocog": cris_recipe(RN101, "RN101", "RefCOCOg", text_length=22),
}


def describe_recipes() -> str:
    """Return a paragraph for each recipe: its name and what it is for."""
    return "\n\n".join(f"{name}: {recipe.about}" for name, recipe in RECIPES.items())


__all__ = ["RECIPES", "Pretraining", "Recipe", "Stage", "describe_recipes"]
