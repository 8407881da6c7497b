"""The command line in this process, and small files that it works on."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import make_tiny
from trueup.cli.session import run_words


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def error(self, code: int = 2) -> str:
        """The one line on stderr of a command that failed as it should."""
        assert self.code == code, self.err
        assert self.out == ""
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        assert "Traceback" not in self.err
        return self.err.strip()


Trueup = Callable[..., Outcome]


@pytest.fixture
def trueup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Trueup:
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: object) -> Outcome:
        capsys.readouterr()
        code = run_words([str(word) for word in words])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def roomy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_roomy(tmp_path_factory.mktemp("roomy") / "llama", seed=0)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_roomy(tmp_path_factory.mktemp("roomy") / "other", seed=1)


def make_roomy(folder: Path, *, seed: int) -> Path:
    """A tiny model that reads 4096 tokens: real dialogues are long, byte by byte."""
    make_tiny("llama", folder, seed=seed)
    for name, key in (
        ("config.json", "max_position_embeddings"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        path = folder / name
        values = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(values | {key: 4096}), encoding="utf-8")
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twenty short preference pairs."""
    rows = [
        {"prompt": f"Question {n}:", "chosen": f" yes {n}", "rejected": " no"} for n in range(20)
    ]
    return write_rows(tmp_path / "prefs.jsonl", rows)


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """Short sentence pairs as CrowS-Pairs has them."""
    return write_sentences(tmp_path / "crows.csv", 30)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"Tell {n}"} for n in range(6)])


def write_sentences(path: Path, count: int) -> Path:
    lines = ["id,sent_more,sent_less,stereo_antistereo,bias_type"]
    lines += [
        f"{n},Group {n % 7} is bad at {n}.,Group {n % 5} is good at {n}.,stereo,{'ab'[n % 2]}"
        for n in range(count)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def finished_audit(roomy_model: Path, sentences: Path, tmp_path: Path, trueup: Trueup) -> Path:
    folder = tmp_path / "finished"
    words = ("audit", roomy_model, "--audit", "crows-pairs", "--data", sentences)
    assert trueup(*words, "--out", folder).code == 0
    return folder
