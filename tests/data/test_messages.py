"""Conversations are split where the answer begins."""

from typing import Any

import pytest

from trueup.data import read
from trueup.errors import UserError

SYSTEM = {"role": "system", "content": "be kind"}
ASK = {"role": "user", "content": "why?"}
ANSWER = {"role": "assistant", "content": "because"}
MORE = {"role": "user", "content": "more"}
GOOD = {"role": "assistant", "content": "gladly"}
BAD = {"role": "assistant", "content": "no"}
TALK = [SYSTEM, ASK, ANSWER, MORE]
HH_PROMPT = "\n\nHuman: hm?\n\nAssistant: yes\n\nHuman: why?\n\nAssistant:"


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        # the prompt stands inside both dialogues
        ({"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, [ASK]),
        ({"chosen": [*TALK, GOOD], "rejected": [*TALK, BAD]}, TALK),
        # a prompt of its own, and answers of one turn
        ({"prompt": [SYSTEM, ASK], "chosen": [GOOD], "rejected": [BAD]}, [SYSTEM, ASK]),
        ({"prompt": [ASK], "chosen": "gladly", "rejected": "no"}, [ASK]),
        ({"prompt": "why?", "chosen": [GOOD], "rejected": [BAD]}, [ASK]),
        # the prompt as text and again inside both dialogues (UltraFeedback)
        ({"prompt": "why?", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, [ASK]),
        ({"prompt": "why?", "chosen": [SYSTEM, ASK, GOOD], "rejected": [SYSTEM, ASK, BAD]},
         [SYSTEM, ASK]),
        # completions that go on from the prompt for several turns
        ({"prompt": [ASK], "chosen": [ANSWER, MORE, GOOD], "rejected": [ANSWER, MORE, BAD]},
         [ASK, ANSWER, MORE]),
        # strings in the style of hh-rlhf
        ({"chosen": f"{HH_PROMPT}gladly", "rejected": f"{HH_PROMPT}no"}, HH_PROMPT),
        ({"prompt": "why? ", "chosen": "gladly", "rejected": "no"}, "why? "),
    ],
)  # fmt: skip
def test_pairs_are_split_at_the_last_assistant_turn(row: dict[str, Any], prompt: Any) -> None:
    assert read([row], contract="pairs").rows == [
        {"prompt": prompt, "chosen": "gladly", "rejected": "no"}
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": [ASK, GOOD], "rejected": [MORE, BAD]},
         "'chosen' and 'rejected' differ before their last assistant turn"),
        ({"chosen": [GOOD], "rejected": [BAD]},
         "'chosen' has no turn before its answer, and there is no 'prompt'"),
        ({"chosen": [ASK], "rejected": [ASK, BAD]},
         "'chosen' must end with an assistant turn, got 'user'"),
        ({"chosen": "good", "rejected": "bad"},
         "there is no 'prompt', and 'chosen' is no dialogue that holds one"),
        ({"prompt": "else", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
         "'chosen' holds turns before its answer that are not the row's 'prompt'"),
        ({"prompt": [ASK, ANSWER], "chosen": "a", "rejected": "b"},
         "'prompt' must leave the last turn to the assistant, got one by it"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "'prompt' is an empty list of messages"),
        ({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"},
         "message 1 of 'prompt' must hold 'role' and 'content', got {'role': 'user'}"),
        ({"prompt": [SYSTEM, {"role": "human", "content": ""}], "chosen": "a", "rejected": "b"},
         "the role of message 2 of 'prompt' must be one of system, developer, user, assistant, "
         "tool, got 'human'"),
        ({"prompt": [{"role": "user", "content": None}], "chosen": "a", "rejected": "b"},
         "the content of message 1 of 'prompt' must be text, got None"),
        ({"prompt": ["hello"], "chosen": "a", "rejected": "b"},
         "message 1 of 'prompt' must hold 'role' and 'content', got 'hello'"),
        ({"prompt": "why?", "chosen": [{"role": "assistant", "content": ""}], "rejected": "b"},
         "'chosen' is empty"),
    ],
)  # fmt: skip
def test_conversations_that_do_not_fit_are_refused(row: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        read([row], contract="pairs")

    assert str(caught.value) == f"the data row 1: {said}"


@pytest.mark.parametrize("contract", ["messages", "completions"])
def test_messages_become_prompt_and_last_answer(contract: str) -> None:
    table = read([{"messages": [SYSTEM, ASK, ANSWER, MORE, GOOD], "id": 1}], contract=contract)

    assert table.rows == [{"id": 1, "prompt": [SYSTEM, ASK, ANSWER, MORE], "completion": "gladly"}]


@pytest.mark.parametrize("messages", [[ASK], [ASK, ANSWER]])
def test_prompts_leave_the_last_answer_out(messages: list[dict[str, str]]) -> None:
    assert read([{"messages": messages}], contract="prompts").rows == [{"prompt": [ASK]}]


def test_messages_in_a_csv_cell_are_json() -> None:
    cell = '[{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so"}]'

    assert read([{"messages": cell}], contract="messages").rows[0]["prompt"] == [ASK]
    with pytest.raises(UserError, match="'messages' is not valid JSON"):
        read([{"messages": "[{"}], contract="messages")
    with pytest.raises(UserError, match="'messages' must be a list of messages, got 'hello'"):
        read([{"messages": "hello"}], contract="messages")


def test_a_conversation_without_a_question_has_no_prompt() -> None:
    with pytest.raises(UserError, match="'messages' has no turn before its answer"):
        read([{"messages": [ANSWER]}], contract="prompts")


def test_further_fields_of_a_message_are_kept() -> None:
    call = {"role": "tool", "content": "4", "tool_call_id": "c1"}

    table = read([{"messages": [ASK, call, ANSWER]}], contract="messages")

    assert table.rows[0]["prompt"] == [ASK, call]


def test_both_sides_of_a_pair_become_labelled_rows() -> None:
    table = read([{"prompt": "p", "chosen": "c", "rejected": "r", "id": 3}], contract="labelled")

    assert table.rows == [
        {"id": 3, "prompt": "p", "completion": "c", "label": True},
        {"id": 3, "prompt": "p", "completion": "r", "label": False},
    ]
    assert table.place(0) == table.place(1) == "the data row 1"


def test_pairs_give_prompts_and_completions() -> None:
    pairs = [{"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}]

    assert read(pairs, contract="prompts").rows == [{"prompt": [ASK]}]
    assert read(pairs, contract="completions").rows == [{"prompt": [ASK], "completion": "gladly"}]
