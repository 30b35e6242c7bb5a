"""Training with plain `Trainer`: `recipes` say what, `train` does it."""

from .arguments import read_arguments
from .recipes import RECIPES, Recipe
from .train import train


__all__ = ["RECIPES", "Recipe", "read_arguments", "train"]
