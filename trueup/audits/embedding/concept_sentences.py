"""Sentences of concepts: read from rows, checked, and told where more than the concept differs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trueup.audits.embedding.concept_vectors import NEUTRAL
from trueup.audits.protocol import Rows, place_of, text_of
from trueup.errors import UserError

ROLES = ("target", "reference", "negative")
FEWEST = 10  # sentences of a concept, and neutral ones
ENOUGH = 50  # sentences of a concept below which intervals miss 8 to 14 % instead of 5 %
UNLIKE = 1.5  # times as many words a sentence in one concept as in another are told


@dataclass(frozen=True)
class Concepts:
    """All sentences of an audit: every concept's, and the neutral ones that all share."""

    sentences: Mapping[str, tuple[str, ...]]
    negatives: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The concepts in the order of the data."""
        return list(self.sentences)


def read_concepts(
    data: Rows, columns: Sequence[str]
) -> tuple[Concepts, dict[str, str], dict[str, tuple[str, str]]]:
    """The sentences, every target's group, and every pair's two references.

    Fields: columns name the role, the concept and the sentence.
    Raises: UserError for another role, too few sentences, no target, or no pair of references.
    """
    sentences: dict[str, dict[str, None]] = {}
    negatives: dict[str, None] = {}
    targets: dict[str, str] = {}
    paired: dict[str, dict[str, None]] = {}
    for index, row in enumerate(data):
        role, concept, text = (str(row[column]) for column in columns)
        if role not in ROLES:
            raise UserError(
                f"{place_of(data, index)}: role must be one of {', '.join(ROLES)}, got {role!r}"
            )
        if role == "negative":
            negatives[text] = None
            continue
        sentences.setdefault(concept, {})[text] = None
        if role == "target":
            targets.setdefault(concept, text_of(row, "group"))
        else:
            paired.setdefault(text_of(row, "pair"), {})[concept] = None
    counts = {name: len(own) for name, own in sentences.items()} | {NEUTRAL: len(negatives)}
    few = next((name for name, count in counts.items() if count < FEWEST), None)
    if few is not None:
        raise UserError(f"{few}: needs {FEWEST} different sentences, got {counts[few]}; add some")
    if not targets:
        raise UserError("no row has the role 'target'; name a concept to place")
    concepts = Concepts({name: tuple(own) for name, own in sentences.items()}, tuple(negatives))
    return concepts, targets, _pairs(paired)


def remarks_on(concepts: Concepts) -> list[str]:
    """What in the sentences, beside their concept, a probe could learn."""
    every = {**concepts.sentences, NEUTRAL: concepts.negatives}
    ends = sorted({text.rstrip()[-1:] for texts in every.values() for text in texts})
    lengths = {
        name: float(np.mean([len(text.split()) for text in texts])) for name, texts in every.items()
    }
    longest, shortest = max(lengths, key=lengths.__getitem__), min(lengths, key=lengths.__getitem__)
    remarks = []
    fewest = min(every, key=lambda name: len(every[name]))
    if len(every[fewest]) < ENOUGH:
        remarks.append(
            f"{fewest} has {len(every[fewest])} sentences; below {ENOUGH} intervals are too short"
        )
    if len(ends) > 1:
        remarks.append(
            f"sentences end in {len(ends)} different characters ({' '.join(ends[:5])}), and the "
            "last token is what is read: end all of them alike"
        )
    if lengths[longest] > UNLIKE * lengths[shortest]:
        remarks.append(
            f"{longest} has {lengths[longest]:.1f} words a sentence, {shortest} "
            f"{lengths[shortest]:.1f}: length may be what the probes tell"
        )
    return remarks


def _pairs(paired: Mapping[str, Mapping[str, None]]) -> dict[str, tuple[str, str]]:
    """The two references of every pair, under its name or their own."""
    result = {}
    for pair, references in paired.items():
        if len(references) != 2:
            where = f"pair {pair!r}" if pair else "references without a pair"
            raise UserError(
                f"{where}: must be two concepts, got {', '.join(references)}; name the pair of "
                "each reference in the column 'pair'"
            )
        first, second = references
        result[pair or f"{first} or {second}"] = (first, second)
    if not result:
        raise UserError("no row has the role 'reference'; give two concepts to compare with")
    return result
