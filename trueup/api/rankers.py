"""Rankers by what the user calls them: a reward that sorts, or a chat model that is asked."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trueup.errors import UserError

if TYPE_CHECKING:
    from trueup.judging.ranking import Demonstration, Ranker
    from trueup.models.reward import Reward


def load_ranker(source: str, *, device: str = "auto") -> "Ranker":
    """A ranker by name.

    URL#MODEL  a chat model behind an endpoint of the OpenAI protocol
    else       a reward as `--reward` takes it, whose order is the ranking
    """
    if source.startswith(("http://", "https://")):
        url, _, model = source.partition("#")
        if not model:
            raise UserError(f"ranker {source!r}: names no model; write URL#MODEL")
        return _chat_ranker(url, model)
    from trueup.models.reward import load_reward

    return RewardRanker(load_reward(source, device=device))


class RewardRanker:
    """A reward as a ranker: it needs no demonstrations, and ties keep their order."""

    def __init__(self, reward: "Reward") -> None:
        from trueup.models.reward import reward_identity

        self.reward = reward
        self.identity = f"reward {reward_identity(reward)}"

    def __call__(
        self, prompt: Any, responses: Sequence[str], demonstrations: "Sequence[Demonstration]"
    ) -> list[int] | None:
        """Positions, the highest reward first; None where a reward is NaN, which has no place."""
        from trueup.models.reward import rewards_of

        numbers = rewards_of(self.reward, [str(prompt)] * len(responses), responses)
        if any(math.isnan(number) for number in numbers):
            return None
        return sorted(range(len(responses)), key=lambda place: -numbers[place])


def _chat_ranker(url: str, model: str) -> "Ranker":
    """A chat model that is asked greedily; the endpoint's cache answers a question once."""
    from trueup.judging.ranking import ChatRanker
    from trueup.models.endpoint import connect

    endpoint = connect(url, model)

    class Asked(ChatRanker):
        identity = f"chat {url} {model}"

    return Asked(ask=lambda text: endpoint.chat([text], temperature=0)[0][0].text)
