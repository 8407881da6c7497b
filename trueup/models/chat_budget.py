"""What a black-box model has cost so far, and the bounds that it must not pass."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from trueup.errors import TrueupError, check_at_least
from trueup.models.chat_protocol import Usage


@dataclass
class EndpointWork:
    """Counters that grow with every answer.

    Fields: calls, requests sent, repeated ones included; cached, answers that needed none;
            cost, in the unit of the prices, 0 without prices.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """The counters as run.json holds them."""
        return asdict(self)


class BudgetSpent(TrueupError):
    """The next call would pass a bound that the user set; what was answered is kept."""


class Budget:
    """Counts calls and cost from several threads and refuses the call that would pass a bound.

    Fields: max_calls and max_cost are None for no bound; prices are per million tokens of prompt
            and completion, in the unit of max_cost.
    """

    def __init__(
        self, max_calls: int | None, max_cost: float | None, prices: tuple[float, float] | None
    ) -> None:
        if max_calls is not None:
            check_at_least(0, max_calls=max_calls)
        if max_cost is not None:
            check_at_least(0, max_cost=max_cost)
        if prices is not None:
            check_at_least(0, prompt_price=prices[0], completion_price=prices[1])
        self.max_calls = max_calls
        self.max_cost = max_cost
        self.prices = prices
        self.work = EndpointWork()
        self._reserved = 0.0
        self._lock = threading.Lock()

    def cost(self, usage: Usage) -> float:
        """What so many tokens cost."""
        if self.prices is None:
            return 0.0
        prompt, completion = self.prices
        return (usage.prompt_tokens * prompt + usage.completion_tokens * completion) / 1e6

    def call(self) -> None:
        """Count one request that is about to be sent.

        Raises: BudgetSpent where max_calls have been sent.
        """
        with self._lock:
            if self.max_calls is not None and self.work.calls >= self.max_calls:
                raise BudgetSpent(
                    f"stopped at max_calls={self.max_calls}, {self.work.calls} calls were made; "
                    "raise max_calls and run again"
                )
            self.work.calls += 1

    @contextmanager
    def reserved(self, most: Usage) -> Iterator[None]:
        """Set the most that a request can cost aside while it runs.

        Raises: BudgetSpent where that could pass max_cost.
        """
        cost = self.cost(most)
        with self._lock:
            bound = self.work.cost + self._reserved + cost
            if self.max_cost is not None and bound > self.max_cost:
                raise BudgetSpent(
                    f"stopped before max_cost={self.max_cost:g}, {self.work.calls} calls were made "
                    f"for {self.work.cost:.4g} and the next may cost {cost:.4g}; "
                    "raise max_cost and run again"
                )
            self._reserved += cost
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= cost

    def used(self, usage: Usage) -> None:
        """Count what a request has used."""
        with self._lock:
            self.work.prompt_tokens += usage.prompt_tokens
            self.work.completion_tokens += usage.completion_tokens
            self.work.cost += self.cost(usage)

    def served_from_cache(self, answers: int) -> None:
        """Count answers that needed no request."""
        with self._lock:
            self.work.cached += answers
