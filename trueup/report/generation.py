"""A run of `generate` as its page shows it: what was written, and what the search chose from."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trueup.report import wording
from trueup.stats import mean

if TYPE_CHECKING:
    import pandas as pd

    from trueup.stats import Estimate

MOST_CARDS = 3  # rewards that are shown large
LONGEST_SETTING = 40
ENDINGS = {"eos": "by the model", "stop": "at a stop text", "length": "at the longest length"}
SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "max_new_tokens": "at most {} tokens",
}

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One row of the run: the `number`-th completion of a prompt, both counted from 1."""

    index: int
    number: int
    prompt: Any
    text: str
    reason: str
    n_tokens: int | None
    score: float | None
    rewards: Mapping[str, float]
    trace: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Completions:
    """What a run of `generate` wrote, in the order of its prompts, with its settings and work."""

    rows: Sequence[Completion]
    settings: Mapping[str, Any]
    work: Mapping[str, int]

    @property
    def rewards(self) -> list[str]:
        """The names of all rewards."""
        return list(dict.fromkeys(name for row in self.rows for name in row.rewards))

    @property
    def has_own_score(self) -> bool:
        """Whether the score says anything that the rewards do not."""
        return any(
            row.score is not None and list(row.rewards.values()) != [row.score] for row in self.rows
        )

    @property
    def is_stepwise(self) -> bool:
        """Whether a search went through steps of its own instead of sampling texts."""
        return any(len(row.trace) > 1 for row in self.rows)

    def by_prompt(self) -> list[list[Completion]]:
        """The completions of each prompt, the best first."""
        found: dict[int, list[Completion]] = {}
        for row in self.rows:
            found.setdefault(row.index, []).append(row)
        return list(found.values())

    def work_per_token(self) -> float | None:
        """Tokens that went through the model for each token of a completion; None for no counts."""
        written = sum(row.n_tokens or 0 for row in self.rows)
        read = self.work.get("trunk_tokens", 0)
        return read / written if read and written else None

    def mean_of(self, name: str | None) -> "Estimate":
        """The mean of a reward, of the score where there is no name, with Student's interval.

        Over prompts, whose completions are not independent: each counts with their mean.
        """
        values = []
        for several in self.by_prompt():
            own = [row.score if name is None else row.rewards.get(name) for row in several]
            known = [value for value in own if value is not None and math.isfinite(value)]
            if known:
                values.append(math.fsum(known) / len(known))
        return mean(values)


def completions_of(
    items: "pd.DataFrame", settings: Mapping[str, Any], work: Mapping[str, int]
) -> Completions:
    """The completions from the items of a run, whatever order they were written in."""
    rows = [_completion(row) for row in items.to_dict("records")]
    ordered = sorted(rows, key=lambda row: (row.index, row.number))
    return Completions(rows=ordered, settings=settings, work=work)


def generation_question(settings: Mapping[str, Any]) -> str:
    """What was asked, in one sentence."""
    if settings.get("rewards"):
        return "What did the search choose, out of what, and what did that cost?"
    return "What does the model write?"


def generation_facts(found: Completions | None, settings: Mapping[str, Any]) -> Row:
    """What was decoded and how, for under the title."""
    rewards = [_reward_told(*pair) for pair in (settings.get("rewards") or {}).items()]
    facts = {
        "Decoder": _decoder_told(settings),
        "Rewards": ", ".join(rewards),
        "Sampling": ", ".join(_sampling_told(settings, found is not None and found.is_stepwise)),
        "Prompts": wording.count(len(found.by_prompt())) if found else "0",
        "Completions per prompt": wording.count(settings.get("n", 1)),
    }
    return {name: value for name, value in facts.items() if value}


def generation_sentences(found: Completions | None) -> list[str]:
    """What was written, in words and numbers."""
    if found is None or not found.rows:
        return ["Nothing has been written yet."]
    rows, prompts = found.rows, found.by_prompt()
    what = wording.plural(len(rows), "completion")
    sentences = [f"{what} of {wording.plural(len(prompts), 'prompt')}: {_endings_told(rows)}."]
    names: list[str | None] = [*found.rewards]
    names += [None] if found.has_own_score else []
    sentences += [_mean_told(found, name) for name in names]
    cost = found.work_per_token()
    if cost is not None:
        written = sum(row.n_tokens or 0 for row in rows)
        sentences.append(
            f"For the {wording.count(written)} tokens of these completions the model read"
            f" {wording.count(found.work['trunk_tokens'])}, {cost:,.1f} for each; the prompts and"
            " all that was considered and dropped are among them."
        )
    return sentences


def generation_cards(found: Completions | None) -> list[Row]:
    """The mean of every reward, else of the score, and the work, large."""
    if found is None or not (found.rewards or found.has_own_score):
        return []
    names: list[str | None] = [*found.rewards[:MOST_CARDS]] or [None]
    cards = [_mean_card(found, name) for name in names]
    cost = found.work_per_token()
    if cost is not None:
        detail = "tokens read by the model for each token of a completion"
        cards.append(_card("Work", f"{cost:,.1f}", detail))
    return cards


def _completion(row: Mapping[Any, Any]) -> Completion:
    """One row of items.parquet; a run of plain samples may have fewer columns."""
    index, _, number = str(row["id"]).partition("-")
    n_tokens, score = row.get("n_tokens"), row.get("score")
    return Completion(
        index=int(index),
        number=int(number or 1),
        prompt=json.loads(row["prompt"]),
        text=str(row["text"]),
        reason=str(row.get("reason") or ""),
        n_tokens=int(n_tokens) if n_tokens is not None and wording.is_number(n_tokens) else None,
        score=float(score) if score is not None and wording.is_number(score) else None,
        rewards=json.loads(row.get("rewards") or "{}"),
        trace=json.loads(row.get("trace") or "[]"),
    )


def _decoder_told(settings: Mapping[str, Any]) -> str:
    """The chain and the settings of its parts."""
    chain = str(settings.get("decoder", ""))
    parts = [
        ", ".join(_setting_told(*pair) for pair in fields.items() if pair[1] is not None)
        for fields in (settings.get("decoders") or {}).values()
    ]
    told = "; ".join(part for part in parts if part)
    return f"{chain} ({told})" if told else chain


def _setting_told(name: str, value: Any) -> str:
    """One setting, cut where it is a long text."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name} {wording.plain_text(text, LONGEST_SETTING)}"


def _reward_told(name: str, identity: Any) -> str:
    """A reward's name, with what it is where the name does not say it."""
    kind = str(identity).partition(" ")[0]
    return name if kind in name else f"{name} ({kind})"


def _sampling_told(settings: Mapping[str, Any], is_stepwise: bool) -> list[str]:
    """How tokens were drawn, where the search leaves that to them, without what changes nothing."""
    neutral: dict[str, float] = {"top_k": 0, "top_p": 1}
    return [
        text.format(settings[name]) if "{}" in text else f"{text} {settings[name]:g}"
        for name, text in SAMPLING.items()
        if name in settings
        and settings[name] != neutral.get(name)
        and (not is_stepwise or name == "max_new_tokens")
    ]


def _endings_told(rows: Sequence[Completion]) -> str:
    """How many ended in which way."""
    reasons = [row.reason for row in rows]
    told = [
        f"{'all' if reasons.count(reason) == len(rows) else reasons.count(reason)} ended {words}"
        for reason, words in ENDINGS.items()
        if reason in reasons
    ]
    return ", ".join(told) or "how they ended is not known"


def _mean_told(found: Completions, name: str | None) -> str:
    """A mean in a sentence."""
    row = found.mean_of(name).as_dict()
    return f"{_mean_name(name)}: {wording.value_of(row)}, {_interval_told(row)}."


def _mean_card(found: Completions, name: str | None) -> Row:
    """A mean, large."""
    row = found.mean_of(name).as_dict()
    return _card(_mean_name(name), wording.value_of(row), _interval_told(row))


def _mean_name(name: str | None) -> str:
    """What is averaged."""
    return "Mean score" if name is None else f"Mean reward {wording.plain_text(name)}"


def _interval_told(row: Mapping[str, Any]) -> str:
    """The interval of a mean over prompts, or why there is none."""
    if wording.is_number(row["low"]):
        interval = wording.bounds(row["low"], row["high"], row["n"])
        return f"{row['level']:.0%} interval {interval} over {wording.plural(row['n'], 'prompt')}"
    why = "there is one prompt" if row["n"] == 1 else f"all {row['n']:,} prompts have it"
    return f"without an interval, as {why}"


def _card(name: str, text: str, detail: str) -> Row:
    """One number, large."""
    return {
        "name": name,
        "slice": "all",
        "numbers": [text],
        "verdict": "",
        "tone": "none",
        "details": [detail],
    }
