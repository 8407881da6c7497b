"""Black-box models over real HTTP: answers, cache, retries, bounds, and the hidden key."""

import gc
import json
import logging
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from trueup.errors import TrueupError, UserError
from trueup.models.chat_budget import BudgetSpent
from trueup.models.chat_client import ChatClient
from trueup.models.chat_protocol import Answer, TokenLogp
from trueup.models.endpoint import Endpoint, connect
from trueup.models.scripted_server import Reply, ScriptedServer

pytestmark = pytest.mark.network

CANARY = "sk-canary-4f1d9a77c0ffee5511"
SYSTEM = {"role": "system", "content": "be kind"}
ASK = {"role": "user", "content": "why?"}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def to(server: ScriptedServer, tmp_path: Path) -> Iterator[Callable[..., Endpoint]]:
    """An endpoint at the server, with its cache in tmp_path and hardly any back-off."""
    made: list[Endpoint] = []

    def endpoint(model: str = "m", url: str = "", **options: Any) -> Endpoint:
        options = {"cache": tmp_path / "cache", "backoff": 0.001, "retries": 2, **options}
        made.append(connect(url or server.url, model, **options))
        return made[-1]

    yield endpoint
    for one in made:
        one.close()


def texts(answers: list[list[Answer]]) -> list[list[str]]:
    return [[answer.text for answer in several] for several in answers]


# ------------------------------------------------------------------ asking


def test_answers_come_in_the_order_of_the_prompts(to: Callable[..., Endpoint]) -> None:
    prompts = [f"prompt {n}" for n in range(20)]

    assert texts(to().chat(prompts)) == [[prompt] for prompt in prompts]


def test_an_answer_holds_what_the_server_says(to: Callable[..., Endpoint]) -> None:
    assert to().chat(["one two"]) == [
        [
            Answer(
                text="one two",
                reason="eos",
                prompt_tokens=2,
                completion_tokens=2,
                served_by="scripted-1",
            )
        ]
    ]


def test_several_samples_are_one_request(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    assert texts(to().chat(["a", "b"], n=3)) == [["a 0", "a 1", "a 2"], ["b 0", "b 1", "b 2"]]
    assert [request["n"] for request in server.requests] == [3, 3]


def test_further_samples_ask_for_the_missing_ones_with_another_seed(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    endpoint = to()

    first = endpoint.chat(["a"], n=2, seed=5)
    more = endpoint.chat(["a"], n=4, seed=5)

    assert texts(more)[0][:2] == texts(first)[0]
    assert [request["n"] for request in server.requests] == [2, 2]
    assert server.requests[0]["seed"] == 5
    assert server.requests[1]["seed"] != 5


def test_a_server_that_sends_one_sample_at_a_time_is_asked_again(
    tmp_path: Path,
) -> None:
    class Lazy(ScriptedServer):
        def _completion(self, request: Any) -> dict[str, Any]:
            return super()._completion({**request, "n": 1})

    def seed(request: Any, index: int) -> str:
        return str(request["seed"])

    with Lazy(seed) as server, connect(server.url, "m", cache=tmp_path) as endpoint:
        answers = texts(endpoint.chat(["a"], n=3))[0]

    assert len(set(answers)) == 3
    assert len(server.requests) == 3


def test_a_prompt_that_stands_twice_is_asked_once(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    assert texts(to(cache=False).chat(["a", "b", "a"])) == [["a"], ["b"], ["a"]]
    assert len(server.requests) == 2


def test_logprobs_come_where_they_are_asked_for(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    endpoint = to()
    [[plain]] = endpoint.chat(["one two"], logprobs=True)
    [[with_top]] = endpoint.chat(["one two"], top_logprobs=2)

    assert plain.logps == [-1.0, -1.0]
    assert with_top.logprobs is not None
    assert with_top.logprobs[1] == TokenLogp("two", -1.0, (("two0", -1.0), ("two1", -2.0)))
    assert "top_logprobs" not in server.requests[0]
    assert to().chat(["one two"])[0][0].logps is None


def test_answers_of_the_cache_are_the_same_answers(to: Callable[..., Endpoint]) -> None:
    [[fresh]] = to().chat(["one two"], top_logprobs=2)
    [[kept]] = to().chat(["one two"], top_logprobs=2)

    assert (fresh.cached, kept.cached) == (False, True)
    assert {**kept.as_dict(), "cached": False} == fresh.as_dict()
    assert kept.logprobs == fresh.logprobs


@pytest.mark.parametrize(
    ("prompt", "system", "sent"),
    [
        ("why?", None, [ASK]),
        ("why?", "be kind", [SYSTEM, ASK]),
        ([ASK], "be kind", [SYSTEM, ASK]),
        ([{"role": "system", "content": "own"}, ASK], "be kind",
         [{"role": "system", "content": "own"}, ASK]),
    ],
)  # fmt: skip
def test_the_system_prompt_stands_before_prompts_without_one(
    to: Callable[..., Endpoint], server: ScriptedServer, prompt: Any, system: str, sent: Any
) -> None:
    to(system=system).chat([prompt])

    assert server.requests[0]["messages"] == sent


def test_the_request_holds_every_setting(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    to(extra={"reasoning_effort": "low"}).chat(
        ["a"], max_tokens=7, temperature=0.5, top_p=0.9, stop=["."], seed=3
    )

    assert server.requests == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "a"}],
            "max_tokens": 7,
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": ["."],
            "seed": 3,
            "reasoning_effort": "low",
        }
    ]


def test_no_seed_is_sent_where_none_is_wanted(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    to().chat(["a"], seed=None)

    assert "seed" not in server.requests[0]


def test_sample_speaks_as_a_white_box_does(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    [several] = to().sample(["a"], n=2, max_new_tokens=9, stop=["."])

    assert [(answer.text, answer.reason) for answer in several] == [
        ("a 0", "stop"),
        ("a 1", "stop"),
    ]
    assert server.requests[0]["max_tokens"] == 9
    with pytest.raises(UserError, match="the chat protocol has no top_k, got 5"):
        to().sample(["a"], top_k=5)


@pytest.mark.parametrize(
    ("choice", "text", "reason"),
    [
        ({"message": {"content": None}, "finish_reason": "length"}, "", "length"),
        ({"message": {"content": "a"}, "finish_reason": "stop", "stop_reason": None}, "a", "eos"),
        ({"message": {"content": "a"}, "finish_reason": "stop", "stop_reason": "."}, "a", "stop"),
        ({"message": {"content": None, "refusal": "no"}, "finish_reason": "stop"}, "no", "refusal"),
        ({"message": {"content": [{"type": "text", "text": "a"}, {"type": "image"}]},
          "finish_reason": "content_filter"}, "a", "content_filter"),
        ({"message": {"content": "half \ud83d"}, "finish_reason": "stop"}, "half \ufffd", "eos"),
        ({"message": {"content": "\ud83d\ude00"}, "finish_reason": "stop"}, "😀", "eos"),
    ],
)  # fmt: skip
def test_servers_may_answer_in_their_own_way(
    to: Callable[..., Endpoint], server: ScriptedServer, choice: Any, text: str, reason: str
) -> None:
    server.instead.append(Reply(body={"choices": [choice]}))

    [[answer]] = to().chat(["a"])

    assert (answer.text, answer.reason, answer.prompt_tokens) == (text, reason, None)


def test_no_prompts_are_no_calls(to: Callable[..., Endpoint], server: ScriptedServer) -> None:
    assert to().chat([]) == []
    assert server.requests == []


@pytest.mark.parametrize(
    ("refusal", "changed"),
    [
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
         {"max_completion_tokens": 64, "n": 2}),
        ("'n' : number must be at most 1", {"max_tokens": 64}),
    ],
)  # fmt: skip
def test_servers_of_another_dialect_are_understood_and_remembered(
    to: Callable[..., Endpoint], server: ScriptedServer, refusal: str, changed: dict[str, int]
) -> None:
    server.instead.append(Reply(status=400, body={"error": {"message": refusal}}))
    endpoint = to()

    assert len(endpoint.chat(["a"], n=2)[0]) == 2
    endpoint.chat(["b"], n=2)

    for request in server.requests[1:]:
        names = ("n", "max_tokens", "max_completion_tokens")
        assert {name: request[name] for name in names if name in request} == changed


def test_concurrency_is_bounded(tmp_path: Path) -> None:
    with (
        ScriptedServer(seconds=0.03) as server,
        connect(server.url, "m", cache=tmp_path, max_concurrency=3) as endpoint,
    ):
        endpoint.chat([str(n) for n in range(12)])

    assert 2 <= server.most_at_once <= 3


def test_threads_may_share_an_endpoint(to: Callable[..., Endpoint]) -> None:
    endpoint = to(max_concurrency=2)
    prompts = [[f"{thread} {n}" for n in range(5)] for thread in range(4)]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(endpoint.chat, prompts))

    assert [texts(several) for several in answers] == [[[p] for p in own] for own in prompts]
    assert endpoint.work.calls == 20


# ------------------------------------------------------------------ cache


def test_a_cached_answer_makes_no_call(to: Callable[..., Endpoint], server: ScriptedServer) -> None:
    first = to().chat(["a"], n=2)
    endpoint = to()
    second = endpoint.chat(["a"], n=2)

    assert texts(first) == texts(second)
    assert len(server.requests) == 1
    assert (endpoint.work.calls, endpoint.work.cached) == (0, 2)


def test_two_models_never_share_an_answer(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    server.script = lambda request, index: f"I am {request['model']}"

    assert texts(to("a").chat(["who?"])) == [["I am a"]]
    assert texts(to("b").chat(["who?"])) == [["I am b"]]
    assert texts(to("a").chat(["who?"])) == [["I am a"]]


def test_two_servers_never_share_an_answer(to: Callable[..., Endpoint]) -> None:
    with ScriptedServer(lambda request, index: "another") as other:
        assert texts(to().chat(["a"])) == [["a"]]
        assert texts(to(url=other.url).chat(["a"])) == [["another"]]


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"temperature": 0.5}, {}),
        ({"seed": 1}, {}),
        ({"seed": None}, {}),
        ({"max_tokens": 65}, {}),
        ({"top_p": 0.9}, {}),
        ({"stop": ["x"]}, {}),
        ({"logprobs": True}, {}),
        ({"top_logprobs": 1}, {}),
        ({}, {"system": "be kind"}),
        ({}, {"extra": {"reasoning_effort": "low"}}),
    ],
)
def test_whatever_could_change_the_answer_misses_the_cache(
    to: Callable[..., Endpoint],
    server: ScriptedServer,
    settings: dict[str, Any],
    options: dict[str, Any],
) -> None:
    to().chat(["a"])
    to(**options).chat(["a"], **settings)

    assert len(server.requests) == 2


def test_what_cannot_change_the_answer_hits_the_cache(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    to().chat(["a"])
    to(url=f"{server.url}/", timeout=9, max_concurrency=1, retries=0).chat([[ASK], "a"])

    assert [request["messages"][0]["content"] for request in server.requests] == ["a", "why?"]


def test_without_a_cache_every_call_is_made(
    to: Callable[..., Endpoint], server: ScriptedServer, tmp_path: Path
) -> None:
    endpoint = to(cache=False)
    endpoint.chat(["a"])
    endpoint.chat(["a"])

    assert len(server.requests) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_users_cache_folder_is_the_default(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRUEUP_CACHE", str(tmp_path))
    with connect(server.url, "m") as endpoint:
        endpoint.chat(["a"])

    assert (tmp_path / "answers" / "answers.sqlite").is_file()


def test_an_answer_of_another_shape_in_the_cache_is_one_line(
    to: Callable[..., Endpoint], tmp_path: Path
) -> None:
    to().chat(["a"])
    file = tmp_path / "cache" / "answers.sqlite"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE answers SET answer = '{}'")

    with pytest.raises(UserError, match="the answer cache is damaged"):
        to().chat(["a"])


# ------------------------------------------------------------------ failures


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_failures_are_tried_again(
    to: Callable[..., Endpoint], server: ScriptedServer, status: int
) -> None:
    server.instead.extend([Reply(status=status), Reply(status=status)])
    endpoint = to()

    assert texts(endpoint.chat(["a"])) == [["a"]]
    assert endpoint.work.calls == 3


def test_after_the_last_attempt_one_line_says_why(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    server.instead.extend([Reply(status=503, body={"error": {"message": "too\nbusy"}})] * 3)

    with pytest.raises(TrueupError) as caught:
        to().chat(["a"])

    assert str(caught.value) == (
        f"{server.url}: no answer after 3 attempts: 503 too busy; what was answered is kept"
    )
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        ("0.25", (0.25, 0.26)),
        (formatdate(1_000_000_000, usegmt=True), (0, 0.01)),
        ("soon", (0.001, 0.002)),
    ],
)
def test_the_servers_wish_to_wait_is_honoured(
    to: Callable[..., Endpoint],
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    waited: tuple[float, float],
) -> None:
    waits: list[float] = []
    ask = ChatClient._wait
    monkeypatch.setattr(ChatClient, "_wait", lambda *args: waits.append(ask(*args)) or 0.0)
    server.instead.append(Reply(status=429, headers={"Retry-After": asked}))

    to().chat(["a"])

    assert len(waits) == 1
    assert waited[0] <= waits[0] <= waited[1]


def test_waits_double_and_are_jittered(
    to: Callable[..., Endpoint], server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    ask = ChatClient._wait
    monkeypatch.setattr(ChatClient, "_wait", lambda *args: waits.append(ask(*args)) or 0.0)
    server.instead.extend([Reply(status=500)] * 4)

    to(retries=4, backoff=0.5).chat(["a"])

    for wait, least in zip(waits, [0.5, 1, 2, 4], strict=True):
        assert least <= wait <= least + 0.5
    assert waits != [0.5, 1, 2, 4]


def test_a_server_that_asks_for_an_hour_is_not_waited_for(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    server.instead.append(Reply(status=429, body="later", headers={"Retry-After": "3600"}))

    with pytest.raises(UserError, match=r"429, .* \(later; the server asks to wait 3600 s\)$"):
        to().chat(["a"])
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, {"error": {"message": "bad temperature"}},
         "400, the request is refused (bad temperature)"),
        (401, {"error": "no"}, "401, no key was sent; set OPENAI_API_KEY (no)"),
        (404, {"error": {"message": "no such model"}},
         "404 for model 'm' (no such model); check the model's name, and the URL, which ends in "
         "/v1 for most servers"),
        (422, {"detail": [{"loc": ["body"]}]},
         "422, the request is refused ({\"detail\": [{\"loc\": [\"body\"]}]})"),
        (429, {"error": {"message": "quota", "code": "insufficient_quota"}},
         "429, the request is refused (quota)"),
        (403, "", "403, no key was sent; set OPENAI_API_KEY (Forbidden)"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_and_not_tried_again(
    to: Callable[..., Endpoint], server: ScriptedServer, status: int, body: Any, said: str
) -> None:
    server.instead.append(Reply(status=status, body=body))

    with pytest.raises(UserError) as caught:
        to().chat(["a"])

    assert str(caught.value) == f"{server.url}: {said}"
    assert len(server.requests) == 1


def test_long_messages_of_servers_are_shortened(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    server.instead.append(Reply(status=400, body="<html>\n" + "x" * 10_000))

    with pytest.raises(UserError) as caught:
        to().chat(["a"])

    assert len(str(caught.value)) < 400
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "body", ["", "<html>", "[1]", "{}", '{"choices": []}', '{"choices": [{}]}', "[" * 9999,
             '{"choices": [{"message": {"content": 3}}]}', '{"choices": 3, "usage": 4}'],
)  # fmt: skip
def test_a_reply_of_another_protocol_is_one_line(
    to: Callable[..., Endpoint], server: ScriptedServer, body: str
) -> None:
    server.instead.append(Reply(body=body))

    with pytest.raises(TrueupError) as caught:
        to().chat(["a"])

    assert str(caught.value).startswith(f"{server.url}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_moved_server_is_not_followed_with_the_key(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    server.instead.append(Reply(status=308, headers={"Location": "http://other.example/v1"}))

    with pytest.raises(TrueupError, match=r"it has moved; give the new URL, http://other\.example"):
        to().chat(["a"])
    assert len(server.requests) == 1


def test_nobody_listening_is_one_line(tmp_path: Path) -> None:
    with ScriptedServer() as server:
        url = server.url

    with (
        connect(url, "m", cache=tmp_path, retries=1, backoff=0.001) as endpoint,
        pytest.raises(TrueupError, match=r"no answer after 2 attempts: ConnectError: .*refused"),
    ):
        endpoint.chat(["a"])


def test_a_server_that_is_silent_is_given_up(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    server.instead.append(Reply(seconds=0.3))

    with pytest.raises(TrueupError, match=r"no answer after 1 attempts: no reply within 0.05 s"):
        to(timeout=0.05, retries=0).chat(["a"])


def test_one_failure_loses_no_answer(
    to: Callable[..., Endpoint], server: ScriptedServer, tmp_path: Path
) -> None:
    prompts = [str(n) for n in range(6)]
    endpoint = to(max_concurrency=1)
    server.instead.extend([Reply(body=server._completion(_request(p))) for p in prompts[:3]])
    server.instead.append(Reply(status=400))

    with pytest.raises(UserError):
        endpoint.chat(prompts)
    made = len(server.requests)
    assert texts(to().chat(prompts)) == [[prompt] for prompt in prompts]

    assert made == 4
    assert len(server.requests) == 4 + 3


def _request(prompt: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": prompt}]}


# ------------------------------------------------------------------ bounds


def test_calls_are_bounded_and_their_answers_kept(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    prompts = [str(n) for n in range(10)]

    with pytest.raises(BudgetSpent) as caught:
        to(max_calls=4).chat(prompts)
    sent = len(server.requests)
    endpoint = to(max_calls=6)

    assert str(caught.value) == (
        f"{server.url}: stopped at max_calls=4, 4 calls were made; raise max_calls and run again "
        "(cached answers are kept)"
    )
    assert sent == 4
    assert texts(endpoint.chat(prompts)) == [[prompt] for prompt in prompts]
    assert (endpoint.work.calls, endpoint.work.cached) == (6, 4)


def test_without_a_cache_a_bound_says_that_nothing_is_kept(to: Callable[..., Endpoint]) -> None:
    with pytest.raises(BudgetSpent, match=r"\(there is no cache of answers\)$"):
        to(max_calls=0, cache=False).chat(["a"])


def test_the_work_is_counted_as_a_run_holds_it(to: Callable[..., Endpoint]) -> None:
    endpoint = to(prices=(1.0, 2.0))
    endpoint.chat(["one two", "three"], n=2)

    # the script answers with its prompt and the sample's number: 3 + 3 and 2 + 2 words
    assert endpoint.work.as_dict() == {
        "calls": 2,
        "cached": 0,
        "prompt_tokens": 3,
        "completion_tokens": 10,
        "cost": pytest.approx((3 * 1 + 10 * 2) / 1e6, abs=1e-12),
    }


def test_repeated_attempts_count_as_calls(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    server.instead.extend([Reply(status=500)] * 5)

    with pytest.raises(BudgetSpent, match="2 calls were made"):
        to(max_calls=2, retries=9).chat(["a"])
    assert len(server.requests) == 2


def test_no_calls_allowed_reads_the_cache_alone(to: Callable[..., Endpoint]) -> None:
    to().chat(["a"])

    assert texts(to(max_calls=0).chat(["a"])) == [["a"]]
    with pytest.raises(BudgetSpent):
        to(max_calls=0).chat(["b"])


def test_cost_is_counted_and_never_passes_its_bound(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    endpoint = to(prices=(1e6, 2e6), max_cost=500, max_concurrency=4)

    with pytest.raises(BudgetSpent, match=r"stopped before max_cost=500, \d+ calls were made for"):
        endpoint.chat([f"word word {n}" for n in range(80)], max_tokens=5)

    # three words in at 1 each and three words out at 2 each
    assert endpoint.work.cost == pytest.approx(9 * len(server.requests))
    assert 100 <= endpoint.work.cost <= 500
    assert endpoint.work.prompt_tokens == 3 * len(server.requests)


def test_a_cost_bound_needs_prices(server: ScriptedServer) -> None:
    with pytest.raises(UserError, match="max_cost=5 needs prices"):
        connect(server.url, "m", max_cost=5)


# ------------------------------------------------------------------ identity and settings


def test_the_fingerprint_knows_what_is_served(
    to: Callable[..., Endpoint], server: ScriptedServer
) -> None:
    endpoint, twin, other = to(), to(), to("b")
    before = endpoint.fingerprint
    assert before == twin.fingerprint != other.fingerprint

    endpoint.chat(["a"])
    twin.chat(["a"])  # from the cache

    assert endpoint.fingerprint == twin.fingerprint != before


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000/v1", "must begin with http:// or https://"),
        ("ftp://host/v1", "must begin with http:// or https://"),
        ("http://", "must begin with http:// or https://"),
        ("http://host:port", "cannot be read"),
        ("", "must begin with http:// or https://"),
        (f"http://user:{CANARY}@host/v1", "http://host/v1: an endpoint's URL holds no user, query"),
        (
            f"http://host/v1?api-key={CANARY}",
            "http://host/v1: an endpoint's URL holds no user, que",
        ),
    ],
)
def test_a_url_that_cannot_be_is_refused_without_its_secrets(url: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        connect(url, "m")

    assert said in str(caught.value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": ""}, "the model has no name"),
        ({"max_concurrency": 0}, "max_concurrency must be at least 1, got 0"),
        ({"retries": -1}, "retries must be at least 0, got -1"),
        ({"timeout": 0}, "timeout must be above 0, got 0"),
        ({"max_calls": -1}, "max_calls must be at least 0, got -1"),
        ({"extra": {"seed": 3}}, "extra must not set 'seed'"),
        ({"extra": {"x": object()}}, "model, system and extra must be plain data"),
        ({"system": "\ud800"}, "model, system and extra must be plain data"),
    ],
)
def test_options_are_checked_before_any_call(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        connect("http://localhost:1/v1", **{"model": "m", "cache": False, **options})


@pytest.mark.parametrize(
    ("prompt", "settings", "said"),
    [
        ("a", {"n": 0}, "n must be at least 1, got 0"),
        ("a", {"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ("a", {"temperature": -1}, "temperature must be at least 0, got -1"),
        ("a", {"top_p": 1.5}, "top_p must lie between 0 and 1, got 1.5"),
        ("a\ud800", {}, "prompt 1: is not valid Unicode"),
        ([], {}, "prompt 1: 'messages' is an empty list"),
        ([{"role": "friend", "content": ""}], {}, "prompt 1: the role of message 1"),
        (3, {}, "prompt 1: 'messages' must be a list of messages, got 3"),
    ],
)
def test_questions_are_checked_before_any_call(
    to: Callable[..., Endpoint], server: ScriptedServer, prompt: Any, settings: Any, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        to().chat([prompt], **settings)
    assert server.requests == []


def test_a_forgotten_endpoint_closes_its_connections(server: ScriptedServer) -> None:
    endpoint = connect(server.url, "m", cache=False)
    endpoint.chat(["a"])
    client = endpoint._client

    del endpoint
    gc.collect()

    assert client._http.is_closed


# ------------------------------------------------------------------ the key


def test_the_key_is_sent_as_the_environment_has_it(
    to: Callable[..., Endpoint], server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = to(cache=False)
    endpoint.chat(["a"])
    monkeypatch.setenv("OPENAI_API_KEY", f"{CANARY}\n")
    endpoint.chat(["a"])
    monkeypatch.setenv("MY_KEY", "mine")
    to(cache=False, api_key_env="MY_KEY").chat(["a"])
    to(cache=False, api_key_env="").chat(["a"])

    assert server.authorizations == [None, f"Bearer {CANARY}", "Bearer mine", None]


@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
def test_the_key_is_found_nowhere_afterwards(
    to: Callable[..., Endpoint],
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    status: int,
) -> None:
    """Whatever the server does, even where it sends the key back in all it says."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    endpoint = to()
    escaped_key = "".join(f"\\u{ord(letter):04x}" for letter in CANARY)
    if status == 200:
        answer = json.dumps(server._completion(_request(f"your key is {CANARY}")))
        server.instead.append(Reply(body=answer.replace(CANARY, escaped_key)))
    else:
        server.instead.extend([Reply(status=status, body=f"Bearer {CANARY} is wrong")] * 3)

    seen = [repr(endpoint), str(vars(endpoint)), str(vars(endpoint._client))]
    try:
        seen.append(repr(endpoint.chat(["a"], logprobs=True)))
    except TrueupError as error:
        seen += [str(error), repr(error), "".join(traceback.format_exception(error))]
        seen += [repr(error.__cause__), repr(error.__context__)]
        seen += [repr(frame.f_locals) for frame, _ in traceback.walk_tb(error.__traceback__)]

    seen += [record.getMessage() + str(record.args) for record in caplog.records]
    assert server.authorizations[0] == f"Bearer {CANARY}"
    assert any("[key]" in text for text in seen)
    assert not [text for text in seen if CANARY in text]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files or status != 200
    assert not [file for file in files if CANARY.encode() in file.read_bytes()]


def test_keys_starred_out_by_the_server_are_left_out_whole(
    to: Callable[..., Endpoint], server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    server.instead.append(Reply(status=401, body={"error": {"message": "bad key sk-can****5511."}}))

    with pytest.raises(UserError) as caught:
        to().chat(["a"])

    assert str(caught.value) == (
        f"{server.url}: 401, the key is refused (bad key [key]); check OPENAI_API_KEY"
    )


@pytest.mark.parametrize("key", [f"{CANARY}\nX-Other: 1", f"{CANARY} two", f"{CANARY}é"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(
    to: Callable[..., Endpoint],
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)

    with pytest.raises(UserError) as caught:
        to().chat(["a"])

    assert str(caught.value) == "$OPENAI_API_KEY holds characters that no key has; set it again"
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert server.requests == []


def test_a_short_key_does_not_eat_answers(
    to: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")

    assert texts(to().chat(["the glass is EMPTY"])) == [["the glass is EMPTY"]]
