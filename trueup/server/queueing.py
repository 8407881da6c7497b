"""The queue before an engine: bounded, first in, first out, and closed before the end."""

import threading
from collections import deque
from collections.abc import Callable

from trueup.server.failures import is_closing, queue_is_full
from trueup.server.jobs import Job


class Queue:
    """Jobs that wait; threads share it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job) -> None:
        """Let the job wait; raises ServerFailure where the queue is full or closed."""
        with self._changed:
            if self._is_closed:
                raise is_closing()
            if len(self._jobs) >= self._most:
                raise queue_is_full(len(self._jobs))
            self._jobs.append(job)
            self._changed.notify()

    def drop(self, job: Job) -> None:
        """Take out a job that nobody waits for any more."""
        job.is_cancelled = True
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)

    def close(self) -> None:
        """Take no more jobs, and wake whoever waits for one."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def wait(self) -> bool:
        """Wait for a job; False where the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._is_closed)
            return bool(self._jobs)

    def take(self, fits: Callable[[Job], bool]) -> Job | None:
        """The first job, where there is one and it fits; nobody overtakes it."""
        with self._changed:
            return self._jobs.popleft() if self._jobs and fits(self._jobs[0]) else None

    def take_all(self, fits: Callable[[Job], bool]) -> list[Job]:
        """Every job that fits, asked in the order of their coming."""
        with self._changed:
            taken = [job for job in self._jobs if fits(job)]
            self._jobs = deque(job for job in self._jobs if job not in taken)
            return taken
