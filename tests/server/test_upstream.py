"""The same server in front of another one: prompts go up, answers come down, failures are 502."""

import concurrent.futures
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import httpx2
import openai
import pytest

from tests.server.conftest import served
from trueup.decoding.protocol import Decoded, DecoderNeeds, Request
from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.models.endpoint import connect
from trueup.models.scripted_server import Reply, ScriptedServer
from trueup.server.limits import Limits
from trueup.server.service import local_service, upstream_service
from trueup.server.upstream import Upstream, only_model

pytestmark = pytest.mark.network

TURNS = [{"role": "user", "content": "a b c"}]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-the-key-of-the-upstream")


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def above(url: str, model: str = "big") -> Upstream:
    return Upstream.at(url, model, api_key_env="UPSTREAM_KEY", timeout=20)


@pytest.fixture
def client(scripted: ScriptedServer) -> Iterator[openai.OpenAI]:
    with (
        served(upstream_service(above(scripted.url))) as base,
        openai.OpenAI(base_url=base, api_key="none", max_retries=0) as client,
    ):
        yield client


def test_a_question_goes_up_and_its_answers_come_down(
    client: openai.OpenAI, scripted: ScriptedServer
):
    reply = client.chat.completions.create(
        model="big", messages=TURNS, n=2, seed=5, temperature=0.5, stop=["x"], max_tokens=7
    )
    assert [choice.message.content for choice in reply.choices] == ["a b c 0", "a b c 1"]
    assert scripted.requests == [
        {"model": "big", "messages": TURNS, "max_tokens": 7, "temperature": 0.5, "stop": ["x"],
         "seed": 5, "n": 2}
    ]  # fmt: skip
    assert scripted.authorizations == ["Bearer sk-the-key-of-the-upstream"]
    assert reply.usage is None  # nobody here counts its tokens


def test_a_stream_brings_the_answer(client: openai.OpenAI):
    stream = client.chat.completions.create(model="big", messages=TURNS, stream=True)
    assert "".join(chunk.choices[0].delta.content for chunk in stream) == "a b c"


def test_the_same_question_without_a_seed_is_asked_anew(
    client: openai.OpenAI, scripted: ScriptedServer
):
    for _ in range(2):
        client.chat.completions.create(model="big", messages=TURNS)
    assert len({request["seed"] for request in scripted.requests}) == 2


def test_a_refusal_above_is_a_bad_gateway_and_tells_no_key(
    client: openai.OpenAI, scripted: ScriptedServer
):
    refusal = {"error": {"message": "the key sk-the-key-of-the-upstream is wrong"}}
    scripted.instead.append(Reply(status=401, body=refusal))
    with pytest.raises(openai.InternalServerError, match="the server above") as caught:
        client.chat.completions.create(model="big", messages=TURNS)
    assert caught.value.status_code == 502
    assert "sk-the-key" not in str(caught.value)


def test_what_needs_the_model_here_is_refused(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError, match="gives no log-probabilities"):
        client.chat.completions.create(model="big", messages=TURNS, logprobs=True)
    with pytest.raises(openai.BadRequestError, match="ask /v1/chat/completions"):
        client.completions.create(model="big", prompt="a")


@dataclass(frozen=True, kw_only=True)
class Longest:
    """Best of n by length: a search that needs no log-probabilities."""

    name: ClassVar[str] = "longest"
    role: ClassVar[Literal["search"]] = "search"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds()

    def decode(self, lm, prompts: Sequence, request: Request) -> list[list[Decoded]]:
        found = lm.sample(prompts, n=3, max_new_tokens=9, seed=request.sampling.seed)
        return [[Decoded(text=max((one.text for one in several), key=len))] for several in found]


def test_a_search_that_needs_no_logits_runs_before_any_server(scripted: ScriptedServer):
    scripted.script = lambda request, index: "word " * [2, 5, 3][index]
    service = upstream_service(above(scripted.url), search=Longest())
    with (
        served(service) as base,
        openai.OpenAI(base_url=base, api_key="none", max_retries=0) as client,
    ):
        reply = client.chat.completions.create(model="big", messages=TURNS)
    assert reply.choices[0].message.content == "word " * 5


def test_requests_go_up_side_by_side(scripted: ScriptedServer):
    scripted.seconds = 0.2
    service = upstream_service(above(scripted.url), limits=Limits())
    with served(service) as base:
        with httpx2.Client() as client:
            asked = {"model": "big", "messages": TURNS}
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                post = client.post
                replies = list(
                    pool.map(lambda _: post(f"{base}/chat/completions", json=asked), range(8))
                )
        assert {reply.status_code for reply in replies} == {200}
    assert scripted.most_at_once > 3


def test_our_own_server_may_be_the_one_above(lm64: LanguageModel):
    """`connect` and `--upstream` read what `serve` writes, with the reason of the ending."""
    with served(local_service(lm64, name="tiny")) as base:
        assert only_model(base, "UPSTREAM_KEY") == "tiny"
        endpoint = connect(base, "tiny", cache=False)
        sample = lm64.sample([TURNS], max_new_tokens=12, seed=3)[0][0]
        free = sample.text
        answer = endpoint.sample([TURNS], max_new_tokens=12, seed=3)[0][0]
        assert (answer.text, answer.reason) == (free, sample.reason)
        with served(upstream_service(above(base, "tiny"))) as front:
            asked = {"model": "tiny", "messages": TURNS, "max_tokens": 12, "seed": 3}
            reply = httpx2.post(f"{front}/chat/completions", json=asked).json()
    assert reply["choices"][0]["message"]["content"] == free


def test_an_url_that_holds_a_secret_is_refused_without_showing_it():
    with pytest.raises(UserError, match="holds no user, query or fragment") as caught:
        only_model("http://me:hunter2@127.0.0.1:9/v1", "UPSTREAM_KEY")
    assert "hunter2" not in str(caught.value)


def test_a_server_that_does_not_say_its_models_needs_a_name():
    with pytest.raises(UserError, match="give URL#NAME"):
        only_model("http://127.0.0.1:9/v1", "UPSTREAM_KEY")
