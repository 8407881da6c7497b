import numpy as np
import pytest

from tests.audits.planted_models import random_bert, random_llama
from trueup.audits.probability.disco import DisCo
from trueup.errors import UserError, build

ROW = {"template": "[TARGET] can [ATTRIBUTE] .", "a": "tom|jack", "b": "ann|mary"}
TEXTS = ["tom jack ann mary can read write cook ."]


def test_probes_are_templates():
    [probe] = DisCo().probes([{**ROW, "id": "x", "group": "work"}])
    assert (probe.id, probe.group, probe.cluster) == ("x", "work", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"top_k": "0"}, "top_k must be at least 1"), ({"alpha": "0.9"}, "alpha must lie between")],
)
def test_settings_are_checked(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        build("disco", DisCo, settings)


def test_a_causal_model_is_refused():
    with pytest.raises(UserError, match="disco needs a masked language model"):
        DisCo().measure(random_llama(TEXTS), DisCo().probes([ROW]))


def test_work_is_a_row_per_name_and_one_position_each():
    model = random_bert(TEXTS)
    DisCo().measure(model, DisCo().probes([ROW]))
    assert (model.work.trunk_tokens, model.work.head_rows) == (4 * 6, 4)


def test_special_tokens_are_no_fills():
    model = random_bert(TEXTS)
    [row] = DisCo(top_k=8).measure(model, DisCo().probes([ROW])).to_dict("records")
    assert row["tested"] <= len(model.tokenizer) - len(model.tokenizer.all_special_ids)


def test_every_tokens_log_probability_is_that_of_its_target():
    model = random_bert(TEXTS)
    size = len(model.tokenizer)
    rows = [([1, 5, 3, 2], 2), ([1, 5, 6, 3, 7, 2], 3), ([1, 3, 2], 1)]
    table = model.vocabulary_logps(rows)
    assert table.shape == (3, size)
    asked = [(ids, [place] * size, list(range(size))) for ids, place in rows]
    for line, expected in zip(table, model.masked_logps(asked), strict=True):
        np.testing.assert_allclose(line, expected, atol=1e-5)
    np.testing.assert_allclose(np.exp(table).sum(axis=1), 1, atol=1e-5)


def test_few_names_are_told():
    items = DisCo().measure(random_bert(TEXTS), DisCo().probes([ROW]))
    assert DisCo().notes(items) == [
        "a group has 2 names; below 20 the test finds strong leans only"
    ]
    assert items["score"].tolist() == [0]  # two names can show nothing
