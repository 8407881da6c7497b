"""A real local model as a judge behind a real HTTP server: audited once, paid once."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.tiny_models import make_config, make_tokenizer
from trueup.audits.behaviour.judge_bias import JudgeBias
from trueup.errors import UserError
from trueup.judging.asking import asker, letter_probabilities
from trueup.judging.judges import LetterJudge, TextJudge, in_both_orders
from trueup.models import LanguageModel
from trueup.models.endpoint import Endpoint, connect
from trueup.models.scripted_server import Reply, ScriptedServer

pytestmark = pytest.mark.network

AUDIT = JudgeBias(max_new_tokens=2)
ROWS = [
    {"question": "Two and two?", "chosen": "Four.", "rejected": "Five."},
    {"question": "Is ice cold?", "options": ["Yes.", "No.", "At times."], "answer": "A"},
]


@pytest.fixture(scope="module")
def judge() -> LanguageModel:
    """A tiny random model that reads prompts of 1,024 bytes."""
    import torch
    import transformers

    config = make_config("llama")
    config.max_position_embeddings = 1024
    config.initializer_range = 0.2
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 1024
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = transformers.AutoModelForCausalLM.from_config(config)
    return LanguageModel(model, tokenizer, name="tiny-judge")


@pytest.fixture(scope="module")
def server(judge: LanguageModel):
    def script(request: Mapping[str, Any], index: int) -> str:
        """The tiny model's greedy words, then a letter that follows from them."""
        said = judge.sample(
            [request["messages"]], max_new_tokens=request["max_tokens"], temperature=0
        )
        return f"The answer is {'AB'[sum(said[0][0].token_ids) % 2]}."

    with ScriptedServer(script) as running:
        yield running


def endpoint(server: ScriptedServer, tmp_path: Path) -> Endpoint:
    return connect(
        server.url, "tiny-judge", api_key_env="", cache=tmp_path / "cache", max_concurrency=1
    )


def test_a_second_audit_is_paid_nothing(server: ScriptedServer, tmp_path: Path):
    probes = AUDIT.probes(ROWS)
    with endpoint(server, tmp_path) as first:
        items = AUDIT.measure(first, probes)
        # a pair: 12 questions, as one of position's two orders is the control's; options: 12 too,
        # since the right answer stands first in the control
        assert first.work.calls == 12 + 12
    with endpoint(server, tmp_path) as again:
        pd.testing.assert_frame_equal(AUDIT.measure(again, probes), items)
        assert again.work.calls == 0
        assert again.work.cached == 24
        calls = again.work.calls
        AUDIT.measure(again, AUDIT.probes([{**ROWS[0], "question": "Another one?"}]))
        assert again.work.calls == calls + 12  # what is new is asked
    assert (items["verdict"] >= 0).all()
    assert {row.metric for row in AUDIT.estimate(items)} == {
        metric.name for metric in AUDIT.metrics
    }


def test_control_verdicts_are_asked_once_for_all_biases(server: ScriptedServer, tmp_path: Path):
    asked = len(server.requests)
    with endpoint(server, tmp_path) as model:
        AUDIT.measure(model, AUDIT.probes(ROWS[:1]))
    seen = [
        (request["messages"][-1]["content"], request["seed"]) for request in server.requests[asked:]
    ]
    assert len(set(seen)) == len(seen) == 12


def test_the_local_model_itself_is_audited_by_letters(judge: LanguageModel):
    audit = replace(AUDIT, read="letters")
    items = audit.measure(judge, audit.probes(ROWS))
    assert (items["verdict"] >= 0).all()
    plain = items[items["bias"] != "position"]
    assert (plain["repeated"] == plain["control"]).all()


def test_the_local_model_and_the_server_say_the_same(
    judge: LanguageModel, server: ScriptedServer, tmp_path: Path
):
    def local(prompts: Any) -> list[str]:
        greedy = judge.sample(prompts, max_new_tokens=2, temperature=0)
        return [f"The answer is {'AB'[sum(said[0].token_ids) % 2]}." for said in greedy]

    pairs = (["Two and two?"] * 3, ["Four.", "Five.", "Six."], ["Four!", "Two.", "None."])
    with endpoint(server, tmp_path) as model:
        over_http = TextJudge(ask=asker(model, max_new_tokens=2))
        left, right = (in_both_orders(one, *pairs) for one in (over_http, TextJudge(ask=local)))
    pd.testing.assert_frame_equal(left, right)


def letters_reply(*top: tuple[str, float]) -> Reply:
    listed = [{"token": token, "logprob": logp} for token, logp in top]
    token = {**listed[0], "top_logprobs": listed}
    message = {"role": "assistant", "content": listed[0]["token"]}
    choice = {"index": 0, "message": message, "logprobs": {"content": [token]}}
    return Reply(body={"choices": [choice]})


def test_a_servers_likeliest_tokens_give_the_letters(tmp_path: Path):
    with ScriptedServer() as server, endpoint(server, tmp_path) as model:
        # 0.5 and 0.1 for A, 0.2 for B, the rest for other words
        server.instead.append(
            letters_reply(("A", -0.693147), (" B", -1.609438), (" A", -2.302585), ("The", -3.0))
        )
        server.instead.append(letters_reply(("The", -0.1), ("C", -2.0)))
        found = letter_probabilities(model, ["one", "two"], ["AB", "AB"])
        assert found[0] == pytest.approx([0.6 / 0.8, 0.2 / 0.8], abs=1e-5)
        assert pd.isna(found[1]).all()
        assert server.requests[0]["top_logprobs"] == 20
        assert server.requests[0]["max_tokens"] == 1


def test_a_server_without_log_probabilities_is_named(tmp_path: Path):
    with ScriptedServer() as server, endpoint(server, tmp_path) as model:
        server.instead.append(Reply(body={"choices": [{"message": {"content": "A"}}]}))
        with pytest.raises(UserError, match="gives no log-probabilities"):
            LetterJudge(model=model)(["q"], ["a"], ["b"])
