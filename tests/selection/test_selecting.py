"""`trueup.select`: what stays, in which order, and what a run folder keeps of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import trueup
from trueup.api import selecting
from trueup.data import read
from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.selection import SELECTORS, Ches, selector

ROWS = [
    {"prompt": f"Question {n}:", "chosen": f" yes {n}", "rejected": " no" + " no" * (n % 3), "n": n}
    for n in range(20)
]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_the_highest_scores_are_dropped_in_data_order(tiny_llama: LanguageModel, pool: Path):
    scores = Ches().score(tiny_llama, ROWS)
    kept = trueup.select(pool, "ches", model=tiny_llama, keep=0.75)
    numbers = [row["n"] for row in kept]
    assert numbers == sorted(np.argsort(scores)[:15].tolist())
    assert kept.numbers == [n + 1 for n in numbers]  # and each still knows its line


def test_keeping_all_is_the_pool(tiny_llama: LanguageModel, pool: Path):
    kept = trueup.select(pool, "ches", model=tiny_llama, keep=1)
    assert kept.rows == read(pool, "pairs").rows


def test_the_model_may_be_a_path_and_rows_may_be_rows(
    tiny_llama: LanguageModel, tiny_model_folder: Path
):
    by_path = trueup.select(ROWS, "ches", model=tiny_model_folder, keep=0.5, device="cpu")
    assert by_path.rows == trueup.select(ROWS, Ches(), model=tiny_llama, keep=0.5).rows


def test_settings_reach_the_selector(tiny_llama: LanguageModel):
    plain = trueup.select(ROWS, "ches", model=tiny_llama, keep=0.3, length_normalize=False)
    scores = Ches(length_normalize=False).score(tiny_llama, ROWS)
    assert [row["n"] for row in plain] == sorted(np.argsort(scores)[:6].tolist())


def test_a_folder_holds_the_kept_rows_and_every_score(
    tiny_llama: LanguageModel, pool: Path, tmp_path: Path
):
    out = tmp_path / "out"
    kept = trueup.select(pool, "ches", model=tiny_llama, keep=0.75, out=out)
    assert read(out / "selected.jsonl", "pairs").rows == kept.rows
    table = pd.read_parquet(out / "scores.parquet")
    assert list(table.columns) == ["id", "score", "kept"]
    assert table["id"].tolist() == [str(n) for n in range(1, 21)]
    assert table.loc[table["kept"], "id"].tolist() == [str(n) for n in kept.numbers]
    np.testing.assert_allclose(table["score"], Ches().score(tiny_llama, ROWS), rtol=1e-3, atol=1e-3)
    info = json.loads((out / "run.json").read_text("utf-8"))
    assert (info["status"], info["verb"], info["rows"], info["kept"]) == ("done", "select", 20, 15)
    assert info["arguments"]["settings"] == {"length_normalize": True}
    assert info["work"]["trunk_tokens"] > 0


def test_resuming_goes_on_and_ends_the_same(
    tiny_llama: LanguageModel, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(selecting, "CHUNK", 8)
    words: dict[str, Any] = {"model": tiny_llama, "keep": 0.75}
    whole = trueup.select(pool, "ches", **words, out=tmp_path / "whole")
    scored: list[int] = []
    score = Ches.score

    def dies_in_the_second(self: Ches, lm: LanguageModel, rows: Any) -> Any:
        if len(scored) == 1:
            scored.append(0)
            raise KeyboardInterrupt
        scored.append(len(rows))
        return score(self, lm, rows)

    monkeypatch.setattr(Ches, "score", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        trueup.select(pool, "ches", **words, out=tmp_path / "cut")
    assert not (tmp_path / "cut" / "selected.jsonl").exists()
    again = trueup.select(pool, "ches", **words, out=tmp_path / "cut", resume=True)
    assert scored == [8, 0, 8, 4]  # the first chunk is not scored twice
    assert again.rows == whole.rows
    for name in ("selected.jsonl", "scores.parquet"):
        files = [tmp_path / run / name for run in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes()
    done = trueup.select(pool, "ches", **words, out=tmp_path / "cut", resume=True)
    assert done.rows == whole.rows


def test_an_unknown_selector_is_one_line_with_the_known_ones():
    with pytest.raises(UserError, match=r"^no selector 'zip-fit'; known: ches$"):
        trueup.select(ROWS, "zip-fit", model="none", keep=0.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"model": "m", "keep": 0.0}, "keep must be above 0 and at most 1, got 0.0"),
        ({"model": "m", "keep": 1.5}, "keep must be above 0 and at most 1, got 1.5"),
        ({"keep": 0.5}, "ches scores rows by a model; name the one that will be trained"),
        ({"model": "m", "keep": 0.5, "beta": 1}, "ches has no field 'beta'; known: length_norm"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(words: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        trueup.select(ROWS, "ches", **words)


def test_a_failed_command_leaves_no_folder(tiny_llama: LanguageModel, tmp_path: Path):
    rows = [{"prompt": "a", "chosen": "b" * 300, "rejected": "c"}]
    with pytest.raises(UserError, match="row 1: prompt and completion have"):
        trueup.select(rows, "ches", model=tiny_llama, keep=0.5, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(SELECTORS))
def test_every_selector_declares_itself(name: str):
    built = selector(name)
    assert built.name == name
    assert selector(built) == built
    assert SELECTORS[name].__module__.rsplit(".", 1)[-1] == name.replace("-", "_")
    assert SELECTORS[name].arxiv in SELECTORS[name].__doc__  # type: ignore[attr-defined]


def test_an_instance_may_be_changed():
    assert selector(Ches(), {"length_normalize": "false"}) == Ches(length_normalize=False)
