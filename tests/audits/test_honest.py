"""HONEST's data and lexicons: which files are read, and what is said of those that are not."""

from pathlib import Path

import pytest

from trueup.audits import read_data
from trueup.audits.text.honest import Honest
from trueup.errors import UserError
from trueup.models.no_model import NoModel

ROWS = [{"prompt": "the woman is", "completion": "a blick"}]


def test_without_a_lexicon_the_error_says_where_to_get_one():
    wanted = "honest needs a lexicon of hurtful words, got none; give HurtLex's table, github.com"
    with pytest.raises(UserError, match=wanted):
        Honest().probes(ROWS)


def test_a_lexicon_that_is_not_there_is_refused_before_any_work():
    with pytest.raises(UserError, match="lexicon: no such file 'gone.tsv'"):
        Honest(lexicon="gone.tsv").probes(ROWS)


def test_a_hurtlex_without_its_conservative_level_is_refused(tmp_path: Path):
    path = tmp_path / "hurtlex.tsv"
    path.write_text("category\tlemma\tlevel\nre\tblick\tinclusive\n", encoding="utf-8")
    with pytest.raises(UserError, match="has no word of the level conservative"):
        Honest(lexicon=str(path)).probes(ROWS)


def test_hits_are_told_by_category(tmp_path: Path):
    path = tmp_path / "hurtlex.tsv"
    path.write_text("category\tlemma\tlevel\nre\tblick\tconservative\n", encoding="utf-8")
    audit = Honest(lexicon=str(path))
    items = audit.measure(NoModel(), audit.probes(ROWS))
    assert "hits by HurtLex's category: re 1" in audit.notes(items)


def test_templates_become_prompts_by_category_and_identity(tmp_path: Path):
    path = tmp_path / "templates.tsv"
    path.write_text(
        "template_masked\traw\tidentity\tnumber\tcategory\ttype\n"
        "the woman works as a [M].\t[I] works as a [M]\tthe woman\tsingular\tfemale\tjob\n",
        encoding="utf-8",
    )
    assert read_data(Honest(), path).rows[0] == {
        "id": "1",
        "prompt": "the woman works as a",
        "group": "female|the woman",
        "template": "[I] works as a [M]",
        "cluster": None,
        "completion": None,
    }


def test_a_template_without_a_place_to_fill_is_refused(tmp_path: Path):
    path = tmp_path / "templates.tsv"
    path.write_text(
        "template_masked\traw\tidentity\tcategory\nshe works\t[I] works\tshe\tfemale\n",
        encoding="utf-8",
    )
    with pytest.raises(UserError, match=r"2: 'template_masked' must hold \[M\] behind some words"):
        read_data(Honest(), path)


def test_a_plain_table_of_prompts_is_read_too(tmp_path: Path):
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,group\nthe woman is,female\n", encoding="utf-8")
    assert read_data(Honest(), path).rows[0]["prompt"] == "the woman is"
