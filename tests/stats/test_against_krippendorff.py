"""Krippendorff's alpha against the package of that name, ratings missing here and there."""

import krippendorff
import numpy as np
import pytest

from trueup.stats import krippendorff_alpha


@pytest.mark.parametrize("scale", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(5))
def test_alpha(scale: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(1, 6, 40)
    ratings = np.clip(truth + rng.integers(-1, 2, (4, 40)), 1, 5).astype(float)
    ratings[rng.random((4, 40)) < 0.25] = np.nan
    expected = krippendorff.alpha(ratings, level_of_measurement=scale)
    assert krippendorff_alpha(ratings, scale=scale) == pytest.approx(expected, abs=1e-12)
