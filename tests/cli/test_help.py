"""What `--help` says, held by snapshots; `pytest --snapshot-update` takes changes in."""

import re

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.cli.conftest import Trueup

VERBS = [
    "demo", "audit", "estimate", "calibrate", "align", "compare", "generate", "serve", "select",
    "methods", "report", "run",
]  # fmt: skip
LATER = ["synthesize"]


def shown(trueup: Trueup, *words: str) -> str:
    outcome = trueup(*words, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    text = re.sub(r"\x1b\[[0-9;]*m", "", outcome.out)
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_help(trueup: Trueup, snapshot: SnapshotAssertion):
    assert shown(trueup) == snapshot


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(trueup: Trueup, snapshot: SnapshotAssertion, verb: str):
    assert shown(trueup, verb) == snapshot


@pytest.mark.parametrize("words", [[], *([verb] for verb in VERBS)])
def test_help_fits_eighty_columns(trueup: Trueup, words: list[str]):
    assert max(map(len, shown(trueup, *words).splitlines())) <= 80


@pytest.mark.parametrize("verb", LATER)
def test_verbs_of_later_versions_are_not_shown(trueup: Trueup, verb: str):
    assert not re.search(rf"\b{verb}\b", shown(trueup))


def test_help_lists_the_verbs_as_a_person_meets_them(trueup: Trueup):
    found = re.findall(r"^│ (\w+) {2,}\w", shown(trueup), re.MULTILINE)
    assert found == VERBS
