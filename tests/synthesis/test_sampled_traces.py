"""Rows of pairs with and without a trace, drawn from a model."""

from collections.abc import Sequence

from trueup.data import read
from trueup.models import LanguageModel
from trueup.synthesis.sampled_traces import sampled_traces

PROMPTS = ["What is one and one? ", "Name a colour. ", "Say something. "]


def longest(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def test_best_and_worst_answers_become_pairs(tiny_llama: LanguageModel):
    """A random model ends no trace, so an end that it writes often stands in for one."""
    rows = sampled_traces(
        tiny_llama, PROMPTS, longest, samples=6, end="e", max_new_tokens=24, seed=1
    )
    table = read(rows, "traces")
    assert len(table) == len(PROMPTS)
    for row in table:
        assert len(row["chosen_no_think"].strip()) > len(row["rejected_no_think"].strip())
        if row["chosen"] is not None:
            assert row["chosen"].startswith("<think>\n")
            first, second = (
                row[side].rpartition("e")[2].strip() for side in ("chosen", "rejected")
            )
            assert len(first) > len(second)


def test_a_trace_that_never_ends_makes_no_pair(tiny_llama: LanguageModel):
    rows = sampled_traces(tiny_llama, PROMPTS, longest, samples=3, max_new_tokens=8)
    assert {row["chosen"] for row in rows} == {None}


def test_equal_rewards_make_no_row(tiny_llama: LanguageModel):
    def flat(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [1.0] * len(completions)

    assert sampled_traces(tiny_llama, PROMPTS, flat, samples=3, max_new_tokens=8) == []
