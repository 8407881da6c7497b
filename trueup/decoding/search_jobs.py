"""What runs in a search: prompts as tokens, each with random numbers of its own, in batches."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trueup.data.messages import Prompt
from trueup.errors import UserError
from trueup.models.language_model import MAX_ROWS, LanguageModel
from trueup.models.sampling import Sampling


@dataclass(frozen=True)
class Job:
    """One prompt of the list: its place, its tokens, and a stream of numbers per search."""

    place: int
    ids: list[int]
    streams: list[np.random.Generator]


def jobs_of(
    models: Sequence[LanguageModel],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    searches: int = 1,
) -> list[Job]:
    """The prompts as the first model's tokens; the same prompt twice has two streams.

    Raises: UserError where a prompt leaves one of the models no room, saying by how much.
    """
    ids = [models[0].encoder.prompt(prompt) for prompt in prompts]
    for model in models:
        _check_room(model, ids, sampling.max_new_tokens)
    seen: Counter[tuple[int, ...]] = Counter()
    jobs = []
    for place, prompt in enumerate(ids):
        first = seen[tuple(prompt)] * searches
        seen[tuple(prompt)] += 1
        name = f"{sampling.seed}:{','.join(map(str, prompt))}"
        streams = [random_stream(name, first + number) for number in range(searches)]
        jobs.append(Job(place, prompt, streams))
    return jobs


def batches(jobs: Sequence[Job], *, rows: int) -> list[list[Job]]:
    """Jobs of like length together, so many that `rows` for each stay below the limit."""
    order = sorted(jobs, key=lambda job: (len(job.ids), job.ids, job.place))
    size = max(1, MAX_ROWS // rows)
    return [order[start : start + size] for start in range(0, len(order), size)]


def random_stream(name: str, number: int) -> np.random.Generator:
    """The random numbers of one search: they depend on its name and number alone."""
    root = int.from_bytes(hashlib.sha256(f"search:{name}".encode()).digest()[:8], "big")
    return np.random.default_rng([root, number])


def _check_room(lm: LanguageModel, ids: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise UserError where a prompt and its completion do not fit the context."""
    for place, prompt in enumerate(ids, start=1):
        excess = len(prompt) + max_new_tokens - lm.max_length
        if excess > 0:
            raise UserError(
                f"prompt {place}: {excess} tokens too long, got {len(prompt)} tokens and "
                f"max_new_tokens {max_new_tokens} where {lm.name} reads {lm.max_length}; "
                "shorten one of them"
            )
