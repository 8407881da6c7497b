"""Run folders: everything that one command produced, resumable after `kill -9`.

RUN/run.json       what was asked, of which model and data, with which versions, and how it ended
RUN/items/         rows measured so far, in whole chunks; gone once the run is done
RUN/items.parquet  one row per probe or per training step, once the run is done
RUN/metrics.json   estimates          RUN/compare.json  comparisons          RUN/report.html
"""

import contextlib
import importlib.metadata
import json
import math
import platform
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from filelock import FileLock, Timeout

from trueup.errors import InterruptedRun, UserError
from trueup.files import disk_errors, write_json
from trueup.item_tables import item_table, merged, read_parquet, rows_of_audit, write_parquet
from trueup.redaction import redacted

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SCHEMA = 1
ESTIMATE_KEYS = (
    "audit", "metric", "slice", "value", "low", "high", "level", "n", "ideal", "method"
)  # fmt: skip
COMPARISON_KEYS = (
    "audit", "metric", "slice", "before", "after", "delta", "low", "high",
    "p_value", "p_adjusted", "n_pairs", "test", "verdict",
)  # fmt: skip
MAY_BE_NAN = {"value", "low", "high", "before", "after", "delta", "p_value", "p_adjusted"}
PACKAGES = (
    "trueup", "torch", "transformers", "tokenizers", "accelerate", "peft", "datasets",
    "numpy", "scipy", "pandas", "pyarrow",
)  # fmt: skip
CHANGES_NUMBERS = ("trueup", "torch", "transformers", "tokenizers")  # may not change on resuming
NOT_COMPARED = {"out", "resume", "json"}  # arguments that change no result

Status = Literal["running", "done", "interrupted", "failed"]


class Run:
    """One run folder, open for writing (`Run.create`) or for reading (`Run.open`).

    As a context manager it ends the run for the worse only: an exception marks it `failed`, Ctrl-C
    `interrupted`; `done` is always said by `finish`.
    """

    def __init__(self, path: Path, info: dict[str, Any], lock: FileLock | None = None) -> None:
        self.path = path
        self.info = info
        self._lock = lock
        self._since = time.monotonic()
        self._seconds_before = float(info.get("seconds") or 0.0)

    @classmethod
    def create(
        cls,
        out: str | Path,
        *,
        verb: str,
        arguments: Mapping[str, Any],
        seed: int,
        model: str | None = None,
        model_hash: str | None = None,
        data: str | Sequence[str] | None = None,
        data_hash: str | None = None,
        resume: bool = False,
    ) -> Self:
        """Start the run in the folder `out`, or go on with the one that is there.

        Edges:  resuming a folder that is missing or empty starts it; resuming a finished run gives
                it back with `is_done`, unlocked.
        Raises: UserError where the folder holds something else, a run that is not to be resumed,
                or one of another verb, arguments, seed, model, data or version; and where another
                process is writing it.
        """
        path = Path(out)
        asked = redacted(
            {
                "schema": SCHEMA,
                "verb": verb,
                "arguments": dict(arguments),
                "seed": seed,
                "versions": _versions(),
                "model": {"id": model, "hash": model_hash},
                "data": {"path": data, "hash": data_hash},
                "started": _now(),
                "ended": None,
                "status": "running",
                "seconds": None,
                "work": None,
            }
        )
        _check_vacant(path)
        lock = _locked(path)
        try:
            return cls(path, *_begun(path, asked, resume, lock))
        except BaseException:
            _unlock(path, lock)
            raise

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read an existing run.

        Raises: UserError where there is no folder, no run.json, broken JSON or a newer schema.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such run folder; give one that --out has made")
        if not (folder / "run.json").is_file():
            raise UserError(f"{folder}: not a trueup run, run.json is missing")
        return cls(folder, _checked(folder / "run.json"))

    @property
    def status(self) -> Status:
        """How far the run is."""
        status: Status = self.info["status"]
        return status

    @property
    def is_done(self) -> bool:
        """Whether the run has ended well, so that nothing is left to do."""
        return self.status == "done"

    def append_items(self, items: "pd.DataFrame", *, work: Mapping[str, int] | None = None) -> None:
        """Add one chunk of rows, with the work that it cost; after this call it survives a kill.

        Edges: rows whose id (and audit) came before replace the earlier ones; no rows, no chunk.
        """
        self._check_writable()
        if not len(items):
            return
        chunks = self._chunks()
        number = int(chunks[-1].stem.removeprefix("part-")) + 1 if chunks else 0
        table = item_table(items).replace_schema_metadata({"work": json.dumps(dict(work or {}))})
        write_parquet(self.path / "items" / f"part-{number:05d}.parquet", table)

    def write_items(self, items: "pd.DataFrame") -> None:
        """Write all rows at once, in place of every chunk."""
        self._check_writable()
        write_parquet(self.path / "items.parquet", merged([item_table(items)]))
        self._drop_chunks()

    def done_ids(self, audit: str | None = None) -> set[str]:
        """The ids of all rows that are already there, of one audit or of all."""
        columns = ["id"] if audit is None else ["id", "audit"]
        return {
            str(row["id"])
            for table in self._tables(columns)
            for row in table.to_pylist()
            if audit is None or row.get("audit") == audit
        }

    def items(self, audit: str | None = None) -> "pd.DataFrame":
        """All rows in the order in which they were added; of one audit, its own columns only.

        Raises: UserError where there are none.
        """
        tables = self._tables()
        if not tables:
            raise UserError(f"{self.path}: no items.parquet, the run has measured nothing yet")
        table = merged(tables)
        if audit is not None:
            table = rows_of_audit(table, audit)
        frame: pd.DataFrame = table.to_pandas()
        return frame

    def write_metrics(self, estimates: Iterable[Any]) -> None:
        """Write metrics.json; an estimate is a mapping or has `as_dict()`."""
        self._check_writable()
        rows = [_row(estimate, ESTIMATE_KEYS) for estimate in estimates]
        metrics = {"schema": SCHEMA, "model": self.info["model"]["id"], "estimates": rows}
        write_json(self.path / "metrics.json", metrics)

    def write_comparison(self, rows: Iterable[Any]) -> None:
        """Write compare.json; a row is a mapping or has `as_dict()`."""
        self._check_writable()
        comparison = {"schema": SCHEMA, "rows": [_row(row, COMPARISON_KEYS) for row in rows]}
        write_json(self.path / "compare.json", comparison)

    def estimates(self) -> list[dict[str, Any]]:
        """The rows of metrics.json, undefined numbers as NaN; none where the file is missing."""
        return self._rows("metrics.json", "estimates")

    def comparison(self) -> list[dict[str, Any]]:
        """The rows of compare.json, undefined numbers as NaN; none where the file is missing."""
        return self._rows("compare.json", "rows")

    def work(self) -> dict[str, int]:
        """The counted work of all chunks so far, whichever process wrote them."""
        if self.is_done:
            return dict(self.info["work"] or {})
        total: dict[str, int] = {}
        for table in self._tables([]):
            spent = json.loads((table.schema.metadata or {}).get(b"work", b"{}"))
            for name, count in spent.items():
                total[name] = total.get(name, 0) + count
        return total

    def finish(
        self,
        status: Literal["done", "interrupted", "failed"] = "done",
        work: Mapping[str, int] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """End the run: merge the chunks where it is done, write run.json, let go of the lock.

        work:  counts of the whole run; the chunks' sum where not given.
        extra: further keys for run.json, such as `guards` or `error`.
        Edges: a run that is not done keeps its chunks, so that it can go on; `seconds` counts every
               session that ended, not one that was killed.
        """
        self._check_writable()
        chunks = self._tables()
        spent = dict(work) if work is not None else self.work()
        if chunks and status == "done":
            write_parquet(self.path / "items.parquet", merged(chunks))
        seconds = round(self._seconds_before + time.monotonic() - self._since, 3)
        outcome = {"status": status, "ended": _now(), "seconds": seconds, "work": spent}
        self.info |= redacted(dict(extra or {})) | outcome
        write_json(self.path / "run.json", self.info)
        if status == "done":
            self._drop_chunks()
        if self._lock is not None:
            _unlock(self.path, self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._lock is None or kind is None:
            return
        stopped = issubclass(kind, (KeyboardInterrupt, InterruptedRun))
        line = str(error).partition("\n")[0]
        with contextlib.suppress(UserError):  # a full disk must not hide the first error
            self.finish("interrupted" if stopped else "failed", extra={"error": line})

    def _check_writable(self) -> None:
        """Writing needs the lock that `create` took."""
        if self._lock is None:
            raise UserError(f"{self.path}: the run is {self.status} and open for reading only")

    def _chunks(self) -> list[Path]:
        """The chunk files in the order in which they were written."""
        return sorted((self.path / "items").glob("part-*.parquet"))

    def _drop_chunks(self) -> None:
        """Remove the chunks all at once, so that no kill leaves some of them."""
        chunks = self.path / "items"
        if chunks.is_dir():
            doomed = self.path / ".items.merged"
            shutil.rmtree(doomed, ignore_errors=True)
            chunks.replace(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def _tables(self, columns: list[str] | None = None) -> list["pa.Table"]:
        """The chunks, or the merged table once there are none; only `columns` where given."""
        whole = self.path / "items.parquet"
        files = self._chunks() or ([whole] if whole.is_file() else [])
        return [read_parquet(file, columns) for file in files]

    def _rows(self, name: str, key: str) -> list[dict[str, Any]]:
        """The rows of a JSON file of the run, null as NaN where a number belongs."""
        if not (self.path / name).is_file():
            return []
        rows: list[dict[str, Any]] = _checked(self.path / name).get(key, [])
        return [
            {k: math.nan if v is None and k in MAY_BE_NAN else v for k, v in row.items()}
            for row in rows
        ]


def _check_vacant(path: Path) -> None:
    """Refuse a place that is neither free nor a run, before anything is written there."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file, not a folder; choose another --out")
    if path.is_dir() and not (path / "run.json").is_file():
        foreign = sorted(child.name for child in path.iterdir() if not child.name.startswith("."))
        if foreign:
            raise UserError(
                f"{path}: not empty and not a trueup run, holds {foreign[0]!r};"
                " choose another --out"
            )


def _locked(path: Path) -> FileLock:
    """Take the folder for this process; the system lets go of it when the process dies."""
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"{path}: another trueup process is writing this run;"
                " wait for it, or choose another --out"
            ) from error
    return lock


def _unlock(path: Path, lock: FileLock) -> None:
    """Remove the lock file while it is still held, then let go."""
    with contextlib.suppress(OSError):
        (path / ".lock").unlink()
    lock.release()


def _begun(
    path: Path, asked: dict[str, Any], resume: bool, lock: FileLock
) -> tuple[dict[str, Any], FileLock | None]:
    """The run.json to go on from, and the lock unless nothing is left to do."""
    for leftover in [*path.glob(".*.part"), *path.glob("items/.*.part")]:
        leftover.unlink(missing_ok=True)
    shutil.rmtree(path / ".items.merged", ignore_errors=True)
    if not (path / "run.json").is_file():
        write_json(path / "run.json", asked)
        return asked, lock
    found = _checked(path / "run.json")
    found.pop("error", None)
    if not resume:
        is_done = found["status"] == "done"
        raise UserError(
            f"{path}: holds {'a finished' if is_done else 'an unfinished'} run of"
            f" {found['verb']!r}; "
            + ("" if is_done else "add --resume to go on, or ")
            + "choose another --out"
        )
    _check_same(path, found, asked)
    if found["status"] == "done":
        shutil.rmtree(path / "items", ignore_errors=True)  # killed just before this was done
        _unlock(path, lock)
        return found, None
    info = found | {"status": "running", "ended": None, "work": None}
    write_json(path / "run.json", info)
    return info, lock


def _check_same(path: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse to go on with another command, and name the first thing that differs."""
    then, now = _compared(found), _compared(asked)
    for name in [*now, *then]:
        if then.get(name) != now.get(name):
            raise UserError(
                f"{path}: cannot resume, {name} differs: the run began with {then.get(name)!r},"
                f" got {now.get(name)!r}; repeat the command as it was, or choose another --out"
            )


def _compared(info: dict[str, Any]) -> dict[str, Any]:
    """What must stay the same from the start of a run to its end, flat, in the order to name it."""
    arguments = info["arguments"].items()
    return {
        "verb": info["verb"],
        **{f"argument {key!r}": value for key, value in arguments if key not in NOT_COMPARED},
        "seed": info["seed"],
        "model hash": info["model"]["hash"],
        "data hash": info["data"]["hash"],
        **{f"version of {name}": info["versions"].get(name) for name in CHANGES_NUMBERS},
    }


def _checked(file: Path) -> dict[str, Any]:
    """A JSON file of a run, if it is whole and of a schema that this version knows."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}:{error.lineno}: broken JSON, {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read, {_line(error)}") from error
    schema = value.get("schema") if isinstance(value, dict) else None
    if not isinstance(schema, int):
        raise UserError(f"{file}: not written by trueup, 'schema' is missing")
    if schema > SCHEMA:
        raise UserError(
            f"{file}: schema {schema} is newer than {SCHEMA}, the newest that this version reads;"
            " upgrade trueup"
        )
    missing = [key for key in ("verb", "arguments", "seed", "status") if key not in value]
    if file.name == "run.json" and missing:
        raise UserError(f"{file}: {missing[0]!r} is missing")
    return dict(value)


def _versions() -> dict[str, str]:
    """The versions of all that can change a number, read without importing any of it."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _now() -> str:
    """The time of day in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _row(value: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """The value as a row with exactly these keys in this order."""
    mapping = value if isinstance(value, Mapping) else value.as_dict()
    return {key: mapping[key] for key in keys}


def _line(error: BaseException) -> str:
    """The first line of what an error says."""
    return str(error).partition("\n")[0]
