"""The official client against the real server: whatever it reads is what the model sampled."""

import threading
from collections.abc import Iterator

import openai
import pytest

from tests.server.conftest import served
from trueup.models import LanguageModel
from trueup.server.service import local_service

pytestmark = pytest.mark.network

TURNS = [{"role": "user", "content": "Say something."}]


@pytest.fixture(scope="module")
def client(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base, api_key="none", max_retries=0) as client:
        yield client


def test_a_chat_is_what_the_model_samples(client: openai.OpenAI, lm64: LanguageModel):
    reply = client.chat.completions.create(
        model="tiny", messages=TURNS, n=3, max_tokens=20, temperature=0.8, top_p=0.9, seed=5
    )
    expected = lm64.sample([TURNS], n=3, max_new_tokens=20, temperature=0.8, top_p=0.9, seed=5)[0]
    assert [choice.message.content for choice in reply.choices] == [one.text for one in expected]
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    reasons = {"eos": "stop", "stop": "stop", "length": "length"}
    assert [c.finish_reason for c in reply.choices] == [reasons[one.reason] for one in expected]
    assert reply.usage.prompt_tokens == len(lm64.encoder.prompt(TURNS))
    assert reply.usage.completion_tokens == sum(len(one.token_ids) for one in expected)
    assert reply.model == "tiny"


def test_another_seed_gives_another_chat(client: openai.OpenAI):
    texts = {
        client.chat.completions.create(model="tiny", messages=TURNS, max_tokens=9, seed=seed)
        .choices[0]
        .message.content
        for seed in (1, 2, 3)
    }
    assert len(texts) == 3


def test_without_a_seed_chance_is_new(client: openai.OpenAI):
    create = client.completions.create
    texts = {create(model="tiny", prompt="x", max_tokens=9).choices[0].text for _ in range(3)}
    assert len(texts) == 3


def test_a_stream_is_the_whole_reply_in_pieces(client: openai.OpenAI):
    settings = {"model": "tiny", "messages": TURNS, "n": 2, "max_tokens": 30, "seed": 6}
    whole = client.chat.completions.create(**settings)
    parts, reasons, usage = ["", ""], [None, None], None
    chunks = list(
        client.chat.completions.create(
            **settings, stream=True, stream_options={"include_usage": True}
        )
    )
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            parts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert parts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 20
    assert chunks[0].choices[0].delta.role == "assistant"


def test_a_stop_string_ends_a_chat_and_is_not_in_it(client: openai.OpenAI, lm64: LanguageModel):
    free = lm64.sample([TURNS], max_new_tokens=60, temperature=1.0, seed=8)[0][0].text
    stop = next(letter for letter in free[6:] if letter.isascii() and letter.isprintable())
    settings = {"model": "tiny", "messages": TURNS, "max_tokens": 60, "seed": 8, "stop": [stop]}
    choice = client.chat.completions.create(**settings).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.stop_reason == stop
    assert choice.message.content == free[: free.find(stop)]
    stream = client.chat.completions.create(**settings, stream=True)
    assert "".join(c.choices[0].delta.content for c in stream) == choice.message.content


def test_logprobs_of_a_chat_are_the_models(client: openai.OpenAI, lm64: LanguageModel):
    settings = {"model": "tiny", "messages": TURNS, "max_tokens": 6, "seed": 3}
    wanted = {"logprobs": True, "top_logprobs": 4}
    content = client.chat.completions.create(**settings, **wanted).choices[0].logprobs.content
    sample = lm64.sample([TURNS], max_new_tokens=6, seed=3)[0][0]
    assert [token.logprob for token in content] == pytest.approx(sample.logps, abs=1e-6)
    assert all(len(token.top_logprobs) == 4 for token in content)
    likeliest = float(lm64.start([TURNS]).logprobs.max())
    assert content[0].top_logprobs[0].logprob == pytest.approx(likeliest, abs=1e-6)
    streamed = [
        token
        for chunk in client.chat.completions.create(**settings, **wanted, stream=True)
        for token in chunk.choices[0].logprobs.content
    ]
    assert streamed == content


def test_a_completion_of_several_prompts(client: openai.OpenAI, lm64: LanguageModel):
    prompts = ["The nurse", "x"]
    reply = client.completions.create(
        model="tiny", prompt=prompts, n=2, max_tokens=8, seed=1, logprobs=2
    )
    expected = [
        one for several in lm64.sample(prompts, n=2, max_new_tokens=8, seed=1) for one in several
    ]
    assert [choice.text for choice in reply.choices] == [one.text for one in expected]
    assert reply.choices[3].logprobs.token_logprobs == pytest.approx(expected[3].logps, abs=1e-6)
    assert reply.choices[3].logprobs.text_offset[0] == 0


def test_a_completion_of_token_ids_is_that_of_their_text(
    client: openai.OpenAI, lm64: LanguageModel
):
    settings = {"model": "tiny", "max_tokens": 8, "seed": 1}
    ids = lm64.encoder.prompt("The nurse")
    by_text = client.completions.create(prompt="The nurse", **settings)
    by_ids = client.completions.create(prompt=ids, **settings)
    assert by_ids.choices[0].text == by_text.choices[0].text


def test_parts_of_content_are_one_text(client: openai.OpenAI):
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "something."}]
    settings = {"model": "tiny", "max_tokens": 8, "seed": 1}
    whole = client.chat.completions.create(messages=TURNS, **settings)
    split = client.chat.completions.create(
        messages=[{"role": "user", "content": parts}], **settings
    )
    assert split.choices[0].message.content == whole.choices[0].message.content


def test_the_model_is_listed(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"temperature": 3}, r"temperature: .* equal to 2, got 3"),
        ({"max_tokens": 0}, "max_tokens: .* equal to 1, got 0"),
        ({"max_tokens": 201}, "max_tokens must be at most 200, got 201"),
        ({"n": 65}, "64 choices in all, got 65"),
        ({"top_logprobs": 3}, "top_logprobs needs logprobs: true"),
        ({"messages": []}, "messages: .* at least 1 item"),
        ({"messages": [{"role": "pope", "content": "a"}]}, r"messages\.0\.role: .* got 'pope'"),
        ({"messages": [{"role": "user", "content": "p" * 200}]}, "it is [0-9]+ too many"),
        ({"extra_body": {"tools": []}}, "tools: extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_a_bad_request(client: openai.OpenAI, fault: dict, told: str):
    asked = {"model": "tiny", "messages": TURNS, "max_tokens": 100, **fault}
    with pytest.raises(openai.BadRequestError, match=told) as caught:
        client.chat.completions.create(**asked)
    assert caught.value.type == "invalid_request_error"


def test_another_model_is_not_found(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match="no model 'huge' here; 'tiny' is served"):
        client.chat.completions.create(model="huge", messages=TURNS)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("huge")


def test_only_the_token_opens_the_server(lm64: LanguageModel):
    token = "a-token-of-some-length"
    with served(local_service(lm64, name="tiny"), token=token) as base:
        with (
            openai.OpenAI(base_url=base, api_key="another-token-of-length", max_retries=0) as wrong,
            pytest.raises(openai.AuthenticationError, match="token is missing or wrong"),
        ):
            wrong.models.list()
        with openai.OpenAI(base_url=base, api_key=token, max_retries=0) as right:
            assert right.models.list().data


def test_requests_at_once_are_sampled_as_alone(client: openai.OpenAI, lm64: LanguageModel):
    texts: dict[int, str] = {}

    def ask(seed: int) -> None:
        reply = client.completions.create(model="tiny", prompt="x" * seed, max_tokens=30, seed=seed)
        texts[seed] = reply.choices[0].text

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {
        seed: lm64.sample(["x" * seed], max_new_tokens=30, seed=seed)[0][0].text for seed in texts
    }
    assert texts == expected
    assert len(texts) == 16
