"""Rows as token ids: what the engine trains on, cut to length by one policy for all models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from trueup.data import Row, Table
from trueup.errors import UserError
from trueup.files import content_hash
from trueup.models import Group, LanguageModel
from trueup.objectives.protocol import MANY, ROLES, Data
from trueup.training.config import Truncate

COLUMNS: dict[Data, tuple[str, ...]] = {  # where the completions of each role stand in a row
    "pairs": ("chosen", "rejected"),
    "routed": ("chosen", "rejected"),
    "anchored": ("chosen", "rejected", "baseline"),
    "traces": ("chosen", "rejected", "chosen_no_think", "rejected_no_think"),
    "labelled": ("completion",),
    "completions": ("completion",),
    "scored": ("completion",),
}
NO_TRACE = "_no_think"  # how the columns of answers without a trace end


@dataclass(frozen=True)
class Limit:
    """The longest prompt with one completion, and what happens to a longer one.

    Fields: opening is the token that stays in front when a prompt is cut (BOS), if it is there.
    """

    tokens: int
    truncate: Truncate
    opening: int | None = None


@dataclass(frozen=True)
class Example:
    """One row: its place in the source, its tokens, and what is known of it beside them.

    Fields: groups hold the completions of all roles in their order, mostly under one prompt; known
            has a number or tensor per keyword of the batch, the same keywords in all examples.
    """

    place: str
    groups: tuple[Group, ...]
    known: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> Group:
        """The prompt with its completions, of an example that has one prompt."""
        return self.groups[0]

    @property
    def lengths(self) -> list[int]:
        """Tokens of every completion."""
        return [len(part) for group in self.groups for part in group.completions]


@dataclass(frozen=True)
class Examples:
    """All rows of one table as tokens.

    Fields: prompts_cut and completions_cut count the examples whose prompt or any of whose
            completions were shortened; joint_differs those completions whose tokens would differ
            if prompt and completion were tokenised together.
    """

    kind: Data
    items: list[Example]
    prompts_cut: int = 0
    completions_cut: int = 0
    joint_differs: int = 0

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all token ids and labels: tokenizer, template, rows and cut in one."""
        return content_hash(
            self.kind,
            *(
                "".join(f"{group.prompt}{group.completions}" for group in item.groups)
                + str({name: _plain(value) for name, value in item.known.items()})
                for item in self.items
            ),
        )

    @property
    def width(self) -> int:
        """Completions of an example, all roles together."""
        return len(self.items[0].lengths)

    def families(self, indices: Sequence[int]) -> list[tuple[Group, ...]]:
        """The token ids of some examples."""
        return [self.items[index].groups for index in indices]

    def known(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """What is known of a batch before any forward pass: lengths per role, labels, masks."""
        items = [self.items[index] for index in indices]
        lengths = torch.tensor([item.lengths for item in items]).float()
        known = {f"{role}lengths": part for role, part in by_role(self.kind, lengths).items()}
        for name in items[0].known:
            values = [item.known[name] for item in items]
            known[name] = (
                torch.stack(values) if torch.is_tensor(values[0]) else torch.tensor(values)
            )
        return known


def by_role(kind: Data, table: Tensor) -> dict[str, Tensor]:
    """The completions' numbers [B, W, ...] by the prefix of their keyword: `chosen_`, ...

    A role with one completion per example gives [B, ...], one with many [B, K, ...].
    """
    parts = {}
    for place, role in enumerate(ROLES[kind]):
        prefix = f"{role}_" if role else ""
        parts[prefix] = table[:, place:] if role == MANY.get(kind) else table[:, place]
    return parts


def roles_of(kind: Data, width: int) -> list[str]:
    """The role of each of an example's completions."""
    roles = list(ROLES[kind])
    return roles + [roles[-1]] * (width - len(roles))


def tokenize(
    lm: LanguageModel,
    table: Table,
    kind: Data,
    limit: Limit,
    names: Sequence[str] = (),
    empty_trace: str = "",
) -> Examples:
    """Every row of the table as tokens, completions ended by EOS.

    Fields: names are the objectives of routed rows in the order of their numbers; empty_trace
            stands before an answer that has no trace, in data of traces.

    Raises: UserError where a prompt has no tokens, or an example is too long and may not be cut.
    """
    before = lm.encoder.joint_differs
    columns = COLUMNS[kind]
    present = [[column for column in columns if row[column] is not None] for row in table]
    groups = lm.encoder.groups(
        [row["prompt"] for row in table],
        [
            [
                empty_trace + row[column] if column.endswith(NO_TRACE) else row[column]
                for column in several
            ]
            for row, several in zip(table, present, strict=True)
        ],
        add_eos=True,
    )
    known = _known_of_rows(table, kind, names)
    items, prompts_cut, completions_cut = [], 0, 0
    for index, (several, group) in enumerate(zip(present, groups, strict=True)):
        place = table.place(index)
        if not group.prompt:
            raise UserError(f"{place}: the prompt has no tokens; write something into it")
        fitted = fit(group, limit, place)
        prompts_cut += fitted.prompt != group.prompt
        completions_cut += fitted.completions != group.completions
        if len(several) < len(columns):
            fitted = _with_blanks(fitted, [column in several for column in columns], lm.pad_id)
        items.append(Example(place, (fitted,), known[index]))
    return Examples(kind, items, prompts_cut, completions_cut, lm.encoder.joint_differs - before)


def _known_of_rows(table: Table, kind: Data, names: Sequence[str]) -> list[dict[str, Any]]:
    """What the rows say beside their texts, by the batch's keywords."""
    if kind == "labelled":
        labels: list[dict[str, Any]] = [{"labels": bool(row["label"])} for row in table]
        if all(row.get("density_weights") in (None, "") for row in table):
            return labels
        weights = [_density_weight(row, table.place(index)) for index, row in enumerate(table)]
        return [
            {**label, "density_weights": weight}
            for label, weight in zip(labels, weights, strict=True)
        ]
    if kind == "scored":
        return [{"mean_ref_logps": float(row["mean_ref_logp"])} for row in table]
    if kind == "routed":
        return [
            {"objective_ids": _number(row["objective"], names, table.place(index))}
            for index, row in enumerate(table)
        ]
    if kind == "traces":
        return [
            {
                "trace_mask": row["chosen"] is not None,
                "empty_mask": row["chosen_no_think"] is not None,
            }
            for row in table
        ]
    return [{} for _ in table]


def _density_weight(row: Row, place: str) -> float:
    """What a row says of its prompt's weight, 1 where it says nothing."""
    value = row.get("density_weights")
    if value in (None, ""):
        return 1.0
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise UserError(f"{place}: 'density_weights' must be a number from 0 up, got {value!r}")
    return weight


def objective_names(table: Table) -> list[str]:
    """The objectives that the rows of several-objective data name, sorted."""
    return sorted({row["objective"] for row in table})


def _number(objective: str, names: Sequence[str], place: str) -> int:
    """The number of a row's objective."""
    if objective not in names:
        raise UserError(f"{place}: no training row has the objective {objective!r}, only {names}")
    return names.index(objective)


def _with_blanks(group: Group, present: Sequence[bool], blank: int) -> Group:
    """A token in place of every absent completion; it lays out nothing and its mask is False."""
    parts = iter(group.completions)
    return Group(group.prompt, [next(parts) if there else [blank] for there in present])


def _plain(value: Any) -> Any:
    """A known value as it goes into a hash."""
    return value.tolist() if torch.is_tensor(value) else value


def fit(group: Group, limit: Limit, place: str) -> Group:
    """The group with prompt and longest completion within the limit.

    The prompt is cut from the left and keeps what stands next to the completion; it gives way down
    to half of the limit, then completions lose their end, and with it their EOS.

    Raises: UserError where the policy is "error" and something would be cut.
    """
    longest = max(map(len, group.completions))
    if len(group.prompt) + longest <= limit.tokens:
        return group
    if limit.truncate == "error":
        raise UserError(
            f"{place}: prompt and completion have {len(group.prompt) + longest} tokens, the limit "
            f"is {limit.tokens}; shorten them, raise max_length or set truncate=prompt-left"
        )
    kept = max(limit.tokens - longest, min(len(group.prompt), limit.tokens // 2))
    completions = [completion[: limit.tokens - kept] for completion in group.completions]
    return Group(_prompt_end(group.prompt, kept, limit.opening), completions)


def mismatched(examples: Examples, indices: Sequence[int], limit: Limit) -> list[Group]:
    """Each example's prompt with the completion of another one of the batch (KTO's z0).

    The other one is the next with another prompt, round the batch; where all prompts are equal it
    is the next.
    """
    items = [examples.items[index] for index in indices]
    cutting = Limit(limit.tokens, "prompt-left", limit.opening)
    groups = []
    for place, item in enumerate(items):
        following = [*items[place + 1 :], *items[:place]] or [item]
        prompt = item.group.prompt
        other = next((one for one in following if one.group.prompt != prompt), following[0])
        groups.append(fit(Group(prompt, other.group.completions), cutting, item.place))
    return groups


def _prompt_end(prompt: list[int], kept: int, opening: int | None) -> list[int]:
    """The last `kept` tokens; an opening token counts as one of them and stays in front."""
    if len(prompt) <= kept:
        return prompt
    if prompt[0] == opening and kept > 1:
        return [prompt[0], *prompt[len(prompt) - kept + 1 :]]
    return prompt[len(prompt) - kept :]


def held_out(table: Table, fraction: float, seed: int) -> tuple[Table, Table]:
    """Split off about `fraction` of the prompts; all rows of a prompt stay on one side.

    Raises: UserError where the table has fewer than two prompts.
    """
    keys = [_prompt_key(row["prompt"] if "prompt" in row else row["query"]) for row in table]
    distinct = list(dict.fromkeys(keys))
    if len(distinct) < 2:
        raise UserError(
            f"{table.source}: has {len(distinct)} distinct prompt, none can be held out; "
            "give evaluation rows or set eval_fraction=0"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(distinct), generator=generator).tolist()
    count = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    chosen = {distinct[index] for index in order[:count]}
    kept = [index for index, key in enumerate(keys) if key not in chosen]
    out = [index for index, key in enumerate(keys) if key in chosen]
    return table.select(kept), table.select(out)


def _prompt_key(prompt: Any) -> str:
    """The prompt as something that can be compared."""
    return prompt if isinstance(prompt, str) else repr(prompt)
