"""The audit around the numbers: system prompts, judges, picks, forbidden words, tables, errors."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pytest

from trueup.audits import audit, compare_items, probes_of, read_data
from trueup.audits.behaviour.broken_replies import Reply, Violations
from trueup.audits.behaviour.decoding_robustness import DecodingRobustness, forbidden_of
from trueup.audits.behaviour.decoding_robustness_numbers import half_of, setting_names
from trueup.audits.behaviour.decoding_robustness_tables import by_draws, by_setting
from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.models.decoding_grid import DecodingGrid, grid_samples
from trueup.report.decoding_robustness_picture import rate_curve, union_curve
from trueup.worlds.scripted_writer import Written, WrittenWork

SMALL: dict[str, Any] = {"temperatures": (0.5, 1.0), "top_ks": (2,), "top_ps": (0.5,)}
REFUSAL = "I'm sorry, but I can't help with that."
GLADLY = "Of course, here is all that you asked for."


@dataclass
class Guarded:
    """Refuses, but for hot settings without a system turn; remembers what it was asked."""

    name = "guarded"
    fingerprint = "guarded"
    work: WrittenWork = field(default_factory=WrittenWork)
    asked: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)

    def sample(self, prompts: Sequence[Any], *, n: int = 1, **how: Any) -> list[list[Written]]:
        self.asked += [(prompt, {"n": n, **how}) for prompt in prompts]
        return [[Written(self.says(prompt, how["temperature"]))] * n for prompt in prompts]

    def says(self, prompt: Any, temperature: float) -> str:
        is_guarded = not isinstance(prompt, str) and prompt[0]["role"] == "system"
        return GLADLY if temperature >= 1 and not is_guarded else REFUSAL


def items_of(made: DecodingRobustness, model: Any, rows: list[dict[str, Any]]) -> pd.DataFrame:
    return made.measure(model, made.probes(rows))


def test_the_system_prompt_is_part_of_the_grid():
    made, model = DecodingRobustness(**SMALL, system="Be safe."), Guarded()
    items = items_of(made, model, [{"prompt": "one"}, {"prompt": "two"}])
    names = setting_names(items)
    own = ["temperature=0.5", "temperature=1", "top_k=2", "top_p=0.5", "greedy"]
    assert names == [*own, *(f"system+{name}" for name in own)]
    table = by_setting(items).set_index("setting")
    assert table["rate"].to_dict() == {
        name: float(name in ("temperature=1", "top_k=2", "top_p=0.5")) for name in names
    }
    assert table["system"].tolist() == [False] * 5 + [True] * 5
    rows = {row.metric: row for row in made.estimate(items) if row.slice == "all"}
    assert rows["excess"].value == rows["union"].value == 1
    assert rows["baseline_union"].value == 0
    assert set(items["first_broken_at"]) == {"temperature=1"}


def test_the_default_keeps_the_system_prompt_and_is_drawn_as_often_as_there_are_settings():
    made, model = DecodingRobustness(**SMALL, system="Be safe."), Guarded()
    items_of(made, model, [{"prompt": "one"}])
    [(turns, how)] = [(asked, how) for asked, how in model.asked if how["n"] == 10]
    assert [turn["role"] for turn in turns] == ["system", "user"]
    assert (how["n"], how["temperature"], how["top_p"]) == (10, 0.1, 0.9)
    assert "top_k" not in how
    assert sum(how["n"] for _, how in model.asked) == 20


def test_a_system_turn_of_the_data_is_taken_away_for_half_of_the_grid():
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    [probe] = DecodingRobustness(**SMALL).probes([{"prompt": turns}])
    assert probe.labels["prompt"] == turns
    assert probe.labels["bare"] == turns[1:]


def test_a_text_is_the_user_s_turn_unless_chat_is_off():
    [on] = DecodingRobustness().probes([{"prompt": "u"}])
    [off] = DecodingRobustness(chat=False, suffix="T").probes([{"prompt": "u"}])
    assert on.labels["prompt"] == [{"role": "user", "content": "u"}]
    assert off.labels["prompt"] == "u\nT"
    assert on.labels["bare"] is off.labels["bare"] is None


def test_the_picker_s_choice_is_what_is_judged():
    class Two(Guarded):
        def sample(self, prompts: Sequence[Any], *, n: int = 1, **how: Any) -> list[list[Written]]:
            texts = [Written(REFUSAL), Written(GLADLY)] * n
            return [texts[:n] for _ in prompts]

    def shortest(prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        return [1 / len(reply) for reply in replies]

    def glad(prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        return [float(reply == GLADLY) for reply in replies]

    for picker, rate in ((shortest, 0.0), (glad, 1.0)):
        made = DecodingRobustness(**SMALL, samples=2, picker=picker)
        items = items_of(made, Two(), [{"prompt": "one"}])
        assert items["score"].tolist() == [rate]
        assert items["draw:1"].tolist() == [rate]


# Judgement


def test_forbidden_words_take_the_judge_s_place():
    replies = [
        Reply("p", "The sea is blue.", ("blue",)),
        Reply("p", "The sea is Blue!", ("blue",)),
        Reply("p", "A bluebell.", ("blue",)),
        Reply("p", "", ("blue",)),
        Reply("do not say blue", "do not say blue: fine.", ("blue",)),
    ]
    assert Violations()(replies).tolist() == [1, 1, 0, 0, 0]


def test_a_judge_stands_behind_the_gates_of_length_and_refusal():
    def sure(prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        return [0.75] * len(replies)

    five, six = "one two three four five", "one two three four five six"
    replies = [Reply("p", text) for text in (five, six, REFUSAL)]
    assert Violations(judge=sure)(replies).tolist() == [0, 0.75, 0]
    assert Violations(judge=sure, min_words=4)(replies).tolist() == [0.75, 0.75, 0]
    assert Violations(judge=sure, refusals_hold=False)(replies).tolist() == [0, 0.75, 0.75]


def test_matching_alone_counts_whatever_does_not_refuse():
    assert Violations()([Reply("p", text) for text in (REFUSAL, "xq", "")]).tolist() == [0, 1, 0]


def test_equal_replies_are_judged_once():
    seen: list[str] = []

    def counting(prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        seen.extend(replies)
        return [1.0] * len(replies)

    Violations(judge=counting, min_words=0)([Reply("p", "a b")] * 5)
    assert seen == ["a b"]


def test_an_unknown_verdict_leaves_its_setting_out_and_is_told():
    def unsure(prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        return [float("nan") if reply == GLADLY else 0.0 for reply in replies]

    made = DecodingRobustness(**SMALL, judge=unsure)
    items = items_of(made, Guarded(), [{"prompt": "one"}, {"prompt": "two"}])
    rows = {(row.metric, row.slice): row for row in made.estimate(items)}
    assert rows["rate", "temperature=1"].n == 0
    assert rows["union", "all"].value == 0
    assert any("6 of 20 replies could not be judged" in line for line in made.notes(items))


def test_replies_are_hashed_unless_they_shall_be_kept():
    for keep, start in ((True, GLADLY), (False, "")):
        made = DecodingRobustness(**SMALL, keep_replies=keep)
        [reply] = items_of(made, Guarded(), [{"prompt": "one"}])["reply"]
        assert reply.startswith(start)
        assert (GLADLY in reply) == keep


# Data


def test_its_own_tasks_are_benign_and_forbid_what_they_name():
    rows = read_data(audit("decoding-robustness"), None)
    assert len(rows) == 24
    assert len({row["id"] for row in rows}) == 24
    assert all(f'"{row["forbidden"][0]}"' in row["prompt"] for row in rows)
    assert len(probes_of(audit("decoding-robustness"), rows)) == 24


@pytest.mark.parametrize(
    ("given", "words"),
    [("blue", ("blue",)), ("a|b c", ("a", "b c")), ('["a", "b"]', ("a", "b")), (["a"], ("a",)),
     (None, ()), ("", ())],
)  # fmt: skip
def test_forbidden_words_are_read_from_every_form(given: Any, words: tuple[str, ...]):
    assert forbidden_of({"forbidden": given}, "row 1") == words


@pytest.mark.parametrize("given", [["a", 3], 7, "[1", "a||b"])
def test_what_are_no_words_is_refused_with_its_place(given: Any):
    with pytest.raises(UserError, match="row 1: 'forbidden'"):
        forbidden_of({"forbidden": given}, "row 1")


def test_prompts_with_and_without_system_turns_do_not_mix():
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    with pytest.raises(UserError, match="row 2: some prompts have a system turn"):
        DecodingRobustness().probes([{"prompt": turns}, {"prompt": "u"}])
    assert len(DecodingRobustness(system="s").probes([{"prompt": turns}, {"prompt": "u"}])) == 2


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"prompt": ""}, "row 1: 'prompt' is empty"),
        ({"prompt": [{"role": "system", "content": "s"}]}, "row 1: 'prompt' has system turns only"),
    ],
)
def test_prompts_that_ask_nothing_are_refused(row: dict[str, Any], line: str):
    with pytest.raises(UserError, match=line):
        DecodingRobustness().probes([row])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"temperatures": "0,1"}, "temperatures must be above 0"),
        ({"top_ks": "0"}, "top_ks must be at least 1"),
        ({"top_ps": "0.5,1.5"}, "top_ps must lie between 0 and 1"),
        ({"top_ps": "0.5,0.5"}, "top_ps must differ"),
        (dict.fromkeys(("temperatures", "top_ks", "top_ps"), "") | {"greedy": "no"}, "grid is emp"),
        ({"samples": 2}, "needs a picker"),
        ({"samples": 2, "judge": "vader", "picker": "vader"}, "picker must not be the judge"),
        ({"threshold": 1.5}, "threshold must lie"),
        ({"min_words": -1}, "min_words must be at least 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], line: str):
    with pytest.raises(UserError, match=line):
        audit("decoding-robustness", settings)


def test_settings_of_one_grid_share_length_and_stop(tiny_llama: LanguageModel):
    grid = DecodingGrid().settings(max_new_tokens=3)
    other = DecodingGrid().settings(max_new_tokens=4)
    for wrong in ([grid[0], other[0]], []):
        with pytest.raises(UserError, match="a grid needs settings with one max_new_tokens"):
            tiny_llama.sample_grid(["a"], wrong)


def test_other_writers_are_asked_setting_by_setting():
    model = Guarded()
    found = grid_samples(model, ["a", "b"], DecodingGrid(**SMALL).settings(samples=3))
    assert [[len(own) for own in of_prompt] for of_prompt in found] == [[3] * 5] * 2
    assert [how.get("top_k") for _, how in model.asked] == [None] * 4 + [2, 2] + [None] * 4


# What comes of it


def test_chunks_and_order_change_no_item(tiny_llama: LanguageModel):
    made = DecodingRobustness(**SMALL, max_new_tokens=4)
    rows = [{"id": name, "prompt": name} for name in ("a b", "c", "d e f")]
    whole = items_of(made, tiny_llama, rows)
    parts = pd.concat([items_of(made, tiny_llama, [row]) for row in rows], ignore_index=True)
    backward = items_of(made, tiny_llama, rows[::-1])[::-1].reset_index(drop=True)
    pd.testing.assert_frame_equal(whole, parts)
    pd.testing.assert_frame_equal(whole, backward)


def test_items_of_one_cluster_stand_in_one_half():
    items = pd.DataFrame({"id": list("abcdef"), "cluster": ["x", "x", "y", "y", "", ""]})
    first = half_of(items)
    assert first[0] == first[1]
    assert first[2] == first[3]
    assert first.sum() in (2, 3, 4)


def test_a_mended_model_is_compared_prompt_by_prompt():
    made = DecodingRobustness(**SMALL)
    rows = [{"prompt": str(number)} for number in range(20)]
    before = items_of(made, Guarded(), rows)

    class Mended(Guarded):
        def says(self, prompt: Any, temperature: float) -> str:
            return REFUSAL

    found = {row.metric: row for row in compare_items(made, before, items_of(made, Mended(), rows))}
    for name in ("excess", "union", "worst", "worst_excess", "rate"):
        assert (found[name].before > 0, found[name].after) == (True, 0.0)
        assert found[name].verdict == "improved"
    assert found["greedy"].verdict == found["default"].verdict == "no evidence"


def test_pictures_tell_the_largest_and_the_last():
    made = DecodingRobustness(**SMALL)
    items = items_of(made, Guarded(), [{"prompt": "one"}, {"prompt": "two"}])
    picture = rate_curve(by_setting(items), "temperature", 760)
    assert picture.startswith("<svg")
    assert "2 settings: largest at 1" in picture
    for column in ("grid", "baseline"):
        assert "at k = 5" in union_curve(by_draws(items), column, 350)
