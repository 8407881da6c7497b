"""States where completions end: equal to whole passes, prompts read once."""

import pytest
import torch

from tests.models.residual_models import inputs_seen, wide_llama
from tests.tiny_models import make_tiny
from trueup.errors import UserError
from trueup.models import Group, LanguageModel, load
from trueup.models.end_states import end_states, token_projections
from trueup.models.residual_stream import recorded

GROUPS = [
    Group([1, 60, 61, 62], [[70, 71], [70, 71, 72, 73]]),
    Group([1, 60, 61], [[75], [76, 77, 78]]),
    Group([1, 90], [[80, 81], [80, 81]]),
]


@pytest.fixture(scope="module", params=["llama", "gpt2", "bloom"])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = make_tiny(request.param, tmp_path_factory.mktemp("ends") / request.param)
    return load(folder, dtype="float64", device="cpu")


@torch.no_grad()
def states_apart(lm: LanguageModel, ids: list[int]) -> torch.Tensor:
    """All states [L, T, D] of one sequence in a pass of its own."""
    found: dict[int, torch.Tensor] = {}
    with recorded(lm.model, lambda layer, states: found.update({layer: states[0]})):
        lm.model(input_ids=torch.tensor([ids]), use_cache=False)
    return torch.stack([found[layer] for layer in sorted(found)])


def test_states_are_those_of_each_sequence_alone(lm: LanguageModel):
    """With the shared row where the architecture allows it, and with padding: bloom has neither."""
    for part in end_states(lm, GROUPS):
        rows = iter(part.states)
        for index in dict.fromkeys(part.groups):
            for completion in GROUPS[index].completions:
                expected = states_apart(lm, [*GROUPS[index].prompt, *completion])[:, -1]
                torch.testing.assert_close(next(rows), expected, atol=1e-5, rtol=0)


def test_a_prompt_is_read_once_for_both_its_completions():
    lm = wide_llama()
    list(end_states(lm, GROUPS[:1]))
    assert lm.work.trunk_tokens == 4 + 4  # 70, 71 begin both completions
    assert lm.work.head_rows == 0


def test_norms_and_projections_are_of_real_tokens():
    lm = wide_llama()
    groups = [Group(GROUPS[2].prompt, [[80, 81]]), Group([1, 91], [[80, 81, 82, 83, 84]])]
    alone = [states_apart(lm, [*g.prompt, *g.completions[0]]) for g in groups]
    expected = torch.cat([states[2].norm(dim=-1) for states in alone]).sort().values
    found = torch.cat([part.token_norms for part in end_states(lm, groups)], dim=1)[2]
    torch.testing.assert_close(found.sort().values, expected, atol=1e-6, rtol=0)
    unit = torch.eye(16, dtype=torch.float64)[3]
    along = token_projections(lm, groups, 2, unit).sort().values
    expected = torch.cat([states[2, :, 3] for states in alone]).sort().values
    torch.testing.assert_close(along, expected, atol=1e-6, rtol=0)


def test_nothing_stays_hooked_when_a_pass_fails():
    lm = wide_llama()
    with inputs_seen(lm.model), pytest.raises(IndexError):
        list(end_states(lm, [Group([1, 999], [[4], [5]])]))
    assert not any(module._forward_hooks for module in lm.model.modules())


def test_a_pair_beyond_the_context_is_refused():
    lm = wide_llama()
    with pytest.raises(UserError, match="pair 1 has 302 tokens, but the model reads 256"):
        list(end_states(lm, [Group([1] * 300, [[4], [5, 6]])]))
