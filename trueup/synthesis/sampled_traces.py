"""A reasoning model's own answers with and without a trace, ranked by a reward: BVPO's data."""

from collections.abc import Sequence
from typing import Any

from trueup.models import LanguageModel
from trueup.models.reward import Reward, checked, reward_identity
from trueup.synthesis.traces import END_OF_TRACE, TracedSample, answer_after_trace, traced_rows

START_OF_TRACE = "<think>\n"  # as R1 and Qwen3 open their trace
EMPTY_TRACE = "<think>\n\n</think>\n\n"


def sampled_traces(
    lm: LanguageModel,
    prompts: Sequence[str],
    reward: Reward,
    *,
    samples: int = 5,
    start: str = START_OF_TRACE,
    end: str = END_OF_TRACE,
    empty: str = EMPTY_TRACE,
    **sampling: Any,
) -> list[dict[str, str | None]]:
    """Rows of the contract `traces`: best and worst of `samples` of each kind, by their answers.

    With a trace the model goes on from the prompt and `start`, without one from the prompt and
    `empty`, the template's own empty block. The reward sees the answers alone.

    Fields: sampling is `LanguageModel.sample`'s: max_new_tokens, temperature, seed, ...
    Edges:  a trace that never ends is no sample; equal rewards make no pair.
    Raises: UserError where the reward gives no finite number for an answer.
    Source: BVPO, arXiv 2510.05095: five samples of each kind.
    """
    thought = lm.sample([prompt + start for prompt in prompts], n=samples, **sampling)
    plain = lm.sample([prompt + empty for prompt in prompts], n=samples, **sampling)
    thinking = [[start + sample.text for sample in several] for several in thought]
    answering = [[sample.text for sample in several] for several in plain]
    return traced_rows(
        prompts=prompts,
        thinking=_rewarded(
            prompts, thinking, [[answer_after_trace(t, end) for t in k] for k in thinking], reward
        ),
        no_thinking=_rewarded(
            prompts, answering, [[text.strip() or None for text in k] for k in answering], reward
        ),
        end_of_trace=end,
    )


def _rewarded(
    prompts: Sequence[str],
    texts: Sequence[Sequence[str]],
    answers: Sequence[Sequence[str | None]],
    reward: Reward,
) -> list[list[TracedSample]]:
    """Every text with the reward of its answer, None where it has no answer."""
    places = [(i, k) for i, several in enumerate(answers) for k, one in enumerate(several) if one]
    asked = [str(answers[i][k]) for i, k in places]
    name = reward_identity(reward)
    values = checked(reward([prompts[i] for i, _ in places], asked), len(asked), name)
    known = dict(zip(places, values, strict=True))
    return [
        [TracedSample(text=text, reward=known.get((i, k))) for k, text in enumerate(several)]
        for i, several in enumerate(texts)
    ]
