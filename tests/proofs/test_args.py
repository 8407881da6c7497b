"""ARGS: its rule token by token, its limits, and what reward-guided tokens do to a planted word."""

import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch

from tests.decoding.slow_search import hashed, slow_search
from tests.decoding.table_model import table_lm
from trueup.decoding.args import ARGS
from trueup.decoding.deal import DeAL
from trueup.decoding.protocol import Request
from trueup.models import LanguageModel, load
from trueup.models.sampling import Sampling

PROMPTS = ["The nurse said", "A", "He went to the house near"]
FIRST = [0.2, 0.5, 0.3]
TABLE = [[1 / 4] * 4] * 3 + [[*FIRST, 0.0]]


def run(args, lm, prompts, reward, **sampling):
    request = Request(sampling=Sampling(**sampling), rewards={"r": reward})
    return args.decode(lm, prompts, request)


@pytest.fixture(scope="module")
def exact(tiny_model_folder) -> LanguageModel:
    return load(tiny_model_folder, device="cpu", dtype="float64")


def ids(args, lm, reward=hashed) -> list[list[int]]:
    results = run(args, lm, PROMPTS, reward, max_new_tokens=6)
    return [list(several[0].token_ids) for several in results]


@pytest.mark.parametrize("weight", [0.5, 2.0, 8.0])
def test_tokens_are_the_rule_s_without_a_cache(exact, weight):
    found = ids(ARGS(weight=weight, top_k=4), exact)
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        expected, _ = slow_search(
            exact,
            prompt,
            score=lambda logps, r: logps[-1] + weight * r,
            reward=hashed,
            top_k=4,
            lookahead=0,
            max_new_tokens=6,
        )
        assert tokens == expected


def test_scores_are_log_probability_and_weighted_reward():
    lm = table_lm(TABLE, start="3", eos=None)
    worth = {"0": 1.0, "1": 0.0, "2": 0.6}
    ((result,),) = run(
        ARGS(weight=2, top_k=3), lm, ["3"], lambda p, t: [worth[x] for x in t], max_new_tokens=1
    )
    scores = {entry["text"]: entry["c"] for entry in result.trace[0]["candidates"]}
    expected = {token: math.log(FIRST[int(token)]) + 2 * worth[token] for token in worth}
    assert scores == pytest.approx(expected, abs=1e-6)
    assert result.text == "0"  # log 0.2 + 2 beats log 0.3 + 1.2 and log 0.5


def test_no_weight_is_greedy_generate(exact):
    for prompt, tokens in zip(PROMPTS, ids(ARGS(weight=0, top_k=5), exact), strict=True):
        start = torch.tensor([exact.encoder.prompt(prompt)])
        peer = exact.model.generate(start, do_sample=False, max_new_tokens=6, pad_token_id=0)
        assert tokens == peer[0, start.shape[1] :].tolist()


def test_one_beam_of_deal_without_lookahead_is_args(exact):
    deal = run(DeAL(lam=3, top_k=4, lookahead=0), exact, PROMPTS, hashed, max_new_tokens=6)
    assert ids(ARGS(weight=3, top_k=4), exact) == [list(r[0].token_ids) for r in deal]


def test_draws_follow_the_softmax_of_the_scores():
    """Chi-square over 2,000 draws, p > 0.001; the policy alone is refused."""
    lm = table_lm(TABLE, start="3", eos=None)
    args = ARGS(weight=1.0, top_k=3, sample="sample", temperature=0.7)
    worth = {"0": 1.0, "1": 0.0, "2": 0.6}
    counts: Counter[str] = Counter()
    for seed in range(25):
        (results,) = run(
            args,
            lm,
            ["3"],
            lambda p, t: [worth[x] for x in t],
            max_new_tokens=1,
            n=80,
            seed=seed,
        )
        counts.update(result.text for result in results)
    scores = np.log(FIRST) + [worth[str(token)] for token in range(3)]
    expected = np.exp(scores / 0.7) / np.exp(scores / 0.7).sum()
    observed = [counts[str(token)] for token in range(3)]
    assert scipy.stats.chisquare(observed, 2000 * expected).pvalue > 0.001
    assert scipy.stats.chisquare(observed, 2000 * np.array(FIRST)).pvalue < 1e-6


def planted(shares: float) -> LanguageModel:
    rows = np.random.default_rng(0).dirichlet([0.5] * 7, size=8) * (1 - shares)
    return table_lm(np.hstack([rows, np.full((8, 1), shares)]), start="0", eos=None)


def presence(prompts, texts):
    return [float("7" in text) for text in texts]


def test_a_planted_token_appears_with_its_reward_and_not_without():
    lm, prompts = planted(0.1), [str(number) for number in range(8)]
    shares = []
    for weight in (0.0, 1.0, 2.0, 4.0):
        args = ARGS(weight=weight, top_k=5)
        results = run(args, lm, prompts, presence, max_new_tokens=12)
        shares.append(np.mean([several[0].rewards["r"] for several in results]))
    assert shares == [0.0, 0.25, 0.875, 0.875]  # sheet 21's world: no lookahead is ARGS


def test_a_constant_reward_changes_no_token(exact):
    constant = ids(ARGS(weight=9), exact, lambda p, t: [4.0] * len(t))
    assert constant == ids(ARGS(weight=0), exact)


def test_a_batch_of_prompts_is_each_prompt_alone(exact):
    args = ARGS(weight=2, top_k=4, sample="sample")
    together = run(args, exact, PROMPTS, hashed, max_new_tokens=6, n=2)
    alone = [run(args, exact, [prompt], hashed, max_new_tokens=6, n=2)[0] for prompt in PROMPTS]
    assert [[r.token_ids for r in several] for several in together] == [
        [r.token_ids for r in several] for several in alone
    ]


def test_each_token_goes_through_the_model_once():
    lm = planted(0.1)
    run(ARGS(top_k=5), lm, ["0", "1 2 3", "4"], presence, max_new_tokens=6)
    assert lm.work.trunk_tokens == 5 + 3 * 5
