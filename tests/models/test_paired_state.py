"""Two branches in one state or two: each row of each branch is what it is alone."""

from pathlib import Path

import pytest
import torch
import transformers

from tests.tiny_models import make_config, make_tiny, make_tokenizer
from trueup.models import LanguageModel, load
from trueup.models.batch_state import BatchState
from trueup.models.paired_state import PairedState
from trueup.models.prefix_cache import PrefixedModel

FIRST = [[1, 40, 41, 42, 43], [1, 60, 61], [1, 70]]
SECOND = [[1], [1, 80, 81, 82], [1, 80, 81, 82, 83, 84]]


@pytest.fixture(scope="module", params=["llama", "gpt2", "window"])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("paired") / request.param
    if request.param != "window":
        return load(make_tiny(request.param, folder), dtype="float64", device="cpu")
    config = make_config("mistral")
    config.sliding_window = 3
    config.initializer_range = 0.2
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return load(folder, dtype="float64", device="cpu")


def alone(lm: LanguageModel, rows: list[list[int]]) -> torch.Tensor:
    return torch.cat([lm.start_ids([row]).logprobs for row in rows])


def assert_pair(
    state: PairedState, lm: LanguageModel, first: list[list[int]], second: list[list[int]]
) -> None:
    torch.testing.assert_close(state.logprobs, alone(lm, first), atol=2e-6, rtol=0)
    torch.testing.assert_close(state.others, alone(lm, second), atol=2e-6, rtol=0)
    torch.testing.assert_close(state.scores, state.logprobs - 2 * state.others)


@pytest.mark.parametrize("is_one_model", [True, False])
def test_branches_take_the_same_tokens_and_keep_their_own_prompts(lm, is_one_model):
    state = PairedState(
        lm.start_ids(FIRST),
        lm.start_ids(SECOND),
        lambda logps, others: logps - 2 * others,
        is_one_model=is_one_model,
    )
    assert_pair(state, lm, FIRST, SECOND)
    state.advance([100, 101, 102])
    state.select([2, 0, 2])
    state.advance([103, 104, 105])
    first = [[*FIRST[2], 102, 103], [*FIRST[0], 100, 104], [*FIRST[2], 102, 105]]
    second = [[*SECOND[2], 102, 103], [*SECOND[0], 100, 104], [*SECOND[2], 102, 105]]
    assert_pair(state, lm, first, second)
    state.select([1])
    state.advance([106])
    assert state.rows == 1
    assert_pair(state, lm, [[*first[1], 106]], [[*second[1], 106]])


def test_rows_behind_a_kept_prefix_outlive_the_longest_row(tiny_model_folder: Path):
    """Their padding stands behind the prefix, and must not be taken for columns to cut off."""
    lm = load(tiny_model_folder, dtype="float64", device="cpu")
    prompts = [[*lm.encoder.prompt("Read: "), *rest] for rest in ([50], [51, 52, 53, 54])]
    kept = PrefixedModel(lm, "Read: ")
    state = BatchState.of(kept.start_ids(prompts))
    state.join(lm.start_ids([[1, 60]]))
    state.select([0, 2])
    state.advance([100, 101])
    rows = [[*prompts[0], 100], [1, 60, 101]]
    torch.testing.assert_close(state.logprobs, alone(lm, rows), atol=2e-6, rtol=0)
