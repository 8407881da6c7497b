"""Sentences: nothing is lost, and nothing that belongs together is torn."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueup.judging.segmenting import (
    MOST,
    alignment_value,
    cosine,
    length_split,
    segments,
    semantic_split,
    token_overlap,
)
from trueup.judging.splitting import split_sentences

PIECES = [
    *("It rains. ", "Dr. No", "3.14", "e.g. ", "1. ", "- item\n", "\n", "\n\n", "```\n", "a | b\n"),
    *(
        "|---|---|\n",
        "# Head\n",
        '"Stop!" ',
        "... ",
        "?! ",
        "\N{IDEOGRAPHIC FULL STOP}",
        "\t",
        "no",
    ),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=20).map("".join))
def test_sentences_joined_are_the_text(text: str):
    parts = split_sentences(text)
    assert "".join(parts) == text
    assert all(parts)


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rains. ", "It pours! ", "Does it? ", "Yes."],
        ["Dr. Smith met Mrs. Jones. ", "They talked."],
        ["It costs 3.50 dollars, or 4.20. ", "Cheap."],
        ["Pi is about 3.14. ", "So it is."],
        ["Fruit, e.g. apples, i.e. food. ", "Fine."],
        ["Tea, milk, etc. are here. ", "Sugar, etc. ", "No more."],
        ["J. R. R. Tolkien lived in the U.K. for years. ", "He wrote."],
        ["So do I. ", "You too."],
        ["See fig. 3 and no. 7. ", "The answer is no. ", "Really."],
        ['"Really?" she said. ', '"Yes." ', "He left."],
        ["Well... maybe. ", "Hm... ", "Or not."],
        ["Steps: 1. Wash it. ", "2. Dry it."],
        ["all in lower case. ", "still two."],
        ["It works (I think.) ", "Good."],
        ["\u4f60\u597d\u3002", "\u518d\u89c1\uff01", "\u597d"],
        ["First paragraph without an end\n\n", "second one"],
        ["A wrapped\nline goes on. ", "Next."],
        ["# A title. With a stop\n", "Text."],
        [
            "Before:\n",
            "- one. With two sentences.\n  And more.\n",
            "- two\n",
            "\t* three\n",
            "4) four",
        ],
        ["* one. two\n", "At the margin. ", "It is no item."],
        ["IV. The fourth.\n", "Text."],
        ["1. Mix. Stir.\n", "2. Bake.\n\n", "Done. ", "Eat."],
        ["Code:\n", "```python\nx = 1. \n\ny = 'A. B. C.'\n```\n", "It runs. ", "Well."],
        ["~~~\nnever closed. A. B.\n\nC."],
        ["Table:\n", "| a. B | c |\n|---|---|\n| 1. A | 2. B |\n", "After. ", "End."],
        ["a | b\n--- | ---\n1. X | 2. Y\n\n", "After."],
        ["\n\n Leading space. ", "Then."],
    ],
)
def test_where_a_text_may_be_cut(sentences: list[str]):
    assert split_sentences("".join(sentences)) == sentences


def test_nothing_has_no_sentence():
    assert split_sentences("") == []
    assert split_sentences(" \n") == [" \n"]


def test_length_cuts_are_the_nearest_borders():
    # lengths 4 4 4 12: L = 24, border nearest to 12 is after three
    assert length_split(["aaaa", "bbbb", "cccc", "d" * 12], 2) == (3,)
    # white space does not count: else the border would be after one
    assert length_split(["aaaa" + " " * 40, "bbbb", "cccc"], 2) == (1,)
    assert length_split(["aa"] * 4, 2) == (2,)
    # a tie takes the earlier border: targets 3, borders 2 and 4
    assert length_split(["aa"] * 3, 2) == (1,)


def test_length_cuts_leave_a_sentence_for_every_part():
    assert length_split(["a", "b", "c", "d" * 100], 3) == (2, 3)
    assert length_split(["d" * 100, "a", "b", "c"], 3) == (1, 2)
    assert length_split(["a", "b"], 2) == (1,)
    assert length_split(["a"], 1) == ()


def test_segments_keep_every_character():
    parts = split_sentences("One.  Two.\n\nThree. Four.")
    assert segments(parts, (1, 3)) == ["One.  ", "Two.\n\nThree. ", "Four."]
    assert segments(parts, ()) == ["One.  Two.\n\nThree. Four."]


def test_texts_without_words_are_like_nothing():
    assert token_overlap(["...", "", "a b"], ["!", "a"]).tolist() == [[0, 0], [0, 0], [0, 0.5]]
    assert token_overlap(["."], [""]).tolist() == [[0]]


def test_words_of_other_scripts_count():
    assert token_overlap(["Café ouvert"], ["CAFÉ fermé"]).tolist() == [[0.5]]


def test_cosine_of_embeddings():
    vectors = {"x": [1.0, 0.0], "y": [1.0, 1.0], "none": [0.0, 0.0]}
    similarity = cosine(lambda texts: [vectors[text] for text in texts])
    expected = [[1.0, 0.5**0.5], [0.0, 0.0]]
    np.testing.assert_allclose(similarity(["x", "none"], ["x", "y"]), expected, atol=1e-15)


def test_another_similarity_moves_the_cuts():
    first, second = ["a a.", "b.", "c."], ["x.", "y y.", "z."]
    lengths = cosine(
        lambda texts: [[float(len(text) > 4), float(len(text) <= 4)] for text in texts]
    )
    assert semantic_split(first, second, 2) == ((1,), (1,))  # no common word: the first cuts
    cuts = semantic_split(first, second, 2, lengths)
    assert alignment_value(first, second, cuts, lengths) == 2.0


def test_each_segment_is_encoded_once():
    seen: list[str] = []

    def embed(texts: list[str]) -> list[list[float]]:
        seen.extend(texts)
        return [[float(len(text)), 1.0] for text in texts]

    semantic_split([f"s{i}." for i in range(6)], [f"t{i}." for i in range(5)], 3, cosine(embed))
    # 6 sentences in 3 parts: segments of 1 to 4 sentences, 6 + 5 + 4 + 3; 5: 5 + 4 + 3
    assert len(seen) == len(set(seen)) == 18 + 12


def test_a_very_long_answer_is_cut_between_pieces_of_it(rng: np.random.Generator):
    words = [f"w{i}" for i in rng.permutation(40)]
    first = [f"{word}." for word in words for _ in range(5)]
    assert len(first) > 3 * MOST
    one, two = semantic_split(first, first, 3)
    assert one == two
    assert 0 < one[0] < one[1] < len(first)
    assert alignment_value(first, first, (one, two)) == pytest.approx(3.0)


def test_real_answers_lose_nothing_and_keep_their_list_items_whole(shared_data: Path):
    lines = (shared_data / "just_eval_llama2_7b_chat.jsonl").read_text("utf-8").splitlines()
    answers = [json.loads(line)["output"] for line in lines]
    parts = [split_sentences(answer) for answer in answers]
    assert ["".join(several) for several in parts] == answers
    flat = [one for several in parts for one in several]
    assert not [one for one in flat if re.fullmatch(r"\s*[0-9]{1,2}[.)]\s*", one)]
    assert not [one for one in flat if one.strip() in ("Dr.", "Mr.", "e.g.", "i.e.", "*", "-")]
    lengths = [len(one.split()) for one in flat]
    assert 10 < np.mean(lengths) < 30  # words a sentence
    assert max(map(len, parts)) < 200
