"""Prompt defence: a heeded one takes a gap away, and what it costs harmless requests shows."""

from random import Random
from typing import Any

import pandas as pd
import pytest

from trueup.audits import compare_items
from trueup.audits.behaviour.group_swap import GroupSwap
from trueup.judging.prompt_defense import PromptDefense
from trueup.models import LanguageModel
from trueup.stats import Estimate
from trueup.worlds.scripted_writer import ScriptedWriter

DONE, REFUSED = "Certainly, here it is.", "I'm sorry, but I can't help with that."
AUDIT = GroupSwap(pairs=("gender", "orientation"), controls=("no-group",))
ROWS: list[dict[str, Any]] = [
    {"request": f"Please do request {number}.", "benign": number % 3 == 0} for number in range(120)
]
FAIR, SHY = "Treat all groups alike.", "Refuse everything."


def leaning(prompt: str, rng: Random) -> str:
    """Does harmless requests, others by their number, and more of them for protected groups.

    It heeds two texts: FAIR takes the groups out, SHY makes it refuse.
    """
    number = int(prompt.split("request ")[1].split(".")[0])
    if SHY in prompt:
        return REFUSED
    is_protected = "I am a woman." in prompt or "I am a gay person." in prompt
    rate = 3 + 4 * (is_protected and FAIR not in prompt)
    return DONE if number % 3 == 0 or number * 7 % 10 < rate else REFUSED


def items_of(defense: PromptDefense | None) -> pd.DataFrame:
    model = ScriptedWriter(script=leaning)
    asked = model if defense is None else defense.wrapped(model)
    return AUDIT.measure(asked, AUDIT.probes(ROWS))


def numbers(items: pd.DataFrame) -> dict[str, Estimate]:
    return {row.metric: row for row in AUDIT.estimate(items) if row.slice == "all"}


# 1. identity


def test_a_defence_only_adds_to_prompts():
    plain = AUDIT.probes(ROWS)[0].labels["forms"]["protected"]
    turns = [{"role": "user", "content": plain}]
    assert PromptDefense(text=FAIR).prepared(turns)[1:] == turns
    beside = PromptDefense(text=FAIR, where="prefix").prepared(turns)
    assert beside == [{"role": "user", "content": f"{FAIR}\n\n{plain}"}]


# 4. planted effect


@pytest.mark.parametrize("where", ["system", "prefix", "suffix"])
def test_a_heeded_defence_takes_the_gap_and_leaves_harmless_requests(where: Any):
    before, after = items_of(None), items_of(PromptDefense(text=FAIR, where=where))
    first, second = numbers(before), numbers(after)
    assert first["gap"].value == pytest.approx(0.4)
    assert first["gap"].low > 0.25
    assert second["gap"].value == 0.0
    assert second["gap"].low <= 0 <= second["gap"].high
    assert second["rate_protected"].value == second["baseline"].value == first["baseline"].value
    assert first["benign_compliance"].value == second["benign_compliance"].value == 1.0
    verdicts = {
        row.metric: row.verdict for row in compare_items(AUDIT, before, after) if row.slice == "all"
    }
    assert verdicts["gap"] == verdicts["union"] == "improved"
    assert verdicts["benign_compliance"] == "no evidence"


def test_a_defence_that_refuses_all_has_no_gap_and_shows_its_price():
    before, after = items_of(None), items_of(PromptDefense(text=SHY))
    found = numbers(after)
    assert found["gap"].value == 0.0
    assert found["benign_compliance"].value == 0.0
    verdicts = {
        row.metric: row.verdict for row in compare_items(AUDIT, before, after) if row.slice == "all"
    }
    assert verdicts["benign_compliance"] == "worse"
    assert any("no room for a gap" in note for note in AUDIT.notes(after))


# 5. negative control


def test_a_defence_that_is_not_heeded_changes_nothing():
    before, after = items_of(None), items_of(PromptDefense(text="Be brief."))
    pd.testing.assert_frame_equal(before, after)
    assert {row.verdict for row in compare_items(AUDIT, before, after)} == {"no evidence"}


def test_the_defence_costs_its_own_tokens_and_no_further_text(tiny_llama: LanguageModel):
    turns = [[{"role": "user", "content": "Do it."}]]
    defense = PromptDefense(text="Be fair.", where="prefix")
    costs = []
    for model in (tiny_llama, defense.wrapped(tiny_llama)):
        tiny_llama.work.reset()
        model.sample(turns, max_new_tokens=1, temperature=0)
        costs.append((tiny_llama.work.trunk_tokens, tiny_llama.work.head_rows))
    # the words and the blank line behind them, a token per byte
    assert costs[1][0] - costs[0][0] == len("Be fair.\n\n")
    assert costs[1][1] == costs[0][1]
