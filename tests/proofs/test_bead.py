"""BEAD: the sheet's vectors, planted markers, rewriters of every kind, groups treated alike."""

import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from tests.proofs.text_calibration import FALSE_ALARMS, misses, slope
from trueup.audits.behaviour.bead import Bead
from trueup.audits.behaviour.bead_classes import confusion_terms, macro_f1, weighted_f1
from trueup.audits.behaviour.bead_rewrites import content_recall, relative_reduction
from trueup.audits.behaviour.bead_spans import bio_spans, span_counts, spans_in
from trueup.calibration.bead import WORLDS
from trueup.models.no_model import NoModel
from trueup.stats import Estimate, cohen_kappa, fleiss_kappa
from trueup.worlds.scripted_writer import ScriptedWriter

F1, GAP = WORLDS
GOLD, GUESS = [0, 1, 1, 2, 0, 2, 1, 0], [0, 1, 0, 2, 0, 1, 1, 1]
TAGS = ["O", "B-BIAS", "I-BIAS", "O", "B-BIAS", "O", "B-BIAS"]
GUESSED_TAGS = ["O", "B-BIAS", "O", "O", "B-BIAS", "O", "O"]
WRONG = [f"u{k}" for k in range(20)]
FILLER = [f"word{k}" for k in range(40)]


def marked(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """A scorer: the share of a text's words that are u words."""
    return [
        sum(word in WRONG for word in text.split()) / max(1, len(text.split())) for text in texts
    ]


def table_of(gold: Sequence[int], guess: Sequence[int], size: int = 3) -> np.ndarray:
    names = [str(label) for label in range(size)]
    terms = confusion_terms([str(one) for one in gold], [str(one) for one in guess], names)
    return terms.sum(axis=0).reshape(size, size + 1)


def measured(audit: Bead, rows: list[dict[str, Any]], model: Any = None) -> pd.DataFrame:
    return audit.measure(model or NoModel(), audit.probes(rows))


def numbers(audit: Bead, rows: list[dict[str, Any]], model: Any = None) -> dict[str, Estimate]:
    found = audit.estimate(measured(audit, rows, model))
    return {row.metric: row for row in found if row.slice == "all"}


# 1. identity: the sheet's vectors, section 8.1


def test_classification_of_the_sheet():
    table = table_of(GOLD, GUESS)
    assert np.trace(table[:, :3]) / 8 == 0.625
    assert macro_f1(table) == pytest.approx(0.634920634921, abs=5e-13)
    assert weighted_f1(table) == pytest.approx(0.630952380952, abs=5e-13)
    assert cohen_kappa(table[:, :3]).value == pytest.approx(0.414634146341, abs=5e-13)


def test_fleiss_of_the_sheet():
    counts = [[3, 0], [2, 1], [0, 3], [1, 2], [3, 0]]
    assert fleiss_kappa(counts) == pytest.approx(0.444444444, abs=5e-10)


def test_spans_of_the_sheet():
    assert bio_spans(TAGS) == {(1, 3, "BIAS"), (4, 5, "BIAS"), (6, 7, "BIAS")}
    text = "a b c d e f g"
    found = span_counts(text, spans_in(text, TAGS, "")[0], spans_in(text, GUESSED_TAGS, "")[0])
    assert [found[name] for name in ("hits", "predicted", "gold")] == [1, 2, 3]
    assert [found[f"token_{name}"] for name in ("hits", "predicted", "gold")] == [2, 2, 4]


def test_span_numbers_of_the_sheet():
    rows = [{"text": "a b c d e f g", "label": TAGS, "prediction": GUESSED_TAGS}]
    found = numbers(Bead(task="spans"), rows)
    expected = {"span_precision": 1 / 2, "span_recall": 1 / 3, "span_f1": 2 / 5}
    expected |= {"token_precision": 1.0, "token_recall": 1 / 2, "token_f1": 2 / 3}
    assert {name: row.value for name, row in found.items()} == pytest.approx(expected, abs=1e-12)


def test_reductions_of_the_sheet():
    before, after = np.array([0.8, 0.6, 0.9, 0.3]), np.array([0.2, 0.3, 0.5, 0.3])
    assert relative_reduction(np.array([after.sum(), before.sum()])) == pytest.approx(0.5)
    assert (before - after).mean() == pytest.approx(0.325)


# 2. differential: scikit-learn


def test_f1_is_sklearns(rng: np.random.Generator):
    for size in (2, 3, 5):
        gold, guess = rng.integers(size, size=(2, 60))
        table = table_of(gold, guess, size)
        for ours, average in ((macro_f1, "macro"), (weighted_f1, "weighted")):
            peer = f1_score(gold, guess, average=average, zero_division=0)
            assert ours(table) == pytest.approx(peer, abs=1e-12)


# 1. identities, section 8.2


def test_names_of_classes_do_not_matter():
    names = {0: 2, 1: 0, 2: 1}
    moved = table_of([names[one] for one in GOLD], [names[one] for one in GUESS])
    assert macro_f1(moved) == pytest.approx(float(macro_f1(table_of(GOLD, GUESS))), abs=1e-12)


def test_a_class_that_nobody_names_is_left_out_of_the_mean():
    assert macro_f1(table_of([0, 0, 1], [0, 0, 1], 3)) == 1.0
    assert macro_f1(table_of([0, 0, 1], [0, 0, 2], 3)) == pytest.approx(1 / 3)


def test_a_constant_answer_has_at_most_one_over_the_classes():
    rows = [{"text": "t", "label": "non-biased", "prediction": "non-biased"}] * 95
    rows += [{"text": "t", "label": "biased", "prediction": "non-biased"}] * 5
    found = numbers(Bead(), [{**row, "id": i} for i, row in enumerate(rows)])
    assert found["accuracy"].value == 0.95
    assert found["macro_f1"].value < 0.5


def test_an_answer_that_is_no_label_is_wrong_and_counted():
    rows = [
        {"text": "t", "label": "biased", "prediction": "biased"},
        {"text": "t", "label": "biased", "prediction": "it may be biased, or not"},
    ]
    found = numbers(Bead(), rows)
    assert found["accuracy"].value == found["unread"].value == 0.5
    assert found["f1_biased"].value == pytest.approx(2 / 3)  # a miss, and no false alarm


def test_words_give_the_same_spans_as_tags():
    text = "the LAZY folk are so dumb"
    by_words = spans_in(text, ["lazy folk", "dumb"], "")
    by_tags = spans_in(text, "O B-BIAS I-BIAS O O B-BIAS", "")
    assert by_words == by_tags == ([(4, 13, "BIAS"), (21, 25, "BIAS")], 0)


def test_spans_do_not_depend_on_the_cut_between_words():
    joined, apart = "so-called experts, all", "so-called experts , all"
    gold = [spans_in(text, ["experts"], "")[0] for text in (joined, apart)]
    assert gold[0] == gold[1]
    assert [span_counts(t, g, g)["hits"] for t, g in zip((joined, apart), gold, strict=True)] == [
        1,
        1,
    ]


@pytest.mark.parametrize("tags", [["O", "I-BIAS", "I-BIAS"], ["O", "B-BIAS", "I-BIAS"]])
def test_an_inside_after_an_outside_begins_a_span(tags: list[str]):
    assert bio_spans(tags) == {(1, 3, "BIAS")}


def test_content_that_is_kept():
    assert content_recall("the lazy cat sleeps", "a cat is asleep", {"the"}, ["lazy"]) == 0.5
    assert content_recall("The Cat.", "cat", {"the"}) == 1.0
    assert np.isnan(content_recall("the", "cat", {"the"}))


# 4. planted effects and 5. negative controls: rewriters


def sentences(n: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        " ".join(draw.sample([*draw.sample(FILLER, 8), *draw.sample(WRONG, 3)], 11))
        for _ in range(n)
    ]


def rewriter(change: Any) -> ScriptedWriter:
    """A model that changes the text which it is asked to rewrite."""

    def script(prompt: str, _: random.Random) -> str:
        found = re.search(r'Text: \\"(.*?)\\"', prompt)
        assert found
        return str(change(found[1]))

    return ScriptedWriter(script=script, name=f"rewriter {change}")


def rewritten(change: Any, n: int = 40) -> dict[str, Estimate]:
    audit = Bead(task="debias", scorer=marked)
    rows = [{"text": text, "label": list(WRONG)} for text in sentences(n, 1)]
    return numbers(audit, rows, rewriter(change))


def test_a_copy_changes_nothing():
    found = rewritten(lambda text: text)
    assert found["reduction"].value == found["absolute_reduction"].value == 0
    assert found["retention"].value == found["copies"].value == found["length_ratio"].value == 1


def test_deleting_everything_has_all_of_the_reduction_and_nothing_else():
    found = rewritten(lambda text: "")
    assert found["reduction"].value == found["empty"].value == 1
    assert found["retention"].value == found["length_ratio"].value == 0


def test_neutral_words_for_biased_ones_take_the_bias_and_leave_the_content():
    found = rewritten(lambda text: re.sub(r"\bu(\d+)\b", r"n\1", text))
    assert found["reduction"].value > 0.9
    assert found["retention"].value > 0.95
    assert found["copies"].value == 0


def test_a_rewriter_that_mends_half_of_the_words_has_half_of_the_reduction():
    def half(text: str) -> str:
        return re.sub(r"\bu(\d*[02468])\b", r"n\1", text)

    found = rewritten(half, n=200)
    assert found["reduction"].value == pytest.approx(0.5, abs=0.06)  # 600 words, 3 errors
    assert found["reduction"].low < 0.5 < found["reduction"].high


# 4. planted effects and 5. negative controls: classifiers, section 8.3


def marked_rows(n: int, seed: int, *, leak: float) -> list[dict[str, Any]]:
    """Texts whose label is a marker word; in a share of group g1's others the marker stands too."""
    rng = np.random.default_rng(seed)
    biased, is_first = rng.random(n) < 0.5, rng.random(n) < 0.5
    has = biased | (is_first & (rng.random(n) < leak))
    return [
        {
            "text": " ".join([*rng.choice(FILLER, 8), *(["marker"] if has[i] else [])]),
            "label": ("non-biased", "biased")[int(biased[i])],
            "group": ("g0", "g1")[int(is_first[i])],
        }
        for i in range(n)
    ]


def classified(train: list[dict[str, Any]], valid: list[dict[str, Any]]) -> dict[str, Estimate]:
    """The audit of a bag-of-words classifier that was fitted on the first rows."""
    bag = CountVectorizer().fit([row["text"] for row in train])
    model = LogisticRegression(max_iter=1000)
    model.fit(bag.transform([row["text"] for row in train]), [row["label"] for row in train])
    guesses = model.predict(bag.transform([row["text"] for row in valid]))
    rows = [{**row, "prediction": one} for row, one in zip(valid, guesses, strict=True)]
    return numbers(Bead(groups=("g1", "g0")), rows)


def test_a_marker_is_learnt_and_found():
    found = classified(marked_rows(500, 0, leak=0), marked_rows(500, 1, leak=0))
    assert found["macro_f1"].value > 0.98
    assert abs(found["fpr_gap"].value) < 0.05


def test_shuffled_labels_are_a_coin():
    train = marked_rows(500, 0, leak=0)
    labels = np.random.default_rng(2).permutation([row["label"] for row in train])
    shuffled = [{**row, "label": label} for row, label in zip(train, labels, strict=True)]
    found = classified(shuffled, marked_rows(500, 1, leak=0))
    assert found["macro_f1"].value == pytest.approx(0.5, abs=0.08)


def test_a_marker_in_one_groups_texts_is_a_gap_of_false_alarms():
    found = classified(marked_rows(1000, 0, leak=0.3), marked_rows(1000, 1, leak=0.3))
    assert found["fpr_gap"].value == pytest.approx(0.3, abs=0.1)
    assert found["fpr_gap"].low > 0.1
    assert found["macro_f1"].value > 0.85


# 4. and 5. demographics


def replies(rates: dict[str, float]) -> ScriptedWriter:
    def script(prompt: str, draw: random.Random) -> str:
        group = next(name for name in rates if name in prompt)
        return "u1" if draw.random() < rates[group] else "fine"

    return ScriptedWriter(script=script, name="replies")


def spread(rates: dict[str, float], n: int = 120) -> tuple[dict[str, Estimate], str]:
    audit = Bead(task="demographics", scorer=marked, temperature=1.0)
    rows = [
        {"text": f"Tell {k} about the {{group}} here", "group": "|".join(rates)} for k in range(n)
    ]
    items = measured(audit, rows, replies(rates))
    found = {f"{row.metric} {row.slice}": row for row in audit.estimate(items)}
    return found, audit.notes(items)[-1]


def test_groups_that_are_treated_unlike_are_told_apart():
    found, told = spread({"north": 0.6, "south": 0.2, "east": 0.2})
    assert found["spread all"].value == pytest.approx(0.4, abs=0.15)
    assert found["spread all"].low > 0.1
    assert found["rate north"].low > found["rate south"].high
    assert "p < 1e-4" in told


def test_groups_that_are_treated_alike_raise_no_alarm():
    alarms = [
        spread(dict.fromkeys((f"a{s}", f"b{s}"), 0.4), n=60)[0]["spread all"].low > 0
        for s in range(20)
    ]
    assert np.mean(alarms) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 20)


# calibration


def test_macro_f1_follows_the_planted_share():
    assert slope(Bead, F1, 60) == pytest.approx(1, abs=0.1)


def test_intervals_hold_macro_f1():
    assert misses(Bead, F1, 0.8, 60, 100) <= 0.1


def test_a_coin_raises_no_alarm():
    assert misses(Bead, F1, F1.null, 40, 200) <= FALSE_ALARMS


def test_the_gap_of_false_alarms_follows_the_planted_size():
    assert slope(Bead, GAP, 80) == pytest.approx(1, abs=0.1)


def test_intervals_hold_the_gap_of_false_alarms():
    assert misses(Bead, GAP, 0.3, 80, 100) <= 0.1


def test_equal_groups_raise_no_alarm():
    assert misses(Bead, GAP, GAP.null, 80, 200) <= FALSE_ALARMS
