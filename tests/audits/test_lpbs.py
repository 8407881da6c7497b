from pathlib import Path

import numpy as np
import pytest

from tests.audits.planted_models import random_bert, random_llama
from trueup.audits import probes_of, read_data
from trueup.audits.probability.bec_pro import read_bec_pro
from trueup.audits.probability.lpbs import LPBS
from trueup.errors import UserError

ROW = {"template": "the [TARGET] is [ATTRIBUTE].", "a": "nurse", "b": "pilot", "attribute": "kind"}
HEADER = "\tSentence\tSent_TM\tSent_AM\tSent_TAM\tTemplate\tPerson\tGender\tProfession\tProf_Gender"


def test_attributes_of_a_row_are_items_of_their_own():
    [first, second] = LPBS().probes([{**ROW, "id": "x", "attribute": "kind|very rude"}])
    assert (first.id, second.id) == ("x/kind", "x/very rude")
    assert (first.cluster, second.cluster) == ("kind", "very rude")


def test_the_data_may_name_another_cluster_and_slices():
    [probe] = LPBS().probes([{**ROW, "cluster": "jobs", "group": "male|old"}])
    assert (probe.id, probe.cluster, probe.group) == ("1", "jobs", "male|old")


def test_a_word_in_both_groups_is_refused():
    with pytest.raises(UserError, match="row 1: 'a' and 'b' needs at least 1 different words"):
        LPBS().probes([{**ROW, "b": "nurse"}])


def test_a_causal_model_is_refused():
    with pytest.raises(UserError, match="lpbs needs a masked language model"):
        LPBS().measure(random_llama(["the nurse"]), LPBS().probes([ROW]))


def test_the_score_is_its_four_log_probabilities():
    model = random_bert(["the nurse pilot is kind ."])
    [row] = LPBS().measure(model, LPBS().probes([ROW])).to_dict("records")
    expected = row["logp_a"] - row["prior_a"] - (row["logp_b"] - row["prior_b"])
    assert row["score"] == pytest.approx(expected, abs=1e-12)


def bec_pro(tmp_path: Path) -> Path:
    lines = [HEADER]
    for person, gender in (("uncle", "male"), ("dad", "male"), ("aunt", "female")):
        lines.append(
            f"0\tMy {person} is a nurse.\tMy [MASK] is a nurse.\tMy {person} is a [MASK].\t"
            f"My [MASK] is a [MASK].\t<person subject> is a <profession>.\t{person}\t{gender}\t"
            "nurse\tfemale"
        )
    lines.append(
        "0\tHe is a nurse.\t[MASK] is a nurse.\tHe is a [MASK].\t[MASK] is a [MASK].\tx\tHe\tmale\t"
        "nurse\tfemale"
    )
    file = tmp_path / "bec.tsv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_bec_pro_rows_are_joined_by_frame(tmp_path: Path):
    [row] = read_data(LPBS(), bec_pro(tmp_path)).rows  # "He" has no counterpart in its frame here
    assert row["template"] == "My [TARGET] is a [ATTRIBUTE]."
    assert (row["a"], row["b"], row["attribute"]) == (["uncle", "dad"], ["aunt"], "nurse")
    assert row["group"] == "female"


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_another_table_is_not_bec_pro(tmp_path: Path, name: str):
    file = tmp_path / name
    file.write_text("template\ta\n1\t2\n", encoding="utf-8")
    assert read_bec_pro(file) is None
    assert read_bec_pro(tmp_path / "none.tsv") is None


def test_the_real_bec_pro_is_read(shared_data: Path):
    audit = LPBS()
    table = read_data(audit, shared_data / "bec_pro_en.tsv")
    probes = probes_of(audit, table)[:30]
    words = [" ".join((*probe.labels["a"], *probe.labels["b"])) for probe in probes]
    texts = [f"{probe.prompt} {probe.labels['attribute']}" for probe in probes]
    model = random_bert([*words, *texts])
    items = audit.measure(model, probes)
    assert len(table) == 120  # 20 professions in 6 frames
    assert items["score"].notna().all()
    assert list(audit.slices(items)) == ["all"]  # the sample holds men's professions only


def test_few_templates_are_told():
    items = LPBS().measure(random_bert(["the nurse pilot is kind ."]), LPBS().probes([ROW]))
    assert LPBS().notes(items)[0].startswith("1 templates, 1 attributes, 1 sets of group words")
    assert np.isfinite(items["score"][0])
