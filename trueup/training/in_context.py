"""Demonstrations as tokens: a whole sample, and its target after subsets of the demonstrations."""

import numpy as np

from trueup.data import Table
from trueup.errors import UserError
from trueup.models import Group, LanguageModel
from trueup.synthesis.demonstrations import in_context_texts
from trueup.training.examples import Example, Examples, Limit


def tokenize_in_context(
    lm: LanguageModel, table: Table, limit: Limit, *, subsets: int, seed: int
) -> Examples:
    """Every row as 1 + N completions: the sequence, and the target behind each of N subsets.

    The sequence is scored from its first token (after the tokenizer's opening one, where there is
    one); the target is tokenised by itself, so that its ids are the same in every context. A sample
    that is too long loses its first demonstrations.

    Raises: UserError where a row has, or keeps, too few demonstrations for N distinct subsets.
    """
    rng = np.random.default_rng(seed)
    opening = lm.encoder.opening

    def fits(text: str) -> bool:
        return len(opening) + len(lm.encoder.tokens([text])[0]) + 1 <= limit.tokens

    items = []
    for index, row in enumerate(table):
        found = in_context_texts(row, rng, n_subsets=subsets, fits=fits)
        if found is None:
            raise UserError(
                f"{table.place(index)}: its demonstrations that fit into {limit.tokens} tokens "
                f"have no {subsets} subsets; give more or shorter ones, or set subsets lower"
            )
        target, *prompts = lm.encoder.tokens([found.target, found.prompt, *found.prompts])
        sequence = [*prompts[0], *target]
        start = opening or sequence[:1]
        whole = Group(list(start), [sequence[len(start) - len(opening) :]])
        asked = [Group([*opening, *prompt], [target]) for prompt in prompts[1:]]
        items.append(Example(table.place(index), (whole, *asked)))
    return Examples("demonstrations", items)
