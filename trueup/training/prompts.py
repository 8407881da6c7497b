"""The rows of online training: prompts as tokens, and the completion that a row brings along."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from trueup.data import Table, read
from trueup.errors import UserError
from trueup.files import content_hash
from trueup.models import Group, LanguageModel
from trueup.objectives import Objective
from trueup.objectives.protocol import Data
from trueup.training.config import TrainingConfig
from trueup.training.data import Rows, limit_of
from trueup.training.examples import fit, held_out

FIXED: dict[Data, str] = {"dispreferred": "rejected", "imitated": "completion"}


@dataclass(frozen=True)
class Prompts:
    """All prompts of one table, each leaving room for its samples.

    Fields: groups hold the prompt with the completion that the row brings, or with none; texts are
            the prompts as a reward reads them; cut counts the prompts that were shortened;
            evaluation are the prompts held out, where there are any.
    """

    table: Table
    groups: list[Group]
    texts: list[str]
    cut: int = 0
    evaluation: "Prompts | None" = None

    def __len__(self) -> int:
        return len(self.groups)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all token ids, and of the rows' other columns."""
        tokens = (f"{group.prompt}{group.completions}" for group in self.groups)
        return content_hash(self.table.hash, *tokens)

    def notes(self) -> list[str]:
        """What happened to the rows on their way, for the user."""
        parts = {"prompts": self, "evaluation prompts": self.evaluation}
        return [
            f"{part.cut} of {len(part)} {name} cut from the left to leave room for samples"
            for name, part in parts.items()
            if part is not None and part.cut
        ]


def training_prompts(
    lm: LanguageModel,
    objective: Objective,
    rows: Rows,
    eval_rows: Rows | None,
    config: TrainingConfig,
) -> Prompts:
    """The prompts of the user's rows, and those of `eval_rows` or held out of the rows themselves.

    Raises: UserError where rows break their contract, a prompt has no tokens or no room, or
            evaluations are asked for and nothing is held out.
    """
    source = getattr(objective, "source", objective.data)
    table = read(rows, source)
    held = None if eval_rows is None else read(eval_rows, source)
    if held is None and config.eval_fraction:
        table, held = held_out(table, config.eval_fraction, config.seed)
    for name in ("eval_every", "monitor"):
        if held is None and getattr(config, name):
            raise UserError(
                f"{name} needs evaluation prompts, but there are none; give some or set "
                "eval_fraction"
            )

    def made(part: Table) -> Prompts:
        return _prompts(lm, part, source, objective.data, config)

    return replace(made(table), evaluation=None if held is None else made(held))


def turns(prompts: Sequence[Sequence[int] | str]) -> list[int]:
    """How many equal prompts stand before each one."""
    seen: Counter[object] = Counter()
    found = []
    for prompt in prompts:
        key = prompt if isinstance(prompt, str) else tuple(prompt)
        found.append(seen[key])
        seen[key] += 1
    return found


def _prompts(
    lm: LanguageModel, table: Table, source: str, kind: Data, config: TrainingConfig
) -> Prompts:
    """The prompts of a table, tokenised and cut to length."""
    limit = limit_of(lm, config)
    if config.max_new_tokens >= limit.tokens:
        raise UserError(
            f"max_new_tokens must be below the model's {limit.tokens} tokens, got "
            f"{config.max_new_tokens}"
        )
    column = "question" if source == "questions" else "prompt"
    prompts = [row[column] for row in table]
    fixed = FIXED.get(kind)
    if fixed is None:
        whole = [Group(lm.encoder.prompt(prompt), []) for prompt in prompts]
    else:
        whole = lm.encoder.groups(prompts, [[row[fixed]] for row in table], add_eos=True)
    groups, cut = [], 0
    room = [0] * config.max_new_tokens
    for index, group in enumerate(whole):
        place = table.place(index)
        if not group.prompt:
            raise UserError(f"{place}: the prompt has no tokens; write something into it")
        fitted = fit(Group(group.prompt, [*group.completions, room]), limit, place)
        cut += fitted.prompt != group.prompt
        groups.append(Group(fitted.prompt, fitted.completions[:-1]))
    return Prompts(table, groups, [lm.encoder.prompt_text(prompt) for prompt in prompts], cut)
