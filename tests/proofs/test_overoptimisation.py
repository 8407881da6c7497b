"""Over-optimisation: sheet 60's numbers, and a run that goes too far and is caught."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor

from tests.proofs.chain_world import COMPLETION, PROMPT, ChainWorld
from tests.proofs.dpo_family import BATCH, SUMS, is_close, row
from trueup.errors import UserError
from trueup.objectives.dpo import dpo_loss
from trueup.objectives.ipo import ipo_loss
from trueup.training.overoptimisation import (
    OveroptimisationMetrics,
    OveroptimisationReport,
    expectation_adjusted_distinct,
    overoptimisation_flags,
    overoptimisation_metrics,
    overoptimisation_report,
    top_k_entropy,
    top_k_mass,
    top_k_statistics,
    win_probability,
)

# a) top-k entropy and mass

LOGITS = torch.stack([row(3, 2, 1, 0, -1, -2, 0.5, 0, -3, -4, 1.5, 0.2), torch.zeros(12).double()])


@pytest.mark.parametrize(
    ("k", "renormalized", "raw", "mass"),
    [
        (3, (1.307022927, 1.584962501), (1.302516496, 0.896240625), (0.796596814, 0.25)),
        (10, (2.264994467, 3.321928095), (2.263596415, 2.987468751), (0.998302356, 0.833333333)),
    ],
)
def test_top_k_vectors_are_the_sheets(
    k: int, renormalized: tuple[float, ...], raw: tuple[float, ...], mass: tuple[float, ...]
) -> None:
    assert is_close(top_k_entropy(LOGITS, k), *renormalized)
    assert is_close(top_k_entropy(LOGITS, k, renormalize=False), *raw)
    assert is_close(top_k_mass(LOGITS, k), *mass)


def test_nats_in_place_of_bits_are_seen() -> None:
    assert not is_close(top_k_entropy(LOGITS, 3) * math.log(2), 1.307022927, 1.584962501)


@pytest.mark.parametrize("k", [1, 3, 10, 12])
def test_raw_entropy_is_tied_to_the_renormalized_one(k: int) -> None:
    mass, entropy = top_k_mass(LOGITS, k), top_k_entropy(LOGITS, k)
    raw = top_k_entropy(LOGITS, k, renormalize=False)
    assert torch.allclose(raw, mass * entropy - mass * mass.log2(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [12, 50])
def test_all_tokens_have_all_mass_and_the_full_entropy(k: int) -> None:
    full = torch.distributions.Categorical(logits=LOGITS).entropy() / math.log(2)
    assert torch.allclose(top_k_entropy(LOGITS, k), full, rtol=0, atol=1e-12)
    assert is_close(top_k_mass(LOGITS, k), 1, 1)


def test_a_token_without_probability_adds_nothing() -> None:
    barred = row(1, 1, -math.inf, -math.inf)
    assert is_close(top_k_entropy(barred, 4), 1)
    assert is_close(top_k_entropy(barred, 4, renormalize=False), 1)


def test_half_precision_logits_are_summed_in_float32() -> None:
    found = top_k_mass(LOGITS.bfloat16(), 10)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), top_k_mass(LOGITS.bfloat16().double(), 10), atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("renormalize", [True, False])
def test_statistics_in_chunks_equal_the_plain_functions(chunk: int, renormalize: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    logits = hidden @ weight.T
    entropy, mass = top_k_statistics(logits.split(chunk), 5, renormalize)
    assert torch.allclose(entropy, top_k_entropy(logits, 5, renormalize), rtol=0, atol=1e-12)
    assert torch.allclose(mass, top_k_mass(logits, 5), rtol=0, atol=1e-12)


def test_no_positions_have_no_statistics() -> None:
    assert [len(part) for part in top_k_statistics([torch.zeros(0, 30)])] == [0, 0]


def test_an_impossible_k_is_refused() -> None:
    with pytest.raises(UserError, match="k must be at least 1, got 0"):
        top_k_statistics([torch.zeros(2, 30)], 0)


# b) diversity over inputs

SEQUENCES = [[1, 2, 3, 1, 2, 4], [1, 2, 3, 5], [7, 7, 7, 7, 7]]


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, 0.428750140),
        (2, 0.528098686),
        (3, 0.693779953),
        (4, 0.854410930),
        (5, 1.010067001),
        (range(1, 6), 0.703021342),
        (range(1, 9), (0.703021342 * 5 + 1) / 6),  # one sequence has a 6-gram, none a longer one
    ],
)
def test_adjusted_distinct_is_the_sheets(n: int | range, expected: float) -> None:
    found = expectation_adjusted_distinct(SEQUENCES, n, vocab_size=100)
    assert found == pytest.approx(expected, abs=1e-9)


def test_plain_distinct_is_another_number() -> None:
    assert abs(expectation_adjusted_distinct(SEQUENCES, 1, vocab_size=100) - 0.4) > 0.02


def test_adjusted_distinct_does_not_know_the_order_of_the_outputs() -> None:
    found = {
        expectation_adjusted_distinct(order, 2, vocab_size=100)
        for order in itertools.permutations(SEQUENCES)
    }
    assert len(found) == 1


def test_outputs_without_a_repeat_lie_a_little_above_one() -> None:
    found = expectation_adjusted_distinct([range(20)], 1, vocab_size=1000)
    assert found == pytest.approx(1 + 19 / 2000, abs=1e-4)


def test_no_n_gram_is_no_number() -> None:
    assert math.isnan(expectation_adjusted_distinct([[1], []], [2, 3], vocab_size=10))


@pytest.mark.parametrize(("n", "size", "name"), [(0, 9, "n"), ([], 9, "n"), (1, 0, "vocab_size")])
def test_impossible_orders_are_refused(n: int | list[int], size: int, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be at least 1, got 0"):
        expectation_adjusted_distinct(SEQUENCES, n, vocab_size=size)


# c) win probability


def test_win_probability_is_the_sheets_and_its_mirror() -> None:
    assert float(win_probability(1.25, 0.5)) == pytest.approx(0.679178699, abs=1e-9)
    there, back = win_probability([1.25, -3], [0.5, 2]), win_probability([0.5, 2], [1.25, -3])
    assert there + back == pytest.approx([1, 1], abs=1e-12)


# d) the losses that the paper studies


def test_the_tau_form_of_ipo_is_the_sheets() -> None:
    tau_form = 0.1**2 * ipo_loss(**SUMS, tau=0.1, average=False)
    assert is_close(tau_form.mean(), 0.20671875)


def test_softplus_of_the_chosen_log_ratio_is_the_sheets() -> None:
    ratio = BATCH["chosen_logps"] - BATCH["ref_chosen_logps"]
    found = torch.nn.functional.softplus(1 - ratio)
    assert is_close(found, 0.974076984, 2.350206559, 0.974076984, 1.136871006)


# e) the two signs

RISE_AND_FALL = [2.0, 2.2, 2.4, 2.5, 2.45, 2.3, 2.1]
RISE = [2.0, 2.1, 2.2, 2.3, 2.4]
LEAK = [0.99, 0.985, 0.97, 0.95, 0.92]


def told(entropy: list[float], mass: list[float], **fields: float) -> tuple[object, ...]:
    flags = overoptimisation_flags(entropy, mass, **fields)  # type: ignore[arg-type]
    return (
        flags.entropy_turned,
        flags.mass_fell,
        flags.entropy_never_rose,
        flags.suggested_index,
    )


def test_a_turn_of_entropy_fires_and_suggests_its_peak() -> None:
    assert told(RISE_AND_FALL, [0.99] * 7) == (5, None, False, 3)


def test_leaking_mass_fires_alone_and_suggests_the_last_good_evaluation() -> None:
    assert told(RISE, LEAK) == (None, 3, False, 1)


def test_noise_raises_no_flag() -> None:
    noise = [1e-3 * (-1) ** t for t in range(12)]
    flat = told([2 + e for e in noise], [0.9 + e for e in noise])
    assert flat == (None, None, False, None)


def test_entropy_that_only_falls_never_rose() -> None:
    assert told([2.5, 2.3, 2.1, 1.9], [0.9, 0.9, 0.95, 0.99]) == (None, None, True, None)


def test_one_bad_evaluation_is_forgiven() -> None:
    dips = [2.0, 2.2, 2.0, 2.2, 2.0, 2.2]
    assert told(dips, [0.99] * 6) == (None, None, False, None)
    assert told(dips, [0.99] * 6, patience=1) == (2, None, False, 1)


def test_a_late_rise_is_still_found() -> None:
    assert told([2.0, 1.9, 1.9, 2.3, 2.1, 2.0], [0.99] * 6) == (5, None, False, 3)


def test_two_signs_suggest_the_earlier_step() -> None:
    assert told(RISE_AND_FALL, [0.99, 0.985, 0.97, 0.95, 0.92, 0.9, 0.9]) == (5, 3, False, 1)


def test_smoothing_delays_the_sign() -> None:
    # 2, 2.1, 2.25, 2.375, 2.4125, 2.35625, 2.228125
    assert told(RISE_AND_FALL, [0.99] * 7, smoothing=0.5) == (6, None, False, 4)


@pytest.mark.parametrize(
    ("entropy", "mass", "fields", "message"),
    [
        ([2.0], [0.9, 0.9], {}, "one length, got 1 and 2"),
        ([], [], {}, "one length, got 0 and 0"),
        ([math.nan], [0.9], {}, "must be finite"),
        ([2.0], [0.9], {"patience": 0}, "patience must be at least 1"),
        ([2.0], [0.9], {"smoothing": 1.0}, "smoothing must lie between 0 and"),
        ([2.0], [0.9], {"mass_tolerance": -1.0}, "mass_tolerance must be at least 0"),
    ],
)
def test_series_that_say_nothing_are_refused(
    entropy: list[float], mass: list[float], fields: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        told(entropy, mass, **fields)


def test_flags_are_one_line() -> None:
    both = overoptimisation_flags(RISE_AND_FALL, [0.99, 0.985, 0.97, 0.95, 0.92, 0.9, 0.9])
    line = "over-optimisation: entropy turned by 5, top-k mass fell by 3, best 1"
    assert str(both) == line
    assert str(overoptimisation_flags([2.0], [0.9])) == "over-optimisation: no sign"
    never = overoptimisation_flags([2.5, 2.3, 2.1], [0.9] * 3)
    assert str(never) == "over-optimisation: entropy never rose"


# f) masks


def metrics_of(logits: Tensor, logps: Tensor, mask: Tensor) -> list[float]:
    return [float(value) for value in overoptimisation_metrics(logits, logps, mask, 3)]


def masked_example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 5, 12, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[False, False, True, True, True], [False, True, True, False, False]])
    return logits, logits.log_softmax(-1)[..., 4], mask


def test_metrics_are_means_of_the_examples_means() -> None:
    logits, logps, mask = masked_example()
    expected = [(one[0, 2:].mean() + one[1, 1:3].mean()) / 2 for one in (logps,)]
    entropy, mass = top_k_entropy(logits, 3), top_k_mass(logits, 3)
    expected += [(one[0, 2:].mean() + one[1, 1:3].mean()) / 2 for one in (entropy, mass)]
    assert metrics_of(logits, logps, mask) == pytest.approx([*map(float, expected)], abs=1e-12)
    per_token = float(logps[mask].mean())
    assert abs(metrics_of(logits, logps, mask)[0] - per_token) > 0.01  # another mean


def test_prompts_and_padding_change_nothing() -> None:
    logits, logps, mask = masked_example()
    before = metrics_of(logits, logps, mask)
    junk = torch.where(mask[..., None], logits, torch.tensor(torch.nan).double())
    assert metrics_of(junk, logps.masked_fill(~mask, -math.inf), mask) == pytest.approx(
        before, abs=1e-12
    )
    wide = torch.cat([torch.full((2, 3, 12), 7.0).double(), logits], dim=1)
    sums = torch.cat([torch.full((2, 3), -9.0).double(), logps], dim=1)
    keep = torch.cat([torch.zeros(2, 3, dtype=torch.bool), mask], dim=1)
    assert metrics_of(wide, sums, keep) == pytest.approx(before, abs=1e-12)


def test_an_example_without_positions_does_not_count() -> None:
    logits, logps, mask = masked_example()
    mask[1] = False
    assert metrics_of(logits, logps, mask) == metrics_of(logits[:1], logps[:1], mask[:1])


def test_a_moved_mask_is_seen() -> None:
    logits, logps, mask = masked_example()
    moved = metrics_of(logits, logps, mask.roll(1, dims=1))
    assert moved != pytest.approx(metrics_of(logits, logps, mask), abs=0.01)


# g, h) a run that goes too far, and one that stands still

STEPS = [0, 10, 25, 50, 100, 200, 300]
RISES, ONLY_FALLS = 3, 1  # seeds whose held-out entropy does, and does not, rise at first


class HeldOutRun:
    """DPO on a chain world, evaluated on samples of the model before training."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.world = ChainWorld(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed + 100)
            self.held_out = self.world.continued(self.world.chains(100, PROMPT), COMPLETION)

    def evaluated(self, model: torch.nn.Module) -> OveroptimisationMetrics:
        with torch.no_grad():
            logits = model(self.held_out).logits[:, PROMPT - 1 : -1]
        targets = self.held_out[:, PROMPT:, None]
        logps = logits.log_softmax(-1).gather(-1, targets)[..., 0]
        return overoptimisation_metrics(logits, logps, torch.ones_like(logps), k=5)

    def trained(self, rate: float, steps: list[int]) -> OveroptimisationReport:
        model = copy.deepcopy(self.world.reference).requires_grad_(True)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        known = dict(zip(("ref_chosen_logps", "ref_rejected_logps"), self.world.known, strict=True))
        evaluations = []
        for step in range(steps[-1] + 1):
            if step in steps:
                evaluations.append(self.evaluated(model))
            chosen, rejected = self.world.sums(model)
            loss = dpo_loss(chosen_logps=chosen, rejected_logps=rejected, **known, beta=0.1)
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
        return overoptimisation_report(steps, evaluations)


@pytest.fixture(scope="module", params=[RISES, ONLY_FALLS])
def run(request: pytest.FixtureRequest) -> HeldOutRun:
    return HeldOutRun(request.param)


def test_training_too_long_is_seen(run: HeldOutRun) -> None:
    report = run.trained(3e-4, STEPS)
    assert report.entropy_bits[-1] < 0.75 * report.entropy_bits[0]
    assert report.mass[-1] > 0.85
    assert report.is_displaced
    flags = report.flags
    if run.seed == RISES:
        assert flags.entropy_turned is not None
        assert report.suggested_step in (10, 25, 50)
        assert f"best {report.suggested_step}; chosen" in str(report)
    else:
        assert flags.entropy_never_rose
        assert report.suggested_step is None


def test_without_learning_nothing_is_seen(run: HeldOutRun) -> None:
    report = run.trained(0.0, [0, 1, 2, 3, 4])
    assert len(set(report.entropy_bits)) == len(set(report.mass)) == 1
    assert str(report.flags) == "over-optimisation: no sign"
    assert report.suggested_step is None
    assert not report.is_displaced


@pytest.mark.parametrize("steps", [[0, 1], [0, 2, 2]])
def test_steps_must_fit_the_evaluations(steps: list[int]) -> None:
    one = OveroptimisationMetrics(*row(-1, 2, 0.9))
    with pytest.raises(UserError, match="steps must increase, one for each of 3 evaluations"):
        overoptimisation_report(steps, [one] * 3)
