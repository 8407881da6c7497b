"""Continuous batching: the samples of `LanguageModel.sample`, whatever else is in the batch.

The batch is stepped by hand, on this thread, and its model is float64.
"""

import numpy as np
import pytest

from trueup.models import LanguageModel
from trueup.models.sampling import Sampling
from trueup.server.batching import ContinuousBatch
from trueup.server.failures import ServerFailure
from trueup.server.jobs import Job, Piece
from trueup.server.limits import Limits


class Asked:
    """A job with what it was told."""

    def __init__(self, lm: LanguageModel, prompts: list[str], **settings) -> None:
        self.prompts = prompts
        self.settings = settings
        self.told: list = []
        self.job = Job(
            prompts=[lm.encoder.prompt(prompt) for prompt in prompts],
            sampling=Sampling(**settings),
            tell=self.told.append,
            is_streamed=True,
        )

    def pieces(self, choice: int = 0) -> list[Piece]:
        return [piece for piece in self.told if piece.choice == choice]

    def texts(self) -> list[str]:
        count = self.job.n_choices
        return ["".join(piece.text for piece in self.pieces(k)) for k in range(count)]

    def reasons(self) -> list[str | None]:
        return [self.pieces(k)[-1].reason for k in range(self.job.n_choices)]

    def taken(self) -> int:
        return sum(piece.n_tokens for piece in self.told)


def run(batch: ContinuousBatch, steps: int = 300) -> None:
    for _ in range(steps):
        batch.step()
        if not batch.numbers()["running_rows"] and not batch.numbers()["waiting_jobs"]:
            return
    raise AssertionError("the batch does not end")


def assert_as_sampled(lm: LanguageModel, asked: Asked) -> None:
    expected = [s for several in lm.sample(asked.prompts, **asked.settings) for s in several]
    assert asked.texts() == [sample.text for sample in expected]
    assert asked.reasons() == [sample.reason for sample in expected]
    assert asked.taken() == sum(len(sample.token_ids) for sample in expected)


def test_rows_that_join_late_are_sampled_as_alone(lm64: LanguageModel):
    batch = ContinuousBatch(lm64, Limits())
    many = [
        Asked(lm64, ["The nurse"], n=3, max_new_tokens=40, seed=1),
        Asked(lm64, ["x", "a longer prompt than the others"], n=2, max_new_tokens=9, seed=2),
        Asked(lm64, ["x"], max_new_tokens=30, temperature=0.7, top_p=0.8, seed=3),
        Asked(lm64, ["x"], max_new_tokens=30, temperature=0.0),
        Asked(lm64, ["late"], max_new_tokens=25, top_k=5, seed=-4),
        Asked(lm64, ["twice", "twice"], n=2, max_new_tokens=8, seed=5),
    ]
    for asked in many:
        batch.submit(asked.job)
        batch.step()
        batch.step()
    run(batch)
    for asked in many:
        assert_as_sampled(lm64, asked)


def test_another_seed_gives_another_sample(lm64: LanguageModel):
    """The negative control of the equality above."""
    batch = ContinuousBatch(lm64, Limits())
    asked = Asked(lm64, ["The nurse"], max_new_tokens=20, seed=1)
    batch.submit(asked.job)
    run(batch)
    asked.settings["seed"] = 2
    with pytest.raises(AssertionError):
        assert_as_sampled(lm64, asked)


def test_many_random_requests_are_all_sampled_as_alone(lm64: LanguageModel):
    """60 requests with random prompts, settings and times of arrival; at most 8 rows at once."""
    rng = np.random.default_rng(0)
    batch = ContinuousBatch(lm64, Limits(max_rows=8, max_choices=8))
    many = []
    for number in range(60):
        asked = Asked(
            lm64,
            ["p" * int(rng.integers(1, 30))],
            n=int(rng.integers(1, 4)),
            max_new_tokens=int(rng.integers(1, 25)),
            temperature=float(rng.choice([0.0, 0.5, 1.0])),
            top_k=int(rng.choice([0, 7])),
            stop=(chr(int(rng.integers(33, 127))),),  # many of them occur
            seed=number,
        )
        many.append(asked)
        batch.submit(asked.job)
        for _ in range(int(rng.integers(0, 4))):
            batch.step()
        assert batch.numbers()["running_rows"] <= 8
    run(batch)
    for asked in many:
        assert_as_sampled(lm64, asked)
    assert {reason for asked in many for reason in asked.reasons()} >= {"length", "stop"}


def test_work_is_the_least_that_there_can_be(lm64: LanguageModel):
    """Each prompt once, then each token but the last of a row once; a head row per token."""
    batch = ContinuousBatch(lm64, Limits())
    first = Asked(lm64, ["The nurse"], n=4, max_new_tokens=10, seed=1)
    second = Asked(lm64, ["x"], n=2, max_new_tokens=5, seed=7)
    third = Asked(lm64, ["x"], n=1, max_new_tokens=5, seed=8)  # the same prompt, in the same step
    lm64.work.reset()
    batch.submit(first.job)
    batch.step()
    batch.submit(second.job)
    batch.submit(third.job)
    run(batch)
    assert all(reason == "length" for one in (first, second, third) for reason in one.reasons())
    prompts = len(first.job.prompts[0]) + len(second.job.prompts[0])
    assert lm64.work.trunk_tokens == prompts + 4 * 9 + 3 * 4
    assert lm64.work.head_rows == (4 * 10 - 3) + (3 * 5 - 2)
    assert lm64.work.padding_tokens == 0


def test_a_cancelled_job_leaves_before_the_next_step(lm64: LanguageModel):
    batch = ContinuousBatch(lm64, Limits())
    gone = Asked(lm64, ["gone"], n=3, max_new_tokens=50, seed=1)
    stays = Asked(lm64, ["stays"], max_new_tokens=20, seed=2)
    batch.submit(gone.job)
    batch.submit(stays.job)
    batch.step()
    assert batch.numbers()["running_rows"] == 4
    batch.cancel(gone.job)
    before = gone.taken()
    batch.step()
    assert batch.numbers()["running_rows"] == 1
    run(batch)
    assert gone.taken() == before
    assert_as_sampled(lm64, stays)


def test_a_cancelled_job_leaves_the_queue(lm64: LanguageModel):
    batch = ContinuousBatch(lm64, Limits())
    asked = Asked(lm64, ["gone"], max_new_tokens=50)
    batch.submit(asked.job)
    batch.cancel(asked.job)
    batch.step()
    assert batch.numbers()["running_rows"] == 0
    assert asked.told == []


def test_a_full_queue_refuses(lm64: LanguageModel):
    batch = ContinuousBatch(lm64, Limits(max_waiting=2))
    for _ in range(2):
        batch.submit(Asked(lm64, ["a"]).job)
    with pytest.raises(ServerFailure, match="2 requests are waiting already") as caught:
        batch.submit(Asked(lm64, ["a"]).job)
    assert caught.value.status == 429


def test_nobody_overtakes_in_the_queue(lm64: LanguageModel):
    """A large job waits for its room and small ones behind it wait for the large one."""
    batch = ContinuousBatch(lm64, Limits(max_rows=4, max_choices=4))
    runs = Asked(lm64, ["runs"], n=2, max_new_tokens=12, seed=1)
    large = Asked(lm64, ["large"], n=4, max_new_tokens=3, seed=2)
    small = Asked(lm64, ["small"], n=1, max_new_tokens=3, seed=3)
    for asked in (runs, large, small):
        batch.submit(asked.job)
    for _ in range(12):
        batch.step()
    assert runs.reasons() == ["length", "length"]
    assert large.told == small.told == []
    run(batch)
    assert_as_sampled(lm64, large)
    assert_as_sampled(lm64, small)


def test_every_row_gets_a_token_in_every_step(lm64: LanguageModel):
    """No starvation: newcomers do not stop who is there."""
    batch = ContinuousBatch(lm64, Limits())
    first = Asked(lm64, ["first"], max_new_tokens=30, seed=1)
    batch.submit(first.job)
    for number in range(30):
        batch.step()
        newcomer = Asked(lm64, ["p" * 40], n=4, max_new_tokens=4, seed=number)
        batch.submit(newcomer.job)
    assert first.reasons() == ["length"]


def test_rows_times_the_longest_of_them_stay_below_the_bound(lm64: LanguageModel):
    batch = ContinuousBatch(lm64, Limits(max_batch_tokens=100))
    for number in range(6):
        batch.submit(Asked(lm64, ["p" * 9], max_new_tokens=20, seed=number).job)  # reach 30 each
    batch.step()
    assert batch.numbers()["running_rows"] == 3


def test_a_step_that_fails_is_told_and_the_batch_goes_on(
    lm64: LanguageModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    batch = ContinuousBatch(lm64, Limits())
    asked = Asked(lm64, ["a"], n=2, max_new_tokens=5)
    monkeypatch.setattr(batch, "_drawn", lambda _: 1 / 0)
    batch.submit(asked.job)
    batch._queue.close()  # so that the loop ends where nothing is left
    batch._run()
    assert [failure.status for failure in asked.told] == [500]
    assert "division by zero" in caplog.text
    assert batch.numbers()["running_rows"] == 0


def test_logprobs_are_those_of_sampling(lm64: LanguageModel):
    batch = ContinuousBatch(lm64, Limits())
    asked = Asked(lm64, ["The nurse"], max_new_tokens=6, temperature=0.5, seed=3)
    asked.job.top_logprobs = 2
    batch.submit(asked.job)
    run(batch)
    tokens = [token for piece in asked.told for token in piece.tokens]
    expected = lm64.sample(["The nurse"], max_new_tokens=6, temperature=0.5, seed=3)[0][0].logps
    np.testing.assert_allclose([token.logp for token in tokens], expected, atol=1e-6)
    best = lm64.start(["The nurse"]).logprobs[0].topk(2).values.tolist()
    np.testing.assert_allclose([logp for _, logp in tokens[0].top], best, atol=1e-6)
