"""A judge behind an endpoint as the reward of a search."""

import logging
import zlib
from collections.abc import Mapping
from typing import Any

import pytest

from trueup.decoding.best_of_n import BestOfN
from trueup.decoding.compose import compose
from trueup.decoding.judge_reward import read_judge
from trueup.decoding.protocol import Request
from trueup.decoding.rewards import rewards_by_name
from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.models.sampling import Sampling
from trueup.models.scripted_server import ScriptedServer


def graded(request: Mapping[str, Any], index: int) -> str:
    """A grade that hangs on every letter of the question."""
    text = str(request["messages"][-1]["content"])
    return f"Grade: {1 + zlib.crc32(text.encode()) % 10}"


def test_the_best_grade_is_chosen(tiny_llama: LanguageModel):
    with ScriptedServer(graded) as server:
        rewards = rewards_by_name(f"kind={server.url}#judge")
        request = Request(sampling=Sampling(max_new_tokens=8, seed=1), rewards=rewards)
        [[best]] = compose(BestOfN(candidates=6)).decode(tiny_llama, ["Why?"], request)
        asked = len(server.requests)
    grades = [one["rewards"]["kind"] for one in best.trace[0]["candidates"]]
    assert best.score == max(grades) > min(grades)
    assert asked <= 6


def test_no_grade_is_the_lowest_one_and_told(caplog: pytest.LogCaptureFixture):
    with ScriptedServer(lambda request, index: "I would rather not say.") as server:
        judge = read_judge(f"{server.url}#judge")
        assert judge is not None
        with caplog.at_level(logging.WARNING, logger="trueup"):
            assert judge(["Why?", "How?"], ["So.", "Thus."]) == [1.0, 1.0]
    assert "no grade" in caplog.text


def test_what_is_no_url_is_no_judge():
    assert read_judge("words") is None
    with pytest.raises(UserError, match="#"):
        read_judge("http://127.0.0.1:9/v1")
