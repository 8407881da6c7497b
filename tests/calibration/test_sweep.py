"""The sweep: which cells there are, and that each is the audit as a user runs it."""

import math

import pytest

from tests.calibration.toy import Toy, ToyWorld
from trueup.audits import AUDITS, audit
from trueup.calibration import WORLD_MODULES, worlds_of
from trueup.calibration.sweep import Cell, alone, blocks_of, cells_of, measured, plan_of
from trueup.errors import UserError

WORLD = ToyWorld()


def test_what_is_left_out_is_the_worlds():
    plan = plan_of(WORLD)
    assert (plan.planted, plan.sizes, plan.seeds) == (WORLD.planted, WORLD.sizes, (200, 200))


def test_the_null_is_always_swept():
    assert plan_of(WORLD, planted=(0.9, 0.1)).planted == (0.1, 0.5, 0.9)


def test_a_world_without_a_null_sweeps_what_it_has():
    world = ToyWorld()
    world.null = math.nan
    assert plan_of(world, planted=(0.9, 0.1)).planted == (0.1, 0.9)


def test_a_lean_gets_a_quarter_of_the_draws_and_at_least_ten():
    cells = cells_of(WORLD, plan_of(WORLD, seeds=(80, 20)))
    counts = {(n, p): 0 for n in WORLD.sizes for p in WORLD.planted}
    for cell in cells:
        counts[cell.n, cell.planted] += 1
    for size in WORLD.planted:
        is_null = size == WORLD.null
        assert counts[50, size] == (80 if is_null else 20)
        assert counts[200, size] == (20 if is_null else 10)


def test_no_two_cells_share_a_seed_and_another_start_shares_none():
    seeds = [{cell.seed for cell in cells_of(WORLD, plan_of(WORLD, seed=s))} for s in (0, 1)]
    assert len(seeds[0]) == len(cells_of(WORLD, plan_of(WORLD)))
    assert not seeds[0] & seeds[1]


def test_blocks_hold_every_cell_once_in_order():
    cells = cells_of(WORLD, plan_of(WORLD))
    assert [cell for block in blocks_of(cells) for cell in block] == cells


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"sizes": (1,)}, "n must be at least 2, got 1"),
        ({"seeds": (9,)}, "seeds must be at least 10, got 9"),
        ({"seeds": (20, 20, 20)}, "seeds are given 3 times for 2 sizes n"),
        ({"planted": (0.5,)}, "planted must name a size other than 0.5"),
    ],
)
def test_a_wrong_plan_is_refused(asked: dict, line: str):
    with pytest.raises(UserError, match=line):
        plan_of(WORLD, **asked)


def test_a_metric_that_the_audit_lacks_is_refused():
    with pytest.raises(UserError, match="toy has no metric 'score'; known: share, tails"):
        alone(Toy(), "score")


def test_a_row_says_what_was_planted_and_what_came_of_it():
    rows = measured(Toy(), WORLD, [Cell(planted=0.8, n=50, seed=3)])
    items = Toy().measure(None, Toy().probes(WORLD.draw(0.8, 50, 3).rows))  # type: ignore[arg-type]
    own = Toy().estimate(items)[0]
    assert rows.to_dict("records") == [
        {
            "id": "share 0.8 50 3",
            "audit": "toy",
            "metric": "share",
            "planted": 0.8,
            "n": 50,
            "seed": 3,
            "value": own.value,
            "low": own.low,
            "high": own.high,
        }
    ]


@pytest.mark.parametrize("name", sorted(set(WORLD_MODULES) & set(AUDITS)))
def test_the_sweep_reports_the_number_that_the_audit_reports(name: str):
    """Leaving the other metrics and slices out changes no bit, whatever the audit's interval."""
    for world in worlds_of(name):
        n, planted = min(world.sizes), world.planted[0]
        made = audit(name, world.settings)
        draw = world.draw(planted, n, 7)
        items = made.measure(draw.model, made.probes(draw.rows))
        whole = next(
            row for row in made.estimate(items) if (row.metric, row.slice) == (world.metric, "all")
        )
        [row] = measured(made, world, [Cell(planted=planted, n=n, seed=7)]).to_dict("records")
        found = [row["value"], row["low"], row["high"]]
        assert found == pytest.approx([whole.value, whole.low, whole.high], abs=0, nan_ok=True)
