"""The scores that PoFT's rows carry, against transformers' own loss."""

from pathlib import Path

import pytest
import torch

from tests.tiny_models import make_tiny
from trueup.data import read
from trueup.errors import UserError
from trueup.models import LanguageModel, load
from trueup.selection.mean_likelihood import with_mean_logps

ROWS = [
    {"prompt": "Question: ", "completion": "a short answer"},
    {"prompt": "Another question, longer: ", "completion": "no"},
    {"prompt": "Q", "completion": "an answer that goes on for quite a while"},
]


def plain_mean(lm: LanguageModel, prompt: str, completion: str) -> float:
    """Minus transformers' loss of one row alone, labels on the answer and its end."""
    group = lm.encode(prompt, [completion], add_eos=True)
    ids = torch.tensor([[*group.prompt, *group.completions[0]]])
    labels = ids.clone()
    labels[:, : len(group.prompt)] = -100
    with torch.no_grad():
        return -float(lm.model(input_ids=ids, labels=labels).loss)


def test_a_score_is_minus_the_loss_of_that_row_alone(tiny_llama: LanguageModel):
    table = with_mean_logps(read(ROWS, "completions"), [lambda: tiny_llama])
    for row in table:
        expected = plain_mean(tiny_llama, row["prompt"], row["completion"])
        assert row["mean_ref_logp"] == pytest.approx(expected, abs=1e-5)
    assert len(read(list(table), "scored")) == len(ROWS)


def test_models_are_averaged_and_two_equal_ones_are_one(tiny_llama: LanguageModel, tmp_path: Path):
    other = load(make_tiny("gpt2", tmp_path / "gpt2"), device="cpu")
    rows = read(ROWS, "completions")
    scores = [
        [row["mean_ref_logp"] for row in with_mean_logps(rows, several)]
        for several in (
            [lambda: tiny_llama],
            [lambda: tiny_llama, lambda: tiny_llama],
            [lambda: other],
            [lambda: tiny_llama, lambda: other],
        )
    ]
    assert scores[1] == pytest.approx(scores[0], abs=1e-12)
    means = [(a + b) / 2 for a, b in zip(scores[0], scores[2], strict=True)]
    assert scores[3] == pytest.approx(means, abs=1e-12)


def test_no_model_is_refused():
    with pytest.raises(UserError, match="at least one scoring model"):
        with_mean_logps(read(ROWS, "completions"), [])
