"""The search driver: order, endings, errors, a reuse of lookaheads that costs nothing."""

import math

import numpy as np
import pytest
import torch

from tests.decoding.slow_search import hashed
from tests.decoding.table_model import table_lm
from trueup.decoding.args import ARGS
from trueup.decoding.beams import Beam, likeliest, ranked
from trueup.decoding.deal import DeAL
from trueup.decoding.protocol import Request
from trueup.decoding.search_driver import compete
from trueup.decoding.transfer_q import TransferQ
from trueup.errors import UserError
from trueup.models.sampling import Sampling

PROMPTS = ["The nurse said", "A", "He went"]


def decode(decoder, lm, prompts, rewards=None, **sampling):
    request = Request(sampling=Sampling(**sampling), rewards=rewards or {"h": hashed})
    return decoder.decode(lm, prompts, request)


def beam(score: float, logp: float, *ids: int, ending=None, search: int = 0) -> Beam:
    return Beam(search=search, prompt=0, token_ids=ids, logps=(logp,), score=score, ending=ending)


def test_ties_go_to_the_likelier_then_the_lower_tokens():
    beams = [beam(1, -2, 5), beam(1, -1, 9), beam(1, -2, 4), beam(2, -9, 8)]
    assert [b.token_ids for b in ranked(beams)] == [(8,), (9,), (4,), (5,)]


def test_likeliest_tokens_take_the_lower_id_in_a_tie():
    logprobs = torch.tensor([[0.1, 0.3, 0.1, 0.3, 0.1, 0.1], [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]]).log()
    assert likeliest(logprobs, 3) == [[1, 3, 0], [0, 1, 2]]


def test_an_ended_beam_keeps_its_place_until_it_is_beaten():
    ended = [[beam(3, -1, 1, ending="eos")]]
    children = [beam(2, -1, 2), beam(1, -1, 3)]
    assert compete(children, ended, 2) == [0]
    assert len(ended[0]) == 1
    better = [beam(5, -1, 2), beam(4, -1, 3)]
    assert compete(better, ended, 2) == [0, 1]
    assert ended == [[]]


# Endings.


def test_each_ending_is_told_and_its_text_cut():
    table = np.zeros((5, 5))
    table[1, 2] = table[2, 3] = table[3, 4] = table[4, 0] = table[0, 0] = 1
    lm = table_lm(table, start="1", eos="0")
    deal = DeAL(lam=1, top_k=2, lookahead=1)
    for settings, text, reason in (
        ({"max_new_tokens": 9}, "234", "eos"),
        ({"max_new_tokens": 2}, "23", "length"),
        ({"max_new_tokens": 9, "stop": ("34",)}, "2", "stop"),
    ):
        ((result,),) = decode(deal, lm, ["1"], **settings)
        assert (result.text, result.reason) == (text, reason)


def test_tokens_without_any_chance_are_never_proposed():
    table = np.full((4, 4), 0.0)
    table[:, 1] = 1
    lm = table_lm(table, start="2", eos="0")
    ((result,),) = decode(ARGS(top_k=4), lm, ["2"], max_new_tokens=2)
    assert [entry["text"] for entry in result.trace[0]["candidates"]] == ["1"]


# What comes back.


def test_the_best_beams_come_back_in_order_of_their_score(tiny_llama):
    results = decode(
        DeAL(lam=3, num_beams=4, lookahead=2), tiny_llama, PROMPTS, max_new_tokens=5, n=3
    )
    for several in results:
        scores = [result.score for result in several]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)
        for result in several:
            total = sum(result.logps) + 3 * result.rewards["h"]
            assert result.score == pytest.approx(total, abs=1e-9)


def test_the_trace_shows_every_step_s_candidates(tiny_llama):
    deal = DeAL(lam=3, top_k=4, num_beams=2, lookahead=2)
    ((result,),) = decode(deal, tiny_llama, PROMPTS[:1], max_new_tokens=5)
    assert [step["step"] for step in result.trace] == list(range(5))
    assert [len(step["candidates"]) for step in result.trace] == [4, 8, 8, 8, 8]
    for step in result.trace:
        entries = step["candidates"]
        assert sum(entry["kept"] for entry in entries) == 2
        for entry in entries:
            assert entry["c"] == pytest.approx(entry["logp"] + 3 * entry["h"], abs=1e-9)
            assert entry["rewards"] == {"h": entry["h"]}


def test_log_probabilities_are_the_model_s_own(tiny_llama):
    deal = DeAL(lam=5, lookahead=3)
    for prompt, several in zip(
        PROMPTS, decode(deal, tiny_llama, PROMPTS, max_new_tokens=5), strict=True
    ):
        ids = tiny_llama.encoder.prompt(prompt)
        whole = torch.tensor([[*ids, *several[0].token_ids]])
        with torch.no_grad():
            logps = tiny_llama.model(input_ids=whole).logits[0].log_softmax(-1)
        own = [float(logps[len(ids) - 1 + t, id]) for t, id in enumerate(several[0].token_ids)]
        assert list(several[0].logps) == pytest.approx(own, abs=2e-5)


def test_more_prompts_than_rows_fit_run_in_several_batches(tiny_llama):
    prompts = [f"Prompt number {number}" for number in range(40)]
    deal = DeAL(lam=3, top_k=8, num_beams=2, lookahead=1)  # 16 rows each, 256 at once
    together = decode(deal, tiny_llama, prompts, max_new_tokens=3)
    alone = [decode(deal, tiny_llama, [prompt], max_new_tokens=3)[0] for prompt in prompts[::13]]
    assert [r[0].token_ids for r in together[::13]] == [r[0].token_ids for r in alone]


def test_no_prompts_are_no_results(tiny_llama):
    assert decode(DeAL(), tiny_llama, []) == []


# DeAL's own switches.


def test_length_penalty_is_none_by_default_and_lets_long_beams_live():
    lm = table_lm(
        [
            [0.2] * 5,
            [0.45, 0, 0.55, 0, 0],
            [0.1, 0, 0, 0.9, 0],
            [0.1, 0, 0, 0, 0.9],
            [1, 0, 0, 0, 0],
        ],
        start="1",
        eos="0",
    )
    settings = {"lam": 0, "top_k": 2, "num_beams": 3, "lookahead": 0}
    for penalty, text in ((0.0, ""), (1.0, "234")):
        deal = DeAL(**settings, length_penalty=penalty)
        ((result, *_),) = decode(deal, lm, ["1"], max_new_tokens=6, n=1)
        assert result.text == text
        length = len(result.token_ids)
        assert result.score == pytest.approx(sum(result.logps) / length**penalty, abs=1e-9)


def test_alignment_prompt_is_read_by_the_model_and_not_by_the_rewards(tiny_llama):
    seen: set[str] = set()

    def watching(prompts, texts):
        seen.update(prompts)
        return hashed(prompts, texts)

    told = DeAL(lam=0, alignment_prompt="Be kind.", lookahead=1)
    chat = [{"role": "user", "content": "Hello"}]
    results = decode(told, tiny_llama, ["Hello", chat], {"h": watching}, max_new_tokens=4)
    assert seen == {"Hello", tiny_llama.encoder.prompt_text(chat)}
    plain = DeAL(lam=0, lookahead=1)
    same = decode(plain, tiny_llama, ["Be kind.\n\nHello"], max_new_tokens=4)
    assert results[0][0].token_ids == same[0][0].token_ids


def test_segments_are_kept_by_reward_and_cost_no_lookahead():
    rows = np.random.default_rng(0).dirichlet([0.5] * 7, size=8) * 0.9
    lm = table_lm(np.hstack([rows, np.full((8, 1), 0.1)]), start="0", eos=None)
    deal = DeAL(top_k=5, num_beams=2, lookahead=3, unit="segment")
    prompts = [str(number) for number in range(8)]
    presence = {"x": lambda p, t: [float(text.count("7")) for text in t]}
    lm.work.reset()
    results = decode(deal, lm, prompts, presence, max_new_tokens=9)
    for (result,) in results:
        assert result.score == result.rewards["x"]
        assert len(result.trace) == 3
    # per segment: 5, then 25 rows' children kept to 5 of each of 1 or 2 beams; the last step
    # commits the kept ends alone
    assert lm.work.trunk_tokens == 8 * (1 + (5 + 5 + 2) + (10 + 10 + 2) + (10 + 10))
    plain = decode(DeAL(lam=0), lm, prompts, presence, max_new_tokens=9)
    assert sum(r[0].score for r in results) > sum(r[0].rewards["x"] for r in plain)


def test_one_segment_of_full_length_is_the_best_of_a_beam_search(tiny_llama):
    deal = DeAL(top_k=4, lookahead=5, unit="segment")
    beams = decode(
        DeAL(lam=0, top_k=4, num_beams=4, lookahead=0),
        tiny_llama,
        PROMPTS,
        max_new_tokens=5,
        n=4,
    )
    found = decode(deal, tiny_llama, PROMPTS, max_new_tokens=5)
    for several, (result,) in zip(beams, found, strict=True):
        assert result.token_ids == max(several, key=lambda r: r.rewards["h"]).token_ids


# Errors.


def nan_for(word: str):
    return lambda prompts, texts: [math.nan if word in prompt else 1.0 for prompt in prompts]


def broken_for(word: str):
    def reward(prompts, texts):
        if any(word in prompt for prompt in prompts):
            raise ValueError("no such word")
        return [1.0] * len(texts)

    return reward


@pytest.mark.parametrize("decoder", [DeAL(), ARGS(), TransferQ()], ids=["deal", "args", "transfer"])
@pytest.mark.parametrize(
    ("reward", "what"),
    [
        (nan_for("He"), "prompt 3: reward h must be finite, got nan"),
        (broken_for("He"), "prompt 3: reward .* no such word"),
        (lambda p, t: [1.0], "gave 1 numbers for"),
    ],
    ids=["nan", "raises", "short"],
)
def test_a_reward_that_fails_names_the_prompt(tiny_llama, decoder, reward, what):
    with pytest.raises(UserError, match=what):
        decode(decoder, tiny_llama, PROMPTS, {"h": reward}, max_new_tokens=2)


@pytest.mark.parametrize("decoder", [DeAL(), ARGS(), TransferQ()], ids=["deal", "args", "transfer"])
def test_too_long_a_prompt_says_by_how_much(tiny_llama, decoder):
    with pytest.raises(
        UserError, match=r"prompt 2: 15 tokens too long, got 251 tokens and max_new"
    ):
        decode(decoder, tiny_llama, ["A", "x" * 250], max_new_tokens=20)


def test_a_baseline_with_less_room_is_named(tiny_llama):
    lm = table_lm([[0.5, 0.5], [0.5, 0.5]], start="1", eos=None)
    with pytest.raises(UserError, match="another vocabulary than"):
        decode(TransferQ(baseline=lm), tiny_llama, ["A"])


@pytest.mark.parametrize(
    ("decoder", "rewards", "sampling", "what"),
    [
        (DeAL(), {"a": hashed, "b": hashed}, {}, "weights are needed for several rewards: a, b"),
        (DeAL(weights=(1.0, 2.0)), {"a": hashed}, {}, "weights must be one for each of a"),
        (DeAL(weights={"b": 1.0}), {"a": hashed}, {}, "weights must be one for each of a"),
        (DeAL(num_beams=2), {"a": hashed}, {"n": 3}, "n must be at most num_beams, 2, got 3"),
        (ARGS(), {"a": hashed}, {"n": 3}, "n must be 1 with sample=greedy, got 3"),
        (TransferQ(), {"a": hashed}, {"n": 2}, "n must be 1 with sample=greedy, got 2"),
    ],
)
def test_what_a_search_cannot_do_is_refused_first(tiny_llama, decoder, rewards, sampling, what):
    tiny_llama.work.reset()
    with pytest.raises(UserError, match=what):
        decode(decoder, tiny_llama, PROMPTS, rewards, **sampling)
    assert tiny_llama.work.trunk_tokens == 0


def test_no_reward_at_all_is_refused(tiny_llama):
    with pytest.raises(UserError, match="needs a reward, got none"):
        DeAL().decode(tiny_llama, PROMPTS, Request())


@pytest.mark.parametrize(
    ("cls", "settings", "what"),
    [
        (DeAL, {"lam": -1}, "lam must be at least 0"),
        (DeAL, {"top_k": 0}, "top_k must be at least 1"),
        (DeAL, {"unit": "word"}, "unit must be one of token, segment"),
        (DeAL, {"unit": "segment", "lookahead": 1}, "lookahead must be at least 2 for segments"),
        (ARGS, {"weight": -1}, "weight must be at least 0"),
        (ARGS, {"temperature": 0}, "temperature must be above 0"),
        (TransferQ, {"alpha": 0}, "alpha must be above 0"),
        (TransferQ, {"mode": "indirect"}, "beta is needed for mode=indirect"),
        (TransferQ, {"mode": "indirect", "beta": 1.0}, "baseline_reward is needed"),
        (TransferQ, {"normaliser": "other"}, "normaliser must be one of self, prompt, none"),
    ],
)
def test_wrong_settings_are_refused(cls, settings, what):
    with pytest.raises(UserError, match=what):
        cls(**settings)


def test_a_text_is_scored_once(tiny_llama):
    asked: list[tuple[str, str]] = []

    def counted(prompts, texts):
        asked.extend(zip(prompts, texts, strict=True))
        return hashed(prompts, texts)

    decode(DeAL(lam=2, lookahead=6), tiny_llama, PROMPTS, {"h": counted}, max_new_tokens=8)
    assert len(asked) == len(set(asked))
