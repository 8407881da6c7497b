"""What a training run gives back."""

from dataclasses import dataclass, field

import pandas as pd

from trueup.models import LanguageModel, Work
from trueup.stats import Estimate


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows.

    Fields: stage is "reference" (buckets scored before the first step), "calibrating", "sampling",
            "evaluating" (own samples) or "training" (optimiser steps); step of steps are done; loss
            is NaN and eta None where nothing is trained.
    """

    stage: str
    step: int
    steps: int
    loss: float
    eta_seconds: float | None


@dataclass(frozen=True)
class TrainingResult:
    """A trained model and how it came about.

    Fields: steps has a row per optimiser step; evaluations a row per evaluation, step 0 is before
            training; items a row per evaluation example, before and after, or of online training a
            row per sample; guards is empty where nothing was held out and nothing rewarded; work
            counts all forward passes over all processes, those of the reference and of evaluations
            too; best_step is the step whose weights were kept, None for the last; notes are
            remarks for the user.
    """

    model: LanguageModel
    steps: pd.DataFrame
    evaluations: pd.DataFrame
    items: pd.DataFrame
    guards: list[Estimate]
    work: Work
    best_step: int | None = None
    notes: list[str] = field(default_factory=list)
