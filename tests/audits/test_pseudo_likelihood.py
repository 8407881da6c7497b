import numpy as np
import pytest

from tests.audits.planted_models import masked_logps_of, toy_logits
from trueup.audits.probability.pseudo_likelihood import (
    masked_apart,
    masked_by_word,
    masked_onwards,
    masked_together,
    pieces,
    shared_positions,
    unmasked_mean,
)
from trueup.models.masked_language_model import Sentence

LOGPS = masked_logps_of(toy_logits)
MASK = 3
IDS = [1, 4, 5, 6, 7, 2]


def test_shared_positions_are_the_longest_matching_blocks():
    assert shared_positions([1, 4, 9, 5, 6, 2], [1, 8, 5, 6, 2]) == ([0, 3, 4, 5], [0, 2, 3, 4])


def test_equal_sequences_share_everything():
    assert shared_positions(IDS, IDS) == (list(range(6)), list(range(6)))


def test_sequences_without_a_common_token_share_nothing():
    assert shared_positions([1, 2], [3, 4]) == ([], [])


def test_frequent_tokens_of_long_sequences_are_shared_too():
    first = [5, 6] * 150
    second = [*first[:-1], 9]
    here, there = shared_positions(first, second)
    assert here == there == list(range(299))


def test_swapping_the_sentences_swaps_the_positions(rng: np.random.Generator):
    first = rng.integers(0, 30, size=12).tolist()
    second = [*first[:3], 40, 41, *first[4:]]
    here, there = shared_positions(first, second)
    assert shared_positions(second, first) == (there, here)


def test_all_positions_are_shared_and_modified_ones_together():
    whole, shared, modified = (
        masked_apart([(IDS, places)], LOGPS, MASK)[0] for places in ([1, 2, 3, 4], [2, 3, 4], [1])
    )
    assert whole == pytest.approx(shared + modified, abs=1e-12)


def test_one_token_masked_together_is_masked_apart():
    span = [(IDS, [2])]
    assert masked_together(span, LOGPS, MASK) == masked_apart(span, LOGPS, MASK)


def test_weights_of_one_change_nothing():
    span = [(IDS, [1, 2, 3, 4])]
    assert unmasked_mean(span, LOGPS, weights=[[1, 1, 1, 1]]) == unmasked_mean(span, LOGPS)


def test_no_position_scores_0():
    assert masked_apart([(IDS, []), (IDS, [1])], LOGPS, MASK)[0] == 0.0
    assert masked_together([(IDS, [])], LOGPS, MASK) == [0.0]


def test_every_mask_is_a_row_of_its_own():
    seen = []

    def spy(rows):
        seen.extend(rows)
        return LOGPS(rows)

    masked_apart([(IDS, [1, 2])], spy, MASK)
    assert [row[0] for row in seen] == [[1, 3, 5, 6, 7, 2], [1, 4, 3, 6, 7, 2]]
    assert [row[1:] for row in seen] == [([1], [4]), ([2], [5])]


def test_tokens_are_uncovered_from_the_left():
    seen = []

    def spy(rows):
        seen.extend(rows)
        return LOGPS(rows)

    [part] = masked_onwards([(IDS, [1, 2])], spy, MASK)
    assert [row[0] for row in seen] == [[1, 3, 3, 6, 7, 2], [1, 4, 3, 6, 7, 2]]
    assert part[1] == masked_apart([(IDS, [2])], LOGPS, MASK)[0]


def test_words_of_single_tokens_masked_whole_are_masked_apart():
    words = [[[1], [2], [3], [4]]]
    whole = masked_by_word([(IDS, [1, 2, 3, 4])], words, LOGPS, MASK)
    assert whole == pytest.approx(masked_apart([(IDS, [1, 2, 3, 4])], LOGPS, MASK), abs=1e-12)


def test_a_word_of_two_pieces_is_masked_whole_and_scored_where_asked():
    [found] = masked_by_word([(IDS, [2, 3])], [[[1, 2], [3], [4]]], LOGPS, MASK)
    rows = [([1, 3, 3, 6, 7, 2], [2], [5]), ([1, 4, 5, 3, 7, 2], [3], [6])]
    assert found == pytest.approx(sum(float(part[0]) for part in LOGPS(rows)), abs=1e-12)


@pytest.mark.parametrize(
    ("text", "spans", "expected"),
    [
        ("un able", [(0, 2), (3, 7)], [[1], [2]]),
        ("unable", [(0, 2), (2, 6)], [[1, 2]]),
        ("able.", [(0, 4), (4, 5)], [[1], [2]]),
        ("a able", [(0, 1), (1, 4), (4, 6)], [[1], [2, 3]]),  # the blank is the token's
        ("é", [(0, 1), (0, 1)], [[1, 2]]),
    ],
)
def test_pieces_of_a_word_touch(text: str, spans: list, expected: list):
    assert pieces(Sentence([], list(range(1, len(spans) + 1)), spans), text) == expected
