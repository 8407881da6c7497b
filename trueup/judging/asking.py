"""How a judge is asked: a local model, an endpoint or a function, as text or by letters."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, cast

import numpy as np
from scipy.special import softmax

from trueup.data.messages import Prompt
from trueup.errors import UserError
from trueup.models.writer import Text
from trueup.stats.estimate import Array

if TYPE_CHECKING:
    from trueup.models.endpoint import Endpoint
    from trueup.models.language_model import LanguageModel

Ask = Callable[[Sequence[Prompt]], list[str]]  # prompts in, one answer each

TOP_TOKENS = 20  # as many likely tokens as servers give at most


class Sampler(Protocol):
    """Whatever continues prompts with text: a language model, an endpoint, a scripted judge."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> Sequence[Sequence[Text]]:
        """`n` answers to each prompt; the same seed gives the same ones."""
        ...


def asker(
    model: Sampler | Ask,
    *,
    user: str = "a judge",
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
) -> Ask:
    """A model as a function from prompts to answers; a function stays as it is.

    Fields: user is who asks, for the error; temperature 0 takes the likeliest tokens; seed draws
            the answers above it, and a server at temperature 0 is asked anew for another seed.
    Raises: UserError where the model cannot answer with text.
    """
    if _samples(model):
        sampler = model

        def ask(prompts: Sequence[Prompt]) -> list[str]:
            answers = sampler.sample(
                prompts, n=1, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
            )
            return [several[0].text for several in answers]

        return ask
    if callable(model):
        return model
    raise UserError(
        f"{user} needs a model that answers with text, got {model!r}; give a causal language "
        "model, an endpoint, or a function from prompts to answers"
    )


def letter_probabilities(
    model: "LanguageModel | Endpoint", prompts: Sequence[Prompt], letters: Sequence[str]
) -> list[Array]:
    """The probabilities of each prompt's letters as the answer's beginning, adding up to 1.

    Edges:  none of the letters among an endpoint's likeliest tokens: NaN.
    Raises: UserError where the model gives no log-probabilities.
    """
    found = letter_logps(model, prompts, letters)
    return [softmax(logps) if np.isfinite(logps).any() else logps * np.nan for logps in found]


def letter_logps(
    model: Any,
    prompts: Sequence[Prompt],
    letters: Sequence[str],
    *,
    instead: str = "read the judge's text",
) -> list[Array]:
    """Log-probabilities of each prompt's letters as the answer's beginning, [K] per prompt.

    A language model scores all letters of a prompt in one forward pass. An endpoint is asked for
    the likeliest first tokens; forms of a letter add up, one that is not among them has -inf.
    Fields: instead is what to do with a model that gives none, for the error.
    Raises: UserError where the model gives no log-probabilities.
    """
    if _scores(model):
        pairs = zip(prompts, letters, strict=True)
        scores = model.score(prompts, [_completions(*pair) for pair in pairs])
        return [np.array(logps) for logps in scores.logps]
    if hasattr(model, "chat"):
        return _first_tokens(cast("Endpoint", model), prompts, letters, instead)
    raise UserError(f"letters need a model that gives log-probabilities, got {model!r}; {instead}")


def _completions(prompt: Prompt, letters: str) -> list[str]:
    """The letters as what follows a prompt: a blank stands before them after plain text."""
    blank = " " if isinstance(prompt, str) and not prompt[-1:].isspace() else ""
    return [blank + letter for letter in letters]


def _first_tokens(
    endpoint: "Endpoint", prompts: Sequence[Prompt], letters: Sequence[str], instead: str
) -> list[Array]:
    """The letters' log-probabilities among an endpoint's likeliest first tokens."""
    asked = endpoint.chat(prompts, max_tokens=1, temperature=0.0, top_logprobs=TOP_TOKENS)
    result = []
    for (answer, *_), known in zip(asked, letters, strict=True):
        if answer.logprobs is None:
            raise UserError(f"{endpoint!r} gives no log-probabilities of its tokens; {instead}")
        likely = answer.logprobs[0].top if answer.logprobs else ()
        forms = [[logp for token, logp in likely if token.strip() == letter] for letter in known]
        result.append(np.array([np.logaddexp.reduce([-np.inf, *logps]) for logps in forms]))
    return result


def _samples(model: Any) -> TypeGuard[Sampler]:
    """Whether the model continues prompts with text."""
    return hasattr(model, "sample")


def _scores(model: Any) -> "TypeGuard[LanguageModel]":
    """Whether the model gives log-probabilities of any completion."""
    return hasattr(model, "score_groups")
