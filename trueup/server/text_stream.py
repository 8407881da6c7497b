"""A sample's text, given out while its tokens arrive and never taken back."""

from collections.abc import Sequence
from typing import Any

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # stands for bytes that are no character yet
_WINDOW = 24  # tokens that are decoded again for every new one, at most
_KEPT = 8  # of them, those that stay as context when the window moves on


class TextStream:
    """Turns tokens into pieces of text that together are the whole text before its stop string.

    Held back until the next token: bytes that do not yet make a character, and an end that may be
    the beginning of a stop string.

    Fields: stopped is the stop string that ended the text, None so far.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self.stopped: str | None = None
        self._tokenizer = tokenizer
        self._stop = stop
        self._window: list[int] = []
        self._read = 0  # characters of the window's text that were read already
        self._held = ""

    def push(self, token: int) -> str:
        """The text that is certain with this token, often none."""
        self._window.append(token)
        text = self._decoded()
        certain = text.rstrip(UNFINISHED)
        self._held += certain[self._read :]
        self._read = max(self._read, len(certain))
        if len(self._window) > _WINDOW and certain == text:
            del self._window[:-_KEPT]
            self._read = len(self._decoded())
        return self._released()

    def finish(self) -> str:
        """The rest, when no token follows."""
        if self.stopped is not None:
            return ""
        self._held += self._decoded()[self._read :]
        piece = self._released()
        return piece if self.stopped is not None else piece + self._held

    def _decoded(self) -> str:
        text: str = self._tokenizer.decode(self._window, skip_special_tokens=True)
        return text

    def _released(self) -> str:
        """What of the held text can go: all before a stop string, or before what may become one."""
        found = [(self._held.find(text), text) for text in self._stop if text in self._held]
        if found:
            end, self.stopped = min(found)
            return self._held[:end]
        kept = max((_overlap(self._held, text) for text in self._stop), default=0)
        end = len(self._held) - kept
        piece, self._held = self._held[:end], self._held[end:]
        return piece


def _overlap(text: str, stop: str) -> int:
    """How many characters at the text's end begin the stop string."""
    return next((n for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n])), 0)
