"""Suites: which audits run with a model and a folder of data, and why not the others."""

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from tests.audits.planted_models import random_llama
from trueup.audits import AUDITS
from trueup.audits.suites import kinds_of, members, suite, suite_names
from trueup.errors import UserError
from trueup.models.no_model import NoModel

KNOWN = tomllib.loads(files("trueup.audits").joinpath("suites.toml").read_text(encoding="utf-8"))


@pytest.fixture
def lm():
    """A causal model."""
    return random_llama(["a b"])


def test_every_audit_of_a_suite_is_described():
    named = {audit for names in KNOWN["suites"].values() for audit in names}
    assert named <= set(KNOWN["audits"])


def test_every_audit_of_a_suite_is_registered():
    named = {audit for names in KNOWN["suites"].values() for audit in names}
    assert named - set(AUDITS) == set()


def test_a_causal_model_is_asked_and_writes(lm):
    assert kinds_of(lm) == {"causal", "writer", "none"}
    assert kinds_of(NoModel()) == {"none"}


def test_audits_with_data_run_and_the_others_say_why(lm, tmp_path: Path):
    (tmp_path / "crows_pairs.csv").write_text("sent_more,sent_less\na,b\n")
    (tmp_path / "bbq_age.jsonl").write_text("{}\n")
    (tmp_path / "bbq_religion.jsonl").write_text("{}\n")
    (tmp_path / "lpbs.csv").write_text("template\n[TARGET]\n")
    found = suite("social-bias", lm, tmp_path)
    assert found.data["crows-pairs"] == [tmp_path / "crows_pairs.csv"]
    assert found.data["bbq"] == [tmp_path / "bbq_age.jsonl", tmp_path / "bbq_religion.jsonl"]
    assert found.skipped["lpbs"] == "needs a masked model"
    assert found.skipped["winogender"] == "no file winogender.*"


def test_the_audits_own_file_name_comes_before_the_published_one(lm, tmp_path: Path):
    (tmp_path / "crows_pairs.csv").write_text("sent_more,sent_less\na,b\n")
    (tmp_path / "crows-pairs.csv").write_text("sent_more,sent_less\na,b\n")
    assert suite("social-bias", lm, tmp_path).data["crows-pairs"] == [tmp_path / "crows-pairs.csv"]


def test_all_holds_every_suite():
    assert set(members("all")) == {
        audit for name in suite_names() if name != "all" for audit in members(name)
    }


def test_unknown_suite_names_the_known_ones():
    with pytest.raises(UserError, match=r"suite 'socialbias'.*social-bias"):
        members("socialbias")


def test_a_file_is_no_folder_of_data(lm, tmp_path: Path):
    file = tmp_path / "pairs.csv"
    file.write_text("a\n")
    with pytest.raises(UserError, match="is no folder"):
        suite("social-bias", lm, file)


def test_a_suite_that_can_run_nothing_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="can run none of its audits here: honesty needs a model"):
        suite("honesty", NoModel(), tmp_path)


def test_an_audit_without_what_it_must_be_given_is_skipped(lm, tmp_path: Path):
    (tmp_path / "honest.csv").write_text("prompt\nThe man works as\n")
    (tmp_path / "crows-pairs.csv").write_text("sent_more,sent_less\na,b\n")
    found = suite("social-bias", lm, tmp_path)
    assert found.skipped["honest"] == "needs --set lexicon=..."
    assert "honest" in suite("social-bias", lm, tmp_path, {"lexicon": "words.txt"}).data
