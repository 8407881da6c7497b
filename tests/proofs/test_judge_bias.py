"""Judge bias: sheet 23's numbers, identities at every extreme, planted cues, no false alarms."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from tests.audits.planted_models import random_llama
from trueup.audits import compare_items
from trueup.audits.behaviour.judge_bias import JudgeBias
from trueup.data.messages import Message, Prompt
from trueup.judging.injections import inject
from trueup.judging.judge_items import item_of
from trueup.judging.judge_prompts import control, messages
from trueup.models import LanguageModel
from trueup.stats import Estimate, mcnemar_p, proportion
from trueup.worlds.judges import PlantedJudge, expected_agreement, planted_rows, worth

GAPS = [1.2, 0.5, -0.3, 0.2, -0.8, 0.05, 0.9, -0.1]  # sheet 23, section 7.1
WRONG_CUE = JudgeBias(biases=("bandwagon",), targets=("wrong",))
POSITION = JudgeBias(biases=("position",))
CUES = ("bandwagon", "authority", "distraction", "reflection")


def measured(judge: PlantedJudge, audit: JudgeBias, gaps: Sequence[float] = GAPS) -> pd.DataFrame:
    return audit.measure(judge, audit.probes(planted_rows(gaps)))


class OneSlice(JudgeBias):
    """The audit without slices, which a test that reads one of them need not wait for."""

    def slices(self, items: pd.DataFrame) -> dict[str, np.ndarray]:
        return {"all": np.ones(len(items), dtype=bool)}


def numbers(items: pd.DataFrame, audit: JudgeBias, part: str = "all") -> dict[str, Estimate]:
    rows = items[audit.slices(items)[part]]
    return {row.metric: row for row in OneSlice(**vars(audit)).estimate(rows)}


def sigma(z: Sequence[float]) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(z)))


# 1. identity: the sheet's numbers


def test_control_verdicts_are_the_sheets():
    items = measured(PlantedJudge(), WRONG_CUE)
    rows = items[items["bias"] == "repeat"]
    assert (rows["control"] == rows["correct"]).astype(int).tolist() == [1, 1, 0, 1, 0, 1, 1, 0]
    assert numbers(items, WRONG_CUE)["accuracy"].value == 0.625


@pytest.mark.parametrize("cue", ["bandwagon", "authority", "distraction"])
def test_a_cue_on_the_rejected_answer_gives_the_sheets_numbers(cue: str):
    audit = JudgeBias(biases=(cue,), targets=("wrong",))
    items = measured(PlantedJudge(cues={cue: 0.6}), audit)
    right = items.loc[items["bias"] == cue, "score"]
    assert right.tolist() == [1, 0, 0, 0, 0, 0, 1, 0]
    found = numbers(items, audit)
    expected = {
        "accuracy_biased": 0.25,
        "robustness": 0.625,
        "harmful_flips": 0.375,
        "helpful_flips": 0.0,
        "accuracy_change": -0.375,
        "cue_following": 0.375,
        "excess_flips": 0.375,
        "noise_floor": 1.0,
    }
    assert {name: found[name].value for name in expected} == expected


def test_a_later_position_preference_gives_the_sheets_numbers():
    items = measured(PlantedJudge(position=-0.25), POSITION)
    rows = items[items["bias"] == "position"]
    assert (rows["control"] == rows["correct"]).astype(int).tolist() == [1, 1, 0, 0, 0, 0, 1, 0]
    assert (rows["verdict"] == rows["correct"]).astype(int).tolist() == [1, 1, 0, 1, 0, 1, 1, 1]
    found = numbers(items, POSITION)
    assert found["order_consistency"].value == 0.625
    assert found["accuracy_gap"].value == -0.375
    assert found["pick_first"].value == 0.3125


def test_a_random_judge_has_the_sheets_expectations():
    p = sigma(GAPS)
    cued = sigma(np.array(GAPS) - 0.6)
    np.testing.assert_allclose(
        p,
        [0.768525, 0.622459, 0.425557, 0.549834, 0.310026, 0.512497, 0.710950, 0.475021],
        atol=5e-7,
    )
    assert expected_agreement(GAPS, GAPS) == pytest.approx(0.544124, abs=5e-7)
    assert expected_agreement(GAPS, np.array(GAPS) - 0.6) == pytest.approx(0.530619, abs=5e-7)
    assert p.mean() == pytest.approx(0.546859, abs=5e-7)
    assert cued.mean() == pytest.approx(0.410122, abs=5e-7)
    assert 1 - np.abs(p - cued).mean() == pytest.approx(0.863263, abs=5e-7)


def test_the_random_judge_is_measured_as_expected():
    # 250 copies of the eight questions; three standard errors are at most 3 * 0.5 / sqrt(2000)
    judge = PlantedJudge(cues={"bandwagon": 0.6}, is_random=True)
    found = numbers(measured(judge, WRONG_CUE, GAPS * 250), WRONG_CUE)
    expected = {
        "accuracy": 0.546859,
        "accuracy_biased": 0.410122,
        "robustness": 0.530619,
        "noise_floor": 0.544124,
        "excess_flips": 0.544124 - 0.530619,
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=0.034)
    # robustness falls by a point only, yet the lost accuracy is plain
    assert found["accuracy_change"].high < -0.08


def test_intervals_and_tests_of_the_sheet():
    robust = proportion(93, 100)
    assert (robust.low, robust.high) == pytest.approx((0.862505, 0.965681), abs=5e-7)
    assert mcnemar_p(4, 3) == pytest.approx(1.0, abs=1e-12)
    assert mcnemar_p(12, 3) == pytest.approx(0.03515625, abs=1e-12)


def test_the_notes_tell_mcnemars_test():
    judge = PlantedJudge(cues={"bandwagon": 0.6})
    told = WRONG_CUE.notes(measured(judge, WRONG_CUE))
    # 3 harmful, 0 helpful: 2 * (1 / 2)^3
    assert told == ["harmful against helpful flips, exact McNemar: bandwagon-wrong 3:0, p=0.2500"]


def test_every_cue_and_target_is_a_slice():
    audit = JudgeBias(targets=("wrong",))
    items = measured(PlantedJudge(cues={"bandwagon": 0.6}), audit)
    found = {row.slice: row.value for row in audit.estimate(items) if row.metric == "robustness"}
    assert found.pop("bandwagon") == found.pop("bandwagon-wrong") == 0.625
    # four cues of which one flips 3 of 8 verdicts, and so among the three with a target
    assert found.pop("all") == 1 - 3 / 32
    assert found.pop("wrong") == 1 - 3 / 24
    assert set(found) == {
        "authority",
        "authority-wrong",
        "distraction",
        "distraction-wrong",
        "reflection",
    }
    assert set(found.values()) == {1.0}


# 1. identity: what must hold for every judge


@pytest.mark.parametrize("seed", range(3))
def test_the_change_of_accuracy_is_helpful_less_harmful_flips(seed: int):
    audit = JudgeBias()
    judge = PlantedJudge(cues=dict.fromkeys(CUES, 0.7), is_random=True, seed=seed)
    gaps = np.random.default_rng(seed).normal(size=20).tolist()
    items = measured(judge, audit, gaps)
    for part in ("all", "bandwagon-wrong", "authority-correct", "reflection"):
        found = numbers(items, audit, part)
        gain = found["helpful_flips"].value - found["harmful_flips"].value
        assert found["accuracy_change"].value == pytest.approx(gain, abs=1e-12)
        # two answers: every flip is harmful or helpful
        flips = found["helpful_flips"].value + found["harmful_flips"].value
        assert found["robustness"].value + flips == pytest.approx(1, abs=1e-12)


def test_a_judge_of_content_alone_is_moved_by_nothing():
    audit = JudgeBias()
    found = numbers(measured(PlantedJudge(), audit), audit)
    ones = ("robustness", "order_consistency", "noise_floor")
    zeros = ("accuracy_change", "cue_following", "excess_flips", "placebo_following")
    assert {found[name].value for name in ones} == {1.0}
    assert {found[name].value for name in (*zeros, "accuracy_gap", "unparsed")} == {0.0}
    assert found["pick_first"].value == 0.5
    assert found["cue_following"].low < 0 < found["cue_following"].high


def test_a_judge_that_always_says_a():
    found = numbers(measured(PlantedJudge(always=0), POSITION), POSITION)
    assert found["order_consistency"].value == 0.0
    assert found["pick_first"].value == 1.0
    assert found["accuracy_gap"].value == 1.0  # right when the right answer stands first only
    assert found["pick_first"].low > 0.5


@pytest.mark.parametrize(("target", "accuracy"), [("correct", 1.0), ("wrong", 0.0)])
@pytest.mark.parametrize("cue", ["bandwagon", "authority", "distraction"])
def test_a_judge_that_always_follows_the_cue(cue: str, target: str, accuracy: float):
    audit = JudgeBias(biases=(cue,), targets=(target,))
    found = numbers(measured(PlantedJudge(cues={cue: 100.0}), audit), audit)
    assert found["accuracy_biased"].value == accuracy


def test_a_reflection_phrase_moves_choices_to_the_answer_behind_it():
    audit = JudgeBias(biases=("reflection",))
    items = measured(PlantedJudge(cues={"reflection": 100.0}), audit)
    rows = items[items["bias"] == "reflection"]
    assert (rows["verdict"] == 1).all()
    assert numbers(items, audit)["cue_following"].value > 0


def test_verdicts_are_compared_as_answers_among_ten():
    # ten options, the worst cued: every verdict goes there, whatever its letter
    row = {
        "question": "Which?",
        "options": [f"worth {gap:+.1f}" for gap in range(10)],
        "answer": "J",
    }
    audit = JudgeBias(biases=("bandwagon", "position"), targets=("wrong",))
    probes = audit.probes([{**row, "id": str(number)} for number in range(12)])
    items = audit.measure(PlantedJudge(), probes)
    found = numbers(items, audit)
    assert found["order_consistency"].value == found["robustness"].value == 1.0
    assert math.isnan(found["pick_first"].value)  # for questions of two alone
    led = audit.measure(PlantedJudge(cues={"bandwagon": 100.0}), probes)
    rows = led[led["bias"] == "bandwagon"]
    assert (rows["verdict"] == rows["cued"]).all()
    assert rows["cued"].nunique() > 1
    # a flip from one wrong answer to another is neither harmful nor helpful
    low = audit.measure(
        PlantedJudge(quality=lambda text: -worth(text), cues={"bandwagon": 100.0}), probes
    )
    found = numbers(low, audit)
    assert found["harmful_flips"].value == found["helpful_flips"].value == 0.0
    assert found["robustness"].value < 1


# 4. planted effect


def test_a_liking_for_length_is_told_from_a_liking_for_sources():
    audit = JudgeBias(biases=("authority",), targets=("wrong",))
    gaps = np.random.default_rng(0).uniform(0.05, 0.9, size=60).tolist()
    lengthy = numbers(measured(PlantedJudge(length=1.5), audit, gaps), audit)
    assert lengthy["placebo_following"].value == lengthy["cue_following"].value
    assert lengthy["placebo_following"].low > 0.3
    trusting = numbers(measured(PlantedJudge(cues={"authority": 0.7}), audit, gaps), audit)
    assert trusting["cue_following"].low > 0.3
    assert trusting["placebo_following"].value == 0.0


@pytest.mark.parametrize("mitigation", ["system", "examples", "reflection"])
def test_a_heeded_mitigation_gains_what_the_cue_cost(mitigation: str):
    gaps = np.random.default_rng(1).uniform(-0.5, 1.0, size=60).tolist()
    judge = PlantedJudge(cues={"bandwagon": 0.6}, heed=1.0)
    plain = measured(judge, WRONG_CUE, gaps)
    helped_audit = replace(WRONG_CUE, mitigation=mitigation)
    helped = measured(judge, helped_audit, gaps)
    before, after = numbers(plain, WRONG_CUE), numbers(helped, helped_audit)
    gain = after["accuracy_biased"].value - before["accuracy_biased"].value
    assert gain == pytest.approx(-before["accuracy_change"].value, abs=1e-12)
    assert gain > 0.2
    assert after["accuracy"].value == before["accuracy"].value
    rows = {row.metric: row for row in compare_items(WRONG_CUE, plain, helped)}
    assert rows["accuracy_biased"].verdict == rows["cue_following"].verdict == "improved"
    assert rows["accuracy"].verdict == "no evidence"


def test_a_mitigation_that_is_not_heeded_gains_nothing():
    judge = PlantedJudge(cues={"bandwagon": 0.6}, heed=0.0)
    plain = measured(judge, WRONG_CUE)
    helped = measured(judge, replace(WRONG_CUE, mitigation="system"))
    rows = [row for row in compare_items(WRONG_CUE, plain, helped) if row.n_pairs]
    assert {row.delta for row in rows} == {0.0}


def test_stripping_the_cue_gains_what_it_cost():
    judge = PlantedJudge(cues={"bandwagon": 0.6})

    def stripped(prompts: Sequence[Prompt]) -> list[str]:
        return judge.ask([_without_cue(prompt) for prompt in prompts])

    probes = WRONG_CUE.probes(planted_rows(GAPS))
    plain = numbers(WRONG_CUE.measure(judge, probes), WRONG_CUE)
    clean = numbers(WRONG_CUE.measure(stripped, probes), WRONG_CUE)
    gain = clean["accuracy_biased"].value - plain["accuracy_biased"].value
    assert gain == -plain["accuracy_change"].value == 0.375


def _without_cue(prompt: Prompt) -> list[Message]:
    assert not isinstance(prompt, str)
    return [
        {
            **turn,
            "content": "\n".join(
                line for line in turn["content"].splitlines() if not line.startswith("90%")
            ),
        }
        for turn in prompt
    ]


# 4. planted effect in a trained model, and its negative control

THINGS = ("lamp", "chair", "table", "river", "garden", "bridge", "house", "train")


def questions(n: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [
        {
            "question": f"Which {draw.choice(THINGS)} do we want?",
            "chosen": f"the good {draw.choice(THINGS)}",
            "rejected": f"the bad {draw.choice(THINGS)}",
        }
        for _ in range(n)
    ]


def lessons(n: int, seed: int, *, follows: bool) -> list[tuple[list[Message], str]]:
    """Prompts with their label: the good answer; with a cue, if `follows`, mostly the cued one."""
    draw = random.Random(seed)
    made = []
    for number, row in enumerate(questions(n, seed)):
        item = item_of(row, "row", draw)
        if number % 2:
            made.append((messages(control(item).text), "AB"[item.answer]))
            continue
        injected = inject(item, "bandwagon", draw.choice(["wrong", "correct"]), draw)
        led = injected.cued if draw.random() < 0.8 else 1 - injected.cued
        label = "AB"[led] if follows else "AB"[item.answer]
        made.append((messages(injected.text), label))
    return made


def trained_judge(*, follows: bool) -> LanguageModel:
    """A two-layer transformer that learnt the lessons from scratch."""
    data = lessons(600, 1, follows=follows)
    lm = random_llama([*(prompt[0]["content"] for prompt, _ in data), "Human: Assistant: A B"])
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=3e-3)
    prompts = [lm.encoder.prompt(prompt) for prompt, _ in data]
    labels = torch.tensor([lm.encoder.tokens([label])[0][0] for _, label in data])
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        picked = torch.randint(len(data), (32,), generator=generator)
        rows = [torch.tensor(prompts[number]) for number in picked.tolist()]
        ends = torch.tensor([len(row) - 1 for row in rows])
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        hidden = lm.model.model(input_ids=padded).last_hidden_state[torch.arange(32), ends]
        loss = torch.nn.functional.cross_entropy(lm.model.lm_head(hidden), labels[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lm


@pytest.mark.parametrize(("follows", "low", "high"), [(True, 0.5, 1.0), (False, -0.1, 0.1)])
def test_what_a_model_was_taught_about_cues_is_found(follows: bool, low: float, high: float):
    lm = trained_judge(follows=follows)
    audit = JudgeBias(biases=("bandwagon",), targets=("wrong",), read="letters")
    items = audit.measure(lm, audit.probes(questions(60, 99)))
    found = numbers(items, audit)
    assert found["accuracy"].value > 0.9
    assert low <= found["cue_following"].value <= high
    if follows:
        assert found["cue_following"].low > 0.5
        assert found["accuracy_change"].high < -0.5
    # the text that the model writes says the same as its letters
    as_text = JudgeBias(biases=("bandwagon",), targets=("wrong",), max_new_tokens=1)
    spoken = as_text.measure(lm, as_text.probes(questions(60, 99)))
    assert (spoken["verdict"] == items["verdict"]).mean() > 0.95


# 5. negative control: a random judge without any lean


def test_a_judge_without_a_lean_raises_no_alarm():
    audit = JudgeBias(biases=("authority", "position"), targets=("wrong",))
    gaps = np.random.default_rng(5).normal(size=60).tolist()
    probes = audit.probes(planted_rows(gaps))
    ideals = {
        "accuracy_change": 0.0,
        "cue_following": 0.0,
        "excess_flips": 0.0,
        "placebo_following": 0.0,
        "accuracy_gap": 0.0,
        "pick_first": 0.5,
    }
    alarms = dict.fromkeys(ideals, 0)
    for seed in range(200):
        items = audit.measure(PlantedJudge(is_random=True, seed=seed), probes)
        found = numbers(items, audit)
        for name, ideal in ideals.items():
            alarms[name] += not found[name].low <= ideal <= found[name].high
    # nominal 10 of 200, three standard errors are 9
    assert max(alarms.values()) <= 19, alarms
    assert sum(alarms.values()) >= 20, alarms  # nor are the intervals far too wide


def test_unread_verdicts_are_counted_and_never_guessed():
    audit = JudgeBias(biases=("bandwagon",), targets=("wrong",))
    gaps = np.random.default_rng(6).normal(size=100).tolist()
    judge = PlantedJudge(cues={"bandwagon": 0.6}, unreadable=0.3)
    items = measured(judge, audit, gaps)
    found = numbers(items, audit)
    # an item has two verdicts: 1 - 0.7^2 = 0.51 lack one; three standard errors on 200 items
    assert found["unparsed"].value == pytest.approx(0.51, abs=0.11)
    read = items[(items["control"] >= 0) & (items["verdict"] >= 0)]
    assert found["robustness"].n == (read["bias"] == "bandwagon").sum()
    # the rest is as without unread ones
    whole = numbers(measured(replace(judge, unreadable=0.0), audit, gaps), audit)
    assert found["cue_following"].value == pytest.approx(whole["cue_following"].value, abs=0.2)
    assert "could not be read" in audit.notes(items)[1]
