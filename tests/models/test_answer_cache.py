"""The answer cache is plain JSON, survives many writers, and says when it is damaged."""

import json
import multiprocessing
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from trueup.errors import UserError
from trueup.models.answer_cache import AnswerCache


@pytest.fixture
def cache(tmp_path: Path) -> AnswerCache:
    return AnswerCache(tmp_path / "deep" / "answers.sqlite")


def put_some(path: Path, worker: int) -> None:
    for number in range(15):
        AnswerCache(path).put({f"{worker}-{number}": {"text": f"{worker}"}})
        AnswerCache(path).put({f"shared-{number}": {"text": "first"}})


def test_what_is_put_is_got(cache: AnswerCache) -> None:
    answers = {f"key {n}": {"text": f"日本 {n}\ud83d", "logps": [-0.1, None]} for n in range(1200)}

    cache.put(answers)

    assert cache.get([*answers, "another"]) == answers
    assert len(cache) == 1200


def test_an_empty_cache_has_nothing_and_makes_no_file(cache: AnswerCache) -> None:
    assert cache.get(["key"]) == {}
    assert len(cache) == 0
    assert not cache.path.exists()


def test_the_first_answer_stays(cache: AnswerCache) -> None:
    cache.put({"key": {"text": "first"}})
    cache.put({"key": {"text": "second"}})

    assert cache.get(["key"]) == {"key": {"text": "first"}}


def test_the_file_holds_json_and_no_pickles(cache: AnswerCache) -> None:
    cache.put({"key": {"text": "an answer"}})

    with closing(sqlite3.connect(cache.path)) as connection:
        rows = connection.execute("SELECT key, answer FROM answers").fetchall()

    assert [(key, json.loads(answer)) for key, answer in rows] == [("key", {"text": "an answer"})]


def test_threads_lose_nothing(cache: AnswerCache) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put_some, [cache.path] * 4, range(4)))

    assert len(cache) == 4 * 15 + 15


def test_processes_lose_nothing(cache: AnswerCache) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_put_some, args=(str(cache.path), n)) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)

    assert [process.exitcode for process in processes] == [0, 0]
    assert len(cache) == 2 * 20


def _put_some(path: str, worker: int) -> None:
    for number in range(20):
        AnswerCache(Path(path)).put({f"{worker}-{number}": {"text": ""}})


@pytest.mark.parametrize("content", [b"no data base, just text " * 50, b"SQLite format 3\0" * 300])
def test_a_damaged_file_is_one_line_and_stays(cache: AnswerCache, content: bytes) -> None:
    cache.path.parent.mkdir()
    cache.path.write_bytes(content)

    for act in (lambda: cache.get(["key"]), lambda: cache.put({"key": {}}), lambda: len(cache)):
        with pytest.raises(UserError) as caught:
            act()
        assert str(caught.value).startswith(f"{cache.path}: the answer cache is damaged (")
        assert str(caught.value).endswith("; move it away and run again")
    assert cache.path.read_bytes() == content


def test_an_answer_that_is_no_json_is_one_line(cache: AnswerCache) -> None:
    cache.put({"key": {"text": "an answer"}})
    with closing(sqlite3.connect(cache.path)) as connection, connection:
        connection.execute("UPDATE answers SET answer = '{'")

    with pytest.raises(UserError, match="the answer cache is damaged"):
        cache.get(["key"])


def test_a_folder_in_place_of_the_file_is_one_line(cache: AnswerCache) -> None:
    cache.path.mkdir(parents=True)

    with pytest.raises(UserError, match=r"the answer cache cannot be used \(unable to open"):
        cache.put({"key": {}})


def test_a_file_in_place_of_the_folder_is_one_line(cache: AnswerCache) -> None:
    cache.path.parent.write_text("in the way", encoding="utf-8")

    with pytest.raises(UserError) as caught:
        cache.put({"key": {}})
    assert len(str(caught.value).splitlines()) == 1


def test_only_the_user_can_read_the_answers(cache: AnswerCache) -> None:
    cache.put({"key": {"text": "private"}})

    assert stat.S_IMODE(cache.path.stat().st_mode) == 0o600
