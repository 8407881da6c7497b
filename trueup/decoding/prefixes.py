"""Kept prefixes as rows of one decoding state, and how they would go on: nothing is read twice."""

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trueup.models.decoding_state import DecodingState
from trueup.models.language_model import LanguageModel
from trueup.models.sampling import Sampling, draw


class Prefixes:
    """The prefixes that a search has kept, a row each, and their greedy continuations.

    prefixes.greedy(parents, tokens, horizon)   a token after a row each, and what would follow
    prefixes.sampled(...)                       the same, drawn several times
    prefixes.commit(children)                   these children are the rows now

    What a greedy lookahead sent through the model stays until the next step: if the child is kept,
    its own greedy child needs one new token, and not the whole lookahead again.

    Fields: lm may be another model than the one that proposes tokens; prompts are token ids, each
            taken `copies` times after one prefill.
    """

    def __init__(
        self, lm: LanguageModel, prompts: Sequence[Sequence[int]], *, copies: int = 1
    ) -> None:
        self.base = lm.start_ids(prompts)
        if copies > 1:
            self.base.select(torch.arange(len(prompts)).repeat_interleave(copies))
        self._eos = lm.tokenizer.eos_token_id
        self._known: list[list[int]] = [[] for _ in range(self.base.rows)]
        self._ahead = _Ahead()
        self._children = _Children()

    def greedy(
        self, parents: Sequence[int], tokens: Sequence[int], horizon: int
    ) -> list[list[int]]:
        """Up to `horizon` greedy tokens after each child, fewer where the text ends."""
        reused = [
            child
            for child, (parent, token) in enumerate(zip(parents, tokens, strict=True))
            if horizon and self._ahead.depth and self._known[parent][:1] == [token]
        ]
        found: list[list[int]] = [[] for _ in tokens]
        for child in reused:
            found[child] = self._known[parents[child]][1:]
        self._children = self._forwarded(parents, tokens, horizon, set(reused))
        runs = [self._ahead.of(parents, reused)]
        if self._children.state is not None:
            runs.append(_Run(forked(self._children.state), list(self._children.owners)))
        for run in runs:
            self._extend(run, found, horizon)
        self._children.found, self._children.horizon = found, horizon
        self._children.runs = [run for run in runs if run.owners]
        self._children.ahead_of = {
            child: row
            for child in reused
            if (row := self._ahead.row_of(parents[child])) is not None
        }
        return found

    def sampled(
        self,
        parents: Sequence[int],
        tokens: Sequence[int],
        horizon: int,
        uniforms: np.ndarray,
    ) -> list[list[list[int]]]:
        """Continuations drawn from the model, one per row of `uniforms` [children, n, horizon]."""
        children, copies, _ = uniforms.shape
        found: list[list[int]] = [[] for _ in range(children * copies)]
        self._children = self._forwarded(parents, tokens, horizon, set())
        if self._children.state is not None:
            state = forked(self._children.state)
            state.select(torch.arange(children).repeat_interleave(copies))
            run = _Run(state, list(range(children * copies)))
            self._extend(run, found, horizon, uniforms.reshape(children * copies, -1))
        return [found[start : start + copies] for start in range(0, len(found), copies)]

    def commit(self, kept: Sequence[int]) -> None:
        """Make the kept children of the last call the rows, in this order."""
        children = self._children
        parts: list[tuple[DecodingState, list[int]]] = []
        place = {owner: row for row, owner in enumerate(children.owners)}
        fresh = [child for child in kept if child in place]
        if fresh and children.state is not None:
            parts.append((selected(children.state, [place[child] for child in fresh]), fresh))
        reused = [child for child in kept if child in children.ahead_of]
        if reused and self._ahead.state is not None:
            rows = selected(self._ahead.state, [children.ahead_of[child] for child in reused])
            rows.rollback(self._ahead.depth - 1)
            parts.append((rows, reused))
        done = {*fresh, *reused}
        later = [child for child in kept if child not in done]
        if later:
            rows = selected(self.base, [children.parents[child] for child in later])
            rows.advance([children.tokens[child] for child in later])
            parts.append((rows, later))
        order = list(chain.from_iterable(owners for _, owners in parts))
        self.base = joined([state for state, _ in parts])
        if order != list(kept):
            self.base.select([order.index(child) for child in kept])
        self._ahead = children.kept_ahead(kept)
        self._known = [children.found[child] if children.found else [] for child in kept]
        self._children = _Children()

    def _forwarded(
        self, parents: Sequence[int], tokens: Sequence[int], horizon: int, reused: set[int]
    ) -> "_Children":
        """The children that must be read now, read; none where nothing is looked ahead."""
        children = _Children(parents=list(parents), tokens=list(tokens))
        owners = [child for child in range(len(tokens)) if child not in reused]
        if horizon and owners:
            children.state = selected(self.base, [parents[child] for child in owners])
            children.state.advance([tokens[child] for child in owners])
            children.owners = owners
        return children

    def _extend(
        self,
        run: "_Run",
        found: list[list[int]],
        horizon: int,
        uniforms: np.ndarray | None = None,
    ) -> None:
        """Append tokens to `found` until the horizon; rows whose text ends leave the run."""
        state = run.state
        if state is None or not run.owners or len(found[run.owners[0]]) >= horizon:
            return
        if run.pending:
            state.advance(run.pending)
        while True:
            step = len(found[run.owners[0]])
            chosen = _chosen(state.logprobs, uniforms, run.owners, step)
            for owner, token in zip(run.owners, chosen, strict=True):
                found[owner].append(token)
            going = [row for row, token in enumerate(chosen) if token != self._eos]
            if len(going) < len(chosen):
                run.keep(going)
            if not going or step + 1 == horizon:
                return
            state.advance([chosen[row] for row in going])


class _Run:
    """Rows of a state that are being extended, and the child that each belongs to."""

    def __init__(
        self,
        state: DecodingState | None = None,
        owners: Sequence[int] = (),
        pending: Sequence[int] = (),
    ) -> None:
        self.state, self.owners, self.pending = state, list(owners), list(pending)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop the other rows."""
        self.owners = [self.owners[row] for row in rows]
        if rows and self.state is not None:
            self.state.select(rows)


class _Ahead:
    """Open greedy continuations that went through the model, `depth` tokens beyond the base.

    Fields: rows says which row of the base each row continues; pending are the tokens found last,
            which have not gone through the model.
    """

    def __init__(
        self,
        state: DecodingState | None = None,
        rows: Sequence[int] = (),
        pending: Sequence[int] = (),
        depth: int = 0,
    ) -> None:
        self.state, self.rows, self.pending, self.depth = state, list(rows), list(pending), depth

    def row_of(self, parent: int) -> int | None:
        """The row that continues the base's row `parent`; none where its text has ended."""
        return self.rows.index(parent) if parent in self.rows else None

    def of(self, parents: Sequence[int], children: Sequence[int]) -> _Run:
        """The continuations of these children, to be extended apart from this state."""
        pairs = [(child, self.row_of(parents[child])) for child in children]
        open_ones = [(child, row) for child, row in pairs if row is not None]
        if self.state is None or not open_ones:
            return _Run()
        rows = [row for _, row in open_ones]
        owners = [child for child, _ in open_ones]
        return _Run(selected(self.state, rows), owners, [self.pending[row] for row in rows])


class _Children:
    """One step's children: which were read in `state`, and how their lookaheads went."""

    def __init__(self, parents: Sequence[int] = (), tokens: Sequence[int] = ()) -> None:
        self.parents, self.tokens = list(parents), list(tokens)
        self.state: DecodingState | None = None
        self.owners: list[int] = []
        self.found: list[list[int]] = []
        self.horizon = 0
        self.runs: list[_Run] = []
        self.ahead_of: dict[int, int] = {}

    def kept_ahead(self, kept: Sequence[int]) -> _Ahead:
        """The open continuations of the kept children, where they can spare the model work."""
        depth = self.horizon - 1
        if depth < 1:
            return _Ahead()
        row_of = {child: row for row, child in enumerate(kept)}
        states, rows, pending = [], [], []
        for run in self.runs:
            mine = [place for place, owner in enumerate(run.owners) if owner in row_of]
            if mine and run.state is not None:
                states.append(selected(run.state, mine))
                rows += [row_of[run.owners[place]] for place in mine]
                pending += [self.found[run.owners[place]][-1] for place in mine]
        return _Ahead(joined(states) if states else None, rows, pending, depth)


def forked(state: DecodingState) -> DecodingState:
    """A second state with the same rows that goes on apart; the tensors so far are shared."""
    twin = copy.copy(state)
    twin._cache = copy.copy(state._cache)
    twin._cache.layers = [copy.copy(layer) for layer in state._cache.layers]
    twin._history = list(state._history)
    return twin


def selected(state: DecodingState, rows: Sequence[int]) -> DecodingState:
    """These rows as a state of their own."""
    twin = forked(state)
    twin.select(rows)
    return twin


def joined(states: Sequence[DecodingState]) -> DecodingState:
    """The rows of states that began as one and took equally many tokens, in one state."""
    if len(states) == 1:
        return states[0]
    whole = forked(states[0])
    layers: list[list[Any]] = [list(state._cache.layers) for state in states]
    for layer, *others in zip(whole._cache.layers, *layers, strict=True):
        layer.keys = torch.cat([other.keys for other in others])
        layer.values = torch.cat([other.values for other in others])
    whole._mask = torch.cat([state._mask for state in states])
    whole.lengths = torch.cat([state.lengths for state in states])
    histories = zip(*(state._history for state in states), strict=True)
    whole._history = [torch.cat(parts) for parts in histories]
    whole._logprobs = None
    return whole


def _chosen(
    logprobs: Tensor, uniforms: np.ndarray | None, owners: Sequence[int], step: int
) -> list[int]:
    """The next token of every row: the likeliest, or the one at the row's random number."""
    if uniforms is None:
        chosen: list[int] = logprobs.argmax(dim=-1).tolist()
        return chosen
    draws = torch.from_numpy(uniforms[owners, step]).to(logprobs.device)
    drawn: list[int] = draw(logprobs, draws, Sampling()).tolist()
    return drawn
