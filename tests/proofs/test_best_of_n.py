"""Best-of-n: its exact law, KL and win rates on an enumerable world; any writer works."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from tests.decoding.slow_search import hashed
from tests.decoding.table_model import table_lm
from trueup.decoding.best_of_n import BestOfN, best_of_n_kl, best_of_n_win_rate
from trueup.decoding.protocol import Decoded, Request
from trueup.errors import UserError
from trueup.models.sampling import Sampling

CHANCES = np.array([0.4, 0.3, 0.2, 0.1])
TABLE = [[1 / 5] * 5] * 4 + [[*CHANCES, 0.0]]
WORTH = {"0": 0.3, "1": 0.1, "2": 0.7, "3": 0.9}


def worth(prompts, texts):
    return [WORTH[text] for text in texts]


def run(best: BestOfN, lm, prompts, reward=worth, **sampling) -> list[list[Decoded]]:
    request = Request(sampling=Sampling(**sampling), rewards={"r": reward})
    return best.decode(lm, prompts, request)


# 1. Closed forms (sheet 54, section 8.4).


@pytest.mark.parametrize(("n", "kl"), [(2, 0.1931472), (4, 0.6362944), (8, 1.2044415)])
def test_kl_is_the_sheet_s_and_the_integral_of_the_density(n, kl):
    assert best_of_n_kl(n) == pytest.approx(kl, abs=5e-8)
    density = lambda u: n * u ** (n - 1) * math.log(n * u ** (n - 1)) if u else 0.0  # noqa: E731
    assert best_of_n_kl(n) == pytest.approx(scipy.integrate.quad(density, 0, 1)[0], abs=1e-7)


@pytest.mark.parametrize(("n", "against"), [(1, 1), (4, 1), (4, 2), (3, 8)])
def test_win_rate_is_the_integral_of_one_law_over_the_other(n, against):
    wins = scipy.integrate.quad(lambda u: n * u ** (n - 1) * u**against, 0, 1)[0]
    assert best_of_n_win_rate(n, against) == pytest.approx(wins, abs=1e-9)


def test_one_candidate_is_the_model_itself():
    assert best_of_n_kl(1) == 0
    assert best_of_n_win_rate(1) == 0.5


# 3. Known law: P(best is y) = F(y)^n - F(before y)^n on the enumerable world.


def law(n: int) -> np.ndarray:
    """The chances of each answer to be the best of n, from the sorted worths."""
    order = sorted(range(4), key=lambda token: WORTH[str(token)])
    below = np.concatenate([[0.0], np.cumsum(CHANCES[order])])
    found = np.empty(4)
    found[order] = below[1:] ** n - below[:-1] ** n
    return found


def drawn(n: int, seeds: int) -> list[str]:
    lm = table_lm(TABLE, start="4", eos=None)
    prompts = ["4"] * 100  # the same prompt again draws anew
    results = [
        run(BestOfN(candidates=n), lm, prompts, max_new_tokens=1, seed=seed)
        for seed in range(seeds)
    ]
    return [several[0].text for result in results for several in result]


@pytest.mark.parametrize("n", [1, 4])
def test_best_of_n_draws_its_exact_law(n):
    """Chi-square over 6,000 answers, p > 0.001."""
    counts = Counter(drawn(n, seeds=60))
    observed = [counts[str(token)] for token in range(4)]
    assert scipy.stats.chisquare(observed, 6000 * law(n)).pvalue > 0.001


def test_kl_with_few_answers_stays_below_its_bound():
    for n in (2, 4, 16):
        assert 0 < scipy.stats.entropy(law(n), CHANCES) < best_of_n_kl(n)


def test_wins_against_one_sample_are_no_more_than_without_ties():
    values = np.array([WORTH[str(token)] for token in range(4)])
    for n in (2, 4):
        wins = sum(
            law(n)[a] * CHANCES[b] * (1.0 if values[a] > values[b] else 0.5 * (a == b))
            for a, b in itertools.product(range(4), repeat=2)
        )
        assert 0.5 < wins < best_of_n_win_rate(n)


# 4. and 5. Planted effect and negative control.


def test_more_candidates_earn_more_and_a_constant_reward_nothing():
    lm = table_lm(TABLE, start="4", eos=None)
    prompts = ["4"] * 200
    means = []
    for n in (1, 2, 4, 8):
        results = run(BestOfN(candidates=n), lm, prompts, max_new_tokens=1)
        means.append(np.mean([WORTH[several[0].text] for several in results]))
    expected = [float(law(n) @ [WORTH[str(token)] for token in range(4)]) for n in (1, 2, 4, 8)]
    assert means == pytest.approx(expected, abs=4 * 0.3 / math.sqrt(200))
    assert means == sorted(means)
    idle = run(BestOfN(candidates=8), lm, prompts, lambda p, t: [1.0] * len(t), max_new_tokens=1)
    plain = lm.sample(prompts, n=8, max_new_tokens=1)
    assert [r[0].text for r in idle] == [several[0].text for several in plain]


# The decoder.


def test_the_pool_is_the_model_s_samples_and_the_best_comes_first(tiny_llama):
    prompts = ["The nurse said", "A", "He"]
    results = run(BestOfN(candidates=6), tiny_llama, prompts, hashed, max_new_tokens=5, n=3)
    samples = tiny_llama.sample(prompts, n=6, max_new_tokens=5)
    for prompt, several, pool in zip(prompts, results, samples, strict=True):
        values = hashed([prompt] * 6, [sample.text for sample in pool])
        order = np.argsort(-np.array(values), kind="stable")[:3]
        assert [list(r.token_ids) for r in several] == [pool[place].token_ids for place in order]
        assert [r.score for r in several] == [values[place] for place in order]


def test_a_batch_of_prompts_is_each_prompt_alone(tiny_llama):
    prompts = ["The nurse said", "A", "He"]
    best = BestOfN(candidates=4)
    together = run(best, tiny_llama, prompts, hashed, max_new_tokens=5)
    alone = [run(best, tiny_llama, [prompt], hashed, max_new_tokens=5)[0] for prompt in prompts]
    assert [r[0].text for r in together] == [r[0].text for r in alone]


def test_each_prompt_is_read_once_for_all_its_candidates():
    lm = table_lm(TABLE, start="4", eos=None)
    run(BestOfN(candidates=8), lm, ["4", "1 2 3"], lambda p, t: [0.0] * len(t), max_new_tokens=5)
    assert lm.work.trunk_tokens == 4 + 2 * 8 * 4


@dataclass(frozen=True)
class Written:
    text: str


class Script:
    """A writer with the one function that all have."""

    def sample(
        self,
        prompts,
        *,
        n=1,
        max_new_tokens=64,
        temperature=1.0,
        top_p=1.0,
        stop=(),
        seed=0,
    ):
        return [[Written("word " * (1 + number % 3)) for number in range(n)] for _ in prompts]


def test_any_writer_serves():
    request = Request(rewards={"words": lambda p, t: [float(len(x.split())) for x in t]})
    chat = [{"role": "user", "content": "Say something."}]
    results = BestOfN(candidates=4).decode(Script(), ["a", chat], request)
    assert [several[0].text for several in results] == ["word word word "] * 2
    assert results[0][0].rewards == {"words": 3.0}
    assert len(results[0][0].trace[0]["candidates"]) == 4


@pytest.mark.parametrize(
    ("sampling", "what"),
    [({"n": 5}, "n must be at most candidates, 4, got 5"), ({"temperature": 0}, "above 0")],
)
def test_what_a_pool_cannot_give_is_refused(sampling, what):
    request = Request(rewards={"r": worth}, sampling=Sampling(**sampling))
    with pytest.raises(UserError, match=what):
        BestOfN(candidates=4).decode(Script(), ["a"], request)
