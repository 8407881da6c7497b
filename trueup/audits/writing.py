"""What a model writes for the probes of audits: each text once, however many audits read it."""

from collections.abc import Hashable, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from trueup.audits.protocol import Model, writer
from trueup.data.canonical import canonical


class Decoding(Protocol):
    """How completions are drawn; the fields of an audit that lets the model write."""

    @property
    def samples(self) -> int:
        """Completions of every prompt."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Tokens of one completion at most."""
        ...

    @property
    def temperature(self) -> float:
        """0 is greedy."""
        ...

    @property
    def top_p(self) -> float:
        """The nucleus; 1 cuts nothing off."""
        ...

    @property
    def seed(self) -> int:
        """Of the draws."""
        ...


_written: "WeakKeyDictionary[Any, dict[Hashable, list[str]]]" = WeakKeyDictionary()


def completions(
    model: Model, prompts: Sequence[Any], decoding: Decoding, audit: str
) -> list[list[str]]:
    """`decoding.samples` texts for every prompt, [N][K]; equal prompts share theirs.

    A sample depends on the model, the prompt, its number and the settings alone, so a text is
    written once per model and process, whichever audit and whichever chunk asks for it.
    Raises: UserError where the model does not write.
    """
    source = writer(model, audit)
    known = _written.setdefault(model, {})
    how = (
        decoding.samples,
        decoding.max_new_tokens,
        decoding.temperature,
        decoding.top_p,
        decoding.seed,
    )
    keys = [(canonical({"prompt": prompt}), how) for prompt in prompts]
    missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in known}
    if missing:
        answers = source.sample(
            list(missing.values()),
            n=decoding.samples,
            max_new_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            seed=decoding.seed,
        )
        for key, texts in zip(missing, answers, strict=True):
            known[key] = [text.text for text in texts]
    return [known[key] for key in keys]
