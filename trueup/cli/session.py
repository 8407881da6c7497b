"""One command from its words to its exit code: every failure ends in one line on stderr."""

import contextlib
import errno
import logging
import os
import shlex
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import typer

from trueup.errors import InterruptedRun, TrueupError, UserError
from trueup.files import cache_folder, write_text
from trueup.redaction import redacted

OK, CRASHED, WRONG_INPUT, GATE_TRIPPED, INTERRUPTED = 0, 1, 2, 3, 130
# The base of typer's usage errors: the versions of typer have it in different places.
USAGE_ERROR = cast("type[Exception]", typer.BadParameter.__mro__[1])
QUIET = {  # libraries that would write into a person's terminal; what the user has set stays
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


def main() -> NoReturn:
    """Run the words of the command line and leave with the exit code."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    code = run_words(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run_words(words: Sequence[str]) -> int:
    """Run one command and give its exit code; nothing is ever raised."""
    from trueup.cli.app import app

    command: Any = typer.main.get_command(app)
    try:
        with _warnings_as_lines(), command.make_context("trueup", list(words or ["--help"])) as ctx:
            command.invoke(ctx)
    except typer.Exit as leaving:
        return leaving.exit_code
    except BrokenPipeError:
        return OK
    except (KeyboardInterrupt, InterruptedRun, typer.Abort) as stop:
        return _told(_interruption(stop, words, command), INTERRUPTED)
    except TrueupError as error:
        return _told(f"error: {error}", error.exit_code)
    except USAGE_ERROR as error:
        return _told(f"error: {_usage(error)}", WRONG_INPUT)
    except Exception as error:  # noqa: BLE001  # the last net: a line and a file, no traceback
        return _crashed(error, words)
    return OK


def _told(line: str, code: int) -> int:
    """Write one line to stderr."""
    with contextlib.suppress(OSError, ValueError):
        print(" ".join(redacted(line).split()), file=sys.stderr, flush=True)
    return code


def _interruption(stop: BaseException, words: Sequence[str], command: Any) -> str:
    """What was kept, and the command that goes on."""
    verb = command.commands.get(words[0]) if words else None
    options = [name for param in getattr(verb, "params", []) for name in param.opts]
    has_folder = "--out" not in options or any(word.startswith("--out") for word in words)
    if "--resume" not in options or not has_folder:
        return "interrupted"
    again = [*words, *(() if "--resume" in words else ("--resume",))]
    said = str(stop).strip()
    start = f"interrupted: {said}" if said else "interrupted: what was done is kept"
    return start if "--resume" in said else f"{start}; go on with: trueup {shlex.join(again)}"


def _usage(error: Any) -> str:
    """Typer's words for a wrong command line, with the way to its help."""
    said = str(error.format_message()).strip().rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "trueup"
    return f"{said[:1].lower()}{said[1:]}; see {path} --help"


def _crashed(error: Exception, words: Sequence[str]) -> int:
    """An error that nobody foresaw: its first line, and the file that holds the traceback."""
    if any(isinstance(cause, KeyboardInterrupt) for cause in _chain(error)):
        return _told("interrupted", INTERRUPTED)  # a library made it an error of its own
    if any(map(_is_disk_full, _chain(error))):
        line = "error: no space left on the device; free some, then run again with --resume"
        return _told(line, WRONG_INPUT)
    first = " ".join((str(error).strip() or "no message").splitlines()[0].split())[:200]
    line = f"error: unexpected {type(error).__name__}: {first}"
    try:
        return _told(f"{line}; the traceback is in {_crash_file(error, words)}", CRASHED)
    except (OSError, UserError):
        return _told(f"{line}; its traceback could not be written", CRASHED)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what caused it, what caused that."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_disk_full(error: BaseException) -> bool:
    """Whether this error tells of a full disk, in whichever library's words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)  # as safetensors and sqlite say it


def _crash_file(error: Exception, words: Sequence[str]) -> Path:
    """Write the traceback, free of secrets, into the cache or else the temporary folder."""
    lines = [f"trueup {shlex.join(words)}\n\n", *traceback.format_exception(error)]
    text = str(redacted("".join(lines)))
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    path = cache_folder() / "crashes" / name
    try:
        write_text(path, text)
    except (OSError, UserError):
        path = Path(tempfile.gettempdir()) / f"trueup-{name}"
        write_text(path, text)
    return path


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show what trueup itself warns of as `warning: ...` on stderr, each line once."""
    handler = _Lines()
    logger = logging.getLogger("trueup")
    propagates = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


class _Lines(logging.Handler):
    """One line per warning, and no line twice."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.levelname.lower()}: {record.getMessage()}"
        if line not in self._seen:
            self._seen.add(line)
            _told(line, OK)
