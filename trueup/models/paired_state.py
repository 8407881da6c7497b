"""Two branches that take the same tokens, each with a cache of its own; in one pass where they can.

state.logprobs         [rows, vocabulary], of the first branch
state.others           the same of the second
state.scores           what tokens are drawn by, made of both
state.advance(tokens)  one token per row, to both branches
state.select(rows)     fork, reorder or drop rows, in both branches
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trueup.models.batch_state import BatchState
from trueup.models.decoding_state import DecodingState

Combine = Callable[[Tensor, Tensor], Tensor]


class PairedState:
    """A row of the first branch and the same row of the second, as one row to sample from.

    Fields: first and second are states of equally many rows, which must not be used any more;
            combine makes scores [R, V] of the log-probabilities of both, [R, V] each; is_one_model
            says that one model reads both: then they are two halves of one state, and a step is
            one pass.
    """

    def __init__(
        self,
        first: DecodingState,
        second: DecodingState,
        combine: Combine,
        *,
        is_one_model: bool,
    ) -> None:
        self.rows = first.rows
        self._combine = combine
        self._states = [first, second]
        if is_one_model:
            whole = BatchState.of(first)
            whole.join(second)
            self._states = [whole]

    @property
    def logprobs(self) -> Tensor:
        """Log-probabilities of the next token in the first branch, [R, V]."""
        return self._states[0].logprobs[: self.rows]

    @property
    def others(self) -> Tensor:
        """Log-probabilities of the next token in the second branch, [R, V']."""
        return self._states[-1].logprobs[-self.rows :]

    @property
    def scores(self) -> Tensor:
        """What tokens are drawn by, [R, V]."""
        return self._combine(self.logprobs, self.others.to(self.logprobs.device))

    def advance(self, tokens: Tensor | Sequence[int]) -> None:
        """Append one token to each row, [R]."""
        column = torch.as_tensor(tokens, device=self.logprobs.device)
        for state in self._states:
            state.advance(column.repeat(state.rows // self.rows))

    def select(self, rows: Tensor | Sequence[int]) -> None:
        """Keep these rows, in this order; naming a row twice forks it."""
        chosen = torch.as_tensor(rows)
        for state in self._states:
            halves = range(state.rows // self.rows)
            state.select(torch.cat([chosen + half * self.rows for half in halves]))
        self.rows = len(chosen)
