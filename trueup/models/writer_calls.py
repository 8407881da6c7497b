"""Writers by what a user calls them, and answers of which none is longer than there is room for."""

import functools
from collections.abc import Sequence
from typing import Any

from trueup.data.messages import Prompt
from trueup.errors import UserError
from trueup.models.writer import Writer


def opened_writer(writer: Writer | str) -> Writer:
    """The writer itself, or the one that a text names, opened once.

    FOLDER or ID   a causal language model
    URL#NAME       the chat model of that name behind an endpoint of the OpenAI protocol
    Raises: UserError where it names nothing that writes.
    """
    return _opened(writer) if isinstance(writer, str) else writer


def room_of(writer: Writer, prompt: Prompt) -> int | None:
    """How many tokens a prompt leaves in the writer's context; None where nobody here can count."""
    model: Any = writer
    if not (hasattr(model, "encoder") and hasattr(model, "max_length")):
        return None
    return int(model.max_length) - len(model.encoder.prompt(prompt))


def fitted_answers(
    writer: Writer,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str | None]:
    """One answer to each prompt, at most as long as the writer's context leaves room for.

    Edges:  None where a prompt leaves no room at all. What others ask for changes no answer.
    """
    found: list[str | None] = [None] * len(prompts)
    limits: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        room = room_of(writer, prompt)
        limit = max_new_tokens if room is None else min(max_new_tokens, room)
        if limit > 0:
            limits.setdefault(limit, []).append(place)
    for limit, places in limits.items():
        answers = writer.sample(
            [prompts[place] for place in places],
            n=1,
            max_new_tokens=limit,
            temperature=temperature,
            seed=seed,
        )
        for place, several in zip(places, answers, strict=True):
            found[place] = several[0].text
    return found


@functools.lru_cache(maxsize=2)
def _opened(source: str) -> Writer:
    """The writer that a text names."""
    if source.startswith(("http://", "https://")):
        from trueup.models.endpoint import connect

        url, sign, name = source.partition("#")
        if not (sign and name):
            raise UserError(f"{url}: which model is behind it? Give URL#NAME, as {url}#my-model")
        return connect(url, name)
    from trueup.models.loading import load

    return load(source)
