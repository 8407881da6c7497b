"""Five words of decoding: each equals a fresh pass over the same tokens."""

import pytest
import torch

from tests.tiny_models import make_tiny
from trueup.models import LanguageModel, load

PROMPTS = [[1, 40, 41, 42, 43], [1, 60], [1, 80, 81]]


def fresh(lm: LanguageModel, ids: list[int]) -> torch.Tensor:
    """Next-token log-probabilities by one whole pass."""
    return lm.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1).detach()


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2", "gpt_neox", "mistral", "bloom"])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(make_tiny(request.param, tmp_path_factory.mktemp("state") / request.param))


def assert_state(state, lm: LanguageModel, rows: list[list[int]]) -> None:
    expected = torch.stack([fresh(lm, row) for row in rows])
    torch.testing.assert_close(state.logprobs, expected, atol=2e-5, rtol=0)


def test_prefill_and_advance_equal_fresh_passes(lm: LanguageModel):
    state = lm.start_ids(PROMPTS)
    assert_state(state, lm, PROMPTS)
    state.advance([100, 101, 102])
    state.advance([110, 111, 112])
    assert_state(state, lm, [[*p, 100 + i, 110 + i] for i, p in enumerate(PROMPTS)])


def test_select_forks_and_reorders(lm: LanguageModel):
    state = lm.start_ids(PROMPTS)
    state.advance([100, 101, 102])
    state.select([2, 0, 2])
    state.advance([7, 8, 9])
    assert_state(state, lm, [[*PROMPTS[2], 102, 7], [*PROMPTS[0], 100, 8], [*PROMPTS[2], 102, 9]])


def test_rollback_forgets_the_last_tokens(lm: LanguageModel):
    state = lm.start_ids(PROMPTS)
    state.advance([100, 101, 102])
    state.advance([110, 111, 112])
    state.advance([120, 121, 122])
    state.rollback(2)
    assert_state(state, lm, [[*p, 100 + i] for i, p in enumerate(PROMPTS)])
    state.advance([9, 9, 9])
    assert_state(state, lm, [[*p, 100 + i, 9] for i, p in enumerate(PROMPTS)])


def test_rollback_beyond_the_prefill_is_refused(lm: LanguageModel):
    state = lm.start_ids(PROMPTS)
    state.advance([1, 1, 1])
    with pytest.raises(ValueError, match="1 were taken"):
        state.rollback(2)


def test_no_prefix_is_encoded_twice(lm: LanguageModel):
    lm.work.reset()
    state = lm.start_ids(PROMPTS)
    assert lm.work.trunk_tokens == sum(map(len, PROMPTS))
    state.select([0, 0, 1, 1, 2, 2])
    state.advance([3] * 6)
    state.rollback(1)
    state.advance([4] * 6)
    assert lm.work.trunk_tokens == sum(map(len, PROMPTS)) + 12
    assert lm.work.head_rows == 0
    assert state.logprobs is state.logprobs
    assert lm.work.head_rows == 6
