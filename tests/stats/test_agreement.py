"""Agreement of raters: identities and edges; the numbers stand in the proof."""

import math

import numpy as np
import pytest

from trueup.errors import UserError
from trueup.stats import agreement, cohen_kappa, krippendorff_alpha


def test_perfect_agreement_is_one(rng: np.random.Generator) -> None:
    ratings = [["x", "y", "x", "z"]] * 3
    found = agreement(ratings, rng=rng, resamples=99)
    assert all(one.value == pytest.approx(1) for one in found.values())
    assert set(found) == {"observed", "ac1", "krippendorff", "fleiss"}


def test_raters_who_guess_agree_by_chance_only(rng: np.random.Generator) -> None:
    found = agreement(rng.integers(0, 3, (2, 2000)), rng=rng, resamples=99)
    for name in ("cohen", "fleiss", "krippendorff", "ac1"):
        assert abs(found[name].value) < 0.06


def test_names_of_categories_do_not_matter(rng: np.random.Generator) -> None:
    numbers = rng.integers(0, 3, (2, 50))
    names = np.array(["low", "mid", "high"])[numbers]
    first = agreement(numbers, rng=np.random.default_rng(1), resamples=99)
    second = agreement(names, rng=np.random.default_rng(1), resamples=99)
    assert first["cohen"].value == pytest.approx(second["cohen"].value, abs=1e-12)


def test_missing_ratings_leave_fleiss_out(rng: np.random.Generator) -> None:
    found = agreement([[1, 2, None, 1], [1, 2, 2, 2]], rng=rng, resamples=99)
    assert "fleiss" not in found
    assert found["cohen"].n == 3


def test_one_category_explains_nothing(rng: np.random.Generator) -> None:
    found = agreement([[1, 1, 1], [1, 1, 1]], rng=rng, resamples=99)
    assert math.isnan(found["krippendorff"].value)
    assert math.isnan(cohen_kappa([[5]]).value)


def test_no_ratings_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(UserError, match="needs ratings"):
        agreement([[None, None]], rng=rng)


def test_nobody_rating_twice_leaves_no_agreement(rng: np.random.Generator) -> None:
    found = agreement([[1, None], [None, 2]], rng=rng, resamples=99)
    assert math.isnan(found["observed"].value)


def test_quadratic_alpha_of_numbers_ignores_a_shift() -> None:
    ratings = np.array([[1.0, 2, 3, 4, 2], [1, 2, 4, 4, 1]])
    first = krippendorff_alpha(ratings, scale="interval")
    assert first == pytest.approx(krippendorff_alpha(ratings + 10, scale="interval"), abs=1e-12)
    assert first != pytest.approx(krippendorff_alpha(ratings + 10, scale="ratio"), abs=1e-3)


def test_clusters_of_units_widen(rng: np.random.Generator) -> None:
    base = np.repeat(rng.integers(0, 2, 20), 10)
    other = np.where(np.repeat(rng.random(20) < 0.3, 10), 1 - base, base)
    plain = agreement([base, other], rng=rng, resamples=499)["cohen"]
    whole = agreement([base, other], rng=rng, resamples=499, clusters=np.repeat(np.arange(20), 10))[
        "cohen"
    ]
    assert whole.high - whole.low > 1.5 * (plain.high - plain.low)
