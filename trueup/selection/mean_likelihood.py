"""How likely aligned models hold given answers: the column that PoFT's data need."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from trueup.data import Table
from trueup.errors import UserError
from trueup.models import LanguageModel

Opened = Callable[[], LanguageModel]


def with_mean_logps(table: Table, models: Iterable[Opened]) -> Table:
    """The rows with `mean_ref_logp`: log-probability per token, averaged over models.

    mean_ref_logp = mean over models of log p_j(completion | prompt) / tokens under p_j's tokenizer

    Every model has its own tokenizer and template; its end-of-text token counts as one of the
    tokens, as it does in training. Models are opened one after the other, so that one at a time is
    in memory.
    Raises: UserError where no model is given or a row is too long for one of them.
    Source: PoFT, arXiv 2412.12865: the mean is over log-likelihoods, not over probabilities.
    """
    prompts = [row["prompt"] for row in table]
    completions = [[row["completion"]] for row in table]
    columns: list[list[float]] = []
    for opened in models:
        lm = opened()
        scores = lm.score(prompts, completions, add_eos=True)
        columns.append([float(parts[0].mean()) for parts in scores.token_logps])
    if not columns:
        raise UserError("give at least one scoring model")
    return table_with(
        table, "mean_ref_logp", [sum(row) / len(row) for row in zip(*columns, strict=True)]
    )


def table_with(table: Table, column: str, values: Sequence[Any]) -> Table:
    """The table with one more column."""
    rows = [{**row, column: value} for row, value in zip(table, values, strict=True)]
    return Table(rows=rows, source=table.source, numbers=table.numbers, unit=table.unit)
