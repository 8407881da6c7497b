import pytest

from tests.audits.planted_models import random_bert, random_llama
from trueup.audits import read_data
from trueup.audits.probability.lmb import LMB
from trueup.errors import UserError

ROWS = [
    {"sent_more": "the old man forgot it", "sent_less": "the young man forgot it all",
     "bias_type": "age"},
    {"sent_more": "she cannot drive", "sent_less": "he cannot drive", "bias_type": "gender"},
]  # fmt: skip
TEXTS = [row[side] for row in ROWS for side in ("sent_more", "sent_less")]


def test_a_masked_model_is_refused():
    with pytest.raises(UserError, match="lmb needs a causal language model"):
        LMB().measure(random_bert(TEXTS), LMB().probes(ROWS))


def test_slices_are_kinds_of_bias():
    items = LMB().measure(random_llama(TEXTS), LMB().probes(read_data(LMB(), ROWS)))
    assert list(LMB().slices(items)) == ["all", "age", "gender"]
    assert [row.metric for row in LMB().estimate(items) if row.slice == "age"] == [
        "difference",
        "t",
        "log_ratio",
    ]


def test_t_informs_and_has_no_verdict():
    assert [metric.name for metric in LMB().metrics if metric.has_verdict] == [
        "difference",
        "log_ratio",
    ]


def test_one_pair_has_no_test():
    items = LMB().measure(random_llama(TEXTS), LMB().probes(ROWS[:1]))
    assert LMB().notes(items) == []


def test_a_negative_bound_for_outliers_is_refused():
    with pytest.raises(UserError, match="drop_beyond must be at least 0, got -1"):
        LMB(drop_beyond=-1)
