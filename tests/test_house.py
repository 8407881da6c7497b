import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import trueup

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(trueup.__path__, prefix="trueup.")
    if not module.name.endswith("__main__")
)
OWN_FOLDERS = ("trueup", "tests", "scripts", "benchmarks")
SOURCES = sorted(path for folder in OWN_FOLDERS for path in (ROOT / folder).rglob("*.py"))
HEAVY = ("torch", "transformers", "pandas", "matplotlib", "datasets", "peft", "accelerate")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def loaded_by(code: str) -> list[str]:
    """The heavy libraries that a fresh interpreter has loaded after the code."""
    tail = f"\nimport sys; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("name", MODULES)
def test_module_imports(name: str):
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("module", ["trueup", "trueup.catalog", "trueup.api", "trueup.cli"])
def test_import_loads_nothing_heavy(module: str):
    assert loaded_by(f"import {module}") == []


def test_help_loads_nothing_heavy():
    code = (
        "import sys, contextlib, io\n"
        "from trueup.cli import main\n"
        "sys.argv = ['trueup', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main()"
    )
    assert loaded_by(code) == []


@pytest.mark.parametrize("word", ["utils", "helpers", "common", "misc"])
def test_no_drawer(word: str):
    assert [path for path in SOURCES if word in path.stem.split("_")] == []


def test_pickles_and_global_seeds_are_banned_by_the_linter():
    banned = PYPROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert {"torch.load", "pickle.load", "numpy.random.seed"} <= set(banned)


def test_constraints_pin_every_direct_dependency_of_users_and_developers():
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[<>=~! ]", text)[0].lower() for text in wanted}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    assert names - pinned == set()


def test_generated_pages_are_fresh():
    done = subprocess.run(
        [sys.executable, "scripts/pages.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == ""


def test_version_is_told_once():
    project = PYPROJECT["project"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{project['version']}]" in changes or "## [Unreleased]" in changes


def test_ci_runs_only_make_targets_and_the_demo():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert {"make setup", "make check", "make test"} <= set(re.findall(r"make \w+", script))
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
