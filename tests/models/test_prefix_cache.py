"""A kept prefix: equal to whole passes, read once, never changed."""

import pytest
import torch

from tests.tiny_models import make_tiny
from trueup.models import LanguageModel, load
from trueup.models.prefix_cache import CachedPrefix, PrefixedModel

PREFIX = "Be kind. " * 6
PROMPTS = [PREFIX + "Hello?", PREFIX + "Who is there?", PREFIX + "x"]
ARCHITECTURES = ["llama", "qwen2", "gpt2", "gpt_neox", "mistral", "bloom"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = make_tiny(request.param, tmp_path_factory.mktemp("prefix") / request.param)
    return load(folder, dtype="float64", device="cpu")


def apart(lm: LanguageModel, prompts: list[str]) -> torch.Tensor:
    """Next-token log-probabilities, each prompt in a pass of its own."""
    return torch.cat([lm.start([prompt]).logprobs for prompt in prompts])


@pytest.fixture
def llama(tiny_model_folder) -> LanguageModel:
    return load(tiny_model_folder, dtype="float64", device="cpu")


def test_a_kept_prefix_changes_no_log_probability(lm: LanguageModel):
    """Rests of unequal length, so that padding stands between prefix and rest."""
    kept = PrefixedModel(lm, PREFIX).start(PROMPTS)
    torch.testing.assert_close(kept.logprobs, apart(lm, PROMPTS), atol=2e-6, rtol=0)


def test_all_five_words_equal_a_whole_pass(lm: LanguageModel):
    state = PrefixedModel(lm, PREFIX).start(PROMPTS)
    state.advance([50, 60, 70])
    state.advance([51, 61, 71])
    state.rollback(1)
    state.select([2, 0, 2])
    state.advance([80, 81, 82])
    rows = [lm.encoder.prompt(prompt) for prompt in PROMPTS]
    whole = [[*rows[2], 70, 80], [*rows[0], 50, 81], [*rows[2], 70, 82]]
    expected = torch.cat([lm.start_ids([row]).logprobs for row in whole])
    torch.testing.assert_close(state.logprobs, expected, atol=2e-6, rtol=0)
    assert state.lengths.tolist() == [len(row) for row in whole]


def test_samples_are_those_of_the_model_token_for_token(lm: LanguageModel):
    how = {"n": 3, "max_new_tokens": 12, "seed": 4}
    kept = PrefixedModel(lm, PREFIX).sample(PROMPTS, **how)
    whole = [lm.sample([prompt], **how)[0] for prompt in PROMPTS]
    assert [[s.token_ids for s in each] for each in kept] == [
        [s.token_ids for s in each] for each in whole
    ]


def test_greedy_is_what_generate_gives(llama: LanguageModel):
    kept = PrefixedModel(llama, PREFIX)
    for prompt, [sample] in zip(
        PROMPTS, kept.sample(PROMPTS, temperature=0, max_new_tokens=10), strict=True
    ):
        ids = torch.tensor([llama.encoder.prompt(prompt)])
        whole = llama.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=10
        )
        assert whole[0, ids.shape[1] :].tolist() == sample.token_ids


def test_the_prefix_is_read_once_for_all_requests(llama: LanguageModel):
    kept = PrefixedModel(llama, PREFIX)
    prefix = len(llama.encoder.prompt(PREFIX))
    rests = [len(prompt) - len(PREFIX) for prompt in PROMPTS]  # a token is a byte
    llama.work.reset()
    kept.start(PROMPTS)
    assert llama.work.trunk_tokens == prefix + sum(rests)
    kept.start(PROMPTS[:2])
    assert llama.work.trunk_tokens == prefix + sum(rests) + sum(rests[:2])
    assert llama.work.padding_tokens == 3 * max(rests) - sum(rests) + 2 * 13 - sum(rests[:2])


def test_requests_leave_the_prefix_as_it_was(llama: LanguageModel):
    kept = PrefixedModel(llama, PREFIX)
    first = kept.start(PROMPTS)
    before = [part.clone() for layer in kept._cached().layers for part in layer]
    for token in range(3):
        first.advance([token + 40] * 3)
    first.select([1, 1])
    after = [part for layer in kept._cached().layers for part in layer]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    torch.testing.assert_close(
        kept.start(PROMPTS).logprobs, apart(llama, PROMPTS), atol=1e-6, rtol=0
    )


def test_a_prompt_that_is_the_prefix_itself_keeps_a_token_to_read(llama: LanguageModel):
    kept = PrefixedModel(llama, PREFIX)
    llama.work.reset()
    state = kept.start([PREFIX])
    assert llama.work.trunk_tokens == len(llama.encoder.prompt(PREFIX)) + 1
    torch.testing.assert_close(state.logprobs, llama.start([PREFIX]).logprobs, atol=1e-6, rtol=0)


def test_a_token_across_the_boundary_shortens_what_is_shared():
    prefix = CachedPrefix([1, 5, 6, 7], [])
    assert prefix.shared([[1, 5, 6, 99, 8], [1, 5, 6, 7, 8]]) == 3


def test_a_stranger_among_the_prompts_is_still_exact(llama: LanguageModel):
    prompts = [PROMPTS[0], "Another one."]
    torch.testing.assert_close(
        PrefixedModel(llama, PREFIX).start(prompts).logprobs,
        apart(llama, prompts),
        atol=1e-6,
        rtol=0,
    )


def test_changed_weights_are_noticed(llama: LanguageModel):
    kept = PrefixedModel(llama, PREFIX)
    stale = kept.start(PROMPTS).logprobs
    with torch.no_grad():
        for weight in llama.model.parameters():
            weight.mul_(1.1)
    fresh = kept.start(PROMPTS).logprobs
    torch.testing.assert_close(fresh, apart(llama, PROMPTS), atol=1e-6, rtol=0)
    assert (fresh - stale).abs().max() > 0.01


def test_a_sliding_window_is_exact_with_unequal_prompts(tmp_path):
    lm = load(make_tiny("mistral", tmp_path / "window"), dtype="float64", device="cpu")
    lm.model.config.sliding_window = 16
    torch.testing.assert_close(
        PrefixedModel(lm, PREFIX).start(PROMPTS).logprobs,
        apart(lm, PROMPTS),
        atol=1e-6,
        rtol=0,
    )


def test_prompts_of_one_length_share_the_prefix_under_a_sliding_window(tmp_path):
    lm = load(make_tiny("mistral", tmp_path / "window"), dtype="float64", device="cpu")
    lm.model.config.sliding_window = 16
    prompts = [PREFIX + "aab", PREFIX + "xyz"]
    kept = PrefixedModel(lm, PREFIX)
    torch.testing.assert_close(kept.start(prompts).logprobs, apart(lm, prompts), atol=1e-6, rtol=0)
    lm.work.reset()
    kept.start(prompts)
    assert lm.work.trunk_tokens == 6
