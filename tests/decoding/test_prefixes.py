"""Prefixes: lookaheads and reuse give what a fresh pass gives, on every architecture."""

import pytest
import torch

from tests.tiny_models import make_tiny
from trueup.decoding.prefixes import Prefixes, forked, joined, selected
from trueup.models import LanguageModel, load

PROMPTS = [[1, 40, 41, 42, 43], [1, 60], [1, 80, 81]]


def fresh(lm: LanguageModel, ids: list[int]) -> torch.Tensor:
    return lm.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1).detach()


def greedy(lm: LanguageModel, ids: list[int], count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count and (not found or found[-1] != lm.tokenizer.eos_token_id):
        found.append(int(fresh(lm, ids + found).argmax()))
    return found


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neox", "bloom"])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(make_tiny(request.param, tmp_path_factory.mktemp("prefixes") / request.param))


@pytest.mark.parametrize("horizon", [0, 1, 4])
def test_rows_and_lookaheads_equal_fresh_passes_over_many_steps(lm: LanguageModel, horizon: int):
    prefixes = Prefixes(lm, PROMPTS)
    rows = [list(prompt) for prompt in PROMPTS]
    with torch.no_grad():
        for step in range(5):
            likely = prefixes.base.logprobs.topk(2).indices.tolist()
            parents = [row for row in range(3) for _ in range(3)]
            tokens = [token for row in range(3) for token in (*likely[row], 200 + step)]
            found = prefixes.greedy(parents, tokens, horizon)
            for parent, token, ahead in zip(parents, tokens, found, strict=True):
                assert ahead == greedy(lm, [*rows[parent], token], horizon)
            kept = [8, 0, 4] if step % 2 else [3, 0, 6]  # greedy children and others, reordered
            prefixes.commit(kept)
            rows = [[*rows[parents[child]], tokens[child]] for child in kept]
            expected = torch.stack([fresh(lm, row) for row in rows])
            torch.testing.assert_close(prefixes.base.logprobs, expected, atol=2e-5, rtol=0)


def test_a_fork_goes_on_apart_and_rows_join_again(lm: LanguageModel):
    state = lm.start_ids(PROMPTS)
    twin = forked(state)
    state.advance([100, 101, 102])
    twin.advance([110, 111, 112])
    whole = joined([selected(state, [2]), selected(twin, [0, 1])])
    whole.advance([7, 8, 9])
    rows = [[*PROMPTS[2], 102, 7], [*PROMPTS[0], 110, 8], [*PROMPTS[1], 111, 9]]
    expected = torch.stack([fresh(lm, row) for row in rows])
    torch.testing.assert_close(whole.logprobs, expected, atol=2e-5, rtol=0)
    whole.rollback(2)
    expected = torch.stack([fresh(lm, PROMPTS[row]) for row in (2, 0, 1)])
    torch.testing.assert_close(whole.logprobs, expected, atol=2e-5, rtol=0)
    assert twin.steps == 1


def test_several_copies_share_one_prefill(lm: LanguageModel):
    lm.work.reset()
    prefixes = Prefixes(lm, PROMPTS, copies=3)
    assert prefixes.base.rows == 9
    assert lm.work.trunk_tokens == sum(map(len, PROMPTS))
