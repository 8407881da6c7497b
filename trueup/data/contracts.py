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
    "routed": ("prompt", "chosen", "rejected", "objective"),
    "anchored": ("prompt", "chosen", "rejected", "baseline"),
    "traces": ("prompt", "chosen", "rejected", "chosen_no_think", "rejected_no_think"),
    "dispreferred": ("prompt", "rejected"),
    "labelled": ("prompt", "completion", "label"),
    "rewarded": ("prompt", "completion", "reward"),
    "scored": ("prompt", "completion", "mean_ref_logp"),
    "completions": ("prompt", "completion"),
    "questions": ("question", "answers"),
    "demonstrations": ("demonstrations", "query", "target"),
    "prompts": ("prompt",),
    "documents": ("docs", "suffix"),
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


def _routed(row: Row) -> list[Row]:
    """A pair with the name of its objective."""
    return [{**_pair(row)[0], "objective": _name("objective", row["objective"])}]


def _anchored(row: Row) -> list[Row]:
    """A pair with a sample of another policy."""
    return [{**_pair(row)[0], "baseline": _text("baseline", row["baseline"])}]


def _traces(row: Row) -> list[Row]:
    """A pair with traces and a pair without; either of them may be absent (null)."""
    result = {**row, "prompt": checked_prompt("prompt", row["prompt"])}
    present = 0
    for chosen, rejected in (("chosen", "rejected"), ("chosen_no_think", "rejected_no_think")):
        values = row.get(chosen), row.get(rejected)
        if values == (None, None):
            result |= {chosen: None, rejected: None}
            continue
        for name, value in zip((chosen, rejected), values, strict=True):
            result[name] = _text(name, value)
        if values[0] == values[1]:
            raise BadValue(
                f"{chosen!r} and {rejected!r} are equal, got {shown(values[0])}; a pair must "
                "prefer one"
            )
        present += 1
    if not present:
        raise BadValue("the row has no pair, neither with a trace nor without")
    return [result]


def _dispreferred(row: Row) -> list[Row]:
    """A prompt and an answer to avoid."""
    own = checked_prompt("prompt", row["prompt"])
    prompt, rejected = split_answer("rejected", row["rejected"], own)
    return [{**row, "prompt": prompt, "rejected": rejected}]


def _scored(row: Row) -> list[Row]:
    """A completion with its mean log-probability per token under the scoring models."""
    value = _number("mean_ref_logp", row["mean_ref_logp"])
    if value > 0:
        raise BadValue(f"'mean_ref_logp' must be at most 0, got {shown(row['mean_ref_logp'])}")
    return [{**_completion(row)[0], "mean_ref_logp": value}]


def _question(row: Row) -> list[Row]:
    """A question with the answers that count as right; in a CSV cell they are a JSON list."""
    answers = row["answers"]
    if isinstance(answers, str) and answers.lstrip().startswith("["):
        try:
            answers = json.loads(answers)
        except ValueError as error:
            raise BadValue(f"'answers' is not valid JSON, got {shown(answers)}") from error
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not answers:
        raise BadValue(f"'answers' must be a list of texts, got {shown(answers)}")
    return [
        {
            **row,
            "question": _text("question", row["question"]),
            "answers": [_text("answers", answer) for answer in answers],
        }
    ]


def _demonstrations(row: Row) -> list[Row]:
    """Solved examples of a task, and one to solve."""
    found = row["demonstrations"]
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and {"x", "y"} <= one.keys() for one in found
    ):
        raise BadValue(f"'demonstrations' must be a list of {{x, y}}, got {shown(found)}")
    if not found:
        raise BadValue("'demonstrations' is empty")
    checked = [{name: _text(f"demonstrations.{name}", one[name]) for name in "xy"} for one in found]
    texts = {name: _text(name, row[name]) for name in ("query", "target")}
    return [{**row, "demonstrations": checked, **texts}]


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
    return [{**_completion(row)[0], "reward": _number("reward", row["reward"])}]


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


def _documents(row: Row) -> list[Row]:
    """A set of documents between what may stand before them and what follows them."""
    docs = row["docs"]
    if not isinstance(docs, list) or not docs:
        raise BadValue(f"'docs' must be a list of texts, got {shown(docs)}")
    prompt = {
        "prefix": checked_prompt("prefix", row["prefix"]) if row.get("prefix") else "",
        "docs": [_text("docs", doc) for doc in docs],
        "suffix": _text("suffix", row["suffix"]),
    }
    return [{**row, "prompt": prompt}]


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


def _number(name: str, value: Any) -> float:
    """A finite number, also as text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadValue(f"{name!r} must be a number, got {shown(value)}") from error
    if not math.isfinite(number):
        raise BadValue(f"{name!r} must be a finite number, got {shown(value)}")
    return number


def _text(name: str, value: Any) -> str:
    """A text with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise BadValue(f"{name!r} must be a text that is not empty, got {shown(value)}")
    return value


def _name(name: str, value: Any) -> str:
    """A name; numbers count as their digits."""
    return _text(name, str(value) if isinstance(value, int) else value)


_PROMPTED_PAIR = ("prompt", "chosen", "rejected")
_BARE_PAIR = ("chosen", "rejected")
_READINGS: dict[str, list[Reading]] = {
    "pairs": [Reading(_PROMPTED_PAIR, _pair), Reading(_BARE_PAIR, _pair)],
    "routed": [
        Reading((*_PROMPTED_PAIR, "objective"), _routed),
        Reading((*_BARE_PAIR, "objective"), _routed),
    ],
    "anchored": [Reading((*_PROMPTED_PAIR, "baseline"), _anchored)],
    "traces": [Reading(("prompt",), _traces)],
    "dispreferred": [
        Reading(CONTRACTS["dispreferred"], _dispreferred),
    ],
    "scored": [Reading(CONTRACTS["scored"], _scored)],
    "questions": [Reading(CONTRACTS["questions"], _question)],
    "demonstrations": [Reading(CONTRACTS["demonstrations"], _demonstrations)],
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
    "documents": [
        Reading(CONTRACTS["documents"], _documents),
        Reading(CONTRACTS["prompts"], _prompt),
        Reading(CONTRACTS["messages"], _messages_prompt),
    ],
    "messages": [Reading(CONTRACTS["messages"], _messages)],
}
