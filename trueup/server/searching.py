"""Batches for a search: jobs of equal settings are decoded in one call."""

import json
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trueup.decoding.protocol import Decoded, Request, Search
from trueup.errors import UserError
from trueup.models.reward import Reward
from trueup.models.sampling import Sampling
from trueup.models.writer import Writer
from trueup.server.failures import ServerFailure, is_broken
from trueup.server.jobs import Deliver, Job, Piece, Told, deliver_here
from trueup.server.limits import Limits
from trueup.server.queueing import Queue

logger = logging.getLogger("trueup")


class SearchBatches:
    """Decodes jobs with a search, which has to end before the next ones begin.

    While one call runs, jobs collect; those that ask alike (the same settings, and the same seed
    or none) are the next call. A seeded job's answer depends on its prompt and seed alone. Where a
    call fails, its jobs are tried one by one, so that a bad prompt harms nobody else.

    Fields: workers is the number of calls at once: 1 for a model here, more for an endpoint, where
            every job has a call of its own.
    """

    def __init__(
        self,
        search: Search,
        writer: Writer,
        limits: Limits,
        *,
        rewards: Mapping[str, Reward] | None = None,
        workers: int = 1,
    ) -> None:
        self.search = search
        self.writer = writer
        self.limits = limits
        self.rewards = dict(rewards or {})
        self.calls = 0
        self._running: Counter[str] = Counter()
        self._queue = Queue(limits.max_waiting)
        self._deliver: Deliver = deliver_here
        self._threads = [
            threading.Thread(target=self._run, name=f"trueup-search-{number}", daemon=True)
            for number in range(workers)
        ]

    def start(self, deliver: Deliver) -> None:
        """Begin to work; `deliver` is called on the threads of the search."""
        self._deliver = deliver
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Take the job, whose prompts are texts or messages."""
        self._queue.put(job)

    def cancel(self, job: Job) -> None:
        """Take the job out of the queue; a call that runs already is finished for nobody."""
        self._queue.drop(job)

    def close(self) -> None:
        """Take nothing more, finish what is there, and end the threads."""
        self._queue.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def numbers(self) -> dict[str, float]:
        """What there is to count now."""
        work = getattr(self.writer, "work", None)
        counted = work.as_dict() if work is not None else {}
        return {
            "waiting_jobs": len(self._queue),
            "running_rows": sum(self._running.values()),
            "steps_total": self.calls,
            **{f"{name}_total": count for name, count in counted.items()},
        }

    def step(self) -> None:
        """One call of the search for the first job and those that ask alike."""
        jobs = self._next()
        if not jobs:
            return
        name = threading.current_thread().name
        self._running[name] = sum(job.n_choices for job in jobs)
        try:
            self._deliver(self._answered(jobs))
        finally:
            self._running[name] = 0

    def _run(self) -> None:
        while self._queue.wait():
            try:
                self.step()
            except Exception:
                logger.exception("a search's answers could not be delivered")

    def _next(self) -> list[Job]:
        """The first job of the queue and, for a model here, all that can share its call."""
        first = self._queue.take(lambda _: True)
        if first is None:
            return []
        if len(self._threads) > 1:
            return [first]
        rows = first.n_choices
        key = _key(first)

        def fits(job: Job) -> bool:
            nonlocal rows
            is_alike = _key(job) == key and rows + job.n_choices <= self.limits.max_rows
            rows += job.n_choices if is_alike else 0
            return is_alike

        return [first, *self._queue.take_all(fits)]

    def _answered(self, jobs: Sequence[Job]) -> list[tuple[Job, Told]]:
        """What every job is told in the end."""
        waiting = [job for job in jobs if not job.is_cancelled]
        try:
            return self._decoded(waiting) if waiting else []
        except Exception as error:  # noqa: BLE001  # a stranger's decoder or reward may raise any
            if len(waiting) > 1:
                return [told for job in waiting for told in self._answered([job])]
            return [(waiting[0], _failure(error))]

    def _decoded(self, jobs: Sequence[Job]) -> list[tuple[Job, Told]]:
        """One call for all jobs; equal questions with a seed are asked once."""
        self.calls += 1
        places, prompts = _placed(jobs)
        request = Request(sampling=jobs[0].sampling, rewards=self.rewards)
        found = self.search.decode(self.writer, prompts, request)
        return [
            (job, _piece(number, decoded))
            for job, own in zip(jobs, places, strict=True)
            for number, decoded in enumerate(one for place in own for one in found[place])
        ]


def _key(job: Job) -> Sampling | tuple[Sampling, None]:
    """What jobs must have in common to share a call."""
    return job.sampling if job.has_seed else (replace(job.sampling, seed=0), None)


def _placed(jobs: Sequence[Job]) -> tuple[list[list[int]], list[Any]]:
    """Where in the call each job's prompts stand, and the call's prompts.

    A prompt's second time in one list is another sample, so a seeded job counts for itself: its
    first stands where the first of any other job does. Without a seed each stands alone.
    """
    places: dict[tuple[str, int], int] = {}
    prompts: list[Any] = []
    taken: list[list[int]] = []
    shared: Counter[str] = Counter()
    for job in jobs:
        seen: Counter[str] = Counter() if job.has_seed else shared
        own = []
        for prompt in job.prompts:
            name = json.dumps(prompt)
            place = places.setdefault((name, seen[name]), len(prompts))
            seen[name] += 1
            if place == len(prompts):
                prompts.append(prompt)
            own.append(place)
        taken.append(own)
    return taken, prompts


def _piece(choice: int, decoded: Decoded) -> Piece:
    return Piece(
        choice=choice, text=decoded.text, n_tokens=len(decoded.token_ids), reason=decoded.reason
    )


def _failure(error: Exception) -> ServerFailure:
    """What the client may know of an error; the log has the rest."""
    if isinstance(error, ServerFailure):
        return error
    if isinstance(error, UserError):
        return ServerFailure(400, str(error), code="decoder_refused")
    logger.error("the decoder failed (%r)", error, exc_info=error)
    return is_broken()
