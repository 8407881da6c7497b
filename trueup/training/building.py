"""Rows that an objective builds from the model's own answers, once, before training starts."""

from collections.abc import Mapping, Sequence
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
from trueup.training.processes import Processes
from trueup.training.prompts import turns


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
    lm: LanguageModel,
    objective: Objective,
    rows: Rows,
    config: TrainingConfig,
    folder: Path,
    processes: Processes,
) -> Table:
    """The rows of a `Building` objective, stored in `folder` with what they depend on.

    The model answers every question greedily and `samples` times at the sampling settings; the
    processes share the questions. A run that goes on reads what it built before.
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
    greedy = _answers(lm, prompts, processes, n=1, temperature=0.0, **sampling)
    sampled = _answers(
        lm, prompts, processes, n=objective.samples, temperature=config.temperature, **sampling
    )
    made: list[Mapping[str, str]] = [
        *objective.rows(
            list(questions),
            [answers[0] for answers in greedy],
            sampled,
            np.random.default_rng(config.seed),
        )
    ]
    processes.on_main(lambda: write_lines(path, made))
    return read(path, objective.data)


def _answers(
    lm: LanguageModel, prompts: Sequence[str], processes: Processes, *, seed: int, **sampling: Any
) -> list[list[str]]:
    """The answers to every prompt, whichever process gives them.

    Equal prompts have seeds of their own: they may be answered in different processes.
    """
    repeated = turns(prompts)

    def own(mine: list[int]) -> list[list[str]]:
        found: dict[int, list[str]] = {}
        for turn in sorted({repeated[place] for place in mine}):
            places = [place for place in mine if repeated[place] == turn]
            own_seed = int.from_bytes(f"{seed}:{turn}".encode(), "big") if turn else seed
            answers = lm.sample(
                [prompts[place] for place in places], seed=own_seed, stop=("\n",), **sampling
            )
            found |= zip(
                places, ([one.text for one in several] for several in answers), strict=True
            )
        return [found[place] for place in mine]

    return processes.shared(len(prompts), own)
