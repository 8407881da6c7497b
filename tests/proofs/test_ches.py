"""CHES: sheet 24's numbers, the dynamics that it stands for, and a world where it ranks them."""

import itertools
import math

import numpy as np
import pytest
import torch
import transformers
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from tests.proofs import displacement_toy as toy
from tests.proofs.dpo_family import is_close, row
from trueup.errors import UserError
from trueup.objectives.dpo import dpo_loss
from trueup.selection.ches import (
    ches_score,
    displacement_report,
    edit_distance,
    filter_by_ches,
    last_hidden_similarity,
    rising_tokens,
    unembedding_displacement,
)

P = torch.stack([row(1, 2, 0.5), row(0.5, 1, -0.25), row(0, 0.75, 1.5)])
Q = torch.stack([row(1, 2, 0.5), row(1.5, 0, 2), row(0.25, 0.5, -1), row(2, 1, 0)])
R = torch.stack([row(1, 2, 0.5), row(-1.5, -2, 0.25)])


def alone(states: Tensor) -> tuple[Tensor, Tensor]:
    """One completion as a batch without padding."""
    return states[None], torch.ones(1, len(states), dtype=torch.bool)


def ches(chosen: Tensor, rejected: Tensor, *, normalized: bool = False) -> Tensor:
    return ches_score(*alone(chosen), *alone(rejected), length_normalize=normalized)


# a) identities


def test_equal_completions_score_zero_exactly() -> None:
    assert ches(P, P).item() == ches(P, P, normalized=True).item() == 0
    assert ches(P.float(), P.float(), normalized=True).item() == 0


def test_two_single_tokens_after_one_prompt_score_zero_exactly() -> None:
    assert ches(P[:1], Q[:1]).item() == ches(P[:1], Q[:1], normalized=True).item() == 0


def test_scale_enters_squared() -> None:
    for normalized in (False, True):
        scaled = ches(3 * P, 3 * Q, normalized=normalized)
        assert torch.allclose(scaled, 9 * ches(P, Q, normalized=normalized), atol=1e-12)


def test_rotation_changes_nothing() -> None:
    turn = torch.linalg.qr(
        torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ).Q
    assert torch.allclose(ches(P @ turn, Q @ turn), ches(P, Q), atol=1e-12)


def test_both_directions_add_up_to_the_distance_of_the_sums() -> None:
    both = ches(P, Q) + ches(Q, P)
    assert torch.allclose(both, -((P.sum(0) - Q.sum(0)) ** 2).sum(), atol=1e-12)


# b) the sheet's vectors, and traps of padding


@pytest.mark.parametrize(
    ("chosen", "rejected", "plain", "normalized"),
    [
        (P, Q, 3.5, -0.246527778),
        (Q, P, -14.1875, -0.410156250),
        (P, R, -18.8125, -2.059027778),
        (P, P, 0, 0),
    ],
)
def test_scores_are_the_sheets(
    chosen: Tensor, rejected: Tensor, plain: float, normalized: float
) -> None:
    assert is_close(ches(chosen, rejected), plain)
    assert is_close(ches(chosen, rejected, normalized=True), normalized)


@pytest.mark.parametrize(("rejected", "expected"), [(Q, 0.75), (R, -1.125)])
def test_last_hidden_similarity_is_the_sheets(rejected: Tensor, expected: float) -> None:
    assert is_close(last_hidden_similarity(*alone(P), *alone(rejected)), expected)


def among_junk(states: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:
    """The states after padding and two prompt vectors, before one vector too many and padding."""
    junk = torch.full((left + 2, 3), 7.0).double(), torch.full((1 + right, 3), -5.0).double()
    junk[1][1:] = torch.nan
    mask = torch.zeros(left + 3 + len(states) + right, dtype=torch.bool)
    mask[left + 2 : left + 2 + len(states)] = True
    return torch.cat([junk[0], states, junk[1]])[None], mask[None]


@pytest.mark.parametrize(("left", "right"), [*itertools.product(range(4), repeat=2)])
def test_prompt_and_padding_change_nothing(left: int, right: int) -> None:
    inputs = (*among_junk(P, left, right), *among_junk(Q, right, left))
    assert is_close(ches_score(*inputs, length_normalize=False), 3.5)
    assert is_close(ches_score(*inputs), -0.246527778)
    assert is_close(last_hidden_similarity(*inputs), 0.75)


def test_one_vector_too_many_is_seen() -> None:
    hidden, mask = among_junk(P, 0, 0)
    longer = mask | mask.roll(1, dims=1)
    assert not is_close(ches_score(hidden, longer, *alone(Q)), -0.246527778, tolerance=0.1)


def test_half_precision_is_summed_in_float32() -> None:
    states = torch.full((1, 400, 8), 50.0, dtype=torch.float16)
    mask = torch.ones(1, 400, dtype=torch.bool)
    other = states.clone()
    other[:, 0] = 49.0
    found = ches_score(states, mask, other, mask, length_normalize=False)
    assert found.item() == -8.0 * 20_000  # sums are 20,000: their square overflows float16


def test_a_padded_batch_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(2)
    lengths = [(3, 5), (1, 2), (6, 1), (4, 4)]
    pairs = [
        tuple(torch.randn(n, 7, generator=generator, dtype=torch.float64) for n in pair)
        for pair in lengths
    ]
    padded = []
    for side in (0, 1):
        states = [pair[side] for pair in pairs]
        padded.append(torch.nn.utils.rnn.pad_sequence(states, batch_first=True, padding_value=9.0))
        counts = torch.tensor([len(one) for one in states])
        padded.append(torch.arange(padded[-1].shape[1]) < counts[:, None])
    for normalized in (False, True):
        loop = torch.cat([ches(*pair, normalized=normalized) for pair in pairs])
        found = ches_score(*padded, length_normalize=normalized)
        assert torch.allclose(found, loop, rtol=0, atol=1e-8)


# the filter, and the scores that the paper compares with


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(1.0, [0, 1, 2, 3, 4]), (0.6, [1, 3, 4]), (0.59, [1, 3]), (0.2, [1]), (0.01, [1])],
)
def test_the_lowest_scores_stay_in_data_order(keep: float, expected: list[int]) -> None:
    assert filter_by_ches([3.0, -2.0, 5.0, 0.5, 1.0], keep) == expected


def test_of_equal_scores_the_earlier_row_stays() -> None:
    assert filter_by_ches([1.0, 0.0, 0.0, 0.0, 1.0], 0.4) == [1, 2]
    assert filter_by_ches([1.0, math.nan, 0.0], 0.7) == [0, 2]


def test_a_share_that_binary_numbers_miss_is_still_met() -> None:
    assert len(filter_by_ches(np.arange(100.0), 0.29)) == 29
    assert filter_by_ches([], 0.5) == []


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.01, math.nan])
def test_a_share_out_of_range_is_refused(keep: float) -> None:
    with pytest.raises(UserError, match="keep must be above 0 and at most 1"):
        filter_by_ches([1.0], keep)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("kitten", "sitting", 3 / 7),
        ("abc", "abc", 0.0),
        ("abc", "", 1.0),
        ("", "", 0.0),
        ("abcd", "bcd", 1 / 4),
        ("bcd", "abcd", 1 / 4),
        ("ab", "ba", 1.0),
    ],
)
def test_edit_distance_is_levenshteins_over_the_longer(
    first: str, second: str, expected: float
) -> None:
    found = edit_distance([*map(ord, first)], [*map(ord, second)])
    assert found == pytest.approx(expected, abs=1e-12)


# d) what one-token completions do

W = torch.stack(
    [row(1, 0.5, 0), row(0.8, 1.2, 0.3), row(1.1, -0.9, 0.1), row(-1, 0.2, 0.4), row(0.2, 0.1, -1)]
)
H = row(0.9, 0.3, -0.2)
SLOPE = 0.05  # DPO with beta 0.1 at the reference


def test_single_token_dynamics_are_the_sheets() -> None:
    found = unembedding_displacement(W, H, chosen_id=0, rejected_id=1, slope=SLOPE)
    assert is_close(found[[0, 2, 3, 4]], 0.042692793, 0.044192793, -0.019807207, 0.016692793)
    swapped = unembedding_displacement(W, H, chosen_id=1, rejected_id=0, slope=SLOPE)
    assert not is_close(swapped[[0]], 0.042692793, tolerance=1e-3)


def test_single_token_dynamics_are_the_theorems() -> None:
    pi = (W @ H).softmax(-1)
    assert is_close(pi, 0.299232507, 0.290388850, 0.210865584, 0.041730025, 0.157783034)
    drift = 1 - pi[0] + pi[1]
    m = drift * (H @ H) + (1 - pi[0]) * (W[0] @ W[0]) + pi[1] * (W[1] @ W[1])
    assert is_close(m, 2.437790133)
    others = sum(pi[z] * (W[z] @ (W[0] - W[1])) for z in (2, 3, 4))
    chosen = SLOPE * (m - drift * (W[0] @ W[1]) - others)
    found = unembedding_displacement(W, H, 0, 1, SLOPE)
    assert torch.allclose(found[0], chosen, rtol=0, atol=1e-15)


def test_single_token_dynamics_are_autograds() -> None:
    words, hidden = W.clone().requires_grad_(True), H.clone().requires_grad_(True)
    logps = (words @ hidden).log_softmax(-1)
    margin = logps[0] - logps[1]
    loss = -logsigmoid(0.1 * (margin - margin.detach()))
    step = torch.autograd.grad(loss, (words, hidden), retain_graph=True)
    for token, expected in enumerate(unembedding_displacement(W, H, 0, 1, SLOPE)):
        slopes = torch.autograd.grad(logps[token], (words, hidden), retain_graph=True)
        flow = -sum((a * b).sum() for a, b in zip(slopes, step, strict=True))
        assert torch.allclose(flow, expected, rtol=0, atol=1e-15)


# e, g) the catastrophic toy under free W and h, its controls, and the monitor


def descended(
    words: Tensor, *, steps: int, loss: str = "dpo", frozen: bool = False
) -> tuple[list[Tensor], list[float]]:
    """ln pi after every step of gradient descent from the toy's start, and the losses."""
    words = words.clone().requires_grad_(True)
    hidden = row(0.3, 0, 0).requires_grad_(not frozen)
    path, losses = [], []
    for _ in range(steps + 1):
        logps = toy.logps([words, hidden])
        path.append(logps.detach())
        margin = (logps - path[0])[toy.NO] - (logps - path[0])[toy.NEVER]
        cost = -logsigmoid(0.1 * margin) if loss == "dpo" else (0.1 * margin - 0.5) ** 2
        losses.append(cost.item())
        free = [words] if frozen else [words, hidden]
        for part, slope in zip(free, torch.autograd.grad(cost, free), strict=True):
            part.data -= 0.2 * slope
    return path, losses


WORDS = toy.start()[0].detach()
REFLECTED = WORDS.clone()
REFLECTED[toy.YES, 1] = 4.0


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, (0.347293, 0.347293, 0.190599)),
        (10, (0.331506, 0.294306, 0.267369)),
        (50, (0.195042, 0.089527, 0.678842)),
        (100, (0.051099, 0.002550, 0.945243)),
        (200, (0.044633, 0.0, 0.955367)),
    ],
)
def test_the_mass_goes_to_the_opposite_answer(step: int, expected: tuple[float, ...]) -> None:
    path = toy.descended(lambda b: dpo_loss(**b, beta=0.1), rate=0.2, steps=step)
    assert toy.probabilities(path[-1]) == pytest.approx(expected, abs=1e-6)


def test_the_loss_falls_all_the_way_down() -> None:
    path, losses = descended(WORDS, steps=200)
    assert (losses[0], losses[-1]) == pytest.approx((0.693147, 0.179974), abs=1e-6)
    assert losses == sorted(losses, reverse=True)
    assert path[200][toy.NO].exp().item() == pytest.approx(0.044633, abs=1e-6)


def test_ipo_displaces_too() -> None:
    path, _ = descended(WORDS, steps=100, loss="ipo")
    assert path[100][:3].exp().tolist() == pytest.approx((0.032597, 0.000310, 0.966927), abs=1e-6)


def test_a_reflected_answer_gains_nothing() -> None:
    path, _ = descended(REFLECTED, steps=100)
    assert path[0][toy.NO].exp().item() == pytest.approx(0.347, abs=1e-3)
    assert path[100][toy.NO].exp().item() == pytest.approx(0.932, abs=1e-3)


def test_fixed_features_cannot_displace() -> None:
    path, _ = descended(WORDS, steps=200, frozen=True)
    assert path[200][toy.NO].exp().item() == pytest.approx(0.410570, abs=1e-6)


def test_the_formula_foretells_the_toys_first_step() -> None:
    for words in (WORDS, REFLECTED):
        path, _ = descended(words, steps=1)
        rate = unembedding_displacement(words, row(0.3, 0, 0), toy.NO, toy.NEVER, SLOPE)
        assert torch.allclose(path[1] - path[0], 0.2 * rate, atol=2e-3)
        assert (rate[toy.NO] > 0) == (words is REFLECTED)


def monitored(path: list[Tensor], step: int):
    both = {"chosen": toy.NO, "rejected": toy.NEVER}
    before = {f"{side}_before": [path[0][token].item()] for side, token in both.items()}
    after = {f"{side}_after": [path[step][token].item()] for side, token in both.items()}
    return displacement_report(**before, **after)


@pytest.mark.parametrize("step", [1, 2, 10, 50])
def test_the_monitor_tells_displacement_from_the_first_step(step: int) -> None:
    found = monitored(descended(WORDS, steps=50)[0], step)
    assert found.is_displaced
    assert found.chosen.value < 0
    assert found.rejected.value < found.chosen.value
    control = monitored(descended(REFLECTED, steps=50)[0], step)
    assert not control.is_displaced
    assert control.chosen.value > 0


def test_one_pair_has_no_interval_and_many_have_one() -> None:
    assert math.isnan(monitored(descended(WORDS, steps=1)[0], 1).chosen.low)
    rng = np.random.default_rng(0)
    before = rng.normal(-30, 5, 50)
    found = displacement_report(
        chosen_before=before,
        chosen_after=before - rng.normal(2, 1, 50),
        rejected_before=before,
        rejected_after=before - 5,
    )
    assert found.chosen.high < 0
    assert found.rejected.value == pytest.approx(-5, abs=1e-12)
    assert str(found).startswith("likelihood-displacement  chosen -")
    assert str(found).endswith("n=50")


def test_the_tokens_that_gain_are_named() -> None:
    path, _ = descended(WORDS, steps=100)
    ((token, rise),) = rising_tokens(path[0][None], path[100][None])
    assert token == toy.YES
    assert rise == pytest.approx(0.945243 - 0.190599, abs=1e-5)
    assert rising_tokens(path[0][None], path[0][None]) == []


# f) a transformer: CHES ranks pairs by what a first step does to ln pi(chosen)

VOCABULARY, PROMPT, COMPLETION, PAIRS = 40, 4, 6, 80


class MarkovWorld:
    """A small GPT-2 that knows a Markov chain, and pairs that differ a little, or wholly."""

    def __init__(self, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.transitions = (2 * torch.randn(VOCABULARY, VOCABULARY)).softmax(-1)
            sizes = {"n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}
            dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
            config = transformers.GPT2Config(
                vocab_size=VOCABULARY,
                initializer_range=0.1,
                bos_token_id=0,
                eos_token_id=0,
                **sizes,
                **dropouts,
            )
            self.model = transformers.GPT2LMHeadModel(config).double()
            optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
            for _ in range(150):
                chains = self.chains(16, 16)
                logits = self.model(chains).logits[:, :-1].flatten(0, 1)
                optimizer.zero_grad()
                cross_entropy(logits, chains[:, 1:].flatten()).backward()
                optimizer.step()
            self.chosen = self.chains(PAIRS, PROMPT + COMPLETION)
            self.rejected = self.near_and_far()

    def chains(self, n: int, length: int) -> Tensor:
        tokens = [torch.randint(VOCABULARY, (n,))]
        for _ in range(length - 1):
            tokens.append(torch.multinomial(self.transitions[tokens[-1]], 1)[:, 0])
        return torch.stack(tokens, dim=1)

    def near_and_far(self) -> Tensor:
        """One token replaced in a quarter of the pairs, the last four in another, else all."""
        other = self.chosen.clone()
        one, four = PAIRS // 4, PAIRS // 2
        places = PROMPT + torch.randint(COMPLETION, (one,))
        other[torch.arange(one), places] = torch.randint(VOCABULARY, (one,))
        other[one:four, -4:] = torch.randint(VOCABULARY, (four - one, 4))
        other[four:, PROMPT:] = torch.randint(VOCABULARY, (PAIRS - four, COMPLETION))
        return other

    def scores(self) -> Tensor:
        mask = torch.arange(PROMPT + COMPLETION).expand(PAIRS, -1)
        mask = (mask >= PROMPT - 1) & (mask < PROMPT + COMPLETION - 1)
        with torch.no_grad():
            states = [
                self.model(ids, output_hidden_states=True).hidden_states[-1]
                for ids in (self.chosen, self.rejected)
            ]
        return ches_score(states[0], mask, states[1], mask)

    def gradient(self, ids: Tensor) -> Tensor:
        """That of one completion's ln pi, flat."""
        logps = self.model(ids[None]).logits[0, PROMPT - 1 : -1].log_softmax(-1)
        total = logps.gather(-1, ids[PROMPT:, None]).sum()
        parts = torch.autograd.grad(total, list(self.model.parameters()))
        return torch.cat([part.flatten() for part in parts])

    def first_changes(self) -> Tensor:
        """d ln pi(chosen) under the gradient flow of a loss in the difference, up to a factor."""
        changes = []
        for chosen, rejected in zip(self.chosen, self.rejected, strict=True):
            up = self.gradient(chosen)
            changes.append(up @ (up - self.gradient(rejected)))
        return torch.stack(changes)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_higher_score_means_a_lower_first_change(seed: int) -> None:
    world = MarkovWorld(seed)
    scores, changes = world.scores(), world.first_changes()
    assert spearmanr(scores, changes).statistic < -0.3
    order = torch.randperm(PAIRS, generator=torch.Generator().manual_seed(seed))
    assert abs(spearmanr(scores[order], changes).statistic) < 0.3
