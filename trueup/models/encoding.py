"""Prompts and completions as token ids, with an exact boundary between them."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from trueup.errors import UserError
from trueup.models.prefix_tree import Group

Prompt = str | Sequence[Mapping[str, str]]
Completion = str | Sequence[Mapping[str, str]]

logger = logging.getLogger("trueup")


class Encoder:
    """Turns prompts and completions into `Group`s for one tokenizer.

    The boundary is exact: prompt and completion are tokenised together, and where the prompt's own
    tokens are a prefix of the result, the rest is the completion. Where they are not (a token
    would straddle the boundary), both are tokenised apart, `joint_differs` counts it, and a
    warning is logged once.

    A string is taken as it is. Messages go through the tokenizer's chat template; where there is
    none they become plain text, `Human:` and `Assistant:` turns.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.joint_differs = 0
        self.opening = _opening_tokens(tokenizer)

    def groups(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Sequence[Completion]],
        *,
        add_eos: bool = False,
    ) -> list[Group]:
        """One group per prompt, in order.

        Fields: add_eos ends every completion with the end-of-text token.
        Raises: UserError where the lists do not match or a completion has no tokens.
        """
        if len(prompts) != len(completions):
            raise UserError(
                f"{len(prompts)} prompts but {len(completions)} lists of completions; give one each"
            )
        starts = [self.prompt_text(prompt) for prompt in prompts]
        ends = [
            [self.completion_text(prompt, completion) for completion in several]
            for prompt, several in zip(prompts, completions, strict=True)
        ]
        flat = [start + end for start, several in zip(starts, ends, strict=True) for end in several]
        prompt_ids = self.tokens(starts)
        joint_ids = iter(self.tokens(flat))
        groups = []
        for index, (prompt, several) in enumerate(zip(prompts, ends, strict=True)):
            alone = prompt_ids[index]
            parts = [self._completion(alone, next(joint_ids), end) for end in several]
            if add_eos:
                parts = [self._ended(part) for part in parts]
            if any(not part for part in parts):
                raise UserError(f"completion of prompt {index + 1} is empty; it needs some text")
            groups.append(Group(self._start(prompt) + alone, parts))
        return groups

    def prompt(self, prompt: Prompt) -> list[int]:
        """The tokens of one prompt, with the opening token where the tokenizer has one."""
        ids = self._start(prompt) + self.tokens([self.prompt_text(prompt)])[0]
        return ids or self.context()

    def context(self) -> list[int]:
        """The token that stands before the first word: the tokenizer's own, else BOS or EOS."""
        if self.opening:
            return list(self.opening)
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return [int(token)]
        return []

    def prompt_text(self, prompt: Prompt) -> str:
        """The prompt as text; messages end where the assistant's answer begins."""
        if isinstance(prompt, str):
            return prompt
        if getattr(self.tokenizer, "chat_template", None):
            return self._templated(prompt, add_generation_prompt=True)
        return "".join(f"\n\n{_speaker(turn)}: {turn['content']}" for turn in prompt) + (
            "\n\nAssistant:"
        )

    def completion_text(self, prompt: Prompt, completion: Completion) -> str:
        """The completion as text that follows the prompt's."""
        if isinstance(completion, str):
            has_turns = not isinstance(prompt, str)
            if has_turns and not getattr(self.tokenizer, "chat_template", None):
                return f" {completion}"
            return completion
        content = "".join(turn["content"] for turn in completion)
        if isinstance(prompt, str) or not getattr(self.tokenizer, "chat_template", None):
            return f" {content}"
        start = self.prompt_text(prompt)
        whole = self._templated([*prompt, *completion], add_generation_prompt=False)
        return whole[len(start) :] if whole.startswith(start) else content

    def _templated(self, messages: Sequence[Mapping[str, str]], **options: bool) -> str:
        """The chat template's text."""
        text: str = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, **options
        )
        return text

    def _start(self, prompt: Prompt) -> list[int]:
        """What stands before the prompt's own tokens; a chat template writes its own opening."""
        templated = not isinstance(prompt, str) and getattr(self.tokenizer, "chat_template", None)
        if templated:
            return []
        return list(self.opening) if self.opening or prompt else self.context()

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The texts' tokens without special ones added."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids

    def _completion(self, alone: list[int], joint: list[int], text: str) -> list[int]:
        """The completion's tokens after the prompt's, from the joint tokens where they allow it."""
        if joint[: len(alone)] == alone:
            return joint[len(alone) :]
        if not self.joint_differs:
            logger.warning(
                "tokenising prompt and completion together would merge tokens across the boundary "
                "(first seen before %r); they are tokenised apart",
                text[:30],
            )
        self.joint_differs += 1
        return self.tokens([text])[0]

    def _ended(self, ids: list[int]) -> list[int]:
        """The tokens with one end-of-text token at the end."""
        end = self.tokenizer.eos_token_id
        return ids if end is None or (ids and ids[-1] == end) else [*ids, end]


def _opening_tokens(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer puts before a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return list(full[:start])
    return []


def _speaker(turn: Mapping[str, str]) -> str:
    """The plain-text name of a chat role."""
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    return names.get(turn["role"], turn["role"].capitalize())
