"""Training with plain `Trainer`: `recipes` say what, `train` does it."""

from .recipes import RECIPES, Recipe
from .train import train


__all__ = ["RECIPES", "Recipe", "train"]
