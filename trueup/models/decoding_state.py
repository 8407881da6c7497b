"""Decoding state: five words on which every decoder is written, none re-encoding a prefix.

state = lm.start(prompts)      one prefill
state.logprobs                 [rows, vocabulary], of the next token
state.advance(tokens)          one token per row
state.select(rows)             fork, reorder or drop rows, with their cache
state.rollback(n)              forget the last n tokens
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trueup.models import architecture
from trueup.models.growing_cache import GrowingCache
from trueup.models.work import Work


class DecodingState:
    """Rows of tokens with their key-value cache, all of one length (shorter prompts padded left).

    Fields: lengths [R], real tokens of each row; steps, tokens taken since the prefill.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], *, pad_id: int, work: Work):
        self._model = model
        self._work = work
        self._head = architecture.causal_model(model).get_output_embeddings()
        self._cache = GrowingCache()
        device = next(model.parameters()).device
        width = max(map(len, prompts))
        rows = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        steps = torch.arange(width, device=device)
        self._mask = (steps[None, :] >= width - self.lengths[:, None]).long()  # [R, L]
        self._is_padded = bool((self._mask == 0).any())
        self._history: list[Tensor] = []  # one [R, D] per step, so that rollback needs no pass
        self._logprobs: Tensor | None = None
        positions = (self._mask.cumsum(1) - 1).clamp_min(0)
        self._run(torch.tensor(rows, device=device), positions)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.lengths)

    @property
    def steps(self) -> int:
        """Tokens taken since the prefill."""
        return len(self._history) - 1

    @property
    def logprobs(self) -> Tensor:
        """Log-probabilities of the next token in float32, [R, V]; computed once per step."""
        if self._logprobs is None:
            self._work.add(head_rows=self.rows)
            with torch.no_grad():
                logits = self._head(self._history[-1]).float()
            self._logprobs = torch.log_softmax(logits, dim=-1)
        return self._logprobs

    @property
    def scores(self) -> Tensor:
        """What tokens are drawn by, in nats up to a constant per row, [R, V]: `logprobs` here."""
        return self.logprobs

    def advance(self, tokens: Tensor | Sequence[int]) -> None:
        """Append one token to each row, [R]."""
        column = torch.as_tensor(tokens, device=self.lengths.device).reshape(self.rows, 1)
        self._mask = torch.cat([self._mask, torch.ones_like(column)], dim=1)
        positions = self.lengths[:, None]
        self.lengths = self.lengths + 1
        self._run(column, positions)

    def select(self, rows: Tensor | Sequence[int]) -> None:
        """Keep these rows, in this order; naming a row twice forks it."""
        chosen = torch.as_tensor(rows, device=self.lengths.device)
        self._cache.batch_select_indices(chosen)
        self._mask = self._mask[chosen]
        self.lengths = self.lengths[chosen]
        self._history = [hidden[chosen] for hidden in self._history]
        if self._logprobs is not None:
            self._logprobs = self._logprobs[chosen]

    def rollback(self, count: int) -> None:
        """Forget the last `count` tokens of every row; raises ValueError beyond the prefill."""
        if not 0 <= count <= self.steps:
            raise ValueError(f"cannot roll back {count} tokens, {self.steps} were taken")
        if count == 0:
            return
        self._cache.crop(-count)
        self._mask = self._mask[:, :-count]
        self.lengths = self.lengths - count
        self._history = self._history[:-count]
        self._logprobs = None

    @torch.no_grad()
    def _run(self, input_ids: Tensor, positions: Tensor) -> None:
        """One pass over new tokens; keeps the hidden state that predicts the next."""
        output = architecture.run_trunk(
            self._model,
            {
                "input_ids": input_ids,
                "attention_mask": self._mask if self._is_padded else None,
                "position_ids": positions,
                "past_key_values": self._cache,
                "use_cache": True,
            },
        )
        real = int(self.lengths.sum()) if not self._history else self.rows
        self._work.add(trunk_tokens=real, padding_tokens=input_ids.numel() - real)
        self._history.append(output.last_hidden_state[:, -1])
        self._logprobs = None
