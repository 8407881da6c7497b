"""Processors inside transformers' `generate` give what this package's searches give."""

import re

import pytest
import torch
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor

from tests.decoding.slow_search import hashed, next_logprobs
from tests.tiny_models import make_tiny
from trueup.decoding.args import ARGS
from trueup.decoding.contrast import Contrast
from trueup.decoding.logits_processors import ArgsProcessor, ContrastProcessor
from trueup.decoding.protocol import Request
from trueup.errors import UserError
from trueup.models import LanguageModel, load
from trueup.models.sampling import Sampling

PROMPTS = ["The nurse said", "A", "He went to the house near"]
CONTRAST = Contrast(alpha=1.5, beta=0.02, negative_prompt="Say it badly: ")


@pytest.fixture(scope="module")
def exact(tiny_model_folder) -> LanguageModel:
    return load(tiny_model_folder, device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> LanguageModel:
    folder = make_tiny("gpt2", tmp_path_factory.mktemp("amateur") / "gpt2", seed=9)
    return load(folder, device="cpu", dtype="float64")


def generated(lm: LanguageModel, processors, prompts=PROMPTS, **settings) -> list[list[int]]:
    """What `generate` writes for a batch padded left, without what follows the end of text."""
    rows = [lm.encoder.prompt(prompt) for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    found = lm.model.generate(
        ids,
        attention_mask=mask,
        logits_processor=processors,
        pad_token_id=0,
        **{"do_sample": False, "max_new_tokens": 9, **settings},
    )
    return [until_end(row[width:].tolist(), lm.tokenizer.eos_token_id) for row in found]


def until_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def searched(decoder, lm: LanguageModel, rewards=(), prompts=PROMPTS) -> list[list[int]]:
    request = Request(
        sampling=Sampling(max_new_tokens=9, temperature=0),
        rewards={"r": rewards} if rewards else {},
    )
    return [list(several[0].token_ids) for several in decoder.decode(lm, prompts, request)]


# Contrast.


@pytest.mark.parametrize("has_amateur", [False, True])
def test_contrast_in_generate_is_the_search(exact, other, has_amateur):
    contrast = Contrast(amateur=other, beta=0.05) if has_amateur else CONTRAST
    found = generated(exact, [ContrastProcessor(contrast, exact, PROMPTS)])
    assert found == searched(contrast, exact)
    assert found != generated(exact, [])


def test_one_processor_serves_several_calls(exact):
    processor = ContrastProcessor(CONTRAST, exact, PROMPTS)
    first = generated(exact, [processor])
    assert generated(exact, [processor]) == first


def test_each_token_of_the_second_branch_is_read_once(exact, other):
    other.work.reset()
    contrast = Contrast(amateur=other, alpha=0.2, beta=0)
    found = generated(exact, [ContrastProcessor(contrast, exact, PROMPTS)])
    assert {len(row) for row in found} == {9}
    prompts = sum(len(exact.encoder.prompt(prompt)) for prompt in PROMPTS)
    assert other.work.trunk_tokens == prompts + 8 * len(PROMPTS)


class SlowContrast(LogitsProcessor):
    """The contrast that reads the second branch's whole text again for every token and row."""

    def __init__(self, lm: LanguageModel, width: int) -> None:
        self.lm, self.width = lm, width
        self.second = lm.encoder.prompt(CONTRAST.negative_prompt)

    def __call__(self, input_ids, scores):
        others = [
            next_logprobs(self.lm, [*self.second, *row[self.width :]]).to(scores.dtype)
            for row in input_ids.tolist()
        ]
        return CONTRAST.scores(scores.log_softmax(-1), torch.stack(others))


def test_the_second_branch_follows_the_beams(exact):
    width = max(len(exact.encoder.prompt(prompt)) for prompt in PROMPTS)
    beams = {"num_beams": 4, "num_return_sequences": 2}
    found = generated(exact, [ContrastProcessor(CONTRAST, exact, PROMPTS)], **beams)
    assert found == generated(exact, [SlowContrast(exact, width)], **beams)
    assert len(found) == 2 * len(PROMPTS)


def test_every_prompt_may_be_drawn_several_times(exact):
    greedy = Contrast(beta=1, negative_prompt="No.")
    drawn = {"do_sample": True, "num_return_sequences": 3, "temperature": 2.0}
    found = generated(exact, [ContrastProcessor(greedy, exact, PROMPTS)], **drawn)
    assert found == [row for row in generated(exact, []) for _ in range(3)]


def test_a_penalty_comes_after_the_contrast(exact):
    """Applied to what is drawn from, as a re-reading loop has it; before, it is another text."""
    penalty = RepetitionPenaltyLogitsProcessor(1.8)
    prompt = PROMPTS[:1]
    found = generated(exact, [ContrastProcessor(CONTRAST, exact, prompt, then=[penalty])], prompt)
    start = exact.encoder.prompt(prompt[0])
    second = exact.encoder.prompt(CONTRAST.negative_prompt)
    expected: list[int] = []
    while len(expected) < 9 and exact.tokenizer.eos_token_id not in expected:
        logps, others = (next_logprobs(exact, ids + expected)[None] for ids in (start, second))
        scores = CONTRAST.scores(logps, others)
        expected.append(int(penalty(torch.tensor([start + expected]), scores).argmax()))
    assert found == [expected]
    before = [penalty, ContrastProcessor(CONTRAST, exact, prompt)]
    assert generated(exact, before, prompt) != found


def test_a_penalty_of_the_model_s_own_settings_is_refused(exact, monkeypatch):
    monkeypatch.setattr(exact.model.generation_config, "repetition_penalty", 1.05)
    with pytest.raises(UserError, match=r"repetition_penalty must be 1.0 before a .*, got 1.05"):
        ContrastProcessor(CONTRAST, exact, PROMPTS)


def test_a_ban_stays_a_ban(exact):
    banned = sorted({row[0] for row in generated(exact, [])})
    for alpha in (-1.0, 0.0, 2.0):
        contrast = Contrast(alpha=alpha, beta=0, negative_prompt="The")
        processors = [ContrastProcessor(contrast, exact, PROMPTS)]
        found = generated(exact, processors, suppress_tokens=banned)
        assert not {token for row in found for token in row} & set(banned)


def test_another_batch_than_the_prompts_is_refused(exact):
    with pytest.raises(UserError, match="the batch has 3 rows, which are no multiple of 2 prompts"):
        generated(exact, [ContrastProcessor(CONTRAST, exact, PROMPTS[:2])])
    with pytest.raises(UserError, match="the batch has 3 rows, which are no multiple of 2 prompts"):
        generated(exact, [ArgsProcessor(ARGS(), exact, {"r": hashed}, PROMPTS[:2])])


# ARGS.


@pytest.mark.parametrize(("weight", "top_k"), [(0.0, 5), (2.0, 4), (8.0, 12)])
def test_args_in_generate_is_the_search(exact, weight, top_k):
    args = ARGS(weight=weight, top_k=top_k)
    processor = ArgsProcessor(args, exact, {"r": hashed}, PROMPTS)
    found = generated(exact, [processor])
    assert found == searched(args, exact, hashed)
    assert generated(exact, [processor]) == found  # another call begins anew


def test_scores_are_the_rule_s_and_the_rest_is_ruled_out(exact):
    prompt = PROMPTS[:1]
    processor = ArgsProcessor(ARGS(weight=3, top_k=4), exact, {"r": hashed}, prompt)
    ids = exact.encoder.prompt(prompt[0])
    logps = next_logprobs(exact, ids)
    found = processor(torch.tensor([ids]), 2 + logps[None])[0]
    likely = logps.topk(4).indices
    texts = [exact.tokenizer.decode([token], skip_special_tokens=True) for token in likely]
    expected = logps[likely] + 3 * torch.tensor(hashed(prompt * 4, texts), dtype=torch.float64)
    torch.testing.assert_close(found[likely], expected, atol=1e-6, rtol=0)
    assert int((found > -torch.inf).sum()) == 4


def test_the_reward_reads_each_row_s_own_prompt(exact):
    read: set[tuple[str, str]] = set()

    def noted(prompts, texts):
        read.update(zip(prompts, (text[:1] for text in texts), strict=True))
        return hashed(prompts, texts)

    args = ARGS(weight=1, top_k=3)
    beams = {"num_beams": 2, "max_new_tokens": 4}
    generated(exact, [ArgsProcessor(args, exact, {"r": noted}, PROMPTS)], **beams)
    assert {prompt for prompt, _ in read} == set(PROMPTS)


def test_a_constraint_with_a_large_weight_is_a_veto(exact):
    """The pattern is in the plain texts, and in none of the others."""
    plain = [exact.tokenizer.decode(row) for row in generated(exact, [])]
    pattern = f"[{re.escape(''.join(text[0] for text in plain))}]"
    processor = ArgsProcessor(ARGS(weight=1e4), exact, {"clean": f"no-regex:{pattern}"}, PROMPTS)
    steered = [exact.tokenizer.decode(row) for row in generated(exact, [processor])]
    assert all(re.search(pattern, text) for text in plain)
    assert not any(re.search(pattern, text) for text in steered)


def test_ended_rows_are_left_alone(exact):
    end = exact.tokenizer.eos_token_id
    processor = ArgsProcessor(ARGS(top_k=2), exact, {"r": hashed}, PROMPTS[:2])
    scores = torch.randn(2, 260, generator=torch.Generator().manual_seed(0))
    processor(torch.tensor([[1, 50], [1, 51]]), scores)
    found = processor(torch.tensor([[1, 50, end], [1, 51, 60]]), scores)
    assert torch.equal(found[0], scores[0])
    assert int((found[1] > -torch.inf).sum()) == 2


def test_a_text_that_does_not_go_on_from_the_last_begins_anew(exact):
    """One token longer than the last call's, and of another prompt: all of it is the prompt."""
    read: list[str] = []

    def noted(prompts, texts):
        read.extend(texts)
        return hashed(prompts, texts)

    processor = ArgsProcessor(ARGS(top_k=3), exact, {"r": noted}, PROMPTS[:1])
    scores = torch.randn(1, 260, generator=torch.Generator().manual_seed(0))
    processor(torch.tensor([[1, 50]]), scores)
    processor(torch.tensor([[1, 60, 61]]), scores + scores.flip(-1))
    assert len(read) > 3  # the second call read texts, too; one that was known is not read again
    assert all(len(text) <= 1 for text in read)  # a token is a byte, so a character at most


def test_prompts_that_read_alike_must_be_contrasted_alike(exact):
    contrast = Contrast(without="context")
    with pytest.raises(UserError, match="prompt 2: reads as an earlier one"):
        ContrastProcessor(contrast, exact, ["<doc>ab</doc> c", "<doc>a</doc>b c"])
