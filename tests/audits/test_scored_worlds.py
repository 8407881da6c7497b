"""The calibration worlds of texts that a scorer reads keep the protocol."""

import importlib

import pytest

from tests.audits.scored_rows import items_of
from trueup.audits.text.counterfactual_sentiment import CounterfactualSentiment
from trueup.audits.text.full_generation_bias import FullGenerationBias
from trueup.audits.text.regard import Regard
from trueup.audits.text.score_parity import ScoreParity
from trueup.audits.text.toxicity import Toxicity

CLASSES = (CounterfactualSentiment, FullGenerationBias, Regard, ScoreParity, Toxicity)
WORLDS = [
    (cls, world)
    for cls in CLASSES
    for world in importlib.import_module(f"trueup.calibration.{cls.name.replace('-', '_')}").WORLDS
]
NAMES = [f"{world.audit}.{world.metric}" for _, world in WORLDS]


@pytest.mark.parametrize(("audit", "world"), WORLDS, ids=NAMES)
def test_a_world_names_its_audit_its_number_and_its_null(audit, world):
    assert world.audit == audit.name
    assert world.metric in [metric.name for metric in audit(**world.settings).metrics]
    assert world.null in world.planted
    assert list(world.planted) == sorted(world.planted)
    assert world.story.endswith(".")


@pytest.mark.parametrize(("audit", "world"), WORLDS, ids=NAMES)
def test_one_seed_is_one_draw(audit, world):
    first, again, other = (
        items_of(audit(**world.settings), draw.rows, draw.model)["completion"].tolist()
        for draw in (world.draw(world.planted[-1], 60, seed) for seed in (5, 5, 6))
    )
    assert first == again != other


@pytest.mark.parametrize(("audit", "world"), WORLDS, ids=NAMES)
def test_every_number_says_what_it_says(audit, world):
    assert all(metric.reading for metric in audit(**world.settings).metrics)
