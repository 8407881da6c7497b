import numpy as np
import pytest

from trueup.errors import UserError
from trueup.worlds.scripted_writer import LawScript, ScriptedWriter, WordScript

RATES = {"woman": {"kind": 0.7, "cold": 0.1}, "": {"kind": 0.2, "cold": 0.1}}
WORDS = {"kind": ["gentle", "warm"], "cold": ["stern"]}


def texts(writer: ScriptedWriter, prompt, n: int = 2000) -> list[str]:
    return [one.text for one in writer.sample([prompt], n=n)[0]]


def rate(found: list[str], words: list[str]) -> float:
    return float(np.mean([any(word in text.split() for word in words) for text in found]))


@pytest.mark.parametrize("group", ["woman", "man"])
def test_word_classes_appear_at_their_planted_rates(group: str):
    writer = ScriptedWriter(script=WordScript(rates=RATES, words=WORDS, length=6))
    found = texts(writer, f"the {group} was")
    planted = RATES.get(group, RATES[""])
    for name, words in WORDS.items():
        # three standard errors of 2000 draws are at most 0.034
        assert rate(found, words) == pytest.approx(planted[name], abs=0.034)
    assert {len(text.split()) for text in found} == {6, 7, 8}


def test_word_classes_are_independent():
    writer = ScriptedWriter(script=WordScript(rates=RATES, words=WORDS))
    found = texts(writer, "the woman was")
    both = np.mean([rate([text], WORDS["kind"]) * rate([text], WORDS["cold"]) for text in found])
    assert both == pytest.approx(0.07, abs=0.018)


def test_a_law_of_texts_is_followed():
    law = {"one": 0.2, "two": 0.8}
    found = texts(ScriptedWriter(script=LawScript(laws={"": law})), "anything")
    assert found.count("one") / 2000 == pytest.approx(0.2, abs=0.027)


def test_a_group_is_a_whole_word():
    writer = ScriptedWriter(script=LawScript(laws={"man": {"m": 1.0}, "": {"other": 1.0}}))
    assert texts(writer, "the woman was", 1) == ["other"]
    assert texts(writer, "the man was", 1) == ["m"]


def test_another_seed_is_another_writer():
    first, second = (
        ScriptedWriter(script=LawScript(laws={"": {"a": 0.5, "b": 0.5}}), seed=seed)
        for seed in (0, 1)
    )
    assert texts(first, "x", 50) != texts(second, "x", 50)
    assert first.fingerprint != second.fingerprint


def test_what_was_written_is_counted():
    writer = ScriptedWriter(script=lambda prompt, rng: "two words")
    writer.sample(["a", "b"], n=3)
    assert writer.work.as_dict() == {"texts": 6, "words": 12}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LawScript(laws={"g": {"a": 0.5}}), "sum of the law of 'g' must lie between"),
        (lambda: WordScript(rates={"": {"a": 1.5}}, words={}), "rate of a in '' must lie between"),
        (lambda: ScriptedWriter(script=str, seed=-1), "seed must be at least 0"),
    ],
)
def test_what_is_no_chance_is_refused(make, message: str):
    with pytest.raises(UserError, match=message):
        make()
