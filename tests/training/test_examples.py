from pathlib import Path
from typing import Any

import pytest

from trueup.data import read
from trueup.errors import UserError
from trueup.models import Group, LanguageModel
from trueup.training.examples import Limit, fit, held_out, mismatched, tokenize

BOS = 1


def test_a_group_within_the_limit_stays() -> None:
    group = Group([BOS, 5, 6], [[7, 8], [9]])
    assert fit(group, Limit(5, "error", BOS), "row 1") is group


def test_a_long_prompt_keeps_its_end_and_its_opening_token() -> None:
    group = Group([BOS, *range(10, 20)], [[7, 8]])
    fitted = fit(group, Limit(8, "prompt-left", BOS), "row 1")
    assert fitted == Group([BOS, 15, 16, 17, 18, 19], [[7, 8]])


def test_a_prompt_without_an_opening_token_keeps_its_end() -> None:
    fitted = fit(Group(list(range(10, 20)), [[7, 8]]), Limit(6, "prompt-left", BOS), "row 1")
    assert fitted.prompt == [16, 17, 18, 19]


def test_a_long_completion_loses_its_end_and_with_it_its_eos() -> None:
    fitted = fit(Group([BOS, 5], [[*range(10, 30), 2], [7, 2]]), Limit(8, "prompt-left", BOS), "")
    assert fitted == Group([BOS, 5], [[10, 11, 12, 13, 14, 15], [7, 2]])


@pytest.mark.parametrize("prompt", [1, 2, 5, 50])
@pytest.mark.parametrize("completion", [1, 3, 50])
@pytest.mark.parametrize("limit", [4, 5, 9])
def test_nothing_is_ever_cut_to_nothing(prompt: int, completion: int, limit: int) -> None:
    group = Group(list(range(100, 100 + prompt)), [list(range(completion)), [3]])
    fitted = fit(group, Limit(limit, "prompt-left", BOS), "row 1")
    assert len(fitted.prompt) >= 1
    assert all(len(part) >= 1 for part in fitted.completions)
    assert len(fitted.prompt) + max(map(len, fitted.completions)) <= limit
    assert group.prompt[-len(fitted.prompt) :] == fitted.prompt


def test_an_error_names_the_place_and_both_lengths() -> None:
    with pytest.raises(
        UserError, match=r"prefs.jsonl:17: .* 12 tokens, the limit is 8; .*truncate"
    ):
        fit(Group([1] * 10, [[2, 3]]), Limit(8, "error"), "prefs.jsonl:17")


def test_cut_rows_are_counted(lm: LanguageModel, pairs: list[dict[str, Any]]) -> None:
    examples = tokenize(lm, read(pairs, "pairs"), "pairs", Limit(24, "prompt-left", BOS))
    whole = tokenize(lm, read(pairs, "pairs"), "pairs", Limit(256, "error", BOS))
    longer = [item.group for item in whole.items]
    assert examples.prompts_cut == sum(
        item.group.prompt != group.prompt
        for item, group in zip(examples.items, longer, strict=True)
    )
    assert examples.prompts_cut > 0
    assert (whole.prompts_cut, whole.completions_cut) == (0, 0)


def test_completions_end_with_eos(lm: LanguageModel, pairs: list[dict[str, Any]]) -> None:
    examples = tokenize(lm, read(pairs, "pairs"), "pairs", Limit(256, "error", BOS))
    ends = {part[-1] for item in examples.items for part in item.group.completions}
    assert ends == {lm.tokenizer.eos_token_id}


def test_the_hash_changes_with_a_token_a_label_or_the_cut(
    lm: LanguageModel, labelled: list[dict[str, Any]]
) -> None:
    def hashed(rows: list[dict[str, Any]], limit: int = 256) -> str:
        return tokenize(
            lm, read(rows, "labelled"), "labelled", Limit(limit, "prompt-left", BOS)
        ).hash

    first, rest = labelled[0], labelled[1:]
    base = hashed(labelled)
    assert base == hashed([dict(row) for row in labelled])
    assert base != hashed([{**first, "label": not first["label"]}, *rest])
    assert base != hashed([{**first, "completion": first["completion"] + "!"}, *rest])
    assert base != hashed(labelled, limit=20)
    assert base != hashed([*rest, first])


def test_held_out_prompts_are_not_trained_on(pairs: list[dict[str, Any]]) -> None:
    rows = [*pairs, *({**row, "chosen": row["chosen"] + " indeed"} for row in pairs)]
    train, out = held_out(read(rows, "pairs"), 0.25, seed=3)
    assert len(out) == 6
    assert len(train) + len(out) == len(rows)
    assert {row["prompt"] for row in train}.isdisjoint(row["prompt"] for row in out)


def test_one_prompt_cannot_be_held_out(pairs: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="1 distinct prompt"):
        held_out(read(pairs[:1], "pairs"), 0.5, seed=0)


def test_mismatched_completions_belong_to_other_prompts(
    lm: LanguageModel, labelled: list[dict[str, Any]]
) -> None:
    rows = [labelled[0], {**labelled[1], "prompt": labelled[0]["prompt"]}, labelled[2]]
    examples = tokenize(lm, read(rows, "labelled"), "labelled", Limit(256, "error", BOS))
    groups = mismatched(examples, [0, 1, 2], Limit(256, "error", BOS))
    own = [item.group for item in examples.items]
    assert [group.prompt for group in groups] == [group.prompt for group in own]
    assert [group.completions for group in groups] == [
        own[2].completions,
        own[2].completions,
        own[0].completions,
    ]


def test_a_row_too_long_ends_the_run_before_any_work(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows = [*pairs, {**pairs[0], "prompt": "x" * 300}]
    with pytest.raises(UserError, match=r"row 13: .* the limit is 256"):
        run("dpo", rows, truncate="error")
    assert not (tmp_path / "out").exists()


def test_max_length_beyond_the_context_is_refused(run: Any, pairs: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="at most the model's 256, got 300"):
        run("dpo", pairs, max_length=300)


def test_cut_rows_are_told(run: Any, pairs: list[dict[str, Any]]) -> None:
    notes = run("dpo", pairs, max_length=24, steps=1).notes
    assert any("prompts cut from the left to fit 24 tokens" in note for note in notes)
