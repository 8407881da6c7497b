"""What a verb shows: a result on stdout, progress on stderr; or one JSON object, alone."""

import contextlib
import io
import json
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from trueup.api.progress import Progress, ignored
from trueup.files import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

NARROWEST = 80  # what a table needs; a pipe without COLUMNS has this width


def show(content: "RenderableType") -> None:
    """Print a text or table; colours only on a terminal."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False, markup=False)
    if not sys.stdout.isatty():
        console = Console(highlight=False, emoji=False, markup=False, color_system=None)
    if console.width < NARROWEST:
        console.width = NARROWEST
    console.print(content)


def show_json(value: Any) -> None:
    """Print one JSON value; undefined numbers are null."""
    print(json.dumps(plain(value), indent=2))


def show_notes(notes: Iterable[str]) -> None:
    """Print what must be known beside the numbers."""
    for text in notes:
        print(textwrap.fill(f"note: {text}", NARROWEST, subsequent_indent="      "))


def show_lines(text: str) -> None:
    """Print the text as it is, for programs: no wrapping, no colours."""
    print(text)


def note(line: str) -> None:
    """Print a remark beside the result, on stderr."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def working() -> Iterator[Progress]:
    """A block of long work: it gives what to tell the progress bar, and keeps stdout clean.

    Whatever a library prints inside the block goes to stderr.
    """
    with _stdout_to_stderr(), _bar() as progress:
        yield progress


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send all output to stderr, also that of native code where stdout is the process's own."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            is_own = sys.__stdout__ is not None and sys.__stdout__.fileno() == 1
            is_own = is_own and sys.stderr is sys.__stderr__
        except (OSError, ValueError, io.UnsupportedOperation):
            is_own = False
        if is_own:
            assert sys.__stdout__ is not None
            sys.__stdout__.flush()
            kept = os.dup(1)
            os.dup2(2, 1)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 1)
        yield


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar on stderr where that is a terminal."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield ignored
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading the model", total=None)
        stage = ""

        def tell(done: int, total: int, what: str) -> None:
            nonlocal stage
            name = what.partition(",")[0]
            if name != stage:
                stage = name
                bar.reset(task)
            bar.update(task, completed=done, total=total, description=what)

        yield tell
