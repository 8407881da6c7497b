"""Winogender: planted leans and correlations come back; none where there is none."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.audits.planted_models import PlantedModel, random_llama
from tests.proofs.probability_calibration import misses, slope, world_of
from trueup.audits import Winogender, compare_items
from trueup.models import LanguageModel
from trueup.stats import Estimate

JOBS = [f"job{number}" for number in range(60)]
ROWS = [
    {
        "sentid": f"{job}.customer.{referent}.{gender}.txt",
        "sentence": f"The {job} told the customer that {pronoun} {tail}.",
    }
    for job in JOBS
    for referent, tail in (("0", "was ready"), ("1", "could pay"))
    for gender, pronoun in (("male", "he"), ("female", "she"), ("neutral", "they"))
]
TEXTS = [row["sentence"] for row in ROWS]


@pytest.fixture
def women(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(5, 95, size=60)


@pytest.fixture
def audit(tmp_path: Path, women: np.ndarray) -> Winogender:
    table = pd.DataFrame({"occupation": JOBS, "bls_pct_female": women})
    table.to_csv(tmp_path / "stats.tsv", sep="\t", index=False)
    return Winogender(stats=str(tmp_path / "stats.tsv"))


def planted(shares: np.ndarray) -> LanguageModel:
    """P(she) / (P(he) + P(she)) = share in the sentences of each job."""
    by_job = dict(zip(JOBS, shares, strict=True))

    def following(words: list[str]) -> dict[str, float]:
        if words[-1:] != ["that"]:
            return {}
        share = float(by_job[words[1]])
        return {"she": 0.5 * share, "he": 0.5 * (1 - share), "they": 0.25}

    return PlantedModel(TEXTS, following)


def items_of(audit: Winogender, shares: np.ndarray) -> pd.DataFrame:
    return audit.measure(planted(shares), audit.probes(ROWS))


def numbers(audit: Winogender, items: pd.DataFrame) -> dict[str, Estimate]:
    return {row.metric: row for row in audit.estimate(items) if row.slice == "all"}


# 1. identity


def test_a_planted_share_is_measured_exactly(audit: Winogender, rng: np.random.Generator):
    shares = rng.uniform(size=60)
    items = items_of(audit, shares)
    np.testing.assert_allclose(items["score"], np.repeat(shares, 2), atol=1e-9)
    found = numbers(audit, items)
    assert found["lean"].value == pytest.approx(shares.mean() - 0.5, abs=1e-9)
    assert found["neutral"].value == pytest.approx(1 / 3, abs=1e-9)


def test_the_correlation_is_numpys(audit: Winogender, women, rng: np.random.Generator):
    shares = rng.uniform(size=60)
    found = numbers(audit, items_of(audit, shares))
    expected = np.corrcoef(shares, women)[0, 1]
    assert found["correlation"].value == pytest.approx(expected, abs=1e-9)


def test_swapping_the_genders_turns_every_sign(audit: Winogender):
    model = random_llama(TEXTS)
    names = {"male": "female", "female": "male", "neutral": "neutral"}
    swapped = []
    for row in ROWS:
        job, other, referent, gender, _ = row["sentid"].split(".")
        sentid = f"{job}.{other}.{referent}.{names[gender]}.txt"
        swapped.append({**row, "sentid": sentid})
    there, back = (
        numbers(audit, audit.measure(model, audit.probes(rows))) for rows in (ROWS, swapped)
    )
    for metric in ("lean", "correlation"):
        assert there[metric].value == pytest.approx(-back[metric].value, abs=1e-6)


# 4. planted effect


def test_a_model_that_follows_the_statistics_is_found(audit, women, rng: np.random.Generator):
    shares = np.clip(women / 100 + rng.normal(0, 0.1, size=60), 0.01, 0.99)
    row = numbers(audit, items_of(audit, shares))["correlation"]
    assert row.low > 0.8
    assert row.n == 60


@pytest.mark.parametrize("lean", [-0.3, 0.1])
def test_the_interval_covers_a_planted_lean(audit, lean: float, rng: np.random.Generator):
    covered, whole = 0, Whole(stats=audit.stats)
    for _ in range(20):
        shares = np.clip(0.5 + lean + rng.normal(0, 0.05, size=60), 0.01, 0.99)
        row = numbers(whole, items_of(audit, shares))["lean"]
        covered += row.low <= lean <= row.high
    assert covered >= 16  # 19 of 20 expected, three standard errors are 3


def test_a_correction_is_called_improved(audit, women, rng: np.random.Generator):
    noise = rng.normal(0, 0.05, size=60)
    before = items_of(audit, np.clip(women / 100 + 0.05 + noise, 0.01, 0.99))
    after = items_of(audit, 0.5 + noise)
    rows = {row.metric: row for row in compare_items(audit, before, after) if row.slice == "all"}
    assert rows["correlation"].verdict == "improved"
    assert "neutral" not in rows


WORLD = world_of("winogender")


def test_calibration_follows_the_planted_sizes():
    assert slope(Winogender, WORLD, 60) == pytest.approx(1, abs=0.1)


def test_calibration_intervals_cover():
    assert misses(Winogender, WORLD, 0.1, 60, 100) <= 0.1


# 5. negative control


def test_calibration_raises_few_false_alarms():
    assert misses(Winogender, WORLD, 0.0, 60, 200) <= 0.096


class Whole(Winogender):
    """Without slices, which would only take time."""

    def slices(self, items: pd.DataFrame) -> dict[str, np.ndarray]:
        return {"all": np.ones(len(items), dtype=bool)}


def test_an_unbiased_model_raises_no_alarm(audit: Winogender):
    rng = np.random.default_rng(4)
    items = items_of(audit, np.full(60, 0.5))
    whole = Whole(stats=audit.stats)
    alarms = {"lean": 0, "correlation": 0}
    for _ in range(60):
        scores = np.repeat(np.clip(rng.normal(0.5, 0.1, size=60), 0, 1), 2)
        found = numbers(whole, items.assign(score=scores))
        for metric in alarms:
            alarms[metric] += not found[metric].low <= 0 <= found[metric].high
    # nominal 3 of 60, three standard errors are 5
    assert max(alarms.values()) <= 8


def test_an_unchanged_model_is_no_evidence(audit: Winogender, rng: np.random.Generator):
    items = items_of(audit, rng.uniform(size=60))
    assert {row.verdict for row in compare_items(audit, items, items)} == {"no evidence"}
