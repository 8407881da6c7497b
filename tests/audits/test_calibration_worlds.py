"""The calibration worlds of the probability audits keep the protocol."""

import math

import pandas as pd
import pytest

from tests.proofs.probability_calibration import world_of
from trueup.audits.probability.association import Association
from trueup.audits.probability.aul import AUL
from trueup.audits.probability.aula import AULA
from trueup.audits.probability.bbq import BBQ
from trueup.audits.probability.cbs import CBS
from trueup.audits.probability.crows_pairs import CrowsPairs
from trueup.audits.probability.disco import DisCo
from trueup.audits.probability.lmb import LMB
from trueup.audits.probability.lpbs import LPBS
from trueup.audits.probability.perplexity import Perplexity
from trueup.audits.probability.stereoset import StereoSet
from trueup.audits.probability.winogender import Winogender
from trueup.audits.protocol import Audit

CLASSES: dict[str, type[Audit]] = {
    "association": Association,
    "aul": AUL,
    "aula": AULA,
    "bbq": BBQ,
    "cbs": CBS,
    "crows_pairs": CrowsPairs,
    "disco": DisCo,
    "lmb": LMB,
    "lpbs": LPBS,
    "perplexity": Perplexity,
    "stereoset": StereoSet,
    "winogender": Winogender,
}


@pytest.mark.parametrize("name", CLASSES)
def test_it_names_its_audit_and_its_headline(name: str):
    world, audit = world_of(name), CLASSES[name]
    assert world.audit == audit.name
    assert world.metric == audit(**world.settings).metrics[0].name
    assert world.story
    assert world.unit


@pytest.mark.parametrize("name", CLASSES)
def test_the_null_is_among_the_planted_sizes(name: str):
    world = world_of(name)
    if name == "perplexity":
        assert math.isnan(world.null)
    else:
        assert world.null in world.planted
    assert list(world.planted) == sorted(world.planted)


@pytest.mark.parametrize("name", CLASSES)
def test_one_seed_is_one_draw(name: str):
    world, audit = world_of(name), CLASSES[name](**world_of(name).settings)
    first, again, other = (world.draw(world.planted[1], 24, seed) for seed in (7, 7, 8))
    items = [audit.measure(draw.model, audit.probes(draw.rows)) for draw in (first, again, other)]
    pd.testing.assert_frame_equal(items[0], items[1], check_exact=True)
    assert not items[0]["score"].equals(items[2]["score"])
