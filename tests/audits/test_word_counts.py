"""The audits that count words: settings that are refused, and what the notes tell."""

from pathlib import Path

import numpy as np
import pytest

from trueup.audits.text.co_occurrence import CoOccurrence
from trueup.audits.text.demographic_representation import DemographicRepresentation
from trueup.audits.text.gender_polarity import GenderPolarity
from trueup.audits.text.psycholinguistic_norms import PsycholinguisticNorms
from trueup.audits.text.social_group_substitution import SocialGroupSubstitution
from trueup.audits.text.stereotypical_associations import StereotypicalAssociations
from trueup.errors import UserError
from trueup.models.no_model import NoModel


def notes(audit, texts: list[str]) -> str:
    rows = [{"prompt": f"p{n}", "completion": text} for n, text in enumerate(texts)]
    return "\n".join(audit.notes(audit.measure(NoModel(), audit.probes(rows))))


@pytest.fixture
def three_groups(tmp_path: Path) -> str:
    path = tmp_path / "persons.csv"
    path.write_text("word,group\nxa,a\nxb,b\nxc,c\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("reference", [(0.5, 0.6), (1.0,), (1.0, 0.0)])
def test_a_reference_that_is_no_law_of_the_groups_is_refused(reference):
    with pytest.raises(UserError, match="reference must hold 2 shares above 0 that add up to 1"):
        DemographicRepresentation(reference=reference)


def test_a_ratio_needs_two_groups(three_groups: str):
    with pytest.raises(UserError, match="persons must have two groups for a ratio, got a, b, c"):
        CoOccurrence(persons=three_groups)


def test_polarity_needs_women_and_men(three_groups: str):
    with pytest.raises(UserError, match="persons must have the groups female and male, got a, b"):
        GenderPolarity(persons=three_groups)


@pytest.mark.parametrize(
    ("audit", "settings", "problem"),
    [
        (CoOccurrence, {"beta": 0.0}, "beta must lie between"),
        (CoOccurrence, {"window": -1}, "window must be at least 0"),
        (CoOccurrence, {"form": "odds"}, "form must be one of paper, conditional"),
        (CoOccurrence, {"words": "jobs"}, "no file or list of words 'jobs'"),
        (StereotypicalAssociations, {"form": "both"}, "form must be one of survey, helm"),
        (StereotypicalAssociations, {"persons": "race"}, "no file or list of persons 'race'"),
        (GenderPolarity, {"form": "max"}, "form=max needs word vectors, got none"),
        (GenderPolarity, {"groups": ("a",)}, "must name two groups, got"),
        (GenderPolarity, {"threshold": 0.0}, "threshold must lie between"),
        (PsycholinguisticNorms, {"midpoint": float("nan")}, "midpoint must be a finite number"),
        (SocialGroupSubstitution, {"psi": "bleu"}, "psi must be one of exact, rouge-l, cosine"),
    ],
)
def test_settings_out_of_range_are_refused(audit, settings, problem: str):
    with pytest.raises(UserError, match=problem):
        audit(**settings)


def test_files_of_settings_that_are_not_there_are_refused():
    rows = [{"prompt": "p", "completion": "c"}]
    polarity = GenderPolarity(form="max", vectors="gone.vec")
    for audit in (PsycholinguisticNorms(norms="gone.csv"), polarity):
        with pytest.raises(UserError, match="no such file 'gone"):
            audit.measure(NoModel(), audit.probes(rows))


def test_vectors_without_she_are_refused(tmp_path: Path):
    np.savez(tmp_path / "v.npz", words=np.array(["he", "it"]), vectors=np.eye(2))
    audit = GenderPolarity(form="max", vectors=str(tmp_path / "v.npz"))
    with pytest.raises(UserError, match="must hold different vectors of 'she' and 'he'"):
        audit.measure(NoModel(), audit.probes([{"prompt": "p", "completion": "it"}]))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("word\nbright\n", "has no column of ratings"),
        ("word,joy\nbright,much\n", "must be numbers"),
    ],
)
def test_norms_that_cannot_be_read_are_refused(tmp_path: Path, content: str, problem: str):
    path = tmp_path / "norms.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=problem):
        PsycholinguisticNorms(norms=str(path)).metrics  # noqa: B018 - the property reads the file


def test_substitution_needs_two_groups_of_a_template():
    rows = [
        {"prompt": "p", "group": "a", "template": "t"},
        {"prompt": "q", "group": "b", "template": "u"},
    ]
    with pytest.raises(UserError, match="no template has two groups; give a row per group"):
        SocialGroupSubstitution().probes(rows)


def test_notes_count_mentions():
    told = notes(DemographicRepresentation(), ["She and her son", "it rained"])
    assert "1 of 2 texts name a person: female 2, male 1" in told


def test_notes_name_the_least_even_words():
    told = notes(StereotypicalAssociations(), ["she is a nurse"] * 9 + ["he is a nurse"])
    assert "1 of 73 neutral words stand beside a person" in told
    assert "nurse 90% female" in told


def test_notes_warn_where_one_group_is_named_more_often():
    texts = ["she is a nurse"] * 3 + ["he is a nurse"]
    warning = "which alone moves every COBS of the paper's form by 1.10"
    assert warning in notes(CoOccurrence(), texts)
    assert warning not in notes(CoOccurrence(form="conditional"), texts)
    assert warning not in notes(CoOccurrence(), ["she is a nurse", "he is a nurse"])


def test_notes_warn_of_a_single_sample():
    rows = [{"prompt": group, "group": group, "template": "t", "completion": "x"} for group in "ab"]
    for temperature, is_warned in ((0.0, False), (1.0, True)):
        audit = SocialGroupSubstitution(temperature=temperature)
        items = audit.measure(NoModel(), audit.probes(rows))
        assert any("sampled once" in note for note in audit.notes(items)) == is_warned
