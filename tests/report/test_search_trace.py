import math
from typing import Any

import numpy as np
import pytest

from tests.decoding.slow_search import hashed
from tests.report.searches import POOL, TWO_BEAMS, entry, steps
from trueup.decoding.args import ARGS
from trueup.decoding.deal import DeAL
from trueup.decoding.protocol import Request
from trueup.models import LanguageModel
from trueup.models.sampling import Sampling
from trueup.report.search_trace import spans, steps_of, ways_of


def ways(trace: Any, text: str, score: float | None) -> Any:
    return ways_of(steps_of(trace), text, score)


def test_the_way_leads_from_the_first_step_to_the_completion() -> None:
    assert ways(TWO_BEAMS, "abc", 3.0) == ({0: 0, 1: 0, 2: 0}, [{0: 1, 1: 2, 2: 2}])


def test_a_completion_that_ended_early_ends_its_way_there() -> None:
    chosen, others = ways(TWO_BEAMS, "ba", 2.0)
    assert chosen == {0: 1, 1: 2}
    assert others == [{0: 0, 1: 0, 2: 0}, {1: 2, 2: 2}]  # the second goes on from the first way


def test_of_equal_scores_the_completions_own_text_is_taken() -> None:
    trace = steps([entry("x", 1.0, kept=True), entry("y", 1.0, kept=True)])
    assert ways(trace, "y", 1.0)[0] == {0: 1}
    assert ways(trace, "cut by a step", 1.0)[0] == {0: 0}


@pytest.mark.parametrize("score", [None, 99.0, -4.0])
def test_what_was_not_kept_with_this_score_is_no_completion(score: float | None) -> None:
    chosen, others = ways(TWO_BEAMS, "c", score)
    assert chosen == {}
    assert others == [{0: 0, 1: 0, 2: 0}, {0: 1, 1: 2, 2: 2}]


def test_a_candidate_goes_on_from_the_parent_that_is_told() -> None:
    first = [entry("x", 0.0, kept=True), entry("x", 0.0, kept=True)]
    for parent in (0, 1):
        trace = steps(first, [entry("xy", 1.0, kept=True, parent=parent)])
        assert ways(trace, "xy", 1.0)[0] == {0: parent, 1: 0}
    assert ways(steps(first, [entry("xy", 1.0, kept=True, parent=7)]), "xy", 1.0)[0] == {1: 0}


def test_what_nothing_began_has_no_parent() -> None:
    trace = steps([entry("q", 0.0, kept=True)], [entry("xy", 1.0, kept=True)])
    assert ways(trace, "xy", 1.0) == ({1: 0}, [{0: 0}])


def planted_search(rng: np.random.Generator) -> tuple[Any, dict[int, int]]:
    """A beam search whose parents are known, and the true way to its best text."""
    beams, ancestry, trace, places = [("", 0.0, ())], [()], [], [None]
    for _ in range(9):
        grown = []
        for place, (text, logp, way) in enumerate(beams):
            grown += [
                (text + letter, logp - float(rng.exponential()), (*way, place)) for letter in "abcd"
            ]
        scores = rng.permutation(len(grown)).astype(float)
        kept = np.argsort(-scores)[:3]
        trace.append(
            [
                entry(text, float(scores[n]), kept=n in kept, logp=logp, parent=places[way[-1]])
                for n, (text, logp, way) in enumerate(grown)
            ]
        )
        beams = [(grown[n][0], grown[n][1], (*ancestry[grown[n][2][-1]], int(n))) for n in kept]
        ancestry, places = [way for _, _, way in beams], [int(n) for n in kept]
    return steps(*trace), dict(enumerate(beams[0][2]))


@pytest.mark.parametrize("seed", range(20))
def test_planted_parents_are_found(seed: int) -> None:
    trace, truth = planted_search(np.random.default_rng(seed))
    found = steps_of(trace)
    last = found[-1][truth[8]]
    chosen, others = ways_of(found, last.text, last.score)
    assert chosen == truth
    kept = {
        (n, place)
        for n, step in enumerate(found)
        for place, each in enumerate(step)
        if each.is_kept
    }
    drawn = [node for way in (chosen, *others) for node in way.items()]
    assert set(drawn) == kept


@pytest.mark.parametrize(
    ("decoder", "n_beams"),
    [(DeAL(top_k=4, num_beams=3, lookahead=2), 3), (ARGS(top_k=6, sample="sample"), 1)],
)
def test_the_way_of_a_real_search_has_its_tokens_likelihoods(
    tiny_llama: LanguageModel, decoder: Any, n_beams: int
) -> None:
    """A byte-level model, whose texts hold unfinished letters: likelihoods are the truth."""
    request = Request(sampling=Sampling(max_new_tokens=10, seed=3), rewards={"h": hashed})
    for [best, *_] in decoder.decode(tiny_llama, ["The nurse said", "A", "He went"], request):
        found = steps_of(best.trace)
        chosen, others = ways_of(found, best.text, best.score)
        told = [found[step][place].logp for step, place in chosen.items()]
        assert list(chosen) == list(range(len(best.token_ids)))
        assert told == pytest.approx(np.cumsum(best.logps), abs=1e-9)
        assert bool(others) == (n_beams > 1)


def test_another_packages_trace_may_leave_things_out() -> None:
    found = steps_of(
        [
            {},
            {"candidates": []},
            {"candidates": [{}, {"text": "x", "h": 2, "kept": 1, "note": 3, "told": "y"}, "z"]},
        ]
    )
    assert len(found) == 1
    assert math.isnan(found[0][0].score)
    second = found[0][1]
    assert (second.text, second.score, second.is_kept) == ("x", 2.0, True)
    assert second.notes == {"note": 3.0}


def test_a_pool_is_one_step() -> None:
    assert ways(POOL, "one two three", 3.0) == ({0: 1}, [])


@pytest.mark.parametrize(("count", "most"), [(1, 5), (5, 5), (7, 3), (200, 12)])
def test_spans_hold_every_number_once(count: int, most: int) -> None:
    parts = spans(count, most)
    assert [n for start, end in parts for n in range(start, end)] == list(range(count))
    assert len(parts) == min(count, most)
    sizes = {end - start for start, end in parts}
    assert max(sizes) - min(sizes) <= 1
