"""In-context samples: a query behind solved examples of its task, and behind subsets of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trueup.errors import UserError, check_at_least, check_between

MOST_DEMONSTRATIONS = 62  # subsets are numbered by the bits of a 64-bit integer


@dataclass(frozen=True, kw_only=True)
class Template:
    """How solved examples become text; a demonstration is x, `answer`, y.

    Fields: separator stands between demonstrations, and before the query.
    """

    answer: str = "\n"
    separator: str = "\n\n"

    def prompt(self, demonstrations: Sequence[Mapping[str, str]], query: str) -> str:
        """All that stands before the target."""
        solved = [one["x"] + self.answer + one["y"] for one in demonstrations]
        return self.separator.join([*solved, query + self.answer])


@dataclass(frozen=True, kw_only=True)
class InContextTexts:
    """One sample as text: the target after all demonstrations, and after each of N subsets.

    Fields: prompt and prompts end where the target begins, so that it has the same tokens in all;
            subsets hold the numbers of their demonstrations, in the order of the text.
    """

    prompt: str
    prompts: tuple[str, ...]
    target: str
    subsets: tuple[tuple[int, ...], ...]

    @property
    def sequence(self) -> str:
        """The whole sample, demonstrations, query and target."""
        return self.prompt + self.target


def demonstration_rows(
    examples: Sequence[Mapping[str, str]],
    n_rows: int,
    rng: np.random.Generator,
    *,
    k_range: tuple[int, int] = (4, 10),
) -> list[dict[str, Any]]:
    """Rows of a query and k demonstrations, all of one task: `task, demonstrations, query, target`.

    Queries take turns in random order; k is uniform over its range, and the demonstrations are
    drawn without replacement from the other examples of the task.
    Fields: examples have `task`, `x` and `y`; k_range is lowest and highest k, both included.
    Edges:  a task too small for the highest k gives fewer, one too small for the lowest none.
    Raises: UserError where no task is large enough, or the range is none.
    Source: Qin et al. 2023, arXiv 2312.17055, section 3: 4 to 10, where a fixed k was worse.
    """
    low, high = k_range
    check_between(1, MOST_DEMONSTRATIONS, k_low=low)
    check_between(low, MOST_DEMONSTRATIONS, k_high=high)
    check_at_least(1, n_rows=n_rows)
    members: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        members.setdefault(example["task"], []).append(number)
    queries = [number for several in members.values() if len(several) > low for number in several]
    if not queries:
        largest = max(map(len, members.values()), default=0)
        raise UserError(
            f"examples: the largest task has {largest}; a query and {low} demonstrations need "
            f"{low + 1} examples of one task"
        )
    turns: list[int] = []
    while len(turns) < n_rows:
        turns += rng.permutation(queries).tolist()
    rows = []
    for query in turns[:n_rows]:
        task = examples[query]["task"]
        others = [number for number in members[task] if number != query]
        k = int(rng.integers(low, min(high, len(others)), endpoint=True))
        drawn = rng.choice(others, size=k, replace=False).tolist()
        rows.append(
            {
                "task": task,
                "demonstrations": [{name: examples[one][name] for name in "xy"} for one in drawn],
                "query": examples[query]["x"],
                "target": examples[query]["y"],
            }
        )
    return rows


def in_context_texts(
    row: Mapping[str, Any],
    rng: np.random.Generator,
    *,
    n_subsets: int = 4,
    template: Template | None = None,
    fits: Callable[[str], bool] | None = None,
) -> InContextTexts | None:
    """One row as text, with n_subsets random subsets of its demonstrations.

    Fields: row as `demonstration_rows` gives it; fits says whether a whole sample is short enough
            for the model: while it is not, the first demonstration is dropped.
    Edges:  None where too few demonstrations are left for so many distinct subsets.
    Source: Qin et al. 2023, arXiv 2312.17055, section 3; which demonstration goes first is ours.
    """
    check_at_least(1, n_subsets=n_subsets)
    layout = template or Template()
    kept = list(row["demonstrations"])
    while kept and fits is not None and not fits(layout.prompt(kept, row["query"]) + row["target"]):
        kept = kept[1:]
    if 2 ** len(kept) - 1 < n_subsets:
        return None
    subsets = demonstration_subsets(len(kept), n_subsets, rng)
    return InContextTexts(
        prompt=layout.prompt(kept, row["query"]),
        prompts=tuple(
            layout.prompt([kept[number] for number in subset], row["query"]) for subset in subsets
        ),
        target=row["target"],
        subsets=tuple(subsets),
    )


def demonstration_subsets(k: int, n: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Distinct subsets of 0..k-1, n of them, uniform over all but the empty one, each ascending.

    Raises: UserError where k elements have fewer than n subsets.
    Source: Qin et al. 2023, arXiv 2312.17055: n = 4 of 2**k, uniform in its second version.
    """
    check_between(1, MOST_DEMONSTRATIONS, k=k)
    if n > 2**k - 1:
        raise UserError(f"{k} demonstrations have {2**k - 1} subsets, got n_subsets = {n}")
    numbers = 1 + rng.choice(2**k - 1, size=n, replace=False)
    return [tuple(bit for bit in range(k) if number >> bit & 1) for number in numbers.tolist()]
