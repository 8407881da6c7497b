"""Logs of other evaluation tools, read without them: lm-evaluation-harness and inspect_ai."""

from pathlib import Path

from trueup.errors import UserError
from trueup.interop.foreign_log import ForeignLog as ForeignLog
from trueup.interop.foreign_log import ForeignMetric as ForeignMetric
from trueup.interop.foreign_log import ForeignTask as ForeignTask
from trueup.interop.inspect_log import read_inspect as read_inspect
from trueup.interop.joining import joined as joined
from trueup.interop.lm_eval import read_lm_eval as read_lm_eval


def read_log(path: str | Path) -> ForeignLog:
    """The measurements that another tool has logged.

    Raises: UserError where the path holds no such log, or a damaged or unfinished one.
    """
    place = Path(path)
    if place.is_dir():
        logs = sorted(place.glob("*.eval"))
        if len(logs) > 1:
            raise UserError(f"{place}: holds {len(logs)} inspect logs; give one, as {logs[0].name}")
        return read_inspect(logs[0]) if logs else read_lm_eval(place)
    is_inspect = place.suffix == ".eval" or (
        place.suffix == ".json" and not place.name.startswith(("results_", "samples_"))
    )
    return read_inspect(place) if is_inspect else read_lm_eval(place)


def is_foreign(path: str | Path) -> bool:
    """Whether the path is another tool's log, by its name, and no run folder of ours."""
    place = Path(path)
    if place.is_dir():
        names = ("*.eval", "results_*.json", "samples_*.jsonl", "*/samples_*.jsonl")
        is_ours = (place / "run.json").is_file()
        return not is_ours and any(next(place.glob(name), None) for name in names)
    return place.is_file() and place.suffix in (".eval", ".json", ".jsonl")
