"""Answers that were paid for once, kept on disk as JSON in SQLite under keys made from content."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trueup.errors import UserError

_BUSY_SECONDS = 60.0  # how long a writer waits for the writers of other threads and processes
_TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)"
_KEYS_PER_QUERY = 500  # SQLite takes at least 999 parameters in one query


class AnswerCache:
    """A file of answers by key that threads and processes may share.

    Every call opens the file and closes it again, so nothing has to be closed, forked or shared,
    and SQLite's own lock keeps writers apart. An answer is written once and never changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The answers that are there, by key.

        Raises: UserError where the file is damaged or cannot be opened.
        """
        found: dict[str, dict[str, Any]] = {}
        if not self.path.exists():
            return found
        with self._connection() as connection:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                rows = connection.execute(
                    f"SELECT key, answer FROM answers WHERE key IN ({marks})", part
                )
                found.update((key, json.loads(answer)) for key, answer in rows)
        return found

    def put(self, answers: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep the answers; a key that is there keeps its first answer.

        Raises: UserError where the file is damaged, cannot be written, or the device is full.
        """
        rows = [(key, json.dumps(answer)) for key, answer in answers.items()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)  # prompts and answers are the user's own
        except OSError as error:
            raise UserError(
                f"{self.path}: the answer cache cannot be written ({error.strerror})"
            ) from error
        with self._connection() as connection, connection:
            connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)

    def __len__(self) -> int:
        """How many answers are kept."""
        if not self.path.exists():
            return 0
        with self._connection() as connection:
            return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """An open file with its table; what SQLite or JSON refuses becomes one line."""
        try:
            with contextlib.closing(
                sqlite3.connect(self.path, timeout=_BUSY_SECONDS)
            ) as connection:
                connection.execute(_TABLE)
                yield connection
        except sqlite3.OperationalError as error:
            raise UserError(f"{self.path}: the answer cache cannot be used ({error})") from error
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise UserError(
                f"{self.path}: the answer cache is damaged ({error}); move it away and run again"
            ) from error
