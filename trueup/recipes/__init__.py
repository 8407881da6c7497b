"""The loop as a file: a recipe is read, checked as a whole with line numbers, then run."""

from trueup.recipes.checking import read_recipe as read_recipe
from trueup.recipes.recipe import Recipe as Recipe
from trueup.recipes.recipe import Step as Step
from trueup.recipes.running import StepResult as StepResult
from trueup.recipes.running import run_recipe as run_recipe
