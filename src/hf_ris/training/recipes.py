"""Recipes: what is trained, on what, and how, under one name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch.utils.data import IterableDataset
from transformers import PreTrainedModel, ProcessorMixin, set_seed

from ..data.refshapes import NAMES, RefShapesStream, vocabulary
from ..modeling.configuration_magnet import MagNetConfig
from ..modeling.image_processing_magnet import MagNetImageProcessor
from ..modeling.modeling_magnet import MagNetForReferringSegmentation
from ..modeling.processing_magnet import MagNetProcessor
from .tokenizer import build_tokenizer


TEXT_LENGTH = 32  # the longest expression of RefShapes has 30 words


@dataclass(frozen=True)
class Stage:
    """
    A part of a training at one image size.

    Args:
        task (`str`): What is learned: "attributes" (by the image encoder alone: what things look like), "names" (what looks are called) or
            "referring" (whole expressions).
        image_size (`int`): Height and width of the model's input, in pixels.
        arguments (`dict`): Fields of `TrainingArguments` that differ from the recipe's.
    """

    task: str
    image_size: int
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """
    A named way to train a model.

    Args:
        build (`Callable`): Makes the untrained model and its processor from a seed.
        stream (`Callable`): Makes the endless training rows; takes `start`, the number of the first row, and `block_size`,
            the rows dealt to a data loader's worker at a time.
        evaluation (`tuple[str, ...]`): Names of the RefShapes manners that are evaluated on their val split.
        stages (`tuple[Stage, ...]`): What is trained one after the other; each continues the weights of the one before.
        arguments (`dict`): Fields of `TrainingArguments`.
    """

    build: Callable[[int], tuple[PreTrainedModel, ProcessorMixin]]
    stream: Callable[..., IterableDataset]
    evaluation: tuple[str, ...]
    stages: tuple[Stage, ...]
    arguments: dict[str, Any] = field(default_factory=dict)


def build_magnet_tiny(seed: int) -> tuple[MagNetForReferringSegmentation, MagNetProcessor]:
    """A MagNet of 3 million parameters at 160 x 160 pixels, with a vocabulary of RefShapes' words and the letters."""
    tokenizer = build_tokenizer(vocabulary())
    set_seed(seed)
    config = MagNetConfig(
        backbone_config={
            "model_type": "swin",
            "image_size": 160,
            "embed_dim": 24,
            "depths": [2, 2, 2, 2],
            "num_heads": [2, 4, 8, 16],
            "window_size": 5,
            # The windows divide 160 pixels evenly, so no padding at the border tells left from right.
            "use_absolute_embeddings": True,
            "drop_path_rate": 0.0,
            "initializer_range": 0.08,
        },
        text_config={
            "model_type": "bert",
            "vocab_size": len(tokenizer),
            "hidden_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 192,
            "max_position_embeddings": TEXT_LENGTH,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.08,
        },
        pyramid_expansion=1,
        hidden_dim=48,
        group_norm_groups=8,
        encoder_layers=1,
        encoder_num_heads=4,
        encoder_num_points=1,
        encoder_feedforward_dim=96,
        decoder_layers=3,
        decoder_num_heads=4,
        decoder_feedforward_dim=192,
        initializer_range=0.08,
    )
    image_processor = MagNetImageProcessor(size={"height": 160, "width": 160})
    return MagNetForReferringSegmentation(config), MagNetProcessor(image_processor, tokenizer, TEXT_LENGTH)


RECIPES = {
    "magnet-tiny-refshapes": Recipe(
        build=build_magnet_tiny,
        stream=partial(RefShapesStream, NAMES),
        evaluation=NAMES,
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
                {"max_steps": 350, "per_device_train_batch_size": 48, "learning_rate": 1.4e-3, "warmup_steps": 50},
            ),
            Stage(
                "referring",
                80,
                {"max_steps": 1200, "per_device_train_batch_size": 48, "learning_rate": 1.4e-3, "warmup_steps": 50},
            ),
            Stage(
                "referring",
                160,
                {"max_steps": 2250, "per_device_train_batch_size": 24, "learning_rate": 1e-3, "warmup_steps": 50},
            ),
        ),
        arguments={
            "per_device_eval_batch_size": 32,
            "eval_steps": 300,
            "save_steps": 300,
            "lr_scheduler_type": "cosine",
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "dataloader_num_workers": 1,
        },
    ),
}
