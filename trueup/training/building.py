"""Rows that an objective builds from the model's own answers, once, before training starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from trueup.data import Table, read
from trueup.files import content_hash, write_lines
from trueup.models import LanguageModel
from trueup.objectives import Objective
from trueup.objectives.honesty import plain_prompt
from trueup.training.config import TrainingConfig
from trueup.training.data import Rows


@runtime_checkable
class Building(Protocol):
    """An objective whose training rows are made of greedy and sampled answers to questions."""

    source: str
    samples: int

    def rows(
        self, questions: Any, greedy: Any, sampled: Any, rng: np.random.Generator
    ) -> list[dict[str, str]]:
        """The rows {prompt, completion} to train on."""
        ...


def built_rows(
    lm: LanguageModel, objective: Objective, rows: Rows, config: TrainingConfig, folder: Path
) -> Table:
    """The rows of a `Building` objective, stored in `folder` with what they depend on.

    The model answers every question greedily and `samples` times at the sampling settings; a run
    that goes on reads what it built before.
    """
    assert isinstance(objective, Building)
    questions = read(rows, objective.source)
    sampling: dict[str, Any] = {
        "max_new_tokens": config.max_new_tokens,
        "top_k": config.top_k,
        "top_p": config.top_p,
        "seed": config.seed,
    }
    mark = content_hash(
        lm.fingerprint, questions.hash, repr(objective), repr(sampling), str(config.temperature)
    )
    path = folder / f"built-{mark[:16]}.jsonl"
    if path.is_file():
        return read(path, objective.data)
    prompts = [plain_prompt(row["question"]) for row in questions]
    greedy = lm.sample(prompts, temperature=0.0, stop=("\n",), **sampling)
    sampled = lm.sample(
        prompts, n=objective.samples, temperature=config.temperature, stop=("\n",), **sampling
    )
    made: list[Mapping[str, str]] = [
        *objective.rows(
            list(questions),
            [answers[0].text for answers in greedy],
            [[answer.text for answer in answers] for answers in sampled],
            np.random.default_rng(config.seed),
        )
    ]
    write_lines(path, made)
    return read(path, objective.data)
