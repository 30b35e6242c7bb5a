"""Recipes: what is trained, on what, and how, under one name."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..data.refshapes import NAMES
from .building import (
    RN50,
    RN101,
    Built,
    build_cris,
    build_cris_tiny,
    build_magnet,
    build_magnet_tiny,
    load_checkpoint,
)
from .optimizer import cris_schedule


@dataclass(frozen=True)
class Stage:
    """
    A part of a training at one image size.

    Args:
        task (`str`): What is learned: "attributes" (by the image encoder alone: what things look like), "names" (what looks are
            called) or "referring" (whole expressions).
        image_size (`int`, *optional*): Height and width of the model's input, in pixels; by default the processor's.
        arguments (`dict`): Fields of `TrainingArguments` that differ from the recipe's.
        image_encoder_lr (`float`): With Muon, the image encoder's learning rate as a share of the others: small where it would
            otherwise forget what it knows while the rest, still random, disturbs it.
        mask_grounding (`bool`): Whether Mask Grounding goes on, where it is on; a stage without drops its head.
    """

    task: str = "referring"
    image_size: int | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
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
        stages (`tuple[Stage, ...]`): What is trained one after the other; each continues the weights of the one before.
        config (`dict`): Fields of the model's configuration.
        arguments (`dict`): Fields of `TrainingArguments`.
        drawn (`tuple[str, ...]`): Manners of RefShapes that it is trained on when no dataset is given; without any, one must be.
        mask_probability (`float`): How often a word is hidden, where Mask Grounding is on.
        text_column (`str`): Which text of an expression it learns, "sent" (cleaned) or "raw" (as written).
        schedule (`Callable`, *optional*): Makes optimizer and schedule from the model, the learning rate and the steps of an epoch.
        muon (`bool`): Whether linear layers are trained by Muon, for training from nothing; else `Trainer`'s own optimizer.
        muon_convolutions (`bool`): Whether convolutions are trained by Muon, too.
    """

    about: str
    build: Callable[..., Built]
    stages: tuple[Stage, ...]
    config: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    drawn: tuple[str, ...] = ()
    mask_probability: float = 0.15
    text_column: str = "sent"
    schedule: Callable[[Any, float, int], tuple[Any, Any]] | None = None
    muon: bool = False
    muon_convolutions: bool = False


# What training on photos shares. MagNet's own was never published; this is LAVT's (CVPR 2022, section 4.1), from whose code the
# authors started: AdamW, polynomial decay in each step, no augmentation, and the best epoch on val is kept.
LAVT_ARGUMENTS = {
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 5e-5,
    "weight_decay": 0.01,
    "lr_scheduler_type": "polynomial",
    "lr_scheduler_kwargs": {"power": 0.9, "lr_end": 0.0},
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "oIoU",
    "dataloader_num_workers": min(4, os.cpu_count() or 1),
}

# As CRIS was published (its code; CVPR 2022, section 4.2): batches of 64 in all, in half precision, the best epoch on val is kept. Its
# learning rates are in `cris_schedule`.
CRIS_ARGUMENTS = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "num_train_epochs": 50,
    "learning_rate": 1e-4,
    "max_grad_norm": 0.0,
    "fp16": True,  # on a CUDA GPU
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "mIoU",
    "dataloader_num_workers": min(4, os.cpu_count() or 1),
}


def cris_recipe(clip: str, name: str, dataset: str, text_length: int) -> Recipe:
    """One of the published trainings of CRIS."""
    return Recipe(
        about=f"CRIS on CLIP's {name} and {dataset}, as published: 50 epochs in batches of 64, on 4 GPUs",
        build=partial(build_cris, init_from=clip, text_length=text_length),
        stages=(Stage(image_size=416),),
        arguments=CRIS_ARGUMENTS,
        schedule=cris_schedule,
    )


# What trainings from nothing on drawings share.
TINY_ARGUMENTS = {
    "per_device_eval_batch_size": 32,
    "eval_steps": 300,
    "save_steps": 300,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "dataloader_num_workers": 1,
}

RECIPES = {
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
    "finetune": Recipe(
        about="any checkpoint of this library, on one's own pictures",
        build=load_checkpoint,
        stages=(Stage(),),
        arguments={**LAVT_ARGUMENTS, "num_train_epochs": 10},
    ),
    "magnet-tiny-refshapes": Recipe(
        about="the bundled checkpoint, from nothing, on drawings, in 130 minutes on two CPU cores",
        build=build_magnet_tiny,
        config={"mask_grounding_loss_weight": 1.0, "alignment_loss_weight": 0.5},
        drawn=NAMES,
        muon=True,
        stages=(
            # First what things look like, then what that is called, then whole expressions: on small pictures, of which
            # three times as many fit into the same time, and at last on large ones, for small things and fine masks.
            Stage(
                "attributes",
                80,
                {"max_steps": 5000, "per_device_train_batch_size": 32, "learning_rate": 1.4e-3, "warmup_steps": 100},
            ),
            Stage(
                "names",
                80,
                {"max_steps": 300, "per_device_train_batch_size": 48, "learning_rate": 1.4e-3, "warmup_steps": 50},
                image_encoder_lr=0.05,
            ),
            Stage(
                "referring",
                80,
                {"max_steps": 1500, "per_device_train_batch_size": 48, "learning_rate": 1.4e-3, "warmup_steps": 50},
                image_encoder_lr=0.05,
            ),
            Stage(
                "referring",
                160,
                {"max_steps": 3600, "per_device_train_batch_size": 24, "learning_rate": 1e-3, "warmup_steps": 50},
                image_encoder_lr=0.1,
                mask_grounding=False,
            ),
        ),
        arguments=TINY_ARGUMENTS,
    ),
    "cris-tiny-refshapes": Recipe(
        about="a small CRIS, from nothing, on drawings, on two CPU cores",
        build=build_cris_tiny,
        drawn=NAMES,
        muon=True,
        muon_convolutions=True,
        stages=(
            Stage(
                "attributes",
                80,
                {"max_steps": 3000, "per_device_train_batch_size": 32, "learning_rate": 1.4e-3, "warmup_steps": 100},
            ),
            Stage(
                "names",
                96,
                {"max_steps": 300, "per_device_train_batch_size": 48, "learning_rate": 1.4e-3, "warmup_steps": 50},
                image_encoder_lr=0.05,
            ),
            Stage(
                "referring",
                96,
                {"max_steps": 1500, "per_device_train_batch_size": 48, "learning_rate": 1.4e-3, "warmup_steps": 50},
                image_encoder_lr=0.05,
            ),
        ),
        arguments=TINY_ARGUMENTS,
    ),
}


__all__ = ["RECIPES", "Recipe", "Stage"]
