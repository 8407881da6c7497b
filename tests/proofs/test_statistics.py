"""Sheet 91's reference vectors, coverage, null distributions, and what must fail."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats as reference
from scipy.special import bdtr, expit, ndtri
from scipy.stats import binom

from trueup.stats import (
    adjust,
    agreement,
    bootstrap,
    bradley_terry,
    cohen_dz,
    cohen_h,
    cohen_kappa,
    design_effect,
    equivalence,
    fleiss_kappa,
    group_gap,
    gwet_ac1,
    krippendorff_alpha,
    lc_winrate,
    mcnemar_p,
    mean,
    paired_binary,
    paired_mean,
    paired_ranks,
    paired_statistic,
    proportion,
    proportion_difference,
    required_n,
    swapped_winrate,
)

DIGITS = 1e-7  # the sheet gives eight digits, some from fits that stopped a little early
NAN = math.nan

CHANGES = np.array([61, -12, 83, 54, 65, -17, 72, 28, 39, 90]) / 1000
BEFORE = np.array([0.62, 0.71, 0.55, 0.80, 0.49, 0.66, 0.73, 0.58, 0.69, 0.61])


def close(*numbers: float) -> object:
    return pytest.approx(numbers if len(numbers) > 1 else numbers[0], abs=DIGITS, nan_ok=True)


# 1. rates


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0, 0.27753280),
        (8, 10, 0.49016247, 0.94331785),
        (53, 100, 0.43288857, 0.62489182),
        (500, 805, 0.58710637, 0.65397920),
    ],
)
def test_wilson_bounds_are_the_sheets(successes: int, n: int, low: float, high: float) -> None:
    estimate = proportion(successes, n)
    assert (estimate.low, estimate.high) == close(low, high)


def test_clopper_pearson_bounds_are_the_sheets() -> None:
    estimate = proportion(8, 10, interval="exact")
    assert (estimate.low, estimate.high) == close(0.44390454, 0.97478927)


def test_newcombe_bounds_are_the_sheets() -> None:
    estimate = proportion_difference(56, 70, 48, 80)
    assert (estimate.low, estimate.high) == close(0.05243147, 0.33387265)


def test_score_bounds_are_newcombes_published_ones() -> None:
    # Newcombe 1998, table II, column (a), method 9 (Miettinen and Nurminen): 0.0528, 0.3382.
    # The sheet's .05255170 and .34403907 came from statsmodels 0.15, which multiplies by a count
    # where the cubic wants the group's size (test_stats_against_statsmodels holds the same).
    estimate = proportion_difference(56, 70, 48, 80, interval="score")
    assert (estimate.low, estimate.high) == pytest.approx((0.0528, 0.3382), abs=5e-5)


# 2. paired, right or wrong


def paired_table(both: int, only_before: int, only_after: int, neither: int) -> list[np.ndarray]:
    before = np.repeat([1, 1, 0, 0], [both, only_before, only_after, neither])
    after = np.repeat([1, 0, 1, 0], [both, only_before, only_after, neither])
    return [before, after]


def test_paired_binary_is_the_sheets() -> None:
    result = paired_binary(*paired_table(59, 6, 16, 80))
    assert (result.delta, result.low, result.high) == close(0.06211180, 0.00582394, 0.11839966)
    assert result.p_value == close(0.05247879)
    assert result.effect == close(2.66666667)
    assert (result.high - result.low) / 2 / float(ndtri(0.975)) == close(0.02871882)


@pytest.mark.parametrize(
    ("method", "p_value"),
    [
        ("exact", 0.05247879),
        ("mid-p", 0.03468966),
        ("chi2", 0.03300626),
        ("chi2-corrected", 0.05500883),
    ],
)
def test_mcnemar_p_is_the_sheets(method: str, p_value: float) -> None:
    assert mcnemar_p(16, 6, method) == close(p_value)


def test_swapping_before_and_after_turns_the_sign_and_nothing_else() -> None:
    there = paired_binary(*paired_table(59, 6, 16, 80))
    back = paired_binary(*reversed(paired_table(59, 6, 16, 80)))
    assert (back.delta, back.low, back.high) == close(-there.delta, -there.high, -there.low)
    assert back.p_value == there.p_value
    assert back.effect == close(1 / there.effect)


# 3. paired, graded


def test_paired_mean_is_the_sheets(rng: np.random.Generator) -> None:
    result = paired_mean(np.zeros(10), CHANGES, rng=rng)
    assert result.p_value == 10 / 1024
    assert result.effect == close(1.25058526)
    t = reference.ttest_rel(CHANGES, np.zeros(10))
    assert (t.statistic, t.pvalue) == close(3.95469783, 0.00333092)
    bounds = t.confidence_interval()
    assert (result.low, result.high) == pytest.approx((bounds.low, bounds.high), rel=1e-12)


def test_wilcoxon_p_is_the_sheets(rng: np.random.Generator) -> None:
    assert paired_ranks(np.zeros(10), CHANGES, rng=rng).p_value == close(0.00976563)


def test_equivalence_p_is_the_sheets() -> None:
    result = equivalence(BEFORE, BEFORE + CHANGES, lowest=-0.02, highest=0.1)
    assert result.p_value == close(0.00065754)


def test_group_gap_p_is_fishers(rng: np.random.Generator) -> None:
    a, b = [1, 1, 0, 1, 1, 0, 1, 1], [0, 1, 0, 0, 1, 0, 0, 0, 1, 0]
    gap = group_gap(a + b, ["a"] * 8 + ["b"] * 10, rng=rng)
    assert gap.value == close(0.45)
    assert gap.p_value == close(0.15343480)
    fisher = reference.fisher_exact([[6, 2], [3, 7]]).pvalue
    assert gap.p_value == pytest.approx(fisher, abs=1e-12)


# 4. Bradley-Terry

BATTLES = [
    ("A", "B", 1.0),
    ("B", "A", 1.0),
    ("A", "C", 1.0),
    ("C", "A", 1.0),
    ("B", "C", 1.0),
    ("C", "B", 1.0),
    ("A", "B", 0.5),
    ("B", "C", 0.5),
]
COUNTS = np.array([30, 20, 25, 10, 28, 12, 4, 6])


def test_bradley_terry_is_the_sheets() -> None:
    fit = bradley_terry(BATTLES, weights=COUNTS)
    assert fit.strengths == pytest.approx([0.44315599, 0.11289940, -0.55605539], abs=DIGITS)
    assert fit.negative_log_likelihood == close(86.53492613)
    elo = {"A": 1076.98408, "B": 1019.61263, "C": 903.40329}
    assert fit.elo() == pytest.approx(elo, abs=5e-6)
    assert fit.win_rate("A", "B") == close(0.58182181)
    model, sandwich = np.diag(fit.model_covariance) ** 0.5, np.diag(fit.covariance) ** 0.5
    assert model == pytest.approx([0.15142295, 0.13815781, 0.16159593], abs=DIGITS)
    assert sandwich == pytest.approx([0.14895362, 0.12941423, 0.15559257], abs=DIGITS)


@pytest.mark.parametrize(("kind", "error"), [("model", 0.24066520), ("sandwich", 0.23164931)])
def test_error_of_a_difference_is_the_sheets(kind: str, error: float) -> None:
    fit = bradley_terry(BATTLES, weights=COUNTS)
    v = fit.model_covariance if kind == "model" else fit.covariance
    assert math.sqrt(v[0, 0] + v[1, 1] - 2 * v[0, 1]) == close(error)
    if kind == "sandwich":
        gap = fit.difference("A", "B")
        assert (gap.high - gap.low) / 2 / float(ndtri(0.975)) == close(error)


@pytest.mark.parametrize(
    ("index", "value", "error"), [(0, 0.99921137, 0.28106349), (1, 0.66895478, 0.25975511)]
)
def test_differences_to_an_anchor_are_the_sheets(index: int, value: float, error: float) -> None:
    fit = bradley_terry(BATTLES, weights=COUNTS)
    v = fit.model_covariance
    assert fit.strengths[index] - fit.strengths[2] == close(value)
    assert math.sqrt(v[index, index] + v[2, 2] - 2 * v[index, 2]) == close(error)


def test_two_models_have_the_closed_form() -> None:
    fit = bradley_terry([("x", "y", 1.0), ("x", "y", 0.0)], weights=[7, 3])
    gap = fit.strengths[0] - fit.strengths[1]
    v = fit.model_covariance
    assert gap == close(math.log(7 / 3))
    assert math.sqrt(v[0, 0] + v[1, 1] - 2 * v[0, 1]) == close(0.69006556)
    assert fit.elo()["x"] - fit.elo()["y"] == pytest.approx(147.190714, abs=5e-7)


def test_bootstrap_errors_agree_with_the_sandwich(rng: np.random.Generator) -> None:
    draws = rng.multinomial(COUNTS.sum(), COUNTS / COUNTS.sum(), size=400)
    fits = np.array([bradley_terry(BATTLES, weights=one).strengths for one in draws])
    assert fits.std(axis=0, ddof=1) == pytest.approx([0.148, 0.144, 0.162], abs=0.025)


def test_planted_strengths_come_back(rng: np.random.Generator) -> None:
    planted = np.array([0.8, 0.0, -0.8])
    first = rng.integers(0, 3, 20_000)
    second = (first + rng.integers(1, 3, 20_000)) % 3
    wins = rng.random(20_000) < expit(planted[first] - planted[second])
    names = "abc"
    battles = [(names[i], names[j], float(w)) for i, j, w in zip(first, second, wins, strict=True)]
    assert bradley_terry(battles).strengths == pytest.approx(planted, abs=0.05)


# 5. length control

PREFERENCE = np.array([1.2, 1.9, 1.5, 1, 2, 1.7, 1.1, 1.6]) - 1
BASELINE_LENGTHS = np.array([100, 200, 150, 300, 120, 180, 250, 160])
MODEL_LENGTHS = np.array([180, 260, 150, 280, 240, 200, 230, 300])


def test_length_controlled_rate_is_the_sheets(rng: np.random.Generator) -> None:
    gap = BASELINE_LENGTHS - MODEL_LENGTHS
    rates = lc_winrate(PREFERENCE, gap, rng=rng, resamples=200)
    t = reference.t.ppf(0.975, 7)
    assert rates.raw.value == close(50)
    assert (rates.raw.high - rates.raw.low) / 2 / t == close(13.09307341)
    assert rates.discrete.value == close(56.25)
    assert gap.std(ddof=1) == close(62.27817779)
    assert (rates.phi, rates.theta) == close(-1.99882451, -0.83057802)
    assert rates.controlled.value == pytest.approx(30.35228624, abs=1e-6)  # in percent


def test_equal_lengths_leave_the_raw_rate(rng: np.random.Generator) -> None:
    rates = lc_winrate(PREFERENCE, np.zeros(8), rng=rng, resamples=200)
    assert rates.controlled.value == pytest.approx(rates.raw.value, abs=1e-6)
    assert rates.phi == pytest.approx(0, abs=1e-6)


def test_length_control_takes_a_judges_taste_for_length_away() -> None:
    raw, controlled = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        longer = rng.normal(120, 100, 800)
        wins = rng.random(800) < expit(2 * np.tanh(longer / longer.std(ddof=1)))
        rates = lc_winrate(wins, -longer, rng=rng, resamples=50)
        raw.append(rates.raw.value)
        controlled.append(rates.controlled.value)
    assert min(raw) > 70
    assert all(abs(rate - 50) < 12 for rate in controlled)
    assert abs(np.mean(controlled) - 50) < 5


# 6. both orders


def test_swapped_orders_are_one_item() -> None:
    scores = [[1, 1], [1, 0], [0, 0], [1, 1], [0, 1], [1, 1], [0.5, 1], [0, 0]]
    rate, consistency = swapped_winrate(scores)
    t = reference.t.ppf(0.975, 7)
    assert rate.value == close(0.59375)
    assert (rate.high - rate.low) / 2 / t == close(0.14893596)
    naive = np.std(np.ravel(scores), ddof=1) / 4
    assert naive == close(0.12263385)
    assert consistency.value == close(0.625)


# 7. agreement

FLEISS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]
THREE_RATERS = [
    [NAN, NAN, NAN, NAN, NAN, 3, 4, 1, 2, 1, 1, 3, 3, NAN, 3],
    [1, NAN, 2, 1, 3, 3, 4, 3, NAN, NAN, NAN, NAN, NAN, NAN, NAN],
    [NAN, NAN, 2, 1, 3, 4, 4, NAN, 2, 1, 1, 3, 3, NAN, 4],
]


def test_kappa_and_its_error_are_the_sheets() -> None:
    kappa = cohen_kappa([[20, 5], [10, 15]])
    assert kappa.value == close(0.4)
    assert (kappa.high - kappa.low) / 2 / float(ndtri(0.975)) == close(0.12699606)


@pytest.mark.parametrize(
    ("weights", "value"),
    [("none", 0.58691910), ("linear", 0.63709677), ("quadratic", 0.69158879)],
)
def test_weighted_kappa_is_the_sheets(weights: str, value: float) -> None:
    table = [[20, 5, 1], [3, 15, 4], [1, 2, 9]]
    assert cohen_kappa(table, weights=weights).value == close(value)


def test_prevalence_paradox_is_the_sheets(rng: np.random.Generator) -> None:
    first, second = [0] * 90 + [1] * 10, [0] * 80 + [1] * 10 + [0] * 10
    found = agreement([first, second], rng=rng, resamples=200)
    assert found["observed"].value == close(0.8)
    assert found["cohen"].value == close(-0.11111111)
    assert found["ac1"].value == close(0.75609756)
    counts = np.stack([np.array(first) + second == 0, np.array(first) + second == 2], axis=1) * 2
    assert gwet_ac1(np.where(counts.any(axis=1)[:, None], counts, 1)) == close(0.75609756)


def test_fleiss_kappa_is_the_sheets() -> None:
    assert fleiss_kappa(FLEISS) == close(0.20993070)


@pytest.mark.parametrize(
    ("scale", "value"),
    [
        ("nominal", 0.69135802),
        ("ordinal", 0.80672142),
        ("interval", 0.81084489),
        ("ratio", 0.80894367),  # by exact fractions; the sheet prints .80893667, two digits swapped
    ],
)
def test_krippendorff_alpha_is_the_sheets(scale: str, value: float) -> None:
    assert krippendorff_alpha(THREE_RATERS, scale=scale) == close(value)


# 8. families of tests

PVALUES = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216]


@pytest.mark.parametrize(
    ("method", "adjusted", "rejected"),
    [
        ("holm", [0.01, 0.072] + [0.312] * 5 + [0.615] * 3, 1),
        ("bh", [0.01, 0.04] + [0.084] * 3 + [0.1, 0.10571429] + [0.216] * 3, 2),
    ],
)
def test_adjusted_pvalues_are_the_sheets(method: str, adjusted: list[float], rejected: int) -> None:
    found = adjust(PVALUES, method)
    assert found == pytest.approx(adjusted, abs=DIGITS)
    assert (found < 0.05).sum() == rejected


def test_by_adjusts_the_smallest_as_the_sheet_says() -> None:
    found = adjust(PVALUES, "by")
    assert found[0] == close(0.02928968)
    assert (found < 0.05).sum() == 1


def test_holm_keeps_false_claims_at_five_percent_where_raw_tests_make_them(
    rng: np.random.Generator,
) -> None:
    families = rng.random((2000, 20))
    raw = (families < 0.05).any(axis=1).mean()
    held = np.mean([(adjust(family) < 0.05).any() for family in families])
    assert raw == pytest.approx(1 - 0.95**20, abs=0.04)  # 64.2 %: the negative control
    assert held < 0.07


# 9. power


@pytest.mark.parametrize(
    ("design", "arguments", "n"),
    [
        ("two-rates", (0.55, 0.5), 1564.53),
        ("two-rates", (0.6, 0.5), 387.17),
        ("one-rate", (0.55,), 782.53),
        ("paired-mean", (0.3,), 89.15),
        ("two-means", (0.5,), 63.77),
        ("paired-binary", (0.10, 0.05), 468.57),
        ("half-width", (0.03, 0.5), 1067.07),
    ],
)
def test_required_n_is_the_sheets(design: str, arguments: tuple[float, ...], n: float) -> None:
    assert required_n(design, *arguments) == pytest.approx(n, abs=0.005)


def test_effect_sizes_and_design_effect_are_the_sheets() -> None:
    assert (cohen_h(0.55, 0.5), cohen_h(0.6, 0.5)) == close(0.10016742, 0.20135792)
    assert cohen_dz(CHANGES) == close(1.25058526)
    assert design_effect(5, 0.2) == close(1.8)
    assert 1000 / design_effect(5, 0.2) == pytest.approx(555.56, abs=0.005)


# coverage and null distributions


def coverage(p: float, n: int, bounds: list[tuple[float, float]]) -> float:
    hit = np.array([low <= p <= high for low, high in bounds])
    return float(binom.pmf(np.arange(n + 1), n, p) @ hit)


def test_wilson_covers_where_wald_does_not() -> None:
    n, p, z = 30, 0.1, float(ndtri(0.975))
    wilson = [(e.low, e.high) for e in (proportion(k, n) for k in range(n + 1))]
    shares = np.arange(n + 1) / n
    half = z * np.sqrt(shares * (1 - shares) / n)
    wald = list(zip(shares - half, shares + half, strict=True))
    assert coverage(p, n, wilson) == close(0.97417321)
    assert coverage(p, n, wald) == close(0.80852136)  # the negative control


def test_bootstrap_of_a_mean_covers(rng: np.random.Generator) -> None:
    hits = 0
    for _ in range(300):
        x = rng.exponential(size=40)
        terms = np.stack([x, np.ones_like(x)], axis=1)
        found = bootstrap(terms, lambda s: s[..., 0] / s[..., 1], resamples=999, rng=rng)
        hits += found.low <= 1 <= found.high
    assert 0.89 <= hits / 300 <= 0.98


def test_clusters_widen_what_rows_would_understate(rng: np.random.Generator) -> None:
    clusters = np.repeat(np.arange(25), 8)
    hits = {"rows": 0, "clusters": 0}
    for _ in range(200):
        x = rng.normal(size=25)[clusters] + rng.normal(scale=0.3, size=200)
        rows, whole = mean(x), mean(x, clusters=clusters, rng=rng, resamples=499)
        hits["rows"] += rows.low <= 0 <= rows.high
        hits["clusters"] += whole.low <= 0 <= whole.high
    assert hits["clusters"] / 200 > 0.87
    assert hits["rows"] / 200 < 0.65  # the negative control


def test_paired_mean_pvalues_are_uniform_when_nothing_changed(rng: np.random.Generator) -> None:
    found = []
    for _ in range(500):
        before = rng.normal(size=24)
        after = before + rng.normal(size=24)
        found.append(paired_mean(before, after, rng=rng, resamples=499).p_value)
    assert reference.kstest(found, "uniform").pvalue > 0.01


def test_group_gap_pvalues_are_uniform_for_equal_groups(rng: np.random.Generator) -> None:
    groups = np.repeat(["a", "b", "c"], 12)
    found = [
        group_gap(rng.normal(size=36), groups, rng=rng, resamples=199).p_value for _ in range(500)
    ]
    assert reference.kstest(found, "uniform").pvalue > 0.01


def test_swap_pvalues_are_uniform_when_nothing_changed(rng: np.random.Generator) -> None:
    def ratio(sums: np.ndarray) -> np.ndarray:
        return sums[..., 0] / sums[..., 1]

    found = []
    for _ in range(500):
        sides = rng.exponential(size=(2, 30, 2)) + 0.5
        result = paired_statistic(sides[0], sides[1], ratio, rng=rng, resamples=299)
        found.append(result.p_value)
    assert reference.kstest(found, "uniform").pvalue > 0.01


def test_taking_the_largest_gap_without_permuting_the_search_raises_alarms(
    rng: np.random.Generator,
) -> None:
    groups = np.repeat([0, 1, 2, 3, 4, 5], 10)
    honest = picked = 0
    for _ in range(200):
        x = rng.normal(size=60)
        means = [x[groups == group].mean() for group in range(6)]
        top, bottom = x[groups == np.argmax(means)], x[groups == np.argmin(means)]
        picked += reference.ttest_ind(top, bottom, equal_var=False).pvalue < 0.05
        honest += group_gap(x, groups, rng=rng, resamples=199).p_value < 0.05
    assert honest / 200 < 0.1
    assert picked / 200 > 0.2  # the negative control


def test_permuted_labels_kill_a_real_gap(rng: np.random.Generator) -> None:
    x = np.concatenate([rng.normal(size=100), rng.normal(1, size=100)])
    groups = np.repeat(["a", "b"], 100)
    assert group_gap(x, groups, rng=rng, resamples=999).p_value < 0.01
    assert group_gap(x, rng.permutation(groups), rng=rng, resamples=999).p_value > 0.01


def test_an_unpaired_test_misses_what_the_paired_one_finds(rng: np.random.Generator) -> None:
    before = rng.normal(scale=5, size=40)
    after = before + rng.normal(0.5, 0.5, size=40)
    assert paired_mean(before, after, rng=rng).p_value < 0.001
    assert reference.ttest_ind(before, after).pvalue > 0.3  # the negative control


def test_the_exact_test_never_exceeds_its_level() -> None:
    for n in (5, 10, 17, 24, 60):
        chances = binom.pmf(np.arange(n + 1), n, 0.5)
        rejected = np.array([mcnemar_p(k, n - k) < 0.05 for k in range(n + 1)])
        assert chances @ rejected <= 0.05 + 1e-12
        assert bdtr(0, n, 0.5) == pytest.approx(chances[0])


def test_nothing_here_warns(rng: np.random.Generator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proportion(0, 0)
        mean([])
        mean([1.0])
        paired_binary([], [])
        bootstrap(np.zeros((3, 2)), lambda s: s[..., 0] / s[..., 1], rng=rng)
