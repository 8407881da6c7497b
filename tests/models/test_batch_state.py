"""Rows that join and leave have the log-probabilities that they have alone; joining is free.

Weights are float64; log-probabilities are given in float32, so 2e-6 is their rounding. Bloom is
float32 and has 2e-5: transformers computes its softmax in float32, where float64's least number is
minus infinity, and a padded row is NaN.
"""

from pathlib import Path

import pytest
import torch
import transformers

from tests.tiny_models import make_config, make_tiny, make_tokenizer
from trueup.models import LanguageModel, load
from trueup.models.batch_state import BatchState

LONG, SHORT, THIRD = [1, 40, 41, 42, 43, 44, 45], [1, 60], [1, 80, 81, 82]
KINDS = ["llama", "qwen2", "gpt2", "gpt_neox", "mistral", "bloom"]


@pytest.fixture(scope="module", params=KINDS)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = make_tiny(request.param, tmp_path_factory.mktemp("batch") / request.param)
    return load(folder, dtype="float32" if request.param == "bloom" else "float64", device="cpu")


def started(lm: LanguageModel, *prompts: list[int]) -> BatchState:
    return BatchState(lm.model, prompts, pad_id=lm.pad_id, work=lm.work)


def assert_alone(state: BatchState, lm: LanguageModel, rows: list[list[int]]) -> None:
    alone = torch.cat([lm.start_ids([row]).logprobs for row in rows])
    is_double = next(lm.model.parameters()).dtype == torch.float64
    torch.testing.assert_close(state.logprobs, alone, atol=2e-6 if is_double else 2e-5, rtol=0)


def test_a_shorter_row_joins_a_longer_one(lm: LanguageModel):
    state = started(lm, LONG)
    state.advance([100])
    state.join(started(lm, SHORT))
    assert_alone(state, lm, [[*LONG, 100], SHORT])
    state.advance([101, 102])
    assert_alone(state, lm, [[*LONG, 100, 101], [*SHORT, 102]])


def test_a_longer_row_joins_shorter_ones_of_different_lengths(lm: LanguageModel):
    state = started(lm, SHORT, THIRD)
    state.advance([100, 101])
    state.join(started(lm, LONG))
    state.advance([102, 103, 104])
    assert_alone(state, lm, [[*SHORT, 100, 102], [*THIRD, 101, 103], [*LONG, 104]])


def test_rows_leave_and_others_join_again_and_again(lm: LanguageModel):
    state = started(lm, LONG, SHORT)
    state.select([1])
    state.join(started(lm, THIRD))
    state.advance([100, 101])
    state.select([1, 0, 1])
    state.join(started(lm, LONG))
    state.advance([110, 111, 112, 113])
    rows = [[*THIRD, 101, 110], [*SHORT, 100, 111], [*THIRD, 101, 112], [*LONG, 113]]
    assert_alone(state, lm, rows)


def test_another_row_has_other_logprobs(lm: LanguageModel):
    """The negative control: the tolerance tells rows apart."""
    state = started(lm, LONG)
    state.join(started(lm, SHORT))
    with pytest.raises(AssertionError):
        assert_alone(state, lm, [SHORT, LONG])


def test_joining_and_leaving_send_no_token_through_the_model(lm: LanguageModel):
    state = started(lm, LONG)
    other = started(lm, SHORT, THIRD)
    lm.work.reset()
    state.join(other)
    state.select([0, 2])
    assert lm.work.trunk_tokens == 0
    assert lm.work.head_rows == 3  # each row's head, once in its life per step
    state.advance([5, 6])
    assert state.logprobs.shape[0] == 2
    assert lm.work.trunk_tokens == 2
    assert lm.work.head_rows == 3 + 2


def test_the_place_of_a_long_row_goes_with_it(lm: LanguageModel):
    state = started(lm, LONG, SHORT)
    state.select([1])
    assert state._mask.shape == (1, len(SHORT))
    state.advance([7])
    assert_alone(state, lm, [[*SHORT, 7]])


def test_there_is_no_rollback(lm: LanguageModel):
    state = started(lm, SHORT)
    state.advance([7])
    with pytest.raises(ValueError, match="0 were taken"):
        state.rollback(1)


def test_a_sliding_window_slides_over_the_rows_own_tokens(tmp_path: Path):
    config = make_config("mistral")
    config.sliding_window = 3
    config.initializer_range = 0.2
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    lm = load(tmp_path, dtype="float64", device="cpu")
    state = started(lm, LONG)
    state.join(started(lm, SHORT))
    state.advance([100, 101])
    state.advance([102, 103])
    assert_alone(state, lm, [[*LONG, 100, 102], [*SHORT, 101, 103]])
