"""The worlds: all are found, each keeps the protocol, and the judges' plant what they say."""

import math
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import trueup.calibration
from trueup.audits import AUDITS, audit
from trueup.calibration import WORLD_MODULES, worlds_of
from trueup.calibration.judge_bias import GAPS, expected
from trueup.calibration.sweep import Cell, measured
from trueup.errors import UserError

FOLDER = Path(trueup.calibration.__file__).parent
LIMIT = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)  # three standard errors of 200 draws: 0.096


def test_every_file_of_worlds_is_registered():
    modules = [f"trueup.calibration.{path.stem}" for path in sorted(FOLDER.glob("*.py"))]
    holding = {name for name in modules if hasattr(import_module(name), "WORLDS")}
    assert holding == set(WORLD_MODULES.values())


def test_an_unknown_audit_has_no_world():
    with pytest.raises(UserError, match="no calibration world for audit 'crows-pear'; did you"):
        worlds_of("crows-pear")


@pytest.mark.parametrize("name", WORLD_MODULES)
def test_a_world_keeps_the_protocol(name: str):
    for world in worlds_of(name):
        assert world.audit == name
        assert list(world.planted) == sorted(world.planted)
        assert math.isnan(world.null) or world.null in world.planted
        assert world.kind in ("scripted", "trained")
        assert world.story.endswith(".")
        if name in AUDITS:
            assert world.metric in [one.name for one in audit(name, world.settings).metrics]


JUDGES = pytest.mark.parametrize("name", ["judge-bias", "portia"])


def drawn(name: str, planted: float, n: int, seeds: range) -> np.ndarray:
    """Value, low and high of every draw, [S, 3]."""
    [world] = worlds_of(name)
    cells = [Cell(planted=planted, n=n, seed=seed) for seed in seeds]
    rows = measured(audit(name, world.settings), world, cells)
    return rows[["value", "low", "high"]].to_numpy()


@JUDGES
def test_a_judges_lean_is_measured_as_planted(name: str):
    [world] = worlds_of(name)
    means = [drawn(name, size, 60, range(20))[:, 0].mean() for size in world.planted]
    assert np.polyfit(world.planted, means, 1)[0] == pytest.approx(1, abs=0.1)
    assert means == pytest.approx(world.planted, abs=0.06)


@JUDGES
def test_a_judges_interval_holds_the_planted_lean(name: str):
    [world] = worlds_of(name)
    planted = world.planted[3]
    _, low, high = drawn(name, planted, 30, range(1000, 1100)).T
    assert ((low <= planted) & (planted <= high)).mean() >= 0.9


@JUDGES
def test_a_judge_without_a_lean_raises_no_alarm(name: str):
    [world] = worlds_of(name)
    _, low, high = drawn(name, world.null, 30, range(2000, 2200)).T
    assert ((low > world.null) | (high < world.null)).mean() <= LIMIT


def test_what_a_cue_moves_by_hand():
    # of gaps -1, -0.75, ..., 2 each sigma(s - g) - sigma(-g), their mean
    assert expected(0.0) == 0.0
    sigma = 1 / (1 + np.exp(-(1.0 - np.array(GAPS)))) - 1 / (1 + np.exp(np.array(GAPS)))
    assert expected(1.0) == pytest.approx(sigma.mean(), abs=1e-12)
    assert expected(-1.0) < 0 < expected(0.5) < expected(1.0)
