"""A search behind the server gives what it gives by itself, and is refused what it cannot have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import openai
import pytest

from tests.server.conftest import served
from trueup.decoding.best_of_n import BestOfN
from trueup.decoding.protocol import DecoderNeeds, Request
from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.models.sampling import Sampling
from trueup.server.service import local_service, upstream_service
from trueup.server.upstream import Upstream


def letters(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """How many ASCII letters each completion has."""
    return [float(sum(c.isascii() and c.isalpha() for c in text)) for text in completions]


TURNS = [{"role": "user", "content": "a b c"}]


@dataclass(frozen=True, kw_only=True)
class WhiteBox(BestOfN):
    """A search that reads log-probabilities."""

    needs: ClassVar[DecoderNeeds] = DecoderNeeds(white_box=True)


@pytest.mark.network
def test_a_search_is_served_as_it_is(lm64: LanguageModel):
    search = BestOfN(candidates=8)
    asked = Request(sampling=Sampling(n=2, max_new_tokens=10, seed=3), rewards={"letters": letters})
    expected = search.decode(lm64, [TURNS], asked)[0]
    service = local_service(lm64, name="tiny", search=search, rewards={"letters": letters})
    with (
        served(service) as base,
        openai.OpenAI(base_url=base, api_key="none", max_retries=0) as client,
    ):
        settings = {"model": "tiny", "messages": TURNS, "n": 2, "max_tokens": 10, "seed": 3}
        reply = client.chat.completions.create(**settings)
        stream = list(client.chat.completions.create(**settings, stream=True))
        with pytest.raises(openai.BadRequestError, match="gives no log-probabilities"):
            client.chat.completions.create(**settings, logprobs=True)
    assert [choice.message.content for choice in reply.choices] == [one.text for one in expected]
    assert [c.choices[0].delta.content for c in stream] == [one.text for one in expected]
    plain = lm64.sample([TURNS], n=2, max_new_tokens=10, seed=3)[0]
    assert [one.text for one in plain] != [one.text for one in expected]  # the search does choose


def test_a_search_without_its_rewards_is_refused(lm64: LanguageModel):
    with pytest.raises(UserError, match="best-of-n needs a reward, got none"):
        local_service(lm64, name="tiny", search=BestOfN())


def test_a_search_that_reads_the_model_is_refused_before_another_server():
    above = Upstream.at("http://127.0.0.1:9/v1", "big", api_key_env="", timeout=1)
    with pytest.raises(UserError, match="needs the model itself, got one behind a server"):
        upstream_service(above, search=WhiteBox(), rewards={"letters": letters})
