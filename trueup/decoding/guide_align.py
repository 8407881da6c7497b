"""Guide-Align: guidelines from a library, retrieved for each input, stand before it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

from trueup.data.messages import Prompt
from trueup.decoding.bi_encoder import BiEncoder, load_retriever
from trueup.decoding.guideline_writing import words
from trueup.decoding.guidelines import Guideline, GuidelineLibrary, Retrieval
from trueup.decoding.protocol import DecoderNeeds
from trueup.errors import UserError, check_choice
from trueup.judging.prompt_defense import PromptDefense
from trueup.models.writer import Writer

Place = Literal["system", "prefix"]

logger = logging.getLogger("trueup")


@dataclass(frozen=True, kw_only=True)
class GuideAlign:
    """Guidelines that fit an input stand before it; nothing is asked of the strong model any more.

    kept   = first k of the n nearest guidelines whose ratio to all kept before is below delta
    prompt = a line that says so, the kept guidelines, a line behind them, then the user's turn
    Fields: library is a folder that `GuidelineLibrary.save` wrote, or the library; encoder a
            `BiEncoder`, or a folder of one or of any sentence encoder; floor is the least dot
            product of a guideline that may be used, as a wrong one does more harm than none; where
            puts them into the system turn or before the user's last turn, which suits plain text.
    Edges:  no guideline: the prompt stays as it is.
    Raises: UserError where a setting leaves its range, the library or the encoder cannot be read,
            or a conversation has no user's turn.
    Cost:   1 encoding per prompt; the guidelines are read as a part of it.
    Use:    temperature 0, as the authors.
    Source: Luo et al. 2024, arXiv 2403.11838; delta is 0.53 there and 0.5 in their code. The
            floor, the line behind the guidelines and all words are ours.
    """

    library: str | GuidelineLibrary
    encoder: str | BiEncoder
    n: int = 20
    k: int = 6
    delta: float = 0.53
    floor: float | None = None
    where: Place = "system"

    name: ClassVar[str] = "guide-align"
    role: ClassVar[Literal["prompt"]] = "prompt"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds(models=("encoder",))
    arxiv: ClassVar[str] = "2403.11838"

    def __post_init__(self) -> None:
        check_choice(get_args(Place), where=self.where)
        _ = self.how  # whose own checks are the rest

    @cached_property
    def how(self) -> Retrieval:
        """How guidelines are retrieved."""
        return Retrieval(n=self.n, k=self.k, delta=self.delta, floor=self.floor)

    @cached_property
    def loaded_library(self) -> GuidelineLibrary:
        """The library itself."""
        given = self.library
        return GuidelineLibrary.load(given) if isinstance(given, str) else given

    @cached_property
    def loaded_encoder(self) -> BiEncoder:
        """The encoder itself."""
        return load_retriever(self.encoder) if isinstance(self.encoder, str) else self.encoder

    def guidelines(self, prompts: Sequence[Prompt]) -> list[list[Guideline]]:
        """The guidelines of every prompt, by the last turn of its user."""
        queries = [_asked(prompt) for prompt in prompts]
        return self.loaded_library.retrieve(queries, self.loaded_encoder, self.how)

    def prepare(self, prompts: Sequence[Prompt], writer: Writer) -> list[Prompt]:
        """Every prompt behind its guidelines; the writer's own system turn stays before them."""
        return self._all_guided(prompts, self.guidelines(prompts), writer)

    def finish(self, text: str) -> str:
        """The answer as it is."""
        return text

    def distil(
        self,
        instructions: Sequence[str],
        writer: Writer,
        *,
        shots: Sequence[tuple[str, str]] = (),
        max_new_tokens: int = 512,
        seed: int = 0,
    ) -> list[dict[str, str]]:
        """Guided answers as training data `prompt, completion`, without the guidelines.

        Fields: shots are worked examples, instruction and answer, before each instruction.
        Edges:  an answer that is empty or quotes one of its guidelines is left out, and a warning
                says how many were.
        """
        before = [
            turn
            for asked, answer in shots
            for turn in (
                {"role": "user", "content": asked},
                {"role": "assistant", "content": answer},
            )
        ]
        prompts: list[Prompt] = [[*before, {"role": "user", "content": i}] for i in instructions]
        used = self.guidelines(prompts)
        prepared = self._all_guided(prompts, used, writer)
        found = writer.sample(prepared, max_new_tokens=max_new_tokens, temperature=0, seed=seed)
        answers = [several[0].text.strip() for several in found]
        rows = [
            {"prompt": instruction, "completion": answer}
            for instruction, answer, rules in zip(instructions, answers, used, strict=True)
            if answer and not any(rule.text in answer for rule in rules)
        ]
        if len(rows) < len(answers):
            left = len(answers) - len(rows)
            logger.warning("guide-align: %d answers were empty or quoted their guidelines", left)
        return rows

    def _all_guided(
        self, prompts: Sequence[Prompt], found: Sequence[Sequence[Guideline]], writer: Writer
    ) -> list[Prompt]:
        """Every prompt behind its own guidelines."""
        system = getattr(writer, "system", None)
        pairs = zip(prompts, found, strict=True)
        return [self._guided(prompt, rules, system) for prompt, rules in pairs]

    def _guided(self, prompt: Prompt, found: Sequence[Guideline], system: str | None) -> Prompt:
        """One prompt behind its guidelines."""
        if not found:
            return prompt
        told: Any = words()
        text = "\n".join([told["header"], *(each.whole for each in found), told["footer"]])
        return PromptDefense(text=text, where=self.where).prepared(prompt, system=system)


def _asked(prompt: Prompt) -> str:
    """What the user said last."""
    if isinstance(prompt, str):
        return prompt
    said = [turn["content"] for turn in prompt if turn["role"] == "user"]
    if not said:
        raise UserError(
            f"guide-align needs a user's turn to find guidelines for, got {prompt!r:.60}"
        )
    return said[-1]
