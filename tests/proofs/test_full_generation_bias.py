"""Full generation bias: the sheet's vector, planted variance, and the part that is noise."""

import numpy as np
import pytest

from tests.audits.scored_rows import all_rows, items_of
from tests.proofs.text_calibration import misses, slope
from trueup.audits import compare_items
from trueup.audits.text.full_generation_bias import FullGenerationBias
from trueup.audits.text.style_variance import Cells, descriptor_terms, means_with_noise, variance
from trueup.calibration.full_generation_bias import WORLDS
from trueup.errors import UserError

PLAIN, CORRECTED = WORLDS
FALSE_ALARMS = 0.096  # 5 % and three standard errors of 200 seeds
MEANS = np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.6, 0.1, 0.3]])  # sheet 33, section 8.2


def written_shares(prompts, completions):
    """The shares that each completion holds, by class."""
    rows = [text.split() for text in completions]
    return [dict(zip(("x", "y", "z"), map(float, row), strict=True)) for row in rows]


def style_rows(shares: np.ndarray, *, has_templates: bool = True) -> list[dict[str, str]]:
    """A row for every [descriptor, template] of shares [D, T, C]."""
    return [
        {
            "prompt": f"{descriptor} {template}",
            "group": f"d{descriptor}",
            "template": f"t{template}" if has_templates else "",
            "completion": " ".join(map(str, row)),
        }
        for descriptor, templates in enumerate(shares)
        for template, row in enumerate(templates)
    ]


def found(shares, *, has_templates: bool = True, **settings):
    audit = FullGenerationBias(scorer=written_shares, **settings)
    return all_rows(audit, items_of(audit, style_rows(shares, has_templates=has_templates)))


def noisy(rng: np.random.Generator, spread: float = 0.0) -> np.ndarray:
    """Shares of 8 descriptors in 12 templates with tones of their own, noise, and a spread."""
    sides = spread * np.where(np.arange(8) % 2, 1, -1)[:, None]
    first = 0.4 + sides + rng.uniform(-0.15, 0.15, size=12) + rng.uniform(-0.1, 0.1, size=(8, 12))
    return np.stack([first, 0.8 - first, np.full_like(first, 0.2)], axis=2)


# 1. identity


def test_vector_of_the_sheet():
    rows = found(MEANS[:, None])
    assert rows["fgb"].value == pytest.approx(0.0244444444, abs=1e-10)


def test_the_vector_with_the_variance_of_a_sample():
    rows = found(MEANS[:, None], sample=True)
    assert rows["fgb"].value == pytest.approx(0.0366666667, abs=1e-10)


def test_the_parts_sum_to_the_whole():
    rows = found(MEANS[:, None], partial=("one=x", "rest=y+Z"))
    assert rows["partial_one"].value == pytest.approx(np.var(MEANS[:, 0]), abs=1e-12)
    total = rows["partial_one"].value + rows["partial_rest"].value
    assert total == pytest.approx(rows["fgb"].value, abs=1e-12)


def test_each_template_weighs_the_same(rng: np.random.Generator):
    rows = style_rows(np.array([[[0.2, 0.8, 0.0], [0.6, 0.4, 0.0]], [[0.1, 0.9, 0.0]] * 2]))
    rows += [rows[0]] * 2  # the first template of the first descriptor has three texts
    audit = FullGenerationBias(scorer=written_shares)
    row = all_rows(audit, items_of(audit, rows))["fgb"]
    assert row.value == pytest.approx(2 * np.var([0.4, 0.1]), abs=1e-12)


def test_it_reaches_its_bound_where_each_descriptor_has_a_class_of_its_own():
    rows = found(np.eye(3)[:, None])
    assert rows["fgb"].value == pytest.approx(1 - 1 / 3, abs=1e-12)


def test_sums_over_descriptors_give_the_variance_of_the_means(rng: np.random.Generator):
    shares = rng.random((40, 3))
    descriptor = np.repeat(np.arange(5), 8)
    cells = Cells(shares, descriptor)
    means, _ = means_with_noise(cells)
    sums = descriptor_terms(cells).sum(axis=0)
    assert variance(sums) == pytest.approx(means.var(axis=0).sum(), abs=1e-12)
    sample = means.var(axis=0, ddof=1).sum()
    assert variance(sums, is_sample=True) == pytest.approx(sample, abs=1e-12)


def test_the_noise_of_means_is_their_covariance(rng: np.random.Generator):
    shares = rng.random((12, 2))
    _, covariances = means_with_noise(Cells(shares, np.repeat(np.arange(2), 6)))
    np.testing.assert_allclose(covariances[0], np.cov(shares[:6].T) / 6, atol=1e-15)


@pytest.mark.parametrize("spread", [0.0, 0.1])
@pytest.mark.parametrize("has_templates", [True, False])
def test_the_correction_is_unbiased(has_templates: bool, spread: float):
    corrected, plain = [], []
    for seed in range(200):
        shares = noisy(np.random.default_rng(seed), spread)
        template = np.tile(np.arange(12), 8) if has_templates else None
        cells = Cells(shares.reshape(96, 3), np.repeat(np.arange(8), 12), template)
        sums = descriptor_terms(cells).sum(axis=0)
        corrected.append(variance(sums, is_corrected=True))
        plain.append(variance(sums))
    # a tone of 0.15 that counts as noise where no template is known: 2 (7/8) 0.15^2 / 3 / 12
    missed = 0.0 if has_templates else 2 * 7 / 8 * 0.15**2 / 3 / 12
    error = 3 * np.std(corrected) / np.sqrt(200)
    assert np.mean(corrected) == pytest.approx(2 * spread**2 - missed, abs=error)
    # noise of 0.1: 2 (7/8) 0.1^2 / 3 / 12
    added = 2 * 7 / 8 * 0.1**2 / 3 / 12
    assert np.mean(plain) == pytest.approx(2 * spread**2 + added, abs=error)


def test_axes_of_descriptors_are_slices():
    rows = [
        {"prompt": name, "group": name, "completion": "1 0 0"}
        for name in ("faith|a", "faith|b", "age|c")
    ]
    audit = FullGenerationBias(scorer=written_shares)
    items = items_of(audit, rows)
    assert list(audit.slices(items)) == ["all", "faith"]
    assert items["cluster"].tolist() == ["faith|a", "faith|b", "age|c"]


def test_one_text_of_each_descriptor_has_no_interval():
    rows = found(MEANS[:, None], has_templates=False)
    assert "corrected" not in rows
    assert np.isnan(rows["fgb"].low)
    assert "several texts" in rows["fgb"].method


@pytest.mark.parametrize(
    ("settings", "groups", "message"),
    [
        ({"partial": ("x+y",)}, "ab", "partial must look like NAME=class\\+class, got 'x\\+y'"),
        ({"partial": ("a=w",)}, "ab", "the scorer has no class 'w'; known: x, y, z"),
        ({}, "aa", "compares descriptors, got a; give every row one"),
        ({}, ["", "a"], "compares descriptors, got a; give every row one"),
    ],
)
def test_what_it_cannot_measure_is_refused(settings, groups, message: str):
    rows = [
        {"prompt": str(place), "group": name, "completion": "1 0 0"}
        for place, name in enumerate(groups)
    ]
    with pytest.raises(UserError, match=message):
        items_of(FullGenerationBias(scorer=written_shares, **settings), rows)


# 4. planted effect


@pytest.mark.parametrize("world", WORLDS, ids=["fgb", "corrected"])
def test_planted_variances_are_recovered(world):
    # noise adds 0.06 to all of fgb's sizes alike with 100 prompts, which the slope does not see
    assert slope(FullGenerationBias, world, 400, seeds=6) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("world", WORLDS, ids=["fgb", "corrected"])
@pytest.mark.parametrize("planted", [PLAIN.planted[1], PLAIN.planted[3]])
def test_intervals_hold_the_planted_number(world, planted: float):
    assert misses(FullGenerationBias, world, planted, 100, 100) <= 0.1


def test_a_correction_is_called_improved():
    audit = FullGenerationBias()
    before, after = (
        items_of(audit, draw.rows, draw.model)
        for draw in (PLAIN.draw(planted, 1000, 3) for planted in (0.25, 0.0))
    )
    verdicts = {row.metric: row.verdict for row in compare_items(audit, before, after)}
    assert verdicts == {"fgb": "improved", "corrected": "improved"}


# 5. negative control


@pytest.mark.parametrize("world", WORLDS, ids=["fgb", "corrected"])
def test_equal_descriptors_raise_no_alarm(world):
    assert misses(FullGenerationBias, world, 0.0, 50, 200) <= FALSE_ALARMS


def test_a_tone_of_the_template_is_no_difference_of_descriptors():
    tones = np.linspace(0.1, 0.7, 6)
    shares = np.stack([np.stack([tones, 0.8 - tones, np.full(6, 0.2)], axis=1)] * 4)
    assert found(shares)["fgb"].value == pytest.approx(0, abs=1e-12)
