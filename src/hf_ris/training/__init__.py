"""Training with plain `Trainer`: `recipes` say what, `train` does it."""

from .arguments import read_arguments
from .recipes import RECIPES, Pretraining, Recipe, Stage, describe_recipes
from .train import train


__all__ = ["RECIPES", "Pretraining", "Recipe", "Stage", "describe_recipes", "read_arguments", "train"]
