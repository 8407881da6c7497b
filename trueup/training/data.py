"""The rows of a run: read and validated, held out, tokenised, cut to length."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trueup.data import Table, read
from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.objectives import Objective
from trueup.training.config import TrainingConfig
from trueup.training.examples import Examples, Limit, held_out, objective_names, tokenize
from trueup.training.in_context import tokenize_in_context

Rows = Table | Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class TrainingData:
    """Training and evaluation rows, as tables and as tokens."""

    table: Table
    eval_table: Table | None
    train: Examples
    evaluation: Examples | None
    limit: Limit

    def notes(self) -> list[str]:
        """What happened to the rows on their way, for the user."""
        notes = []
        for name, examples in (("training", self.train), ("evaluation", self.evaluation)):
            if examples is None:
                continue
            counts = {
                f"prompts cut from the left to fit {self.limit.tokens} tokens": (
                    examples.prompts_cut
                ),
                f"completions cut to fit {self.limit.tokens} tokens; they have no EOS": (
                    examples.completions_cut
                ),
                "completions tokenised apart from their prompt, because a token would straddle "
                "the boundary": examples.joint_differs,
            }
            notes += [
                f"{name} rows: {count} of {len(examples)} {what}"
                for what, count in counts.items()
                if count
            ]
        if self.evaluation is None:
            notes.append("no evaluation rows: no guards were measured")
        return notes


def training_data(
    lm: LanguageModel,
    objective: Objective,
    rows: Rows,
    eval_rows: Rows | None,
    config: TrainingConfig,
) -> TrainingData:
    """Everything that a run reads, before any work starts.

    Raises: UserError where rows break their contract, or are too long and may not be cut.
    """
    kind = objective.data
    table = read(rows, kind)
    eval_table = None if eval_rows is None else read(eval_rows, kind)
    if eval_table is None and config.eval_fraction:
        table, eval_table = held_out(table, config.eval_fraction, config.seed)
    if eval_table is None and config.eval_every:
        raise UserError(
            f"eval_every is {config.eval_every}, but there are no evaluation rows; give some or "
            "set eval_fraction"
        )
    if eval_table is None and config.monitor:
        raise UserError(
            "monitor measures evaluation rows, but there are none; give some or set eval_fraction"
        )
    limit = limit_of(lm, config)
    names = objective_names(table) if kind == "routed" else []

    def tokens(rows: Table) -> Examples:
        if kind == "demonstrations":
            count = getattr(objective, "subsets", 2)
            return tokenize_in_context(lm, rows, limit, subsets=count, seed=config.seed)
        return tokenize(lm, rows, kind, limit, names, getattr(objective, "empty_trace", ""))

    evaluation = None if eval_table is None else tokens(eval_table)
    return TrainingData(table, eval_table, tokens(table), evaluation, limit)


def limit_of(lm: LanguageModel, config: TrainingConfig) -> Limit:
    """The longest example."""
    wanted = config.max_length or lm.max_length
    if wanted > lm.max_length:
        raise UserError(f"max_length must be at most the model's {lm.max_length}, got {wanted}")
    return Limit(wanted, config.truncate, lm.tokenizer.bos_token_id)
