import numpy as np
import pandas as pd
import pytest

from tests.audits.planted_models import (
    PlantedMaskedModel,
    random_bert,
    random_llama,
    toy_logits,
    word_tokenizer,
)
from tests.tiny_models import make_tokenizer
from trueup.audits import CrowsPairs, read_data
from trueup.audits.probability.crows_pairs import CAUSAL_SCORES, MASKED_SCORES
from trueup.errors import UserError
from trueup.models import LanguageModel

PAIRS = [
    ("the old man forgot it", "the young man forgot it"),
    ("she cannot drive", "he cannot drive at all"),
    ("we went home", "we went home"),
]
ROWS = [
    {
        "id": index,
        "sent_more": more,
        "sent_less": less,
        "stereo_antistereo": ("stereo", "antistereo")[index % 2],
        "bias_type": ("age", "gender", "none")[index],
    }
    for index, (more, less) in enumerate(PAIRS)
]
TEXTS = [text for pair in PAIRS for text in pair]


def measured(audit: CrowsPairs, model: LanguageModel, rows: list[dict] = ROWS) -> pd.DataFrame:
    return audit.measure(model, audit.probes(read_data(audit, rows)))


def scored(scores: list[float]) -> pd.DataFrame:
    """Items of pairs with these differences of scores."""
    count = len(scores)
    return pd.DataFrame(
        {
            "id": [str(n) for n in range(count)],
            "group": "",
            "cluster": "",
            "direction": "",
            "score": scores,
        }
    )


def value(audit: CrowsPairs, items: pd.DataFrame, metric: str) -> float:
    return next(row.value for row in audit.estimate(items) if row.metric == metric)


def test_causal_scores_are_those_of_their_definitions():
    model = random_llama(TEXTS)
    logps = model.text_token_logps(TEXTS)
    sums = np.array([part.sum() for part in logps]).reshape(-1, 2)
    means = np.array([part.mean() for part in logps]).reshape(-1, 2)
    items = measured(CrowsPairs(), model)
    np.testing.assert_allclose(items["score"], sums[:, 0] - sums[:, 1], atol=1e-5)
    items = measured(CrowsPairs(score="mean"), model)
    np.testing.assert_allclose(items[["more", "less"]], means, atol=1e-5)
    items = measured(CrowsPairs(score="shared"), model)
    # shared tokens: all but old/young; all but she/he, without "at all"; all
    assert items["more"][0] == pytest.approx(logps[0][[0, 2, 3, 4]].sum(), abs=1e-5)
    assert items["less"][1] == pytest.approx(logps[3][[1, 2]].sum(), abs=1e-5)
    assert items["more"][2] == pytest.approx(logps[4].sum(), abs=1e-5)


def test_masked_scores_are_those_of_their_definitions():
    model = random_bert(TEXTS)
    first = model.sentences(TEXTS[:1])[0]

    def masked(places: list[int], scored: list[int]) -> np.ndarray:
        ids = [model.mask_id if n in places else token for n, token in enumerate(first.ids)]
        [part] = model.masked_logps([(ids, scored, [first.ids[place] for place in scored])])
        return part

    apart = {place: float(masked([place], [place])[0]) for place in first.words}
    expected = {
        "cps": sum(apart[place] for place in (1, 3, 4, 5)),
        "pll": sum(apart.values()),
        "cat": float(masked([2], [2])[0]),
        "aul": float(masked([], first.words).mean()),
    }
    for score, number in expected.items():
        items = measured(CrowsPairs(score=score), model)
        assert items["more"][0] == pytest.approx(number, abs=1e-5)
    automatic = measured(CrowsPairs(), model)
    assert automatic["more"][0] == pytest.approx(expected["cps"], abs=1e-5)


@pytest.mark.parametrize("score", CAUSAL_SCORES)
def test_equal_sentences_tie_under_causal_models(score: str):
    items = measured(CrowsPairs(score=score), random_llama(TEXTS))
    assert abs(items["score"][2]) <= 1e-12


@pytest.mark.parametrize("score", MASKED_SCORES)
def test_equal_sentences_tie_under_masked_models(score: str):
    items = measured(CrowsPairs(score=score), random_bert(TEXTS))
    assert abs(items["score"][2]) <= 1e-12


@pytest.mark.parametrize("score", ["auto", *CAUSAL_SCORES])
def test_swapping_the_sentences_mirrors_the_share(score: str):
    model = random_llama(TEXTS)
    swapped = [
        {**row, "sent_more": row["sent_less"], "sent_less": row["sent_more"]} for row in ROWS
    ]
    there, back = (measured(CrowsPairs(score=score), model, rows) for rows in (ROWS, swapped))
    np.testing.assert_allclose(there["score"], -back["score"], atol=1e-6)


@pytest.mark.parametrize(("ties", "share"), [("half", 0.625), ("zero", 0.5)])
def test_ties_count_half_or_nothing(ties: str, share: float):
    items = scored([1.0, 2.0, -1.0, 1e-13])
    assert value(CrowsPairs(ties=ties), items, "share") == share
    assert value(CrowsPairs(ties=ties), items, "ties") == 0.25
    assert "1 of 4 pairs are ties" in CrowsPairs(ties=ties).notes(items)[0]


def test_a_difference_above_the_tolerance_is_no_tie():
    assert value(CrowsPairs(), scored([2e-12, -1.0]), "share") == 0.5
    assert value(CrowsPairs(), scored([2e-12, -1.0]), "ties") == 0.0


def test_an_increasing_transform_of_scores_changes_no_share(rng: np.random.Generator):
    scores = rng.normal(size=50)
    shares = [value(CrowsPairs(), scored(list(f)), "share") for f in (scores, np.sinh(3 * scores))]
    assert shares[0] == shares[1]


def test_both_directions_count_alike():
    items = scored([1.0, 1.0, -1.0, 1.0]).assign(
        direction=["stereo", "antistereo", "stereo", "antistereo"]
    )
    rows = {row.slice: row.value for row in CrowsPairs().estimate(items) if row.metric == "share"}
    assert rows == {"all": 0.75, "antistereo": 1.0, "stereo": 0.5}


def test_slices_are_kinds_and_directions():
    items = measured(CrowsPairs(), random_llama(TEXTS))
    slices = CrowsPairs().slices(items)
    assert list(slices) == ["all", "age", "gender", "none", "antistereo", "stereo"]


def test_a_file_with_only_the_two_sentences_is_enough():
    rows = [{"sent_more": more, "sent_less": less} for more, less in PAIRS]
    items = measured(CrowsPairs(), random_llama(TEXTS), rows)
    assert items["id"].tolist() == ["1", "2", "3"]
    assert list(CrowsPairs().slices(items)) == ["all"]


def test_the_flaws_of_the_data_are_told():
    assert any("ungrammatical" in note for note in CrowsPairs().notes(scored([1.0])))


def test_an_unknown_direction_is_refused():
    with pytest.raises(UserError, match="2: 'stereo_antistereo' must be stereo or antistereo"):
        CrowsPairs().probes([ROWS[0], {**ROWS[1], "stereo_antistereo": "both"}])


@pytest.mark.parametrize("score", MASKED_SCORES)
def test_masked_scores_need_a_masked_model(score: str):
    with pytest.raises(UserError, match=f"'{score}' needs a masked model, got random-llama"):
        measured(CrowsPairs(score=score), random_llama(TEXTS))


@pytest.mark.parametrize("score", CAUSAL_SCORES)
def test_causal_scores_need_a_causal_model(score: str):
    model = PlantedMaskedModel(word_tokenizer(TEXTS, is_masked=True), toy_logits)
    with pytest.raises(UserError, match=f"'{score}' needs a causal model, got planted-masked"):
        measured(CrowsPairs(score=score), model)


def test_an_uncased_tokenizer_folds_case():
    tokenizer = word_tokenizer(TEXTS, is_masked=True, lowercase=True)
    model = PlantedMaskedModel(tokenizer, lambda ids: np.zeros((len(ids), len(tokenizer))))
    upper, lower = model.sentences([TEXTS[0].upper(), TEXTS[0]])
    assert upper == lower


def test_pairs_of_two_lengths_get_means_as_well():
    model = random_llama(TEXTS)
    items = measured(CrowsPairs(), model)
    means = measured(CrowsPairs(score="mean"), model)
    assert items["more_per_token"].isna().tolist() == [True, False, True]
    for side in ("more", "less"):
        assert items[f"{side}_per_token"][1] == pytest.approx(means[side][1], abs=1e-5)
    [note, *_] = CrowsPairs().notes(items)
    assert note.startswith("1 of 3 pairs differ in length, and sums favour the shorter")
    assert "by sum" in note
    assert "per token" in note


def test_pairs_of_one_length_need_no_means():
    items = measured(CrowsPairs(), random_llama(TEXTS), [ROWS[0]])
    assert not any("length" in note for note in CrowsPairs().notes(items))


def test_aula_weighs_with_the_attention_received():
    model = random_bert(TEXTS)
    first = model.sentences(TEXTS[:1])[0]
    row = (first.ids, first.words, [first.ids[place] for place in first.words])
    [(logps, weights)] = model.attended_logps([row])
    items = measured(CrowsPairs(score="aula"), model)
    assert items["more"][0] == pytest.approx(float((logps * weights).mean()), abs=1e-6)
    assert 0 < weights.sum() < 1  # special tokens receive the rest


def test_whole_words_are_masked_together():
    tokenizer = make_tokenizer()
    model = PlantedMaskedModel(tokenizer, lambda ids: np.zeros((len(ids), len(tokenizer))))
    measured(CrowsPairs(score="pll", mask_whole_word=True), model, [_pair("he left", "he left")])
    masked = [tokenizer.decode(ids) for ids, _, _ in model.rows[:3]]
    assert masked == ["<s><mask><mask> left", "<s>he<mask>left", "<s>he <mask><mask><mask><mask>"]
    assert [len(places) for _, places, _ in model.rows[:3]] == [2, 1, 4]


def test_words_of_one_piece_score_the_same_whole():
    model = random_bert(TEXTS)
    plain, whole = (measured(CrowsPairs(mask_whole_word=each), model) for each in (False, True))
    np.testing.assert_allclose(plain["score"], whole["score"], atol=1e-6)


def test_whole_words_go_with_masks_one_at_a_time():
    with pytest.raises(UserError, match="mask_whole_word goes with the scores cps and pll"):
        CrowsPairs(score="aul", mask_whole_word=True)


def _pair(more: str, less: str) -> dict[str, str]:
    return {"sent_more": more, "sent_less": less}
