"""Prompts that hold a set of documents: what stands before them, they themselves, what follows."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from trueup.data.messages import Prompt
from trueup.errors import UserError
from trueup.models.encoding import Encoder
from trueup.models.pine_state import SegmentIds

MARKS = ("<doc>", "</doc>")
HOLE = "<|segments|>"  # stands for the documents while a chat template lays out the turns

_DOC = re.compile(f"{re.escape(MARKS[0])}(.*?){re.escape(MARKS[1])}", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Segments:
    """A prompt whose documents are read as a set.

    The three parts are tokenised apart, each document to the letter: line breaks and labels belong
    into the documents, and a label must go with its text and not with its place.
    Fields: prefix is text, or messages whose last turn goes on with the documents and the suffix;
            suffix is the question, or whatever the answer follows.
    Raises: UserError where there is no document, one is empty, or nothing follows them in a text.
    """

    docs: Sequence[str]
    suffix: str = ""
    prefix: Prompt = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "docs", _checked_docs(self.docs))
        if isinstance(self.prefix, str) and not self.suffix:
            raise UserError("suffix must say what follows the documents, got ''; give the question")


def segment_ids(encoder: Encoder, prompt: Any, *, place: str) -> SegmentIds:
    """A prompt with documents as token ids.

    Fields: prompt is `Segments`, a row with the columns prefix, docs and suffix, or a text or
            messages in which each document stands between <doc> and </doc>, one after another;
            place names it in errors.
    Raises: UserError where no documents can be told, or a part has no tokens.
    """
    try:
        before, docs, after = _parts(encoder, prompt)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    *documents, suffix = encoder.tokens([*docs, after])
    for number, ids in enumerate(documents, start=1):
        if not ids:
            raise UserError(f"{place}: document {number} has no tokens, got {docs[number - 1]!r}")
    if not suffix:
        raise UserError(f"{place}: nothing follows the documents; end it with the question")
    return SegmentIds(tuple(before), tuple(map(tuple, documents)), tuple(suffix))


def _parts(encoder: Encoder, prompt: Any) -> tuple[list[int], Sequence[str], str]:
    """The prefix's tokens, the documents' texts, and the text that follows them."""
    if isinstance(prompt, Mapping):
        prompt = _row(prompt)
    if not isinstance(prompt, Segments):
        before, docs, after = _marked(encoder.prompt_text(prompt))
        return _opened(encoder, before, prompt), docs, after
    if isinstance(prompt.prefix, str):
        return encoder.prompt(prompt.prefix), prompt.docs, prompt.suffix
    *turns, last = prompt.prefix
    holed = [*turns, {**last, "content": f"{last['content']}{HOLE}{prompt.suffix}"}]
    parts = encoder.prompt_text(holed).split(HOLE)
    if len(parts) != 2:
        raise UserError(
            f"{HOLE} must stand nowhere in the turns but once in their template's text, got it "
            f"{len(parts) - 1} times; leave it out of the prompt"
        )
    return _opened(encoder, parts[0], prompt.prefix), prompt.docs, parts[1]


def _opened(encoder: Encoder, before: str, prompt: Prompt) -> list[int]:
    """The tokens before the documents; a chat template has written its own opening."""
    templated = not isinstance(prompt, str) and getattr(encoder.tokenizer, "chat_template", None)
    return encoder.tokens([before])[0] if templated else encoder.prompt(before)


def _row(row: Mapping[str, Any]) -> Segments:
    """A row of a data set as segments; further columns are the user's own."""
    if "docs" not in row:
        known = ", ".join(map(repr, row)) or "none"
        raise UserError(f"'docs' is missing; pine reads prefix, docs and suffix, got {known}")
    return Segments(**{each.name: row[each.name] for each in fields(Segments) if each.name in row})


def _marked(text: str) -> tuple[str, list[str], str]:
    """The parts of a text with marked documents."""
    opening, closing = MARKS
    found = list(_DOC.finditer(text))
    if not found:
        raise UserError(
            f"no document stands between {opening} and {closing}; mark them, or give prefix, docs "
            "and suffix"
        )
    before, after = text[: found[0].start()], text[found[-1].end() :]
    gaps = [text[left.end() : right.start()] for left, right in itertools.pairwise(found)]
    for number, gap in enumerate(gaps, start=1):
        if gap.strip():
            raise UserError(
                f"only white space may stand between documents, got {gap.strip()!r} after "
                f"document {number}; put it before the first or behind the last"
            )
    docs = [match[1] for match in found]
    for part in (before, *docs, after):
        if opening in part or closing in part:
            raise UserError(f"{opening} and {closing} must stand in pairs, got {part.strip()!r}")
    return before, docs, after


def _checked_docs(docs: Any) -> tuple[str, ...]:
    """The documents as a tuple of texts."""
    if isinstance(docs, str) or not isinstance(docs, Sequence) or not docs:
        raise UserError(f"docs must be a list of one text at least, got {docs!r}")
    for number, doc in enumerate(docs, start=1):
        if not isinstance(doc, str) or not doc:
            raise UserError(f"document {number} of docs must be some text, got {doc!r}")
    return tuple(docs)
