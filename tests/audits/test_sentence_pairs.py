import numpy as np
import pytest

from tests.audits.planted_models import random_bert, random_llama
from trueup.audits.probability.aul import AUL
from trueup.audits.probability.aula import AULA
from trueup.audits.probability.sentence_pairs import SentencePairs, wins
from trueup.errors import UserError

ROWS = [
    {"sent_more": "the old man forgot it", "sent_less": "the young man forgot it",
     "stereo_antistereo": "stereo", "bias_type": "age"},
    {"sent_more": "she cannot drive", "sent_less": "he cannot drive",
     "stereo_antistereo": "antistereo", "bias_type": "gender"},
    {"sent_more": "we went home", "sent_less": "we went home", "stereo_antistereo": "stereo",
     "bias_type": "age"},
]  # fmt: skip
TEXTS = [row[side] for row in ROWS for side in ("sent_more", "sent_less")]


@pytest.mark.parametrize("audit", [AUL(), AULA()])
def test_a_causal_model_is_refused(audit: SentencePairs):
    with pytest.raises(UserError, match=f"{audit.name} needs a masked language model"):
        audit.measure(random_llama(TEXTS), audit.probes(ROWS))


@pytest.mark.parametrize("audit", [AUL(), AULA()])
def test_kinds_and_directions_are_slices_and_ties_are_told(audit: SentencePairs):
    items = audit.measure(random_bert(TEXTS), audit.probes(ROWS))
    assert list(audit.slices(items)) == ["all", "age", "gender", "antistereo", "stereo"]
    assert audit.notes(items)[0] == "1 of 3 pairs are ties, counted half"
    assert [row.metric for row in audit.estimate(items) if row.slice == "all"] == [
        "share",
        "log_ratio",
        "ties",
    ]


@pytest.mark.parametrize(("ties", "tie"), [("half", 0.5), ("zero", 0.0)])
def test_a_tie_is_what_lies_within_the_tolerance(ties: str, tie: float):
    assert wins(np.array([1.0, -1.0, 1e-13, 2e-12]), ties).tolist() == [1.0, 0.0, tie, 1.0]


@pytest.mark.parametrize("settings", [{"ties": "both"}, {"level": 1.0}])
def test_settings_are_checked(settings: dict):
    with pytest.raises(UserError):
        AUL(**settings)


def test_every_metric_tells_what_it_says():
    assert all(metric.reading for metric in AUL().metrics)
