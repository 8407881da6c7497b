"""Training on `accelerate`: the offline engine, its settings, checkpoints, monitors, model card."""

from trueup.training.config import TrainingConfig as TrainingConfig
from trueup.training.model_card import write_model_card as write_model_card
from trueup.training.result import Progress as Progress
from trueup.training.result import TrainingResult as TrainingResult
from trueup.training.runner import train as train
