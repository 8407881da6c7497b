"""Continuous batching: choices of many requests in one batch, which they join between steps."""

import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trueup.models.batch_state import BatchState
from trueup.models.language_model import LanguageModel
from trueup.models.sampling import draw, uniforms_of
from trueup.server.failures import is_broken
from trueup.server.jobs import Deliver, Job, Told, deliver_here
from trueup.server.limits import Limits
from trueup.server.queueing import Queue
from trueup.server.rows import Row, Words

logger = logging.getLogger("trueup")


class ContinuousBatch:
    """Samples all jobs together, one token for every row in each step.

    Before a step, rows whose clients have gone leave, and the first jobs of the queue join as far
    as they fit; equal prompts among them are read once. A row has its own random numbers, those of
    `LanguageModel.sample` for its prompt and seed: what else is in the batch changes nothing.

    Fields: steps counts the steps; row_steps their rows.
    """

    def __init__(self, lm: LanguageModel, limits: Limits) -> None:
        self.lm = lm
        self.limits = limits
        self.steps = 0
        self.row_steps = 0
        self._queue = Queue(limits.max_waiting)
        self._words = Words(lm.tokenizer)
        self._rows: list[Row] = []
        self._state: BatchState | None = None
        self._deliver: Deliver = deliver_here
        self._thread = threading.Thread(target=self._run, name="trueup-batch", daemon=True)

    def start(self, deliver: Deliver) -> None:
        """Begin to work; `deliver` is called on the batch's thread."""
        self._deliver = deliver
        self.lm.model.eval()
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Take the job, whose prompts are token ids; raises ServerFailure where there is no place.

        Whoever sends it has checked that it fits into an empty batch.
        """
        self._queue.put(job)

    def cancel(self, job: Job) -> None:
        """Take the job out of the queue, or its rows out of the batch before the next step."""
        self._queue.drop(job)

    def close(self) -> None:
        """Take nothing more, finish what is there, and end the thread."""
        self._queue.close()
        if self._thread.is_alive():
            self._thread.join()

    def numbers(self) -> dict[str, float]:
        """What there is to count now."""
        work = {f"{name}_total": count for name, count in self.lm.work.as_dict().items()}
        return {
            "waiting_jobs": len(self._queue),
            "running_rows": len(self._rows),
            "steps_total": self.steps,
            "row_steps_total": self.row_steps,
            **work,
        }

    def step(self) -> None:
        """One token for every row, after some have left and others joined."""
        self._keep([not row.job.is_cancelled for row in self._rows])
        self._admit()
        if self._state is None:
            return
        self.steps += 1
        self.row_steps += len(self._rows)
        logprobs = self._state.logprobs
        tokens = self._drawn(logprobs)
        told, is_open = self._taken(logprobs, tokens)
        self._deliver(told)
        self._keep(is_open)
        if self._state is not None:
            self._state.advance(tokens[torch.tensor(is_open, device=tokens.device)])

    def _run(self) -> None:
        """Step as long as there is something to do; no error ends the thread."""
        while self._rows or self._queue.wait():
            try:
                self.step()
            except Exception as error:
                logger.exception(
                    "a step of the batch failed, its requests get an error (%r)", error
                )
                self._fail()

    def _fail(self) -> None:
        """Give up all rows and tell their jobs."""
        jobs = dict.fromkeys(row.job for row in self._rows)
        self._rows, self._state = [], None
        self._deliver([(job, is_broken()) for job in jobs])

    def _keep(self, keep: Sequence[bool]) -> None:
        """Let the other rows leave the batch."""
        if all(keep):
            return
        places = [place for place, stays in enumerate(keep) if stays]
        self._rows = [self._rows[place] for place in places]
        if not places:
            self._state = None
        elif self._state is not None:
            self._state.select(places)

    def _admit(self) -> None:
        """Let the first jobs of the queue join, as many as fit."""
        joining: list[Job] = []
        while job := self._queue.take(self._room(joining)):
            joining.append(job)
        if not joining:
            return
        rows = [row for job in joining for row in self._rows_of(job)]
        self._rows += rows  # before anything can fail, so that all of them are told
        state = self._prefilled(joining)
        if self._state is None:
            self._state = state
        else:
            self._state.join(state)

    def _room(self, joining: Sequence[Job]) -> Callable[[Job], bool]:
        """Whether one more job fits beside the rows and the jobs that are joining."""
        n_rows = len(self._rows) + sum(job.n_choices for job in joining)
        reach = max((reach_of(row.job) for row in self._rows), default=0)
        reach = max([reach, *map(reach_of, joining)])
        n_prompts = sum(len(job.prompts) for job in joining)
        longest = max((len(prompt) for job in joining for prompt in job.prompts), default=0)

        def fits(job: Job) -> bool:
            if n_rows == 0:
                return True
            rows = n_rows + job.n_choices
            cache = rows * max(reach, reach_of(job))
            read = (n_prompts + len(job.prompts)) * max(longest, *map(len, job.prompts))
            return (
                rows <= self.limits.max_rows
                and cache <= self.limits.max_batch_tokens
                and (not joining or read <= self.lm.token_budget)
            )

        return fits

    def _rows_of(self, job: Job) -> list[Row]:
        """A job's rows, with the random numbers that `LanguageModel.sample` would take."""
        rows: list[Row] = []
        seen: Counter[tuple[int, ...]] = Counter()
        for prompt in job.prompts:
            uniforms = uniforms_of(prompt, seen[tuple(prompt)], job.sampling)
            seen[tuple(prompt)] += 1
            rows += [Row(job, len(rows) + k, row, self._words) for k, row in enumerate(uniforms)]
        return rows

    def _prefilled(self, jobs: Sequence[Job]) -> BatchState:
        """The jobs' prompts, each read once, then forked into a row per choice."""
        places: dict[tuple[int, ...], int] = {}
        order: list[int] = []
        for job in jobs:
            for prompt in job.prompts:
                place = places.setdefault(tuple(prompt), len(places))
                order += [place] * job.sampling.n
        state = BatchState(self.lm.model, list(places), pad_id=self.lm.pad_id, work=self.lm.work)
        if order != list(range(len(places))):
            assert state.logprobs is not None  # read before the fork: one head row per prompt
            state.select(order)
        return state

    def _drawn(self, logprobs: Tensor) -> Tensor:
        """The next token of every row, [R]; rows of equal settings are drawn together."""
        groups: dict[tuple[float, int, float], list[int]] = defaultdict(list)
        for place, row in enumerate(self._rows):
            settings = row.job.sampling
            groups[settings.temperature, settings.top_k, settings.top_p].append(place)
        draws = torch.tensor([row.draw for row in self._rows], device=logprobs.device)
        tokens = torch.empty(len(self._rows), dtype=torch.long, device=logprobs.device)
        for places in groups.values():
            settings = self._rows[places[0]].job.sampling
            tokens[places] = draw(logprobs[places], draws[places], settings)
        return tokens

    def _taken(self, logprobs: Tensor, tokens: Tensor) -> tuple[list[tuple[Job, Told]], list[bool]]:
        """Give every row its token; what is to be told, and which rows go on."""
        told: list[tuple[Job, Told]] = []
        is_open: list[bool] = []
        picked = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
        for place, (row, token) in enumerate(zip(self._rows, tokens.tolist(), strict=True)):
            piece = row.take(token, picked[place], _likeliest(logprobs[place], row.job))
            if piece is not None:
                told.append((row.job, piece))
            is_open.append(piece is None or piece.reason is None)
        return told, is_open


def reach_of(job: Job) -> int:
    """The tokens that the longest row of a job can have in the end."""
    return max(map(len, job.prompts)) + job.sampling.max_new_tokens


def _likeliest(logprobs: Tensor, job: Job) -> dict[int, float]:
    """The likeliest tokens, where the job wants them, [V] in."""
    if not job.top_logprobs:
        return {}
    top = logprobs.topk(min(job.top_logprobs, logprobs.shape[-1]))
    return dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))
