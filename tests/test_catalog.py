import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from trueup import catalog
from trueup.audits import AUDITS
from trueup.catalog import Entry, load, search
from trueup.objectives import OBJECTIVES

ROOT = Path(__file__).resolve().parents[1]
SHEETS = ROOT.parent / "shared" / "methods"
KEYS = (
    "number", "title", "arxiv", "year", "kind", "stage", "modality", "status",
    "entry_point", "proof",
)  # fmt: skip
ALL = load(base=True)
PAPERS = load()
BASE = [entry for entry in ALL if entry.number is None]
PROVEN = [entry for entry in ALL if entry.status == "proven"]


def ids(entries: list[Entry]) -> list[str]:
    return [entry.name for entry in entries]


def test_papers_are_numbered_1_to_68_in_order():
    assert [entry.number for entry in PAPERS] == list(range(1, 69))


def test_base_methods_follow_the_papers():
    assert ALL[68:] == BASE


def test_names_are_unique():
    names = [name for entry in ALL for name in entry.names]
    assert len(names) == len(set(names))


def test_json_has_exactly_the_documented_keys():
    assert {tuple(entry.as_dict()) for entry in ALL} == {KEYS}


@pytest.mark.parametrize(
    ("field", "choices"),
    [
        ("kind", catalog.Kind),
        ("stage", catalog.Stage),
        ("modality", catalog.Modality),
        ("status", catalog.Status),
    ],
)
def test_choices_are_the_declared_ones(field: str, choices: object):
    allowed = typing.get_args(choices)
    assert [e.name for e in ALL if getattr(e, field) not in allowed] == []


def test_titles_and_names_are_clean():
    slug = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
    assert [e.name for e in ALL if not e.title or e.title != " ".join(e.title.split())] == []
    assert [e.title for e in ALL if not e.names or not all(map(slug.fullmatch, e.names))] == []


def test_arxiv_ids_are_well_formed_and_give_the_year():
    form = re.compile(r"(\d\d)(0[1-9]|1[0-2])\.\d{5}")
    years = {e.name: form.fullmatch(e.arxiv) for e in ALL if e.arxiv}
    assert [e.name for e in PAPERS if e.name not in years] == []
    assert [name for name, match in years.items() if match is None] == []
    assert {name: 2000 + int(match[1]) for name, match in years.items()} == {
        e.name: e.year for e in ALL if e.arxiv
    }


def test_a_method_without_paper_has_no_year():
    assert {e.year for e in BASE if not e.arxiv} == {None}


def test_arxiv_ids_are_unique():
    ids = [e.arxiv for e in ALL if e.arxiv]
    assert len(ids) == len(set(ids))


def test_arxiv_ids_stand_in_the_heads_of_the_sheets():
    if not SHEETS.is_dir():
        pytest.skip(f"the sheets are not beside the checkout: {SHEETS}")
    heads = {
        int(sheet.name[:2]): sheet.read_text(encoding="utf-8").splitlines()[:8]
        for sheet in SHEETS.glob("[0-6]*.md")
    }
    assert [e.name for e in PAPERS if e.arxiv not in " ".join(heads[e.number])] == []


@pytest.mark.parametrize("entry", PROVEN, ids=ids(PROVEN))
def test_proven_entry_point_imports_and_carries_the_name(entry: Entry):
    assert entry.resolve().name == entry.name


@pytest.mark.parametrize("entry", PROVEN, ids=ids(PROVEN))
def test_proven_entry_has_its_proof_files(entry: Entry):
    assert entry.proof
    assert [path for path in entry.proof if not (ROOT / path).is_file()] == []


def test_planned_entries_claim_nothing_and_proven_ones_everything():
    claims = {(e.status == "proven", bool(e.entry_point), bool(e.proof)) for e in ALL}
    assert claims <= {(True, True, True), (False, False, False)}


@pytest.mark.parametrize("registry", [OBJECTIVES, AUDITS], ids=["objectives", "audits"])
def test_every_registered_method_is_in_the_catalogue_as_proven(registry: dict[str, type]):
    known = {name: entry for entry in PROVEN for name in entry.names}
    assert sorted(registry.keys() - known.keys()) == []
    assert {name: known[name].arxiv for name in registry} == {
        name: getattr(cls, "arxiv", known[name].arxiv) for name, cls in registry.items()
    }


@pytest.mark.parametrize(
    "query", ["rpo", "RPO", "2405.16436", "arXiv:2405.16436", "overoptimization rlhf", "38"]
)
def test_search_finds_rpo_first(query: str):
    assert search(query)[0].number == 38


def test_search_by_stage_finds_that_stage_only_and_all_of_it():
    decoders = [entry for entry in PAPERS if entry.stage == "decoding"]
    found = search("decoding", base=False)
    assert set(decoders) <= set(found)
    assert search("prompt/output") == [e for e in ALL if e.stage == "prompt/output"]


def test_search_word_begins_a_word():
    assert "rpo" in [entry.name for entry in search("rp")]
    expected = [e for e in PAPERS if re.search(r"\bpo", " ".join((*e.names, e.title)).lower())]
    assert search("po", base=False) == expected


def test_search_needs_every_word():
    assert [entry.name for entry in search("training tabular")] == ["fairbinn"]


def test_search_without_hit_is_empty():
    assert search("no-such-method") == []


def test_empty_query_finds_everything():
    assert search("") == ALL


def test_catalogue_loads_no_heavy_library():
    heavy = {"torch", "transformers", "pandas", "matplotlib", "numpy"}
    code = (
        "import sys; from trueup import catalog; catalog.load(); "
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
