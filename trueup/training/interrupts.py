"""Ctrl-C and SIGTERM end a step, not in the middle of one."""

import signal
import threading
from types import FrameType, TracebackType


class Interrupts:
    """Inside the block the first signal is noted, the second one stops at once.

    Edges:  outside the main thread nothing is caught.
    """

    def __init__(self) -> None:
        self.seen = False
        self._former: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as signal gave it
        self._former.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True
