"""A run folder that leaves no trace where the command failed before it had anything to keep."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trueup.runs import Run


@contextlib.contextmanager
def run_folder(out: str | Path, **facts: Any) -> "Iterator[Run]":
    """`Run.create` as a block; after an error a new folder that holds only run.json is vacated.

    So the same command may take the same folder once its mistake is mended.
    """
    from trueup.runs import Run

    path = Path(out)
    had_folder, had_run = path.is_dir(), (path / "run.json").exists()
    try:
        with Run.create(path, **facts) as run:
            yield run
    except BaseException:
        if not had_run:
            _vacate(path, keep_folder=had_folder)
        raise


def _vacate(path: Path, *, keep_folder: bool) -> None:
    """Remove run.json where it stands alone."""
    with contextlib.suppress(OSError):
        if [child.name for child in path.iterdir()] == ["run.json"]:
            (path / "run.json").unlink()
            if not keep_folder:
                path.rmdir()
