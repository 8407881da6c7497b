"""Chat messages: what a list of them must look like, and where the answer in it begins."""

from collections.abc import Mapping, Sequence
from typing import Any

from trueup.data.canonical import shown

Message = dict[str, str]
Prompt = str | list[Message]

ROLES = ("system", "developer", "user", "assistant", "tool")
# The turn marks of Anthropic's hh-rlhf, where a dialogue is one string.
ASSISTANT_MARK = "\n\nAssistant:"


class BadValue(ValueError):
    """What is wrong with one row; the reader adds the place."""


def checked_messages(column: str, value: Any) -> list[Message]:
    """The value as a list of messages, each a role that is known and a content that is text.

    Raises: BadValue where it is not.
    """
    if not isinstance(value, list | tuple):
        raise BadValue(f"{column!r} must be a list of messages, got {shown(value)}")
    if not value:
        raise BadValue(f"{column!r} is an empty list of messages")
    for number, message in enumerate(value, start=1):
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise BadValue(
                f"message {number} of {column!r} must hold 'role' and 'content', "
                f"got {shown(message)}"
            )
        role, content = message["role"], message["content"]
        if not isinstance(role, str) or role not in ROLES:
            raise BadValue(
                f"the role of message {number} of {column!r} must be one of {', '.join(ROLES)}, "
                f"got {shown(role)}"
            )
        if not isinstance(content, str):
            raise BadValue(
                f"the content of message {number} of {column!r} must be text, got {shown(content)}"
            )
    return [dict(message) for message in value]


def checked_prompt(column: str, value: Any) -> Prompt:
    """The value as a prompt: text, or messages that leave the next turn to the assistant.

    Raises: BadValue where it is neither.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple):
        raise BadValue(f"{column!r} must be text or a list of messages, got {shown(value)}")
    messages = checked_messages(column, value)
    if messages[-1]["role"] == "assistant":
        raise BadValue(f"{column!r} must leave the last turn to the assistant, got one by it")
    return messages


def turns_of(prompt: str | Sequence[Mapping[str, str]]) -> list[Message]:
    """A prompt as messages: text is the user's turn."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [dict(turn) for turn in prompt]


def with_system(
    turns: Sequence[Message], words: str, *, otherwise: str | None = None
) -> list[Message]:
    """The turns with the words in their system turn, a paragraph behind what stands there.

    Fields: otherwise is what would stand there where they have no system turn.
    """
    has_system = bool(turns) and turns[0]["role"] == "system"
    before = turns[0]["content"] if has_system else otherwise
    text = f"{before}\n\n{words}" if before else words
    return [{"role": "system", "content": text}, *turns[int(has_system) :]]


def split_answer(column: str, value: Any, prompt: Prompt | None) -> tuple[Prompt, str]:
    """Split a completion into the prompt that it answers and the text of the answer.

    Text answers the row's own prompt; of messages the last turn is the answer, and what stands
    before it is the prompt or goes on from it (a prompt that is text becomes the user's turn).
    Without a prompt of its own a dialogue in the style of hh-rlhf is split at its last assistant
    turn. The answer is plain text in any case.
    Raises: BadValue where there is no answer, an empty one, or another conversation before it.
    """
    if isinstance(value, str):
        if prompt is None:
            return _split_dialogue(column, value)
        return prompt, _answer(column, value)
    if not isinstance(value, list | tuple):
        raise BadValue(f"{column!r} must be text or a list of messages, got {shown(value)}")
    *earlier, last = checked_messages(column, value)
    if last["role"] != "assistant":
        raise BadValue(f"{column!r} must end with an assistant turn, got {last['role']!r}")
    answer = _answer(column, last["content"])
    return _whole_prompt(column, earlier, prompt), answer


def _split_dialogue(column: str, dialogue: str) -> tuple[str, str]:
    head, mark, answer = dialogue.rpartition(ASSISTANT_MARK)
    if not mark:
        raise BadValue(f"there is no 'prompt', and {column!r} is no dialogue that holds one")
    return head + mark, _answer(column, answer)


def _answer(column: str, text: str) -> str:
    if not text:
        raise BadValue(f"{column!r} is empty")
    return text


def _whole_prompt(column: str, earlier: list[Message], prompt: Prompt | None) -> list[Message]:
    """The turns before the answer, which repeat the row's prompt or go on from it."""
    if prompt is None:
        if not earlier:
            raise BadValue(f"{column!r} has no turn before its answer, and there is no 'prompt'")
        return earlier
    own = turns_of(prompt)
    if not earlier:
        return own
    spoken = [(message["role"], message["content"]) for message in own]
    before = [(message["role"], message["content"]) for message in earlier]
    if spoken in (before[: len(spoken)], before[-len(spoken) :]):
        return earlier
    if isinstance(prompt, str):
        raise BadValue(f"{column!r} holds turns before its answer that are not the row's 'prompt'")
    return prompt + earlier
