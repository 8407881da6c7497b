"""P-Aligner: a small model rewrites what the user asked before the model answers it."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from trueup.data.messages import ASSISTANT_MARK, Prompt
from trueup.decoding.protocol import DecoderNeeds
from trueup.errors import UserError, check_at_least
from trueup.models.writer import Writer
from trueup.models.writer_calls import fitted_answers, opened_writer
from trueup.synthesis.principles import named, read_principles
from trueup.synthesis.rewrite_forms import RewriteForm, read_form

HUMAN_MARK = "\n\nHuman:"
REMEMBERED = 10_000  # rewrites; a server meets the same prompt again within as many


@dataclass(frozen=True, kw_only=True)
class PAligner:
    """Every prompt is rewritten once, by a model that was trained on what a tree search found.

    prompt = the rewrite between the marks of the rewriter's answer, in place of the user's last
    turn, which alone the rewriter reads; earlier turns and system turns stay as they are
    Cost:   one more generation of about the prompt's own length; equal prompts are rewritten once.
    Fields: rewriter is a model, its folder or id, or URL#NAME; None is the served model itself,
            which must then follow instructions. principle, of those in the file `principles` or
            ours, asks a step rewriter for it. A rewrite may have max_extra_words words more than
            the raw turn. form is a TOML file in place of ours: a rewriter must be asked in the
            form that it was trained on.
    Edges:  the raw prompt stays where the rewrite has no end within max_new_tokens, is blank, too
            long, or says that none is needed; where the turn is blank, or leaves the rewriter no
            room. A text that is a dialogue of `Human:` and `Assistant:` turns keeps its earlier
            turns, and stays as it is where the rewrite would add turns.
    Raises: UserError where a setting leaves its range or a file cannot be read; where a
            conversation has no user's turn.
    Use:    temperature 0; a second pass brings no more. Not where a turn makes sense only after
            the ones before it, which the rewriter does not see. `trueup.synthesis.p_aligner` makes
            the data: sft, then dpo. Check on your own data that answers gain by it.
    Source: Song et al. 2025, arXiv 2508.04626, with max_new_tokens 4096. All words, the limit on
            added words and the ways back to the raw prompt other than for missing marks are ours.
    """

    rewriter: Writer | str | None = None
    principle: str = ""
    max_new_tokens: int = 1024
    max_extra_words: int = 400
    temperature: float = 0.0
    seed: int = 0
    principles: str = ""
    form: str = ""

    name: ClassVar[str] = "p-aligner"
    role: ClassVar[Literal["prompt"]] = "prompt"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds(models=("rewriter",))
    arxiv: ClassVar[str] = "2508.04626"

    def __post_init__(self) -> None:
        check_at_least(1, max_new_tokens=self.max_new_tokens)
        check_at_least(0, max_extra_words=self.max_extra_words, temperature=self.temperature)
        check_at_least(0, seed=self.seed)
        _ = self.words, self.phrase  # whose own checks are the rest

    @cached_property
    def words(self) -> RewriteForm:
        """How the rewriter is asked, and how it answers."""
        return read_form(self.form or None)

    @cached_property
    def phrase(self) -> str:
        """What the principle asks for; nothing where there is none."""
        if not self.principle:
            return ""
        return named(read_principles(self.principles or None), self.principle).phrase

    @cached_property
    def memo(self) -> "RewriteMemo":
        """The rewrites that are known."""
        return RewriteMemo()

    def prepare(self, prompts: Sequence[Prompt], writer: Writer) -> list[Prompt]:
        """Every prompt with the user's last turn rewritten."""
        turns = [_last_turn(prompt) for prompt in prompts]
        found = self.rewrites([turn.text for turn in turns], writer)
        return [turn.holding(text) for turn, text in zip(turns, found, strict=True)]

    def finish(self, text: str) -> str:
        """The answer as it is."""
        return text

    def rewrites(self, texts: Sequence[str], writer: Writer) -> list[str]:
        """What stands in place of each text: its rewrite, or the text itself.

        Fields: writer rewrites where the step has no rewriter of its own.
        """
        model = writer if self.rewriter is None else opened_writer(self.rewriter)
        known = self.memo.known(model, texts)
        new = [text for text in dict.fromkeys(texts) if text not in known]
        asked = [text for text in new if text.strip()]
        answers = fitted_answers(
            model,
            [self.words.rewriter_prompt(text, self.phrase) for text in asked],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
        )
        pairs = zip(asked, answers, strict=True)
        found = {text: text for text in new} | {text: self._read(text, a) for text, a in pairs}
        self.memo.keep(model, found)
        return [(known | found)[text] for text in texts]

    def _read(self, text: str, answer: str | None) -> str:
        """The rewrite in an answer, or the text itself where there is none that will do."""
        rewrite = None if answer is None else self.words.parse(answer)
        if rewrite is None or not rewrite.strip() or self.words.is_unchanged(rewrite):
            return text
        added = len(rewrite.split()) - len(text.split())
        return text if added > self.max_extra_words else rewrite


@dataclass(frozen=True)
class Turn:
    """The user's last turn, and the prompt that it stands in."""

    prompt: Prompt
    text: str
    place: int = 0  # among the messages
    before: str = ""
    after: str = ""

    def holding(self, text: str) -> Prompt:
        """The prompt with another text in its place."""
        if text == self.text:
            return self.prompt
        if not isinstance(self.prompt, str):
            return [
                {**turn, "content": text} if place == self.place else turn
                for place, turn in enumerate(self.prompt)
            ]
        adds_turns = self.after and (HUMAN_MARK in text or ASSISTANT_MARK in text)
        return self.prompt if adds_turns else self.before + text + self.after


class RewriteMemo:
    """The newest rewrites by one writer; threads share it."""

    def __init__(self) -> None:
        self._writer: Writer | None = None
        self._texts: dict[str, str] = {}
        self._lock = threading.Lock()

    def known(self, writer: Writer, texts: Sequence[str]) -> dict[str, str]:
        """The rewrites of those texts that this writer has rewritten."""
        with self._lock:
            if writer is not self._writer:
                return {}
            return {text: self._texts[text] for text in texts if text in self._texts}

    def keep(self, writer: Writer, found: Mapping[str, str]) -> None:
        """Remember more, and forget the oldest; another writer's are forgotten."""
        with self._lock:
            if writer is not self._writer:
                self._writer, self._texts = writer, {}
            self._texts.update(found)
            for text in list(self._texts)[: max(0, len(self._texts) - REMEMBERED)]:
                del self._texts[text]


def _last_turn(prompt: Prompt) -> Turn:
    """What the user said last, and where."""
    if isinstance(prompt, str):
        return _last_in_dialogue(prompt)
    places = [place for place, turn in enumerate(prompt) if turn["role"] == "user"]
    if not places:
        raise UserError(f"p-aligner needs a user's turn to rewrite, got {prompt!r:.60}")
    return Turn(prompt, prompt[places[-1]]["content"], place=places[-1])


def _last_in_dialogue(prompt: str) -> Turn:
    """The last turn of a text that is a dialogue, and of any other text all of it."""
    head, human, tail = prompt.rpartition(HUMAN_MARK)
    said, answer, rest = tail.partition(ASSISTANT_MARK)
    if not (human and answer) or rest.strip():
        return Turn(prompt, prompt)
    text = said.strip()
    start = len(head) + len(human) + said.find(text)
    return Turn(prompt, text, before=prompt[:start], after=prompt[start + len(text) :])
