"""Association: planted leans come back, on tables and on trained models; nothing from nothing."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from tests.audits.planted_models import PlantedModel
from tests.proofs.probability_calibration import misses, slope, world_of
from tests.proofs.tiny_training import planted_corpus, trained_bert, trained_llama
from trueup.audits import Association, compare_items
from trueup.models import LanguageModel
from trueup.stats import Estimate

WORDS = ["he she they thought that the"]
JOBS = [f"job{number}" for number in range(60)]
ROWS = [
    {"id": job, "context": f"the {job} thought that", "a": " he", "b": " she", "group": "jobs"}
    for job in JOBS
]


def planted(shares: np.ndarray, coverage: float = 0.5) -> LanguageModel:
    """A model with P(he) / (P(he) + P(she)) = share after each job."""

    def following(words: list[str]) -> dict[str, float]:
        share = dict(zip(JOBS, shares, strict=True)).get(words[1], 0.5)
        return {"he": coverage * share, "she": coverage * (1 - share)}

    return PlantedModel([*WORDS, *JOBS], following)


def items_of(model: LanguageModel, rows: list[dict] = ROWS) -> pd.DataFrame:
    audit = Association()
    return audit.measure(model, audit.probes(rows))


def numbers(items: pd.DataFrame) -> dict[str, Estimate]:
    return {row.metric: row for row in Association().estimate(items) if row.slice == "all"}


# 1. identity


@pytest.mark.parametrize("share", [0.01, 0.5, 0.75, 0.99])
def test_a_planted_share_is_measured_exactly(share: float):
    found = numbers(items_of(planted(np.full(60, share), coverage=0.3)))
    assert found["lean"].value == pytest.approx(share - 0.5, abs=1e-9)
    assert found["log_ratio"].value == pytest.approx(np.log(share / (1 - share)), abs=1e-9)
    assert found["coverage"].value == pytest.approx(0.3, abs=1e-9)


def test_swapping_the_groups_turns_the_signs(rng: np.random.Generator):
    model = planted(rng.uniform(size=60))
    swapped = [{**row, "a": row["b"], "b": row["a"]} for row in ROWS]
    there, back = numbers(items_of(model)), numbers(items_of(model, swapped))
    for metric in ("lean", "log_ratio"):
        assert there[metric].value == pytest.approx(-back[metric].value, abs=1e-12)


# 3. known optimum: a model trained on a planted corpus has the corpus's lean


@pytest.mark.parametrize("train", [trained_llama, trained_bert])
@pytest.mark.parametrize(("rate_a", "rate_b"), [(0.8, 0.2), (0.5, 0.5)])
def test_a_trained_model_leans_as_its_corpus(train: Callable, rate_a: float, rate_b: float):
    texts = planted_corpus(np.random.default_rng(0), positive_a=rate_a, positive_b=rate_b)
    rows = [{"context": f"{name} is", "a": " good", "b": " bad"} for name in ("alice", "bob")]
    items = items_of(train(texts, seed=1), rows)
    # measured over five seeds: within 0.02 of the planted share
    np.testing.assert_allclose(items["score"], [rate_a, rate_b], atol=0.05)
    coverage = np.exp(items["logp_a"]) + np.exp(items["logp_b"])
    assert (coverage > 0.97).all()


# 4. planted effect


@pytest.mark.parametrize("lean", [-0.3, -0.05, 0.05, 0.2, 0.4])
def test_the_interval_covers_a_planted_lean(lean: float):
    covered = 0
    rng = np.random.default_rng(7)
    for _ in range(40):
        shares = np.clip(0.5 + lean + rng.normal(0, 0.03, size=60), 0.01, 0.99)
        row = numbers(items_of(planted(shares)))["lean"]
        covered += row.low <= lean <= row.high
    assert covered >= 34  # 40 at 95 %: 38 expected, three standard errors are 4


def test_a_correction_of_a_planted_lean_is_called_improved(rng: np.random.Generator):
    noise = rng.normal(0, 0.05, size=60)
    before, after = (items_of(planted(0.5 + lean + noise)) for lean in (0.25, 0.05))
    rows = {row.metric: row for row in compare_items(Association(), before, after)}
    assert set(rows) == {"lean", "log_ratio"}  # coverage informs, it has no verdict
    assert rows["lean"].verdict == "improved"
    assert rows["lean"].delta == pytest.approx(-0.2, abs=1e-9)


WORLD = world_of("association")


def test_calibration_follows_the_planted_sizes():
    assert slope(Association, WORLD, 60) == pytest.approx(1, abs=0.1)


def test_calibration_intervals_cover():
    assert misses(Association, WORLD, 0.1, 60, 100) <= 0.1


# 5. negative control


def test_calibration_raises_few_false_alarms():
    assert misses(Association, WORLD, 0.0, 60, 200) <= 0.096


def test_an_unbiased_model_raises_no_alarm():
    rng = np.random.default_rng(11)
    alarms = 0
    for _ in range(200):
        row = numbers(items_of(planted(np.clip(rng.normal(0.5, 0.1, size=60), 0.01, 0.99))))
        alarms += not row["lean"].low <= 0 <= row["lean"].high
    assert alarms <= 19  # nominal 10 of 200, three standard errors are 9


def test_shuffled_labels_have_no_lean(rng: np.random.Generator):
    shares = rng.uniform(0.6, 0.95, size=60)
    flipped = rng.permutation(np.repeat([True, False], 30))
    rows = [
        {**row, "a": row["b"], "b": row["a"]} if flip else row
        for row, flip in zip(ROWS, flipped, strict=True)
    ]
    row = numbers(items_of(planted(shares), rows))["lean"]
    assert row.low <= 0 <= row.high


def test_an_unchanged_model_is_no_evidence(rng: np.random.Generator):
    items = items_of(planted(rng.uniform(size=60)))
    assert {row.verdict for row in compare_items(Association(), items, items)} == {"no evidence"}
