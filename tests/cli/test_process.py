"""What only a process of its own can show: signals, kills, its streams, what it imports."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import Trueup, write_sentences

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "80"}


def started(*words: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "trueup", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | QUIET,
    )


def audit(model: Path, data: Path, *more: object) -> list[object]:
    return ["audit", model, "--audit", "crows-pairs", "--data", data, *more]


def test_json_is_alone_on_stdout_and_stderr_is_silent(roomy_model: Path, sentences: Path):
    process = started(*audit(roomy_model, sentences, "--json"))
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["schema"] == 1


def test_what_libraries_print_stays_out_of_the_json(finished_audit: Path):
    code = (
        "import os, sys, trueup.report, trueup.cli.session as session\n"
        "write = trueup.report.report_run\n"
        "def noisy(run):\n"
        "    print('noise of Python')\n"
        "    os.write(1, b'noise of C\\n')\n"
        "    return write(run)\n"
        "trueup.report.report_run = noisy\n"
        f"sys.exit(session.run_words(['report', {str(finished_audit)!r}, '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert json.loads(done.stdout) == {"report": str(finished_audit / "report.html")}
    assert sorted(done.stderr.splitlines()) == ["noise of C", "noise of Python"]


def test_reader_that_leaves_early_is_no_error():
    with started("methods", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("words", [["--help"], ["audit", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]):
    code = (
        "import sys, contextlib, io, trueup.cli.session as session\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    assert session.run_words({words!r}) == 0\n"
        "print(*({'torch', 'transformers', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_can_be_resumed(roomy_model: Path, tmp_path: Path, trueup: Trueup):
    data = write_sentences(tmp_path / "long.csv", 2000)
    out, calm = tmp_path / "out", tmp_path / "calm"
    words = audit(roomy_model, data)
    process = started(*words, "--out", out)
    while not list(out.glob("items/part-*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout, stderr.count("\n")) == (130, "", 1)
    assert stderr.startswith("interrupted: what was done is kept; go on with: trueup audit ")
    assert json.loads((out / "run.json").read_text("utf-8"))["status"] == "interrupted"
    assert trueup(*words, "--out", out, "--resume").code == 0
    assert trueup(*words, "--out", calm).code == 0
    assert (out / "metrics.json").read_bytes() == (calm / "metrics.json").read_bytes()


@pytest.mark.slow
def test_ctrl_c_while_the_program_loads_is_no_traceback(roomy_model: Path, sentences: Path):
    process = started(*audit(roomy_model, sentences))
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    # before Python has a handler of its own the signal itself ends it, which a shell calls 130
    assert process.returncode in (130, -signal.SIGINT)
    assert stdout == ""
    assert stderr in ("", "interrupted\n")


@pytest.mark.slow
def test_killed_audits_end_with_the_same_bytes(roomy_model: Path, tmp_path: Path):
    data = write_sentences(tmp_path / "long.csv", 600)
    folder = tmp_path / "runs"
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.kill_harness", str(KILLS), "0", str(folder), "--",
         *map(str, audit(roomy_model, data))],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | QUIET, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    met = json.loads(done.stdout)
    assert len(met) == KILLS
    assert {each["code"] for each in met} == {0}
    assert len({each["state"] for each in met}) >= 3  # early and late moments were among them
    for each in met:
        for name in ("items.parquet", "metrics.json"):
            calm = (folder / "calm" / name).read_bytes()
            assert (Path(each["out"]) / name).read_bytes() == calm, (each, name)


@pytest.mark.slow
def test_two_processes_align_as_one(roomy_model: Path, pairs: Path, tmp_path: Path):
    losses = {}
    for name, launcher in (("one", []), ("two", TWO)):
        words = ["align", roomy_model, "--objective", "dpo", "--data", pairs]
        words += ["--out", tmp_path / name, "--set", "learning_rate=1e-4"]
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "trueup", *map(str, words)],
            capture_output=True, text=True, cwd=ROOT, env=os.environ | QUIET, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("steps, loss") == 1  # the first process alone speaks
        losses[name] = pd.read_parquet(tmp_path / name / "items.parquet")["loss"].tolist()
    assert losses["two"] == pytest.approx(losses["one"], abs=1e-5)
