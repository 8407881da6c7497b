"""Sentences in which natural text uses the words of association tests."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from trueup.audits.embedding.word_tests import Word, WordTest, builtin_rows, word_tests
from trueup.audits.protocol import Rows, place_of, text_of
from trueup.errors import UserError

FEWEST = 2  # target words on a side without which there is no test

_TOKEN = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


def found_tests(data: Rows, chosen: str, contexts: int) -> tuple[list[WordTest], list[str]]:
    """The tests whose words stand in the text, and the names of those that the text leaves out.

    Rows that name test, set and word bring tests of their own; else the built-in ones are looked
    for. At most `contexts` sentences of a word are kept, the first ones.
    Raises: UserError where no test has enough of its words, or only some rows name a test.
    """
    named = [bool(text_of(row, "test")) for row in data]
    if any(named) and not all(named):
        place = place_of(data, named.index(False))
        raise UserError(f"{place}: 'test' is missing here, but other rows have it; name it or none")
    own = any(named)
    every = "all" if own and chosen not in {text_of(row, "test") for row in data} else chosen
    tests = word_tests(data if own else builtin_rows(), every)
    sentences = {} if own else _sentences([str(row["text"]) for row in data], tests)
    kept, dropped = [], []
    for test in tests:
        words = test.words if own else _with_sentences(test, sentences)
        words = tuple(
            tuple(Word(word.word, word.texts[:contexts]) for word in side) for side in words
        )
        if min(len(words[0]), len(words[1])) < FEWEST or not words[2] or not words[3]:
            dropped.append(test.name)
        else:
            kept.append(WordTest(test.name, test.group, test.categories, words))
    if not kept:
        raise UserError(
            f"no test has {FEWEST} words of every target and one of every attribute in the text, "
            f"got {len(data)} texts and the tests {', '.join(dropped)}; give more text"
        )
    return kept, dropped


def _sentences(texts: Sequence[str], tests: Sequence[WordTest]) -> Mapping[str, list[str]]:
    """The texts that hold each word; a capitalised word is found in its own case only."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for test in tests:
        for word in (word.word for side in test.words for word in side):
            wanted[word if word[:1].isupper() else word.lower()].add(word)
    found: dict[str, list[str]] = defaultdict(list)
    for text in dict.fromkeys(texts):
        tokens = set(_TOKEN.findall(text))
        for token in tokens | {token.lower() for token in tokens}:
            for word in wanted.get(token, ()):
                found[word].append(text)
    return found


def _with_sentences(
    test: WordTest, sentences: Mapping[str, Sequence[str]]
) -> tuple[tuple[Word, ...], ...]:
    """The test's words that the text holds."""
    return tuple(
        tuple(
            Word(word.word, tuple(sentences[word.word])) for word in side if word.word in sentences
        )
        for side in test.words
    )
