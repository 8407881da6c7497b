"""Pieces of text are never taken back and together are the text that sampling gives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_models import make_tokenizer
from trueup.models.sampling import _ending, _text
from trueup.server.text_stream import TextStream

TOKENIZER = make_tokenizer()
SENTENCE = "Zwölf Boxkämpfer: 😀 naïve, 漢字 and stop here."


def tokens_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def streamed(tokens: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], int]:
    """The pieces and how many tokens were taken."""
    stream = TextStream(TOKENIZER, stop)
    pieces = []
    for count, token in enumerate(tokens, start=1):
        pieces.append(stream.push(token))
        if stream.stopped is not None:
            return pieces, count
    return [*pieces, stream.finish()], len(tokens)


def test_a_character_comes_whole():
    pieces, _ = streamed(tokens_of(SENTENCE * 3))  # a byte is a token here
    assert "".join(pieces) == SENTENCE * 3
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_half_a_character_comes_at_the_end():
    pieces, _ = streamed(tokens_of("a😀")[:-1])
    assert pieces[-1] == "\N{REPLACEMENT CHARACTER}"


def test_what_may_become_a_stop_string_is_held_back():
    stream = TextStream(TOKENIZER, ["stop"])
    pieces = [stream.push(token) for token in tokens_of("a sto b stop c")]
    assert pieces[:5] == ["a", " ", "", "", ""]
    assert "".join(pieces) == "a sto b "
    assert stream.stopped == "stop"


def test_what_was_held_back_comes_at_the_end():
    assert "".join(streamed(tokens_of("a sto"), ("stop",))[0]) == "a sto"


@pytest.mark.parametrize("stop", [(), ("stop",), (" and", "naïve"), ("字 a", "😀", "s")])
def test_stop_strings_end_where_sampling_ends(stop: tuple[str, ...]):
    tokens = tokens_of(SENTENCE)
    pieces, taken = streamed(tokens, stop)
    ended = [n for n in range(1, len(tokens) + 1) if _ending(tokens[:n], TOKENIZER, stop)]
    assert taken == (ended[0] if ended else len(tokens))
    assert "".join(pieces) == _text(tokens[:taken], TOKENIZER, stop)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(3, 259), max_size=120))
def test_any_tokens_give_the_text_of_sampling(tokens: list[int]):
    assert "".join(streamed(tokens)[0]) == TOKENIZER.decode(tokens, skip_special_tokens=True)
