"""CrowS-Pairs: the sheet's closed-form vectors, planted stereotypes, and nothing from nothing."""

import numpy as np
import pandas as pd
import pytest

from tests.audits.planted_models import (
    PlantedModel,
    masked_logps_of,
    random_bert,
    random_llama,
    toy_logits,
)
from tests.proofs.lm_eval_peer import peer_of
from tests.proofs.probability_calibration import misses, slope, world_of
from trueup.audits import CrowsPairs, compare_items
from trueup.audits.probability.crows_pairs import masked_scores
from trueup.audits.probability.pseudo_likelihood import (
    masked_apart,
    masked_together,
    shared_positions,
    unmasked_mean,
)
from trueup.models import LanguageModel
from trueup.models.masked_language_model import Sentence
from trueup.stats import Estimate

# 1. identity: sheet 33, section 8.1, a masked model of 12 words in closed form

LOGPS = masked_logps_of(toy_logits)
MASK = 3
S1, S2 = [1, 4, 5, 6, 7, 2], [1, 8, 5, 6, 7, 2]
S3, S4 = [1, 4, 9, 5, 6, 2], [1, 8, 5, 6, 2]
ALPHA = [0.10, 0.30, 0.20, 0.15]


def sentence(ids: list[int]) -> Sentence:
    """All but the first and the last token are the text's own."""
    words = list(range(1, len(ids) - 1))
    return Sentence(ids, words, [(place, place + 1) for place in words])


PAIRS = [(sentence(S1), sentence(S2)), (sentence(S3), sentence(S4))]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (S1, [-4.1428582876, -1.6726487351, -3.2225842419, -3.6396613654]),
        (S2, [-2.6421309875, -1.3451431887, -3.2225842419, -3.6396613654]),
    ],
)
def test_vectors_of_single_positions(ids: list[int], expected: list[float]):
    spans = [(ids, [place]) for place in (1, 2, 3, 4)]
    assert masked_apart(spans, LOGPS, MASK) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("pll", (-12.677752629965, -10.849519783522)),
        ("cps", (-8.534894342378, -8.207388795980)),
        ("cat", (-4.142858287587, -2.642130987542)),
        ("aul", (-3.070404835037, -2.502448222923)),
    ],
)
def test_vectors_of_the_pair_of_one_length(score: str, expected: tuple[float, float]):
    assert masked_scores(score, PAIRS, LOGPS, MASK)[0] == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("cps", (-4.264010815444, -3.407170600206)),
        ("cat", (-4.496076013863, -2.642130987542)),
    ],
)
def test_vectors_of_the_pair_of_two_lengths(score: str, expected: tuple[float, float]):
    assert masked_scores(score, PAIRS, LOGPS, MASK)[1] == pytest.approx(expected, abs=1e-11)


def test_vector_of_attention_weights():
    spans = [(ids, [1, 2, 3, 4]) for ids in (S1, S2)]
    scores = unmasked_mean(spans, LOGPS, weights=[ALPHA, ALPHA])
    assert scores == pytest.approx([-0.527595811281, -0.449902526382], abs=1e-11)


def test_vectors_of_shared_positions():
    assert shared_positions(S3, S4) == ([0, 3, 4, 5], [0, 2, 3, 4])


def test_the_closed_form_pairs_favour_the_second_sentence():
    scores = masked_scores("cps", PAIRS, LOGPS, MASK)
    assert (scores[:, 0] < scores[:, 1]).all()


def test_modified_tokens_masked_together_know_less():
    together = masked_together([(S3, [1, 2])], LOGPS, MASK)[0] / 2
    assert together == pytest.approx(-4.496076013863, abs=1e-11)
    assert together != pytest.approx(masked_apart([(S3, [1, 2])], LOGPS, MASK)[0] / 2, abs=1e-3)


@pytest.mark.parametrize(
    ("score", "whole"), [("pll", (1, 2, 3, 4)), ("cps", (2, 3, 4)), ("cat", (1,))]
)
def test_pll_is_cps_and_the_modified_tokens(score: str, whole: tuple[int, ...]):
    both = masked_apart([(S1, list(whole))], LOGPS, MASK)[0]
    assert masked_scores(score, PAIRS, LOGPS, MASK)[0, 0] == pytest.approx(both, abs=1e-12)


# planted pairs: `group an is lazy` and `group bn is lazy`

COUNT = 80
ROWS = [
    {"id": str(n), "sent_more": f"group a{n} is lazy", "sent_less": f"group b{n} is lazy"}
    for n in range(COUNT)
]
TEXTS = [row[side] for row in ROWS for side in ("sent_more", "sent_less")]
SWAPPED = [{**row, "sent_more": row["sent_less"], "sent_less": row["sent_more"]} for row in ROWS]


def planted(log_odds: np.ndarray) -> LanguageModel:
    """P(lazy | a_n) / P(lazy | b_n) = exp(log_odds_n); names are equally likely."""

    def following(words: list[str]) -> dict[str, float]:
        if words[-1:] != ["is"]:
            return {}
        side, number = words[1][0], int(words[1][1:])
        return {"lazy": 0.1 * float(np.exp(log_odds[number] / 2 * (1 if side == "a" else -1)))}

    return PlantedModel(TEXTS, following)


def items_of(model: LanguageModel, rows: list[dict] = ROWS, **settings) -> pd.DataFrame:
    audit = CrowsPairs(**settings)
    return audit.measure(model, audit.probes(rows))


def numbers(items: pd.DataFrame) -> dict[str, Estimate]:
    return {row.metric: row for row in CrowsPairs().estimate(items)}


@pytest.mark.parametrize("score", ["sum", "shared", "mean"])
def test_planted_log_odds_are_measured_exactly(score: str, rng: np.random.Generator):
    log_odds = rng.normal(size=COUNT)
    items = items_of(planted(log_odds), score=score)
    scale = 4 if score == "mean" else 1  # four words each
    np.testing.assert_allclose(items["score"], log_odds / scale, atol=1e-9)


@pytest.mark.parametrize("make", [random_llama, random_bert])
def test_swapping_the_sentences_maps_the_share_to_its_complement(make):
    model = make(TEXTS)
    there, back = (numbers(items_of(model, rows)) for rows in (ROWS, SWAPPED))
    assert there["ties"].value == 0
    assert there["share"].value == pytest.approx(1 - back["share"].value, abs=1e-12)
    assert there["share"].low == pytest.approx(1 - back["share"].high, abs=1e-9)


# 2. differential: lm-evaluation-harness on the same log-likelihoods


def peer_results(log_likelihoods: np.ndarray) -> tuple[float, float]:
    """Its share of stereotypes and its likelihood difference, averaged over pairs."""
    peer = peer_of("crows_pairs")
    told = [
        peer.process_results({}, [(more, False), (less, False)]) for more, less in log_likelihoods
    ]
    return tuple(
        float(np.mean([row[name] for row in told]))
        for name in ("pct_stereotype", "likelihood_diff")
    )


def test_the_share_is_the_peers():
    model = random_llama(TEXTS)
    share, _ = peer_results(model.text_logps([(r["sent_more"], r["sent_less"]) for r in ROWS]))
    assert 0.2 < share < 0.8
    assert numbers(items_of(model))["share"].value == pytest.approx(share, abs=1e-12)


def test_the_peers_likelihood_difference_is_above_0_without_any_bias(rng: np.random.Generator):
    # it averages absolute differences: our signed log-ratio holds 0, its number cannot
    items = items_of(planted(rng.normal(size=COUNT)))
    _, difference = peer_results(items[["more", "less"]].to_numpy())
    assert difference == pytest.approx(np.sqrt(2 / np.pi), abs=0.25)
    assert difference == pytest.approx(items["score"].abs().mean(), abs=1e-12)
    found = numbers(items)["log_ratio"]
    assert found.low <= 0 <= found.high


# 4. planted effect


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_planted_share_is_recovered(share: float, rng: np.random.Generator):
    signs = np.where(np.arange(COUNT) < share * COUNT, 1.0, -1.0)
    row = numbers(items_of(planted(signs * rng.uniform(0.1, 1, size=COUNT))))["share"]
    assert (row.value, row.n) == (share, COUNT)
    assert row.low < share < row.high


def test_a_correction_is_called_improved(rng: np.random.Generator):
    noise = rng.normal(size=COUNT)
    before, after = (items_of(planted(lean + noise)) for lean in (1.5, 0.0))
    rows = {row.metric: row for row in compare_items(CrowsPairs(), before, after)}
    assert set(rows) == {"share", "log_ratio"}
    assert rows["share"].verdict == rows["log_ratio"].verdict == "improved"


WORLD = world_of("crows_pairs")


def test_calibration_follows_the_planted_sizes():
    assert slope(CrowsPairs, WORLD, 100) == pytest.approx(1, abs=0.1)


def test_calibration_intervals_cover():
    assert misses(CrowsPairs, WORLD, 0.65, 60, 100) <= 0.1


# 5. negative control


def test_calibration_raises_few_false_alarms():
    assert misses(CrowsPairs, WORLD, 0.5, 60, 200) <= 0.096


def test_an_unbiased_model_raises_no_alarm():
    rng = np.random.default_rng(2)
    alarms = {"share": 0, "log_ratio": 0}
    for _ in range(150):
        found = numbers(items_of(planted(rng.normal(size=COUNT))))
        for metric, ideal in (("share", 0.5), ("log_ratio", 0.0)):
            alarms[metric] += not found[metric].low <= ideal <= found[metric].high
    # nominal 7.5 of 150, three standard errors are 8
    assert alarms["share"] <= 15
    assert alarms["log_ratio"] <= 15


def test_a_model_that_sees_no_difference_is_all_ties():
    found = numbers(items_of(planted(np.zeros(COUNT))))
    assert found["ties"].value == 1.0
    assert found["share"].value == 0.5


def test_shuffled_labels_show_nothing(rng: np.random.Generator):
    model = planted(rng.uniform(0.2, 2, size=COUNT))
    flipped = rng.permutation(np.repeat([True, False], COUNT // 2))
    rows = [SWAPPED[n] if flip else ROWS[n] for n, flip in enumerate(flipped)]
    found = numbers(items_of(model, rows))
    assert found["share"].value == 0.5
    assert found["log_ratio"].low <= 0 <= found["log_ratio"].high
