"""Token shift: the sheet's vectors, identities, and planted shares that come back."""

import types

import numpy as np
import pytest
import torch

from tests.tiny_models import make_tiny
from trueup.audits import estimates
from trueup.audits.behaviour.token_shift import TokenShift
from trueup.audits.behaviour.token_shift_scores import shifts, token_shift_scores
from trueup.audits.behaviour.token_shift_tables import by_position, token_table
from trueup.calibration.token_shift import (
    FALLEN,
    RINGS,
    WORDS,
    TokenShiftWorld,
    base_table,
    tuned_model,
    tuned_table,
)
from trueup.models import Group, load

ALIGNED = torch.tensor(
    [[3, 1, 0, -1], [0, 2, 1, -2], [1, 0, 0.5, 2], [0, 0, 4, 1]], dtype=torch.float64
)
BASE = torch.tensor(
    [[2.5, 1, 0, -1], [1.5, 1, 0, -2], [3, 2, 1, 0.5], [0, 1, 3, 2]], dtype=torch.float64
)
TOKENS = torch.tensor([0, 1, 3, 2])

# 1. identity


def test_the_sheet_s_ranks_probabilities_and_divergences():
    found = token_shift_scores(BASE, ALIGNED, TOKENS)
    assert found.ranks.tolist() == [1, 2, 4, 1]
    probs = [0.748832266, 0.326116614, 0.051778851, 0.643914260]
    divergences = [0.019534142, 0.466378918, 1.136047027, 0.215073544]
    assert found.base_probs.tolist() == pytest.approx(probs, abs=5e-10)
    assert found.kl.tolist() == pytest.approx(divergences, abs=5e-10)


def test_a_model_against_itself_is_unshifted():
    found = token_shift_scores(ALIGNED, ALIGNED, ALIGNED.argmax(1))
    assert found.ranks.tolist() == [1] * 4
    assert found.kl.max() < 1e-12


def test_ranks_know_no_temperature_and_nothing_knows_a_constant():
    found = token_shift_scores(BASE, ALIGNED, TOKENS)
    shifted = token_shift_scores(BASE + 7, ALIGNED, TOKENS)
    cooled = token_shift_scores(BASE * 3, ALIGNED, TOKENS)
    assert found.ranks.tolist() == shifted.ranks.tolist() == cooled.ranks.tolist()
    torch.testing.assert_close(found.kl, shifted.kl)
    assert (found.kl - cooled.kl).abs().min() > 1e-3


def test_another_order_of_the_vocabulary_changes_nothing():
    order = torch.tensor([2, 0, 3, 1])
    found = token_shift_scores(BASE, ALIGNED, TOKENS)
    other = token_shift_scores(BASE[:, order], ALIGNED[:, order], order.argsort()[TOKENS])
    for a, b in zip(vars(found).values(), vars(other).values(), strict=True):
        torch.testing.assert_close(a, b)


def test_ids_that_only_one_model_has_are_left_out():
    wider = torch.cat([BASE, torch.full((4, 3), 9.0)], dim=1)
    found, other = (token_shift_scores(each, ALIGNED, TOKENS) for each in (BASE, wider))
    torch.testing.assert_close(found.kl, other.kl)
    assert found.ranks.tolist() == other.ranks.tolist()


def test_ties_share_their_best_rank():
    assert token_shift_scores(torch.zeros(1, 5), torch.zeros(1, 5), TOKENS[1:2]).ranks == 1


def test_a_token_that_the_aligned_model_never_writes_adds_nothing():
    aligned = torch.tensor([[1.0, 0.0, -torch.inf]])
    found = token_shift_scores(torch.tensor([[1.0, 0.0, 3.0]]), aligned, torch.tensor([0]))
    assert found.kl.isfinite().all()


# 2. differential: transformers' own forward pass, row by row


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom"])
def test_batches_equal_whole_passes_of_both_models(architecture: str, tmp_path):
    pair = [
        load(make_tiny(architecture, tmp_path / str(seed), seed=seed), device="cpu")
        for seed in (0, 1)
    ]
    rng = np.random.default_rng(0)
    groups = [
        Group([1, *rng.integers(4, 260, 3 + n).tolist()], [rng.integers(4, 260, 90 - n).tolist()])
        for n in (0, 20, 80)
    ]
    for group, found in zip(groups, shifts(*pair, groups), strict=True):
        ids = torch.tensor([[*group.prompt, *group.completions[0]]])
        with torch.no_grad():
            logits = [lm.model(input_ids=ids).logits[0, len(group.prompt) - 1 : -1] for lm in pair]
        alone = token_shift_scores(*logits, torch.tensor(group.completions[0]))
        torch.testing.assert_close(found.kl, alone.kl, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.base_probs, alone.base_probs, atol=1e-5, rtol=1e-4)
        assert (found.ranks - alone.ranks).abs().max() <= 1  # float32 near ties


def test_each_model_reads_every_token_but_the_last_once(tmp_path):
    pair = [load(make_tiny("llama", tmp_path / str(seed), seed=seed)) for seed in (0, 1)]
    shifts(*pair, [Group([1, 9, 9], [[5, 6]]), Group([1, 7], [[4, 5, 6]])])
    assert [lm.work.trunk_tokens for lm in pair] == [4 + 4] * 2


# 4. planted effect: the calibration's bigram models, of which every number is known


def measured(planted: float, n: int, seed: int):
    """Items for n random starts, where this share of the rings is shifted."""
    drawn = TokenShiftWorld().draw(planted, n, seed)
    audit = TokenShift(max_new_tokens=4)
    return audit, audit.measure(drawn.model, audit.probes(drawn.rows))


def rows_of(audit: TokenShift, items) -> dict:
    return {row.metric: row for row in audit.estimate(items) if row.slice == "all"}


@pytest.mark.parametrize("planted", [0.1, 0.5, 0.9])
def test_planted_shares_come_back(planted: float):
    audit, items = measured(planted, 150, seed=3)
    rows = rows_of(audit, items)
    assert rows["shifted"].low <= planted <= rows["shifted"].high
    assert rows["shifted"].low > 0
    assert rows["shifted"].value + rows["unshifted"].value == pytest.approx(1, abs=1e-12)
    assert rows["marginal"].value == 0
    changed, plain = tuned_table([0])[0], base_table()[0]
    p, q = (np.exp(row) / np.exp(row).sum() for row in (changed, plain))
    kl = float((p * np.log(p / q)).sum())
    assert rows["kl"].value == pytest.approx(rows["shifted"].value * kl, rel=1e-5)


def test_a_rank_within_the_margin_is_marginal():
    for marginal, name in ((FALLEN, "marginal"), (FALLEN - 1, "shifted")):
        audit = TokenShift(max_new_tokens=4, marginal=marginal)
        probes = audit.probes([{"prompt": word} for word in WORDS[:9]])
        rows = rows_of(audit, audit.measure(tuned_model([*range(RINGS)]), probes))
        assert rows[name].value == 1.0


def test_a_shift_of_first_tokens_concentrates_there():
    """Every answer begins on ring 1; the aligned model changes lanes there alone."""
    audit = TokenShift(max_new_tokens=8)
    items = audit.measure(tuned_model([0]), audit.probes([{"prompt": "w0a"}, {"prompt": "w0b"}]))
    table = by_position(items)
    assert table["shifted"].tolist() == [1.0] + [0.0] * 7
    assert table["n"].tolist() == [2] * 8
    assert (table["kl"] > 1e-6).tolist() == [True] + [False] * 7
    assert token_table(items)["token"][:2].tolist() == ["w1a", "w1b"]
    assert token_table(items)["shifted"].tolist()[:3] == [1.0, 1.0, 0.0]


def test_the_interval_covers_the_planted_share():
    """200 draws of 60 prompts from one population: 95 % intervals, at least 90 % hold it."""
    audit, items = measured(0.3, 1500, seed=1)
    shifted = audit.metrics[0]
    lone = types.SimpleNamespace(
        name=audit.name, level=0.95, metrics=(shifted,), slices=audit.slices
    )
    truth = float(items["shifted"].mean())
    hits = 0
    for seed in range(200):
        drawn = items.sample(60, replace=True, random_state=seed, ignore_index=True)
        [row] = estimates.estimate(lone, drawn.assign(id=drawn.index.astype(str)))
        hits += row.low <= truth <= row.high
    assert hits >= 180


# 5. negative control


def test_a_model_that_was_not_tuned_is_never_shifted():
    for seed in range(5):
        audit, items = measured(0.0, 40, seed)
        rows = rows_of(audit, items)
        assert rows["shifted"].value == rows["marginal"].value == rows["shifted_first"].value == 0
        assert rows["shifted"].low == 0 < rows["shifted"].high < 0.15
        assert rows["unshifted"].value == 1
        assert rows["kl"].value < 1e-6
