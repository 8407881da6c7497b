"""DeAL against sheet 21's enumerable worlds, its identities, and a search that re-reads all."""

import itertools
import math

import numpy as np
import pytest
import torch

from tests.decoding.slow_search import hashed, slow_search
from tests.decoding.table_model import table_lm
from trueup.decoding.deal import DeAL, deal_score
from trueup.decoding.protocol import Decoded, Request
from trueup.models import LanguageModel, load
from trueup.models.sampling import Sampling

EVEN = [0.25] * 4
WORLD_A = [EVEN, [0.30, 0.50, 0.20, 0], [0.40, 0.15, 0.45, 0], [0.05, 0.60, 0.35, 0]]
WORLD_B = [EVEN, [0.2, 0.7, 0.1, 0], [0.6, 0.2, 0.2, 0], [0.05, 0.55, 0.40, 0]]
PROMPTS = ["The nurse said", "A", "He went to the house near", "x y"]


def share_of_twos(prompts, texts):
    return [text.count("2") / len(text) if text else 0.0 for text in texts]


def decoded(lm: LanguageModel, deal: DeAL, prompts, reward, **sampling) -> list[Decoded]:
    rewards = reward if isinstance(reward, dict) else {"h": reward}
    request = Request(sampling=Sampling(**sampling), rewards=rewards)
    return [several[0] for several in deal.decode(lm, prompts, request)]


def in_world(world, deal: DeAL, reward) -> Decoded:
    lm = table_lm(world, start="3", eos="0")
    return decoded(lm, deal, ["3"], reward, max_new_tokens=3)[0]


def first_scores(result: Decoded) -> list[float]:
    return [candidate["c"] for candidate in result.trace[0]["candidates"]]


@pytest.fixture(scope="module")
def exact(tiny_model_folder) -> LanguageModel:
    return load(tiny_model_folder, device="cpu", dtype="float64")


# 1. Identity: the sheet's vectors. Log-probabilities are float32, hence 1e-6.


@pytest.mark.parametrize(
    ("settings", "tokens", "logp"),
    [
        ({"lam": 0, "lookahead": 0}, (1, 1, 1), -1.897119984886),
        ({"lam": 0, "lookahead": 2, "top_k": 2}, (1, 1, 1), -1.897119984886),
        ({"lam": 0, "num_beams": 5, "lookahead": 1}, (1, 0), -1.714798428092),
        ({"lam": 1, "lookahead": 2}, (2, 2, 2), -2.646837516934),
        ({"lam": 2, "num_beams": 5, "lookahead": 2}, (2, 0), -1.966112856372833),
        ({"lam": 0.5, "lookahead": 0}, (1, 1, 1), -1.897119984886),
        ({"lam": 0.5, "lookahead": 1}, (1, 1, 1), -1.897119984886),
        ({"lam": 0.5, "lookahead": 2}, (1, 1, 1), -1.897119984886),
    ],
)
def test_world_a_is_the_sheet_s(settings, tokens, logp):
    result = in_world(WORLD_A, DeAL(**{"top_k": 3, **settings}), share_of_twos)
    assert tuple(result.token_ids) == tokens
    assert sum(result.logps) == pytest.approx(logp, abs=1e-6)


def test_world_a_scores_its_first_step_as_the_sheet():
    result = in_world(WORLD_A, DeAL(lam=1, top_k=3, lookahead=2), share_of_twos)
    assert first_scores(result) == pytest.approx([-0.510826, -0.049822, -2.995732], abs=1e-6)
    kept = [candidate["kept"] for candidate in result.trace[0]["candidates"]]
    assert kept == [False, True, False]


def ends_with_two(prompts, texts):
    """World B's h, which the text alone tells: a 2 before the end within three tokens."""
    return [float(text.endswith("2") and len(text) < 3) for text in texts]


@pytest.mark.parametrize(
    ("lookahead", "scores", "tokens"),
    [
        (0, [-0.597837001, -0.916290732], (1, 1, 1)),
        (1, [-0.597837001, 0.083709268], (2, 0)),
        (2, [-0.597837001, 0.083709268], (2, 0)),
    ],
)
def test_world_b_needs_its_lookahead(lookahead, scores, tokens):
    # Skipped special tokens leave no trace of the end in a text: with no lookahead a bare "2" would
    # look ended, so h reads the end as the sheet means it.
    reward = ends_with_two if lookahead else lambda p, t: [0.0] * len(t)
    result = in_world(WORLD_B, DeAL(lam=1, top_k=3, lookahead=lookahead), reward)
    assert first_scores(result)[:2] == pytest.approx(scores, abs=1e-6)
    assert tuple(result.token_ids) == tokens


def test_score_is_log_probability_and_weighted_heuristic():
    scores = deal_score(np.array([-1.0, -2.5]), np.array([0.5, 1.0]), 2.0)
    assert scores == pytest.approx([-1.0 + 2 * 0.5, -2.5 + 2 * 1.0], abs=1e-15)


# 3. Known optimum: with as many beams as prefixes the search is exhaustive.


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("world", [WORLD_A, WORLD_B])
def test_enough_beams_find_the_best_text_there_is(world, lam):
    best = -math.inf
    for length in (1, 2, 3):
        for ids in itertools.product(range(3), repeat=length):
            is_whole = 0 not in ids[:-1] and (ids[-1] == 0 or length == 3)
            if is_whole:
                steps = zip((3, *ids), ids, strict=False)
                logp = sum(math.log(world[before][after]) for before, after in steps)
                text = "".join(str(token) for token in ids if token)
                best = max(best, logp + lam * share_of_twos([""], [text])[0])
    result = in_world(world, DeAL(lam=lam, top_k=3, num_beams=7, lookahead=0), share_of_twos)
    assert result.score == pytest.approx(best, abs=1e-6)


# 1. Identities.


@pytest.mark.parametrize(("top_k", "lookahead"), [(1, 0), (3, 0), (4, 3), (2, 9)])
def test_no_reward_and_one_beam_is_greedy_generate(tiny_llama, top_k, lookahead):
    deal = DeAL(lam=0, top_k=top_k, lookahead=lookahead)
    results = decoded(tiny_llama, deal, PROMPTS, hashed, max_new_tokens=10)
    for prompt, result in zip(PROMPTS, results, strict=True):
        ids = torch.tensor([tiny_llama.encoder.prompt(prompt)])
        peer = tiny_llama.model.generate(ids, do_sample=False, max_new_tokens=10, pad_token_id=0)
        assert list(result.token_ids) == peer[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("beams", [2, 3])
def test_no_reward_at_fixed_length_is_beam_generate(tiny_llama, beams):
    deal = DeAL(lam=0, top_k=beams, num_beams=beams, lookahead=0)
    ids = torch.tensor([tiny_llama.encoder.prompt(PROMPTS[0])])
    peer = tiny_llama.model.generate(
        ids, do_sample=False, num_beams=beams, min_new_tokens=8, max_new_tokens=8, pad_token_id=0
    )
    (result,) = decoded(tiny_llama, deal, PROMPTS[:1], hashed, max_new_tokens=8)
    assert 2 not in result.token_ids, "the end of text is not among this model's best"
    assert list(result.token_ids) == peer[0, ids.shape[1] :].tolist()


def test_a_constant_reward_changes_nothing_but_the_score(tiny_llama):
    free = decoded(tiny_llama, DeAL(lam=0, lookahead=2), PROMPTS, hashed, max_new_tokens=6)
    same = decoded(
        tiny_llama, DeAL(lam=3, lookahead=2), PROMPTS, lambda p, t: [5.0] * len(t), max_new_tokens=6
    )
    assert [r.token_ids for r in same] == [r.token_ids for r in free]
    assert [r.score for r in same] == pytest.approx([r.score + 15 for r in free], abs=1e-9)


@pytest.mark.parametrize(
    ("lam", "reward"),
    [
        (3.0, lambda p, t: [value + 7 for value in hashed(p, t)]),
        (1.5, lambda p, t: [2 * value for value in hashed(p, t)]),
    ],
    ids=["shifted", "scaled"],
)
def test_shift_and_scale_of_the_reward_change_no_text(tiny_llama, lam, reward):
    deal = DeAL(lam=3.0, lookahead=3, num_beams=2)
    plain = decoded(tiny_llama, deal, PROMPTS, hashed, max_new_tokens=6)
    other = DeAL(lam=lam, lookahead=3, num_beams=2)
    changed = decoded(tiny_llama, other, PROMPTS, reward, max_new_tokens=6)
    assert [r.token_ids for r in changed] == [r.token_ids for r in plain]


@pytest.mark.parametrize("weights", [(1.0, 0.0), {"other": 0.0, "h": 1.0}])
def test_a_weight_of_zero_is_the_single_reward(tiny_llama, weights):
    both = {"h": hashed, "other": lambda p, t: [float(len(x)) for x in t]}
    mixed = DeAL(lam=3, lookahead=2, weights=weights)
    single = decoded(tiny_llama, DeAL(lam=3, lookahead=2), PROMPTS, hashed, max_new_tokens=6)
    results = decoded(tiny_llama, mixed, PROMPTS, both, max_new_tokens=6)
    assert [r.token_ids for r in results] == [r.token_ids for r in single]
    assert set(results[0].rewards) == {"h", "other"}


# 2. Differential: the cache against a search that re-reads every prefix, in float64.


@pytest.mark.parametrize(
    ("top_k", "num_beams", "lookahead"), [(3, 1, 0), (3, 1, 1), (4, 1, 4), (3, 2, 3), (2, 3, 9)]
)
def test_cached_search_is_the_uncached_one_token_for_token(exact, top_k, num_beams, lookahead):
    settings = {"top_k": top_k, "num_beams": num_beams, "lookahead": lookahead}
    results = decoded(exact, DeAL(lam=4, **settings), PROMPTS[:3], hashed, max_new_tokens=5)
    for prompt, result in zip(PROMPTS[:3], results, strict=True):
        ids, score = slow_search(
            exact,
            prompt,
            score=lambda logps, h: sum(logps) + 4 * h,
            reward=hashed,
            max_new_tokens=5,
            **settings,
        )
        assert list(result.token_ids) == ids
        assert result.score == pytest.approx(score, abs=1e-5)


ENDING = np.random.default_rng(5).dirichlet([0.6] * 6, size=6)  # token 0 ends, often


@pytest.mark.parametrize("lookahead", [0, 1, 2, 5])
def test_lookaheads_that_end_early_are_reused_rightly(lookahead):
    lm = table_lm(ENDING, start="1", eos="0")
    prompts = ["1", "2 3", "4", "5 5 5", "3"]
    deal = DeAL(lam=2, top_k=4, num_beams=2, lookahead=lookahead)
    together = decoded(lm, deal, prompts, hashed, max_new_tokens=8)
    for prompt, result in zip(prompts, together, strict=True):
        ids, score = table_search(prompt, lookahead)
        assert list(result.token_ids) == ids
        assert result.score == pytest.approx(score, abs=1e-5)


def table_search(prompt: str, lookahead: int) -> tuple[list[int], float]:
    """The slow search on the table itself."""

    class Table:
        tokenizer = table_lm(ENDING, start="1", eos="0").tokenizer
        encoder = table_lm(ENDING, start="1", eos="0").encoder

        @staticmethod
        def model(input_ids):
            logits = torch.tensor(ENDING).log()[input_ids]

            class Output:
                pass

            Output.logits = logits
            return Output

    return slow_search(
        Table,
        prompt,
        score=lambda logps, h: sum(logps) + 2 * h,
        reward=hashed,
        top_k=4,
        num_beams=2,
        lookahead=lookahead,
        max_new_tokens=8,
    )


@pytest.mark.parametrize("unit", ["token", "segment"])
def test_a_batch_of_prompts_is_each_prompt_alone(exact, unit):
    deal = DeAL(lam=3, top_k=3, num_beams=2, lookahead=3, unit=unit)
    together = decoded(exact, deal, PROMPTS, hashed, max_new_tokens=7)
    turned = decoded(exact, deal, PROMPTS[::-1], hashed, max_new_tokens=7)[::-1]
    alone = [decoded(exact, deal, [prompt], hashed, max_new_tokens=7)[0] for prompt in PROMPTS]
    ids = [result.token_ids for result in together]
    assert ids == [result.token_ids for result in alone]
    assert ids == [result.token_ids for result in turned]


# 4. and 5. Planted effect and negative control: sheet 21's last paragraph.


@pytest.fixture(scope="module")
def planted() -> LanguageModel:
    """Eight rows over seven ordinary tokens and x = 7, whose share is 0.1 and never the largest."""
    rows = np.random.default_rng(0).dirichlet([0.5] * 7, size=8) * 0.9
    return table_lm(np.hstack([rows, np.full((8, 1), 0.1)]), start="0", eos=None)


def presence(prompts, texts):
    return [float("7" in text) for text in texts]


STARTS = [str(number) for number in range(8)]


@pytest.mark.parametrize("lookahead", [0, 4])
@pytest.mark.parametrize(
    ("lam", "share", "logp"),
    [
        (0.0, 0.0, -12.1996),
        (0.5, 0.0, -12.1996),
        (1.0, 0.25, -12.2575),
        (2.0, 0.875, -13.0082),
        (4.0, 0.875, -13.0082),
    ],
)
def test_planted_token_appears_as_its_weight_grows(planted, lam, share, logp, lookahead):
    deal = DeAL(lam=lam, top_k=5, lookahead=lookahead)
    results = decoded(planted, deal, STARTS, presence, max_new_tokens=12)
    assert np.mean([result.rewards["h"] for result in results]) == share
    assert np.mean([sum(result.logps) for result in results]) == pytest.approx(logp, abs=1e-4)


def test_a_random_reward_does_not_do_what_the_real_one_does(planted):
    """Mean presence 0.51 over seeds in the sheet (sd 0.17); ours keeps a text's score: 0.3-0.7."""
    shares = []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        deal = DeAL(lam=4.0, top_k=5, lookahead=4)
        results = decoded(
            planted, deal, STARTS, lambda p, t, rng=rng: list(rng.random(len(t))), max_new_tokens=12
        )
        shares.append(np.mean([float(7 in result.token_ids) for result in results]))
    assert 0.3 < np.mean(shares) < 0.7
    assert np.mean(shares) < 0.875 - 3 * np.std(shares) / math.sqrt(len(shares))


# Counted work: no token goes through the model twice.


@pytest.mark.parametrize("lookahead", [0, 1, 2, 4, 20])
def test_trunk_tokens_are_the_least_possible(planted, lookahead):
    k, steps = 5, 12
    planted.work.reset()
    deal = DeAL(lam=0.0, top_k=k, lookahead=lookahead)  # the greedy child is kept
    decoded(planted, deal, STARTS, presence, max_new_tokens=steps)
    horizons = [min(lookahead, steps - step) for step in range(1, steps + 1)]
    if lookahead == 0:
        each = steps - 1
    else:
        each = k * horizons[0]
        for before, now in itertools.pairwise(horizons):
            known = before - 1  # of the greedy child's lookahead, and it went through the model
            each += (k - 1) * now + (now - known if before > 1 else now)
    assert planted.work.trunk_tokens == len(STARTS) * (1 + each)
    assert planted.work.padding_tokens == 0
