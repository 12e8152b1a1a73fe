"""Recipes of the four scenarios, the training loop, checkpoints."""

from eqmotion.training.checkpoint import Checkpoint, load_checkpoint, load_model
from eqmotion.training.loop import evaluate, fit, loss_of
from eqmotion.training.recipes import RECIPES, Recipe, recipe

__all__ = ["RECIPES", "Checkpoint", "Recipe", "evaluate", "fit", "load_checkpoint", "load_model", "loss_of", "recipe"]
