"""Rows as token ids: what the engine trains on, cut to length by one policy for all models."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from trueup.data import Table
from trueup.errors import UserError
from trueup.files import content_hash
from trueup.models import Group, LanguageModel
from trueup.training.config import Truncate

DataKind = Literal["pairs", "labelled", "completions"]
COLUMNS: dict[DataKind, tuple[str, ...]] = {
    "pairs": ("chosen", "rejected"),
    "labelled": ("completion",),
    "completions": ("completion",),
}


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
    """One row: its place in the source, its tokens, its label where it has one."""

    place: str
    group: Group
    label: bool = True


@dataclass(frozen=True)
class Examples:
    """All rows of one table as tokens.

    Fields: prompts_cut and completions_cut count the examples whose prompt or any of whose
            completions were shortened; joint_differs those completions whose tokens would differ
            if prompt and completion were tokenised together.
    """

    kind: DataKind
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
            *(f"{item.group.prompt}{item.group.completions}{item.label}" for item in self.items),
        )

    def groups(self, indices: Sequence[int]) -> list[Group]:
        """The token ids of some examples."""
        return [self.items[index].group for index in indices]

    def known(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """What is known of a batch before any forward pass: lengths [B] and labels [B]."""
        items = [self.items[index] for index in indices]
        lengths = torch.tensor([[*map(len, item.group.completions)] for item in items]).float()
        if self.kind == "pairs":
            return {"chosen_lengths": lengths[:, 0], "rejected_lengths": lengths[:, 1]}
        labels = torch.tensor([item.label for item in items])
        known = {"lengths": lengths[:, 0]}
        return known | {"labels": labels} if self.kind == "labelled" else known


def tokenize(lm: LanguageModel, table: Table, kind: DataKind, limit: Limit) -> Examples:
    """Every row of the table as tokens, completions ended by EOS.

    Raises: UserError where a prompt has no tokens, or an example is too long and may not be cut.
    """
    before = lm.encoder.joint_differs
    columns = COLUMNS[kind]
    groups = lm.encoder.groups(
        [row["prompt"] for row in table],
        [[row[column] for column in columns] for row in table],
        add_eos=True,
    )
    items, prompts_cut, completions_cut = [], 0, 0
    for index, (row, group) in enumerate(zip(table, groups, strict=True)):
        place = table.place(index)
        if not group.prompt:
            raise UserError(f"{place}: the prompt has no tokens; write something into it")
        fitted = fit(group, limit, place)
        prompts_cut += fitted.prompt != group.prompt
        completions_cut += fitted.completions != group.completions
        items.append(Example(place, fitted, bool(row.get("label", True))))
    return Examples(kind, items, prompts_cut, completions_cut, lm.encoder.joint_differs - before)


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
    keys = [_prompt_key(row["prompt"]) for row in table]
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
