"""The texts between a rewriter and us: how it is asked, how it answers, and how that is read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from trueup.data.messages import Message
from trueup.errors import UserError
from trueup.synthesis.principles import read_toml

OWN = "rewrite_forms.toml"
_KEYS = {
    "teacher": ("system", "ask"),
    "rewriter": ("ask", "principle", "answer", "unchanged"),
    "marks": ("prompt_start", "prompt_end", "start", "end"),
}
_HOLES = {  # what a text must name, and what it may
    "teacher.ask": (("prompt", "phrase"), ()),
    "rewriter.ask": (("prompt",), ("principle", "start", "end")),
    "rewriter.principle": (("phrase",), ()),
}


@dataclass(frozen=True, kw_only=True)
class RewriteForm:
    """How a rewriter is asked and how it answers.

    teacher   a strong model: the request and one principle in, the bare rewrite out
    rewriter  a model that was trained to it: the request between marks in, with a principle or
              without; out a line of opening, then the rewrite between its own marks
    A mark that stands in a request or a rewrite gets a backslash behind its first character, one
    more than it has, so that every text comes back as it went in.
    Fields: as in rewrite_forms.toml.
    Source: the roles are those of Song et al. 2025, arXiv 2508.04626; words and escapes are ours.
    """

    teacher_system: str
    teacher_ask: str
    ask: str
    principle: str
    answer: str
    unchanged: str
    prompt_start: str
    prompt_end: str
    start: str
    end: str

    def teacher_prompt(self, text: str, phrase: str) -> list[Message]:
        """The messages to a strong model."""
        asked = Template(self.teacher_ask).substitute(prompt=text, phrase=phrase)
        system = [{"role": "system", "content": self.teacher_system}] if self.teacher_system else []
        return [*system, {"role": "user", "content": asked}]

    def rewriter_prompt(self, text: str, phrase: str = "") -> list[Message]:
        """The messages to a rewriter, with a principle's phrase or without."""
        principle = Template(self.principle).substitute(phrase=phrase) if phrase else ""
        asked = Template(self.ask).substitute(
            prompt=f"{self.prompt_start}\n{self._escaped(text)}\n{self.prompt_end}",
            principle=principle,
            start=self.start,
            end=self.end,
        )
        return [{"role": "user", "content": asked}]

    def response(self, text: str) -> str:
        """The rewriter's answer that holds this rewrite."""
        opening = f"{self.answer}\n" if self.answer else ""
        return f"{opening}{self.start}\n{self._escaped(text)}\n{self.end}"

    def parse(self, answer: str) -> str | None:
        """The rewrite in a rewriter's answer; None where its marks are not both there.

        Blank lines and blanks around it go only where the marks do not stand on lines of their own.
        """
        _, found, rest = answer.partition(self.start)
        inside, ended, _ = rest.partition(self.end)
        if not (found and ended):
            return None
        whole = inside.startswith("\n") and inside.endswith("\n") and len(inside) > 1
        return self._unescaped(inside[1:-1] if whole else inside.strip())

    def parse_bare(self, answer: str) -> str | None:
        """The rewrite in a strong model's answer: all of it, or what stands between the marks."""
        found = self.parse(answer)
        text = answer if found is None else found
        return text.strip() or None

    def is_unchanged(self, text: str) -> bool:
        """Whether a rewrite says that none is needed."""
        return _bare(text) == _bare(self.unchanged)

    def _escaped(self, text: str) -> str:
        """The text with one more backslash in every mark."""
        return self._marks().sub(lambda found: f"{found[0][0]}\\{found[0][1:]}", text)

    def _unescaped(self, text: str) -> str:
        """The text with one backslash fewer in every mark that has one."""
        return self._marks(least=1).sub(lambda found: found[0][0] + found[0][2:], text)

    def _marks(self, least: int = 0) -> re.Pattern[str]:
        """What finds a mark with at least so many backslashes behind its first character."""
        every = (self.prompt_start, self.prompt_end, self.start, self.end)
        some = rf"\\{{{least},}}"
        return re.compile("|".join(re.escape(m[0]) + some + re.escape(m[1:]) for m in every))


def read_form(path: str | Path | None = None) -> RewriteForm:
    """The form of a TOML file like rewrite_forms.toml, by default that one.

    Raises: UserError where a text or one of its $names is missing, or two marks are alike.
    """
    known = read_toml(path, OWN)
    texts = {
        f"{table}.{key}": _text(known, table, key, path) for table in _KEYS for key in _KEYS[table]
    }
    for name, (must, may) in _HOLES.items():
        _check_holes(f"{path}: {name}", texts[name], must, may)
    marks = [texts[f"marks.{key}"] for key in _KEYS["marks"]]
    if len(set(marks)) < len(marks) or not all(marks):
        raise UserError(f"{path}: the four marks must differ and hold text, got {marks}")
    return RewriteForm(
        teacher_system=texts["teacher.system"].strip(),
        teacher_ask=texts["teacher.ask"].strip(),
        ask=texts["rewriter.ask"].strip(),
        principle=texts["rewriter.principle"],
        answer=texts["rewriter.answer"],
        unchanged=texts["rewriter.unchanged"],
        **{key: texts[f"marks.{key}"] for key in _KEYS["marks"]},
    )


def _text(known: dict[str, Any], table: str, key: str, path: str | Path | None) -> str:
    """One text of the file."""
    part = known.get(table)
    value = part.get(key) if isinstance(part, dict) else None
    if not isinstance(value, str):
        raise UserError(f"{path}: [{table}] must have a {key!r} that is text, got {value!r}")
    return value


def _check_holes(place: str, text: str, must: Sequence[str], may: Sequence[str]) -> None:
    """Raise UserError unless the text names what it must, and nothing that it may not."""
    template = Template(text)
    found = set(template.get_identifiers())
    if not template.is_valid() or not set(must) <= found <= {*must, *may}:
        wanted, more = (", ".join(f"${name}" for name in names) for names in (must, may))
        allowed = f" and may have {more}" if may else ""
        raise UserError(f"{place} must have {wanted}{allowed} and no other $, got {text!r:.80}")


def _bare(text: str) -> str:
    """A text without case, quotes and the stop behind it."""
    return text.strip().strip("\"'.!").strip().casefold()
