"""Samples follow the model's distribution and depend on seed and prompt alone."""

import numpy as np
import pytest
import scipy.stats

from trueup.errors import UserError
from trueup.models import LanguageModel

PROMPTS = ["The nurse", "An engineer said that", "x"]


def test_same_seed_same_samples_in_any_order(tiny_llama: LanguageModel):
    settings = {"n": 3, "max_new_tokens": 12, "seed": 5}
    forward = tiny_llama.sample(PROMPTS, **settings)
    backward = tiny_llama.sample(PROMPTS[::-1], **settings)
    assert forward == backward[::-1]


def test_another_seed_gives_other_samples(tiny_llama: LanguageModel):
    assert tiny_llama.sample(["a"], seed=1) != tiny_llama.sample(["a"], seed=2)


def test_the_same_prompt_twice_is_sampled_independently(tiny_llama: LanguageModel):
    first, second = tiny_llama.sample(["a", "a"], n=2, seed=1)
    texts = {sample.text for sample in [*first, *second]}
    assert len(texts) == 4


def test_first_token_follows_the_model(tiny_llama: LanguageModel):
    """Chi-square of 4,000 first tokens against the model's own distribution; seed fixed."""
    count = 4000
    samples = tiny_llama.sample(["The nurse"], n=count, max_new_tokens=1, seed=3)[0]
    probabilities = tiny_llama.start(["The nurse"]).logprobs[0].double().exp().numpy()
    observed = np.bincount([s.token_ids[0] for s in samples], minlength=len(probabilities))
    common = probabilities * count >= 5
    expected = np.append(probabilities[common], probabilities[~common].sum()) * count
    counts = np.append(observed[common], observed[~common].sum())
    p_value = scipy.stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue
    assert p_value > 0.01
    wrong = np.roll(expected, 7)  # negative control: another distribution is noticed
    assert scipy.stats.chisquare(counts, wrong * counts.sum() / wrong.sum()).pvalue < 1e-6


def test_logps_are_those_of_scoring(tiny_llama: LanguageModel):
    sample = tiny_llama.sample(["Hello"], max_new_tokens=8, temperature=0.5, seed=0)[0][0]
    ids = tiny_llama.encoder.prompt("Hello")
    scored = tiny_llama.score_groups([type(tiny_llama.encode("a", ["b"]))(ids, [sample.token_ids])])
    np.testing.assert_allclose(scored[0][0], sample.logps, atol=1e-5)


def test_temperature_zero_is_greedy(tiny_llama: LanguageModel):
    sample = tiny_llama.sample(["Hello"], temperature=0, max_new_tokens=5)[0][0]
    state = tiny_llama.start(["Hello"])
    for token in sample.token_ids:
        assert token == int(state.logprobs.argmax())
        state.advance([token])


def test_top_k_one_and_tiny_top_p_are_greedy(tiny_llama: LanguageModel):
    greedy = tiny_llama.sample(PROMPTS, temperature=0, max_new_tokens=6)
    top_k = tiny_llama.sample(PROMPTS, top_k=1, max_new_tokens=6)
    top_p = tiny_llama.sample(PROMPTS, top_p=1e-9, max_new_tokens=6)
    for samples in (top_k, top_p):
        assert [s[0].token_ids for s in samples] == [s[0].token_ids for s in greedy]


def test_top_p_keeps_the_smallest_sufficient_set(tiny_llama: LanguageModel):
    logprobs = tiny_llama.start(["The nurse"]).logprobs[0]
    ordered = logprobs.exp().sort(descending=True)
    size = int((ordered.values.cumsum(0) < 0.5).sum()) + 1
    allowed = set(ordered.indices[:size].tolist())
    samples = tiny_llama.sample(["The nurse"], n=500, max_new_tokens=1, top_p=0.5)[0]
    assert {s.token_ids[0] for s in samples} == allowed


def test_stop_string_ends_the_sample(tiny_llama: LanguageModel):
    free = tiny_llama.sample(["Hello"], max_new_tokens=30, seed=4)[0][0]
    stop = free.text[5:7]
    sample = tiny_llama.sample(["Hello"], max_new_tokens=30, seed=4, stop=[stop])[0][0]
    assert sample.reason == "stop"
    assert sample.text == free.text[: free.text.find(stop)]


def test_each_prompt_is_read_once_for_all_its_samples(tiny_llama: LanguageModel):
    tiny_llama.work.reset()
    samples = tiny_llama.sample(["Hello"], n=16, max_new_tokens=4, seed=0)[0]
    assert all(s.reason == "length" for s in samples)
    prompt = len(tiny_llama.encoder.prompt("Hello"))
    assert tiny_llama.work.trunk_tokens == prompt + 16 * 3
    assert tiny_llama.work.head_rows == 16 * 4 - 15  # the first row is shared by all samples


def test_bad_settings_name_value_and_range(tiny_llama: LanguageModel):
    with pytest.raises(UserError, match=r"top_p must lie between 0 and 1, got 1\.5"):
        tiny_llama.sample(["a"], top_p=1.5)
    with pytest.raises(UserError, match=r"the model reads 256"):
        tiny_llama.sample(["a"], max_new_tokens=300)
