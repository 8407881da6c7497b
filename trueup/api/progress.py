"""How long work tells where it is: done, total, and what is being done."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]


def ignored(done: int, total: int, what: str) -> None:
    """Tell nobody."""
