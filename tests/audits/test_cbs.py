import pytest

from tests.audits.planted_models import random_bert, random_llama
from trueup.audits import read_data
from trueup.audits.probability.cbs import CBS
from trueup.errors import UserError

ROW = {
    "template": "people from [TARGET] are [ATTRIBUTE]",
    "targets": "north|south|far east",
    "attribute": "kind|rude",
}


def test_every_attribute_is_an_item_and_its_own_cluster():
    probes = CBS().probes(read_data(CBS(), [ROW]))
    assert [(probe.id, probe.cluster) for probe in probes] == [
        ("1/kind", "kind"),
        ("1/rude", "rude"),
    ]
    assert probes[0].labels["targets"] == ("north", "south", "far east")


def test_one_group_is_no_comparison():
    with pytest.raises(UserError, match="row 1: 'targets' needs at least 2 different words"):
        CBS().probes([{**ROW, "targets": "north"}])


def test_a_causal_model_is_refused():
    with pytest.raises(UserError, match="cbs needs a masked language model"):
        CBS().measure(random_llama(["north"]), CBS().probes([ROW]))


def test_work_is_a_row_per_attribute_and_number_of_pieces():
    model = random_bert(["people from north south far east are kind rude"])
    CBS().measure(model, CBS().probes([ROW]))
    # one piece: 2 attributes and the prior, 1 position each; two pieces ("far east"): the same, 2
    assert model.work.head_rows == 3 * 1 + 3 * 2
    assert model.work.trunk_tokens == 3 * 7 + 3 * 8
