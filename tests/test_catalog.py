import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from trueup import catalog
from trueup.catalog import Entry, load, search

ROOT = Path(__file__).resolve().parents[1]
SHEETS = ROOT.parent / "shared" / "methods"
KEYS = [
    "number",
    "title",
    "arxiv",
    "year",
    "kind",
    "stage",
    "modality",
    "status",
    "entry_point",
    "proof",
]
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


@pytest.mark.parametrize("entry", ALL, ids=ids(ALL))
def test_json_has_exactly_the_documented_keys(entry: Entry):
    assert list(entry.as_dict()) == KEYS


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


@pytest.mark.parametrize("entry", ALL, ids=ids(ALL))
def test_texts_are_clean(entry: Entry):
    assert entry.names
    assert entry.title
    assert entry.title == " ".join(entry.title.split())
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in entry.names)


@pytest.mark.parametrize("entry", PAPERS, ids=ids(PAPERS))
def test_arxiv_id_is_well_formed_and_gives_the_year(entry: Entry):
    match = re.fullmatch(r"(\d\d)(0[1-9]|1[0-2])\.\d{5}", entry.arxiv)
    assert match
    assert entry.year == 2000 + int(match[1])


def test_arxiv_ids_of_papers_are_unique():
    assert len({entry.arxiv for entry in PAPERS}) == 68


@pytest.mark.parametrize("entry", BASE, ids=ids(BASE))
def test_base_method_has_a_paper_with_year_or_neither(entry: Entry):
    if entry.arxiv:
        assert entry.year == 2000 + int(entry.arxiv[:2])
    else:
        assert entry.year is None


@pytest.mark.parametrize("entry", PAPERS, ids=ids(PAPERS))
def test_arxiv_id_stands_in_the_head_of_the_sheet(entry: Entry):
    if not SHEETS.is_dir():
        pytest.skip(f"the sheets are not beside the checkout: {SHEETS}")
    [sheet] = SHEETS.glob(f"{entry.number:02d}-*.md")
    assert entry.arxiv in "".join(sheet.read_text(encoding="utf-8").splitlines(keepends=True)[:8])


@pytest.mark.parametrize("entry", PROVEN, ids=ids(PROVEN))
def test_proven_entry_point_imports_and_carries_the_name(entry: Entry):
    assert entry.resolve().name == entry.name


@pytest.mark.parametrize("entry", PROVEN, ids=ids(PROVEN))
def test_proven_entry_has_its_proof_files(entry: Entry):
    assert entry.proof
    assert [path for path in entry.proof if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("entry", ALL, ids=ids(ALL))
def test_planned_entry_claims_nothing(entry: Entry):
    assert (entry.status == "proven") == bool(entry.entry_point) == bool(entry.proof)


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
