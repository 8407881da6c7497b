"""Templates with two slots, `[TARGET] is [ATTRIBUTE].`: filling them, and scoring what fills them.

The tokenizer's own mask token is put in here, one for each piece of a word; templates know nothing
of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.audits.probability.likelihoods import word_logps
from trueup.audits.protocol import Probe, Rows, place_of, text_of
from trueup.errors import UserError
from trueup.models.masked_language_model import MaskedLanguageModel

Words = tuple[str, ...]

TARGET, ATTRIBUTE = "[TARGET]", "[ATTRIBUTE]"


@dataclass(frozen=True)
class Filled:
    """A template with both slots filled: the text, and the characters of either word."""

    text: str
    target: tuple[int, int]
    attribute: tuple[int, int]


def fill(template: str, target: str, attribute: str) -> Filled:
    """The template with these words in its slots, which may stand in either order."""
    words = {TARGET: target, ATTRIBUTE: attribute}
    first, second = sorted(words, key=template.index)
    before, rest = template.split(first)
    between, after = rest.split(second)
    start = len(before)
    next_start = start + len(words[first]) + len(between)
    spans = {
        first: (start, start + len(words[first])),
        second: (next_start, next_start + len(words[second])),
    }
    text = before + words[first] + between + words[second] + after
    return Filled(text, spans[TARGET], spans[ATTRIBUTE])


def check_template(template: str, place: str) -> None:
    """Raise UserError unless each slot stands in the template once."""
    for slot in (TARGET, ATTRIBUTE):
        if template.count(slot) != 1:
            raise UserError(f"{place}: 'template' must hold {slot} once, got {template!r}")


def words_of(value: Any, column: str, place: str, *, least: int = 1) -> Words:
    """The distinct words of a cell, joined by "|" or in a list; UserError below `least`."""
    words = value.split("|") if isinstance(value, str) else [str(word) for word in value or ()]
    words = [word.strip() for word in words]
    if len(words) < least or not all(words) or len(set(words)) < len(words):
        raise UserError(
            f"{place}: '{column}' needs at least {least} different words joined by '|', "
            f"got {value!r}"
        )
    return tuple(words)


def attribute_probes(
    data: Rows, words: Callable[[Mapping[str, Any], str], Mapping[str, Words]]
) -> list[Probe]:
    """One probe per template and attribute; `words` reads and checks a row's target words.

    The attribute is the cluster unless the data name another: one word's items in several
    templates are no independent findings.
    """
    probes = []
    for index, row in enumerate(data):
        place = place_of(data, index)
        template = str(row["template"])
        check_template(template, place)
        targets = words(row, place)
        attributes = words_of(row["attribute"], "attribute", place)
        own = text_of(row, "id", index + 1)
        probes += [
            Probe(
                id=own if len(attributes) == 1 else f"{own}/{attribute}",
                group=text_of(row, "group"),
                cluster=text_of(row, "cluster", attribute),
                prompt=template,
                labels={"attribute": attribute, **targets},
            )
            for attribute in attributes
        ]
    return probes


def target_logps(
    model: MaskedLanguageModel, asked: Sequence[tuple[str, str, Sequence[str]]]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Log-probabilities of target words with the attribute in sight, and with it masked too.

    log P(target | template with attribute), log P(target | template, attribute masked): the prior
    Shapes: asked [N] of (template, attribute, targets [K]) -> two lists of N arrays [K], in nats.
    A word of k pieces: k masks, and the product over pieces of piece j's probability at mask j.
    Work:   a forward row per (template, attribute) and one per template for the prior, for each
            number of pieces that occurs.
    """
    filled = [
        fill(template, target, attribute)
        for template, attribute, targets in asked
        for target in targets
    ]
    places = [(one.text, *one.target) for one in filled]
    hidden = [*([None] * len(filled)), *(one.attribute for one in filled)]
    told, prior = np.split(word_logps(model, [*places, *places], hidden), 2)
    ends = np.cumsum([len(targets) for _, _, targets in asked])[:-1]
    return np.split(told, ends), np.split(prior, ends)
