"""The server keeps what its own schema promises, to requests that a machine invents."""

import json
from collections.abc import Iterator

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import FailureGroup, positive_data_acceptance

from tests.server.conftest import served
from trueup.models import LanguageModel
from trueup.server.forms import ChatForm
from trueup.server.limits import Limits
from trueup.server.protocol import ErrorReply
from trueup.server.service import local_service

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def quick(lm64: LanguageModel) -> Iterator[str]:
    """A server whose answers are short, so that many requests take no time."""
    limits = Limits(max_new_tokens=8, default_new_tokens=4, max_choices=4)
    with served(local_service(lm64, name="tiny", limits=limits)) as url:
        yield url


@pytest.fixture(scope="module")
def api(quick: str) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(quick.removesuffix("/v1") + "/openapi.json")


RIGHT, WRONG = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/v1/chat/completions", RIGHT),
        ("/v1/chat/completions", WRONG),
        ("/v1/completions", RIGHT),
        ("/v1/completions", WRONG),
        ("/v1/models", RIGHT),
        ("/v1/models/{model}", RIGHT),
        ("/health", RIGHT),
        ("/metrics", RIGHT),
    ],
)
def test_invented_requests_get_what_the_schema_says(
    api: schemathesis.BaseSchema, path: str, mode: schemathesis.GenerationMode
):
    """Status, content type and form as told, wrong requests refused, no 5xx.

    Half of the bodies ask for the model that is there. That all well-formed requests succeed is
    not promised: a prompt may be too long.
    """
    method = "POST" if path.endswith("completions") else "GET"

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=QUIET)
    @given(api[path][method].as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        body = case.body
        if isinstance(body, dict) and len(json.dumps(body)) % 2:
            named = body.get("model")
            if isinstance(named, str) and named:  # a wrong one may be all that is wrong
                body["model"] = "tiny"
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    check()


def test_a_reply_without_its_choices_would_be_noticed(
    api: schemathesis.BaseSchema, monkeypatch: pytest.MonkeyPatch
):
    """The negative control of the test above."""
    monkeypatch.setattr(ChatForm, "whole", lambda *_: {"id": "x"})
    case = api["/v1/chat/completions"]["POST"].Case(
        body={"model": "tiny", "messages": [{"role": "user", "content": "a"}]},
        media_type="application/json",
    )
    with pytest.raises(FailureGroup):
        case.call_and_validate(excluded_checks=[positive_data_acceptance])


QUIET = list(HealthCheck)
WORDS = st.text(max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["messages", "prompt", "n", "stop", "seed", "stream", "logprobs", "temperature", "max_tokens",
     "top_p", "stream_options", "user", "top_k", "model"]
)  # fmt: skip


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_any_json_in_any_field_is_answered_or_refused(quick: str, path: str):
    good = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "a"}],
        "prompt": "a",
        "max_tokens": 2,
    }
    del good["prompt" if path.startswith("chat") else "messages"]

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(st.dictionaries(FIELDS, JSON, min_size=1, max_size=2))
    def check(changes: dict) -> None:
        content = json.dumps({**good, **changes})
        headers = {"Content-Type": "application/json"}
        reply = client.post(f"{quick}/{path}", content=content, headers=headers)
        assert reply.status_code in (200, 400, 404), reply.text
        if reply.status_code != 200:
            ErrorReply.model_validate(reply.json(), extra="forbid")

    with httpx2.Client() as client:
        check()
