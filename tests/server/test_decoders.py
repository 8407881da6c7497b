"""Chains of decoders behind the server: prepared, edited, searched, and as without a server."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import openai
import pytest
import torch

from tests.server.conftest import served
from trueup.data.messages import Prompt
from trueup.decoding.best_of_n import BestOfN
from trueup.decoding.compose import Chain, compose
from trueup.decoding.deal import DeAL
from trueup.decoding.protocol import DecoderNeeds, Request
from trueup.decoding.rewards import rewards_by_name
from trueup.decoding.urial import Urial
from trueup.errors import UserError
from trueup.models.endpoint import connect
from trueup.models.language_model import LanguageModel
from trueup.models.reward import words
from trueup.models.sampling import Sampling
from trueup.models.writer import Writer
from trueup.server.batching import ContinuousBatch
from trueup.server.searching import SearchBatches
from trueup.server.service import local_service, upstream_service
from trueup.server.upstream import Upstream

TURNS = [{"role": "user", "content": "Why?"}]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A step that asks for brevity."""

    name: ClassVar[str] = "asked"
    role: ClassVar[Literal["prompt"]] = "prompt"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds()

    def prepare(self, prompts: Sequence[Prompt], writer: Writer) -> list[Prompt]:
        system = {"role": "system", "content": "Be brief."}
        return [f"Be brief. {p}" if isinstance(p, str) else [system, *p] for p in prompts]

    def finish(self, text: str) -> str:
        return text


@dataclass(frozen=True, kw_only=True)
class Silenced:
    """An edit by which the model always writes the same token."""

    token: int
    name: ClassVar[str] = "silenced"
    role: ClassVar[Literal["edit"]] = "edit"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds(white_box=True)

    @contextmanager
    def applied(self, lm: LanguageModel) -> Iterator[None]:
        def only(module: torch.nn.Module, inputs: object, logits: torch.Tensor) -> torch.Tensor:
            logits = torch.full_like(logits, -1e4)
            logits[..., self.token] = 0
            return logits

        handle = lm.model.get_output_embeddings().register_forward_hook(only)
        try:
            yield
        finally:
            handle.remove()


def client(base: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=base, api_key="none", max_retries=0)


def test_steps_alone_join_the_running_batch_and_stream(lm64: LanguageModel):
    service = local_service(lm64, name="tiny", search=Chain(parts=(Asked(),)))
    assert isinstance(service.engine, ContinuousBatch)
    assert service.fingerprint.split("-")[2] == "asked"
    settings = {"model": "tiny", "max_tokens": 12, "seed": 5}
    with served(service) as base:
        chats = client(base).chat.completions
        reply = chats.create(messages=TURNS, logprobs=True, **settings)
        stream = list(chats.create(messages=TURNS, stream=True, **settings))
        text = client(base).completions.create(prompt="Why?", **settings)
        with pytest.raises(openai.BadRequestError, match="this decoder reads text"):
            client(base).completions.create(prompt=[1, 2], **settings)
    system = {"role": "system", "content": "Be brief."}
    prompts = [[system, *TURNS], "Be brief. Why?"]
    expected = lm64.sample(prompts, max_new_tokens=12, seed=5)
    assert reply.choices[0].message.content == expected[0][0].text
    told = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(told) == expected[0][0].text
    assert text.choices[0].text == expected[1][0].text
    assert reply.usage.prompt_tokens == len(lm64.encoder.prompt(prompts[0]))


def test_a_chain_answers_as_without_a_server(lm64: LanguageModel):
    chain = compose([Urial(prefix="Be brief. "), BestOfN(candidates=4)])
    rewards = {"words": words}
    service = local_service(lm64, name="tiny", search=chain, rewards=rewards)
    assert isinstance(service.engine, SearchBatches)
    with served(service) as base:
        reply = client(base).chat.completions.create(
            model="tiny", messages=TURNS, max_tokens=8, seed=2, n=2
        )
    sampling = Sampling(n=2, max_new_tokens=8, seed=2)
    [expected] = chain.decode(lm64, [TURNS], Request(sampling=sampling, rewards=rewards))
    assert [c.message.content for c in reply.choices] == [one.text for one in expected]


def test_settings_and_rewards_are_in_the_fingerprint(lm64: LanguageModel):
    found = {
        local_service(lm64, name="tiny", search=search, rewards=rewards).fingerprint
        for search, rewards in (
            (DeAL(), {"words": words}),
            (DeAL(lam=2), {"words": words}),
            (DeAL(), {"others": words}),
            (None, {}),
        )
    }
    assert len(found) == 4


def test_the_model_is_edited_while_it_is_served(lm64: LanguageModel):
    token = lm64.encoder.tokens(["x"])[0][-1]
    before = lm64.sample(["Why?"], max_new_tokens=5)[0][0]
    service = local_service(lm64, name="tiny", search=Chain(parts=(Silenced(token=token),)))
    with service.edited(), served(service) as base:
        reply = client(base).completions.create(model="tiny", prompt="Why?", max_tokens=5)
    assert reply.choices[0].text == "xxxxx"
    assert lm64.sample(["Why?"], max_new_tokens=5)[0][0] == before


def test_a_prompt_that_a_step_refuses_is_the_clients_error(lm64: LanguageModel):
    chain = compose([Urial(prefix="Be brief. "), BestOfN(candidates=2)])
    service = local_service(lm64, name="tiny", search=chain, rewards={"words": words})
    turns = [*TURNS, {"role": "assistant", "content": "So."}]
    with (
        served(service) as base,
        pytest.raises(openai.BadRequestError, match="must end with one"),
    ):
        client(base).chat.completions.create(model="tiny", messages=turns, max_tokens=4)


def test_rewards_of_a_file_reach_the_server(lm64: LanguageModel, tmp_path: Path):
    path = tmp_path / "r.py"
    path.write_text(
        "def reward(prompts, completions):\n    return [-len(c) for c in completions]\n"
    )
    service = local_service(
        lm64,
        name="tiny",
        search=BestOfN(candidates=4),
        rewards=rewards_by_name([f"{path}:reward"]),
    )
    with served(service) as base:
        reply = client(base).completions.create(model="tiny", prompt="Why?", max_tokens=6, seed=1)
    pool = lm64.sample(["Why?"], n=4, max_new_tokens=6, seed=1)[0]
    assert len(reply.choices[0].text) == min(len(one.text) for one in pool)


def test_urial_has_the_server_above_go_on_with_its_text(lm64: LanguageModel):
    """A base model behind a server answers as it does here, and is not asked as in a chat."""
    chain = compose(Urial(prefix="Be brief. "))
    sampling = Sampling(max_new_tokens=8, seed=4)
    [[expected]] = chain.decode(lm64, [TURNS], Request(sampling=sampling))
    with served(local_service(lm64, name="tiny")) as base:
        above = Upstream.at(base, "tiny", api_key_env="", timeout=20)
        with served(upstream_service(above, search=chain)) as front:
            reply = client(front).chat.completions.create(
                model="tiny", messages=TURNS, max_tokens=8, seed=4
            )
        endpoint = connect(base, "tiny", api_key_env="", cache=False)
        [[again]] = chain.decode(chain.writer(endpoint), [TURNS], Request(sampling=sampling))
        [[asked]] = chain.decode(endpoint, [TURNS], Request(sampling=sampling))
    assert reply.choices[0].message.content == expected.text == again.text
    assert asked.text != expected.text  # the control: the text as a turn of a chat


def test_a_text_endpoint_takes_texts_only(lm64: LanguageModel):
    with served(local_service(lm64, name="tiny")) as base:
        endpoint = connect(base, "tiny", api_key_env="", cache=False)
        found = endpoint.complete(["a", "b"], n=2, max_tokens=4, temperature=0)
        with pytest.raises(UserError, match="prompt 1: must be some text"):
            endpoint.completing().sample([TURNS])
    expected = lm64.sample(["a", "b"], n=2, max_new_tokens=4, temperature=0)
    assert [[one.text for one in several] for several in found] == [
        [one.text for one in several] for several in expected
    ]
    assert endpoint.completing().fingerprint != endpoint.fingerprint
