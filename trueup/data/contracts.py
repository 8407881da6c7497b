"""The column contracts: which columns each kind of data has and what they hold."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trueup.data.canonical import shown
from trueup.data.messages import BadValue, checked_messages, checked_prompt, split_answer
from trueup.data.table import Row

CONTRACTS: dict[str, tuple[str, ...]] = {
    "pairs": ("prompt", "chosen", "rejected"),
    "labelled": ("prompt", "completion", "label"),
    "rewarded": ("prompt", "completion", "reward"),
    "completions": ("prompt", "completion"),
    "prompts": ("prompt",),
    "messages": ("messages",),
}


@dataclass(frozen=True)
class Reading:
    """One way to read a row: the columns that it needs and the rows that it makes of one."""

    needs: tuple[str, ...]
    rows: Callable[[Row], list[Row]]


def readings(contract: str) -> list[Reading]:
    """The ways to read a contract, the contract's own columns first."""
    return _READINGS[contract]


def _pair(row: Row) -> list[Row]:
    """One pair; its prompt is the column's, or stands inside both dialogues."""
    own = checked_prompt("prompt", row["prompt"]) if row.get("prompt") is not None else None
    prompt, chosen = split_answer("chosen", row["chosen"], own)
    other, rejected = split_answer("rejected", row["rejected"], own)
    if prompt != other:
        raise BadValue("'chosen' and 'rejected' differ before their last assistant turn")
    if chosen == rejected:
        raise BadValue(
            f"'chosen' and 'rejected' are equal, got {shown(chosen)}; a pair must prefer one"
        )
    return [{**row, "prompt": prompt, "chosen": chosen, "rejected": rejected}]


def _labelled(row: Row) -> list[Row]:
    label = _label(row["label"])
    return [{**_completion(row)[0], "label": label}]


def _labelled_pair(row: Row) -> list[Row]:
    """Both sides of a pair, the chosen one true."""
    pair, extra = _unpaired(row)
    return [
        {**extra, "prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
        for side in ("chosen", "rejected")
    ]


def _rewarded(row: Row) -> list[Row]:
    return [{**_completion(row)[0], "reward": _reward(row["reward"])}]


def _completion(row: Row) -> list[Row]:
    own = checked_prompt("prompt", row["prompt"])
    prompt, completion = split_answer("completion", row["completion"], own)
    return [{**row, "prompt": prompt, "completion": completion}]


def _chosen_completion(row: Row) -> list[Row]:
    """The chosen side of a pair, to imitate."""
    pair, extra = _unpaired(row)
    return [{**extra, "prompt": pair["prompt"], "completion": pair["chosen"]}]


def _messages(row: Row) -> list[Row]:
    """A conversation as its last answer and everything before it."""
    prompt, completion = split_answer("messages", _parsed_messages(row["messages"]), None)
    return [{**_without(row, "messages"), "prompt": prompt, "completion": completion}]


def _prompt(row: Row) -> list[Row]:
    return [{**row, "prompt": checked_prompt("prompt", row["prompt"])}]


def _messages_prompt(row: Row) -> list[Row]:
    """A conversation up to the assistant's last turn, which is left out if it is there."""
    messages = checked_messages("messages", _parsed_messages(row["messages"]))
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        raise BadValue("'messages' has no turn before its answer")
    return [{**_without(row, "messages"), "prompt": checked_prompt("messages", messages)}]


def _pair_prompt(row: Row) -> list[Row]:
    """The prompt that stands inside both dialogues of a pair."""
    pair, extra = _unpaired(row)
    return [{**extra, "prompt": pair["prompt"]}]


def _unpaired(row: Row) -> tuple[Row, Row]:
    """The pair, and the row's columns beside it."""
    return _pair(row)[0], _without(row, "chosen", "rejected")


def _without(row: Row, *columns: str) -> Row:
    return {name: value for name, value in row.items() if name not in columns}


def _parsed_messages(value: Any) -> Any:
    """Messages that a CSV cell holds as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadValue(f"'messages' is not valid JSON, got {shown(value)}") from error
    if isinstance(value, str):
        raise BadValue(f"'messages' must be a list of messages, got {shown(value)}")
    return value


def _label(value: Any) -> bool:
    """True or false, also as 1 and 0 and as the words."""
    word = str(value).strip().lower()  # of numpy's truth values, too
    if word in ("true", "1", "1.0"):
        return True
    if word in ("false", "0", "0.0"):
        return False
    raise BadValue(f"'label' must be true or false, got {shown(value)}")


def _reward(value: Any) -> float:
    """A finite number, also as text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadValue(f"'reward' must be a number, got {shown(value)}") from error
    if not math.isfinite(number):
        raise BadValue(f"'reward' must be a finite number, got {shown(value)}")
    return number


_PROMPTED_PAIR = ("prompt", "chosen", "rejected")
_BARE_PAIR = ("chosen", "rejected")
_READINGS: dict[str, list[Reading]] = {
    "pairs": [Reading(_PROMPTED_PAIR, _pair), Reading(_BARE_PAIR, _pair)],
    "labelled": [
        Reading(CONTRACTS["labelled"], _labelled),
        Reading(_PROMPTED_PAIR, _labelled_pair),
        Reading(_BARE_PAIR, _labelled_pair),
    ],
    "rewarded": [Reading(CONTRACTS["rewarded"], _rewarded)],
    "completions": [
        Reading(CONTRACTS["completions"], _completion),
        Reading(_PROMPTED_PAIR, _chosen_completion),
        Reading(_BARE_PAIR, _chosen_completion),
        Reading(CONTRACTS["messages"], _messages),
    ],
    "prompts": [
        Reading(CONTRACTS["prompts"], _prompt),
        Reading(CONTRACTS["messages"], _messages_prompt),
        Reading(_BARE_PAIR, _pair_prompt),
    ],
    "messages": [Reading(CONTRACTS["messages"], _messages)],
}
