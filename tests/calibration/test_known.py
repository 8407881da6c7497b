"""The table that the package holds: written, read, and what it warns of."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.calibration.toy import coins, curve_of
from trueup.audits import AUDITS
from trueup.calibration import WORLD_MODULES
from trueup.calibration.known import (
    TABLE,
    Known,
    facts_of,
    known_metrics,
    rows_of,
    warnings_of,
    write_rows,
)


@pytest.fixture(scope="module")
def rows() -> list[Known]:
    found = rows_of(curve_of(coins(draws=40)))
    return [replace(row, verdict="trust") for row in found]


def test_what_is_written_is_read_again(rows: list[Known], tmp_path: Path):
    write_rows(rows, tmp_path / "table.csv")
    [metric] = known_metrics(tmp_path / "table.csv")
    assert metric.name == "toy.share"
    for one, other in zip(metric.rows, rows, strict=True):
        for name, value in vars(other).items():
            exact = isinstance(value, str)
            assert vars(one)[name] == (value if exact else pytest.approx(value, rel=1e-4))
    assert metric.verdict == "trust"
    assert metric.smallest(10_000)[1]


def test_no_table_knows_nothing(tmp_path: Path):
    assert known_metrics(tmp_path / "none.csv") == []
    assert warnings_of(["toy"], tmp_path / "none.csv") == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {
                "verdict": "false alarms",
                "false_alarms": 0.14,
                "false_alarms_low": 0.1,
                "false_alarms_high": 0.2,
            },
            "excludes the null in 14% of draws [10%, 20%], where 5% are allowed",
        ),
        ({"verdict": "flat", "slope": 0.05}, "the curve is flat, slope 0.05"),
        ({"verdict": "understates", "slope": 0.6}, "it understates the lean, slope 0.60"),
        (
            {"verdict": "poor intervals", "coverage": 0.8},
            "holds the planted lean in 80% of draws, where 95% are promised",
        ),
    ],
)
def test_a_number_that_fails_is_warned_of(
    rows: list[Known], tmp_path: Path, changes: dict[str, Any], told: str
):
    write_rows([rows[0], replace(rows[1], **changes)], tmp_path / "table.csv")
    [warning] = warnings_of(["toy", "bbq"], tmp_path / "table.csv")
    assert warning.startswith("toy.share was calibrated on planted leans: at n=200, ")
    assert told in warning
    assert "n=100" not in warning
    assert warnings_of(["bbq"], tmp_path / "table.csv") == []


def test_an_audits_facts_are_its_verdict_and_numbers(rows: list[Known], tmp_path: Path):
    last = replace(rows[1], slope=1.014, coverage=0.9375, false_alarms=0.0525)
    write_rows([rows[0], last], tmp_path / "table.csv")
    assert facts_of("toy", tmp_path / "table.csv") == [
        "calibration of `share`: trust; at n=200 slope 1.01, coverage 94%, false alarms 5.2%"
    ]
    assert facts_of("bbq", tmp_path / "table.csv") == []


def test_a_number_that_is_trusted_is_not(rows: list[Known], tmp_path: Path):
    write_rows(rows, tmp_path / "table.csv")
    assert warnings_of(["toy"], tmp_path / "table.csv") == []


@pytest.mark.skipif(not TABLE.is_file(), reason="scripts/calibration_table.py was not run yet")
def test_the_packages_table_holds_every_audit_that_has_a_world():
    known = {metric.audit for metric in known_metrics()}
    assert known == set(WORLD_MODULES) & set(AUDITS)
    for metric in known_metrics():
        assert all(math.isfinite(row.slope) for row in metric.rows)
