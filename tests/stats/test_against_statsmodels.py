"""The same numbers as statsmodels, the well-kept peer, over random tables."""

import numpy as np
import pytest

from trueup.stats import (
    adjust,
    bradley_terry,
    cohen_kappa,
    equivalence,
    fleiss_kappa,
    mcnemar_p,
    proportion,
    proportion_difference,
    required_n,
)

statsmodels = pytest.importorskip("statsmodels.api")
inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
power = pytest.importorskip("statsmodels.stats.power")
rates = pytest.importorskip("statsmodels.stats.proportion")
tables = pytest.importorskip("statsmodels.stats.contingency_tables")
multitest = pytest.importorskip("statsmodels.stats.multitest")
weightstats = pytest.importorskip("statsmodels.stats.weightstats")


def test_wilson(rng: np.random.Generator) -> None:
    for _ in range(50):
        n = int(rng.integers(1, 200))
        k = int(rng.integers(0, n + 1))
        found = proportion(k, n, level=0.9)
        theirs = rates.proportion_confint(k, n, alpha=0.1, method="wilson")
        assert (found.low, found.high) == pytest.approx(theirs, abs=1e-12)


def test_newcombe(rng: np.random.Generator) -> None:
    for _ in range(50):
        n, m = rng.integers(2, 100, 2)
        k, j = rng.integers(1, n), rng.integers(1, m)
        found = proportion_difference(k, n, j, m)
        theirs = rates.confint_proportions_2indep(k, n, j, m, method="newcomb")
        assert (found.low, found.high) == pytest.approx(theirs, abs=1e-12)


def test_mcnemar(rng: np.random.Generator) -> None:
    for _ in range(50):
        b, c = (int(x) for x in rng.integers(0, 30, 2))
        exact = tables.mcnemar([[5, c], [b, 5]], exact=True).pvalue
        assert mcnemar_p(b, c) == pytest.approx(exact, abs=1e-12)
        if b + c:
            chi2 = tables.mcnemar([[5, c], [b, 5]], exact=False, correction=False).pvalue
            assert mcnemar_p(b, c, "chi2") == pytest.approx(chi2, abs=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), [("holm", "holm"), ("bh", "fdr_bh"), ("by", "fdr_by")])
def test_adjusted_pvalues(ours: str, theirs: str, rng: np.random.Generator) -> None:
    for size in (1, 2, 7, 40):
        raw = rng.random(size) ** 3
        assert adjust(raw, ours) == pytest.approx(
            multitest.multipletests(raw, method=theirs)[1], abs=1e-12
        )


@pytest.mark.parametrize(("ours", "theirs"), [("none", None), ("linear", "linear")])
def test_kappa(ours: str, theirs: str | None, rng: np.random.Generator) -> None:
    for _ in range(20):
        table = rng.integers(1, 30, (3, 3))
        found = cohen_kappa(table, weights=ours)
        peer = inter_rater.cohens_kappa(table, wt=theirs)
        assert found.value == pytest.approx(peer.kappa, abs=1e-12)
        assert (found.low, found.high) == pytest.approx((peer.kappa_low, peer.kappa_upp), abs=1e-9)


def test_fleiss(rng: np.random.Generator) -> None:
    counts = rng.multinomial(7, [0.2, 0.3, 0.5], size=30)
    assert fleiss_kappa(counts) == pytest.approx(inter_rater.fleiss_kappa(counts), abs=1e-12)


def test_two_one_sided_tests(rng: np.random.Generator) -> None:
    before = rng.normal(size=20)
    after = before + rng.normal(0.1, 0.3, 20)
    theirs = weightstats.ttost_paired(after, before, -0.2, 0.3)[0]
    found = equivalence(before, after, lowest=-0.2, highest=0.3)
    assert found.p_value == pytest.approx(theirs, abs=1e-12)


def test_sample_sizes() -> None:
    one, two = power.TTestPower(), power.TTestIndPower()
    for effect in (0.2, 0.5, 0.9):
        peer = one.solve_power(effect, power=0.9, alpha=0.01)
        assert required_n("paired-mean", effect, power=0.9, alpha=0.01) == pytest.approx(
            peer, rel=1e-5
        )
        peer = two.solve_power(effect, power=0.9, alpha=0.01)
        assert required_n("two-means", effect, power=0.9, alpha=0.01) == pytest.approx(
            peer, rel=1e-5
        )


def test_bradley_terry_is_a_binomial_regression(rng: np.random.Generator) -> None:
    first = rng.integers(0, 4, 400)
    second = (first + rng.integers(1, 4, 400)) % 4
    y = rng.integers(0, 2, 400).astype(float)
    fit = bradley_terry([(str(i), str(j), w) for i, j, w in zip(first, second, y, strict=True)])
    rows = np.zeros((400, 4))
    rows[np.arange(400), first], rows[np.arange(400), second] = 1, -1
    peer = statsmodels.GLM(y, rows[:, :3], family=statsmodels.families.Binomial())
    peer = peer.fit(tol=1e-14)
    assert fit.strengths[:3] - fit.strengths[3] == pytest.approx(peer.params, abs=1e-9)
    v = fit.model_covariance
    errors = [(v[i, i] + v[3, 3] - 2 * v[i, 3]) ** 0.5 for i in range(3)]
    assert errors == pytest.approx(peer.bse, abs=1e-8)


def test_their_score_interval_slips_and_ours_solves_the_score_equation() -> None:
    ours = proportion_difference(56, 70, 48, 80, interval="score")
    theirs = rates.confint_proportions_2indep(56, 70, 48, 80, method="score", correction=True)
    assert theirs == pytest.approx((0.05255170, 0.34403907), abs=1e-6)
    assert abs(ours.high - theirs[1]) > 0.005
