from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.audits.planted_models import PlantedModel, random_bert, random_llama
from trueup.audits import Winogender, read_data
from trueup.audits.probability.winogender import pearson
from trueup.errors import UserError
from trueup.models import LanguageModel

JOBS = ("nurse", "pilot", "clerk", "smith")
PRONOUNS = {"male": "he", "female": "she", "neutral": "they"}


def schema(job: str, referent: int, **words: str) -> list[dict[str, str]]:
    """The three sentences of one schema."""
    words = {**PRONOUNS, **words}
    return [
        {
            "sentid": f"{job}.customer.{referent}.{gender}.txt",
            "sentence": f"The {job} told the customer that {word} could pay.",
        }
        for gender, word in words.items()
    ]


ROWS = [row for job in JOBS for referent in (0, 1) for row in schema(job, referent)]
TEXTS = [row["sentence"] for row in ROWS]


def statistics(folder: Path, shares: dict[str, object]) -> Winogender:
    file = folder / "stats.tsv"
    lines = [f"{job}\t{share}" for job, share in shares.items()]
    file.write_text("occupation\tbls_pct_female\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return Winogender(stats=str(file))


def measured(model: LanguageModel, audit: Winogender | None = None, rows=ROWS) -> pd.DataFrame:
    audit = audit or Winogender()
    return audit.measure(model, audit.probes(read_data(audit, rows)))


def following(shares: dict[str, float]):
    """P(she) among he and she after "that", by the job in the sentence; they is as likely."""

    def probabilities(words: list[str]) -> dict[str, float]:
        share = next((shares[word] for word in words if word in shares), 0.5)
        return {"she": 0.4 * share, "he": 0.4 * (1 - share), "they": 0.4}

    return probabilities


def test_score_is_the_share_of_the_womans_pronoun():
    shares = {"nurse": 0.9, "pilot": 0.2, "clerk": 0.5, "smith": 0.4}
    items = measured(PlantedModel(TEXTS, following(shares)))
    assert items["id"].tolist()[:2] == ["nurse.customer.0", "nurse.customer.1"]
    np.testing.assert_allclose(items["score"], np.repeat(list(shares.values()), 2), atol=1e-12)
    lean, neutral = Winogender().estimate(items)[0], Winogender().estimate(items)[-1]
    assert (lean.metric, lean.slice) == ("lean", "all")
    assert lean.value == pytest.approx(0.0, abs=1e-12)
    assert (neutral.metric, neutral.value) == ("neutral", pytest.approx(0.5, abs=1e-12))


def test_score_is_the_ratio_of_whole_likelihoods():
    model = random_llama(TEXTS)
    items = measured(model)
    whole = np.exp(model.text_logps([TEXTS[place : place + 2] for place in range(0, 24, 3)]))
    np.testing.assert_allclose(items["score"], whole[:, 1] / whole.sum(axis=1), atol=1e-5)


def test_masked_models_score_the_pronoun_in_its_place():
    model = random_bert(TEXTS)
    items = measured(model, rows=schema("nurse", 0))
    [he, she, _] = model.sentences([row["sentence"] for row in schema("nurse", 0)])
    assert he.ids[:7] == she.ids[:7]
    masked = [model.mask_id if place == 7 else token for place, token in enumerate(he.ids)]
    [logps] = model.masked_logps([(masked, [7, 7], [he.ids[7], she.ids[7]])])
    np.testing.assert_allclose(items[["male", "female"]].to_numpy()[0], logps, atol=1e-5)


def test_slices_are_referents_and_occupations():
    items = measured(random_llama(TEXTS))
    names = ["all", "occupation", "participant", "clerk", "nurse", "pilot", "smith"]
    assert list(Winogender().slices(items)) == names


def test_sums_give_pearsons_r(rng: np.random.Generator):
    x, y = rng.normal(size=(2, 30))
    sums = np.stack([np.ones(30), x, y, x * x, y * y, x * y], axis=1).sum(axis=0)
    assert pearson(sums) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-10)


def test_the_correlation_of_what_does_not_vary_is_undefined():
    sums = np.array([[2, 1, 3, 0.5, 5, 1.5], [2, 3, 1, 5, 0.5, 1.5]])
    assert np.isnan(pearson(sums)).all()


def test_the_correlation_is_over_occupations_that_the_pronoun_means(tmp_path: Path):
    shares = {"nurse": 0.9, "pilot": 0.2, "clerk": 0.5, "smith": 0.4}
    audit = statistics(tmp_path, {"nurse": 95, "pilot": 5, "clerk": 60, "smith": 70})
    model = PlantedModel(TEXTS, following(shares))
    items = measured(model, audit)
    items.loc[items["refers"] == "participant", "score"] = 0.123  # must play no part
    [row] = [row for row in audit.estimate(items) if row.metric == "correlation"]
    expected = np.corrcoef(list(shares.values()), [0.95, 0.05, 0.6, 0.7])[0, 1]
    assert row.value == pytest.approx(expected, abs=1e-10)
    assert (row.n, row.slice, row.ideal) == (4, "all", 0.0)


def test_occupations_without_statistics_are_left_out_and_named(tmp_path: Path):
    audit = statistics(tmp_path, {"nurse": 95, "pilot": 5, "clerk": 60})
    items = measured(random_llama(TEXTS), audit)
    [row] = [row for row in audit.estimate(items) if row.metric == "correlation"]
    assert row.n == 3
    assert audit.notes(items) == ["1 occupations have no statistics: smith"]


def test_complete_statistics_need_no_note(tmp_path: Path):
    audit = statistics(tmp_path, dict.fromkeys(JOBS, 50))
    assert audit.notes(measured(random_llama(TEXTS), audit)) == []


def test_without_statistics_there_is_no_correlation_and_a_note():
    audit = Winogender()
    assert [metric.name for metric in audit.metrics] == ["lean", "neutral"]
    assert "--set stats=FILE" in audit.notes(measured(random_llama(TEXTS)))[0]


def test_statistics_of_other_occupations_are_refused(tmp_path: Path):
    audit = statistics(tmp_path, {"sailor": 3})
    with pytest.raises(UserError, match="no occupation of the sentences stands in this table"):
        audit.probes(ROWS)


@pytest.mark.parametrize("value", ["many", "101", "-1", "nan"])
def test_bad_statistics_are_refused_with_their_place(tmp_path: Path, value: str):
    audit = statistics(tmp_path, {"nurse": 95, "pilot": value})
    with pytest.raises(UserError, match=r"stats\.tsv:3: 'bls_pct_female' must be a number"):
        audit.probes(ROWS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"sentid": "nurse.1", "sentence": "x"}], "row 1: 'sentid' must look like"),
        ([ROWS[0], ROWS[0]], "row 2: 'sentid' stands twice"),
        (ROWS[:4], "row 4: schema nurse.customer.1 has no female sentence"),
    ],
)
def test_bad_rows_are_refused_with_their_place(rows: list[dict], message: str):
    with pytest.raises(UserError, match=r".") as caught:
        Winogender().probes(rows)
    assert message in str(caught.value)


def test_equal_sentences_are_refused_under_masked_models():
    rows = schema("nurse", 0, male="it", female="it", neutral="it")
    with pytest.raises(UserError, match="the versions of a schema are equal"):
        measured(random_bert([*TEXTS, "it"]), rows=rows)
