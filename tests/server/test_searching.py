"""Batches for a search: who shares a call, and that nobody's answer depends on it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest

from trueup.decoding.plain import PlainSearch
from trueup.decoding.protocol import Decoded, DecoderNeeds, Request
from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.models.reward import words
from trueup.models.sampling import Sampling
from trueup.server.failures import ServerFailure
from trueup.server.jobs import Job
from trueup.server.limits import Limits
from trueup.server.searching import SearchBatches


@dataclass(frozen=True, kw_only=True)
class Telling:
    """A search whose text tells what it was asked; `calls` holds the prompts of each call."""

    name: ClassVar[str] = "telling"
    role: ClassVar[Literal["search"]] = "search"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds(rewards=1)
    calls: list[list[str]] = field(default_factory=list)

    def decode(self, lm, prompts: Sequence, request: Request) -> list[list[Decoded]]:
        self.calls.append(list(prompts))
        if "bad" in prompts:
            raise UserError("prompt 'bad': the reward is NaN")
        if "broken" in prompts:
            raise ZeroDivisionError("secret detail")
        seen: Counter[str] = Counter()
        answers = []
        for prompt in prompts:
            own = [
                Decoded(text=f"{prompt}|{request.sampling.seed}|{seen[prompt]}|{k}", reason="eos")
                for k in range(request.sampling.n)
            ]
            seen[prompt] += 1
            answers.append(own)
        return answers


def job(*prompts: str, has_seed: bool = True, **settings) -> tuple[Job, list]:
    told: list = []
    made = Job(
        prompts=list(prompts), sampling=Sampling(**settings), tell=told.append, has_seed=has_seed
    )
    return made, told


def answers(*jobs: tuple[Job, list], limits: Limits | None = None, **options) -> Telling:
    """Run the jobs to their ends; the search that decoded them."""
    search = Telling()
    batches = SearchBatches(search, None, limits or Limits(), **options)
    for one, _ in jobs:
        batches.submit(one)
    while batches.numbers()["waiting_jobs"]:
        batches.step()
    return search


def texts(told: list) -> list[str]:
    return [piece.text for piece in sorted(told, key=lambda piece: piece.choice)]


def test_equal_settings_share_one_call():
    one, two, other = job("a", n=2), job("b", n=2), job("c", n=1)
    search = answers(one, other, two)
    assert search.calls == [["a", "b"], ["c"]]
    assert texts(two[1]) == ["b|0|0|0", "b|0|0|1"]


def test_a_seeded_answer_is_the_same_in_any_company():
    """A search gives a prompt's second time in one call another sample; clients must not see it."""
    alone, first, second = job("a"), job("a"), job("a", "a")
    answers(alone)
    search = answers(first, second)
    assert search.calls == [["a", "a"]]
    assert texts(first[1]) == texts(alone[1]) == ["a|0|0|0"]
    assert texts(second[1]) == ["a|0|0|0", "a|0|1|0"]


def test_without_a_seed_the_same_question_is_answered_anew():
    first, second = job("a", has_seed=False, seed=3), job("a", has_seed=False, seed=9)
    search = answers(first, second)
    assert search.calls == [["a", "a"]]
    assert texts(first[1]) != texts(second[1])


def test_other_seeds_do_not_share_a_call():
    assert answers(job("a", seed=1), job("a", seed=2)).calls == [["a"], ["a"]]


def test_a_bad_prompt_harms_nobody_else():
    good, bad, broken, fine = job("good"), job("bad"), job("broken"), job("fine")
    answers(good, bad, broken, fine)
    assert texts(good[1]) == ["good|0|0|0"]
    assert texts(fine[1]) == ["fine|0|0|0"]
    assert [failure.status for failure in bad[1] + broken[1]] == [400, 500]
    assert "the reward is NaN" in bad[1][0].message
    assert "secret" not in broken[1][0].message


def test_a_call_has_no_more_rows_than_allowed():
    limits = Limits(max_rows=3, max_choices=3)
    search = answers(*(job(name, n=2) for name in "abc"), limits=limits)
    assert search.calls == [["a"], ["b"], ["c"]]


def test_many_workers_share_no_call():
    assert answers(job("a"), job("b"), workers=2).calls == [["a"], ["b"]]


def test_a_cancelled_job_is_not_decoded():
    search = Telling()
    batches = SearchBatches(search, None, Limits())
    gone, told = job("gone")
    batches.submit(gone)
    batches.cancel(gone)
    batches.step()
    assert search.calls == told == []


def test_a_full_queue_refuses():
    batches = SearchBatches(Telling(), None, Limits(max_waiting=1))
    batches.submit(job("a")[0])
    with pytest.raises(ServerFailure, match="1 requests are waiting"):
        batches.submit(job("b")[0])


def test_rewards_reach_the_search():
    seen: list[Request] = []

    class Noting(Telling):
        def decode(self, lm, prompts, request):
            seen.append(request)
            return super().decode(lm, prompts, request)

    batches = SearchBatches(Noting(), None, Limits(), rewards={"words": words})
    batches.submit(job("a")[0])
    batches.step()
    assert seen[0].rewards == {"words": words}


def test_the_plain_search_samples(lm64: LanguageModel):
    batches = SearchBatches(PlainSearch(), lm64, Limits())
    one, told = job("The nurse", n=2, max_new_tokens=8, seed=4)
    batches.submit(one)
    batches.step()
    expected = lm64.sample(["The nurse"], n=2, max_new_tokens=8, seed=4)[0]
    assert texts(told) == [sample.text for sample in expected]
