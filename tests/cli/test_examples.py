"""Every objective from the command line on the repository's own example data."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.cli.conftest import Outcome, Trueup
from trueup.api.rankers import load_ranker
from trueup.models import load
from trueup.objectives import OBJECTIVES

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
SMALL = {"steps": 2, "batch_size": 4, "max_new_tokens": 4, "learning_rate": 1e-3}
WIDTH = 80


def source(name: str) -> str:
    """The kind of rows that an objective reads, which is also its example's name."""
    kind: Any = OBJECTIVES[name]
    return getattr(kind, "source", kind.data)


def helpers(name: str, other: Path) -> dict[str, object]:
    """The options that an objective cannot do without, each with a value that suits it."""
    needs = OBJECTIVES[name].needs
    wanted = {
        "--reward": (needs.rewards, "words"),
        "--ranker": (needs.ranking, "words"),
        "--teacher": (needs.teacher or needs.advantage, other),
        "--ref-teacher": (needs.advantage, other),
    }
    return {option: value for option, (is_needed, value) in wanted.items() if is_needed}


def align(model: Path, name: str, out: Path, options: dict[str, object]) -> list[object]:
    data = EXAMPLES / f"{source(name)}.jsonl"
    words: list[object] = ["align", model, "--objective", name, "--data", data, "--out", out]
    words += [word for pair in options.items() for word in pair]
    return [*words, *(w for key, value in SMALL.items() for w in ("--set", f"{key}={value}"))]


NEEDY = [(name, option) for name in OBJECTIVES for option in helpers(name, Path())]
USELESS = [
    (name, option)
    for name in OBJECTIVES
    for option in ("--reward", "--ranker", "--teacher", "--ref-teacher")
    if option not in helpers(name, Path())
]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_example_trains_a_model_that_loads(
    trueup: Trueup, roomy_model: Path, other_model: Path, tmp_path: Path, name: str
):
    out = tmp_path / "tuned"
    options = helpers(name, other_model)
    outcome = trueup(*align(roomy_model, name, out, options), "--json")
    assert outcome.code == 0, outcome.err
    told = outcome.json
    assert told["model"] == str(out)
    assert told["steps"] == 2
    assert all(isinstance(told["loss"][when], float) for when in ("first", "last"))
    assert Path(told["report"]) == out / "report.html"
    assert (out / "report.html").is_file()
    info = json.loads((out / "run.json").read_text("utf-8"))
    assert info["status"] == "done"
    assert info["arguments"]["objective"]["name"] == name
    if "--reward" in options:
        means = {row["metric"]: row["value"] for row in told["estimates"]}
        assert any("reward" in metric for metric in means), means
    trained = load(out, device="cpu")
    assert trained.fingerprint != load(roomy_model, device="cpu").fingerprint


@pytest.mark.parametrize("name", OBJECTIVES)
def test_example_trains_in_words(
    trueup: Trueup, roomy_model: Path, other_model: Path, tmp_path: Path, name: str
):
    outcome = trueup(*align(roomy_model, name, tmp_path / "tuned", helpers(name, other_model)))
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("2 steps, loss ")
    lines = [line for line in outcome.out.splitlines() if "/" not in line]
    assert max(map(len, lines)) <= WIDTH


def test_every_example_is_read_by_an_objective():
    read = {source(name) for name in OBJECTIVES}
    assert {path.stem for path in EXAMPLES.glob("*.jsonl")} == read


def refused(outcome: Outcome, out: Path) -> str:
    """The one line of a command that did nothing."""
    assert not out.exists()
    return outcome.error()


@pytest.mark.parametrize(("name", "option"), NEEDY)
def test_need_that_is_left_out_is_named(
    trueup: Trueup, roomy_model: Path, other_model: Path, tmp_path: Path, name: str, option: str
):
    out = tmp_path / "out"
    given = {key: value for key, value in helpers(name, other_model).items() if key != option}
    line = refused(trueup(*align(roomy_model, name, out, given)), out)
    assert line.startswith(f"error: {name} needs a ")
    assert f"give {option} with " in line


@pytest.mark.parametrize(("name", "option"), USELESS)
def test_option_that_is_of_no_use_is_refused(
    trueup: Trueup, roomy_model: Path, other_model: Path, tmp_path: Path, name: str, option: str
):
    out = tmp_path / "out"
    value = "words" if option in ("--reward", "--ranker") else other_model
    given = helpers(name, other_model) | {option: value}
    line = refused(trueup(*align(roomy_model, name, out, given)), out)
    assert line.startswith(f"error: {name} takes no ")
    assert line.endswith(f"; leave {option} out")


@pytest.mark.parametrize(
    "name", [name for name in OBJECTIVES if hasattr(OBJECTIVES[name], "collected")]
)
def test_own_samples_are_evaluated_on_prompts_of_a_file(
    trueup: Trueup, roomy_model: Path, other_model: Path, tmp_path: Path, name: str
):
    out = tmp_path / "out"
    words = align(roomy_model, name, out, helpers(name, other_model))
    words += ["--eval-data", EXAMPLES / f"{source(name)}.jsonl", "--set", "monitor=true"]
    outcome = trueup(*words, "--json")
    assert outcome.code == 0, outcome.err
    table = pd.read_parquet(out / "training" / "evaluations.parquet")
    assert table["step"].tolist() == [0, 2]
    assert {"kl", "entropy_bits", "top_k_mass"} <= set(table.columns)


def test_evaluation_rows_beside_rows_that_are_built_are_refused(
    trueup: Trueup, roomy_model: Path, tmp_path: Path
):
    out = tmp_path / "out"
    words = align(roomy_model, "honesty", out, {})
    line = refused(trueup(*words, "--eval-data", EXAMPLES / "questions.jsonl"), out)
    assert line.startswith("error: honesty trains on its own samples, from which it builds")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--reward", "lexicon:nowhere.txt", "nowhere.txt: cannot be read as a list of words"),
        ("--reward", "nowhere.py:score", "nowhere.py: no such file; give FILE.py:FUNCTION"),
        ("--reward", "./nowhere", "nowhere: no such model folder"),
        ("--ranker", "http://127.0.0.1:9/v1", "names no model; write URL#MODEL"),
        ("--ranker", "./nowhere", "nowhere: no such model folder"),
        ("--teacher", "./nowhere", "nowhere: no such model folder"),
        ("--ref-teacher", "./nowhere", "nowhere: no such model folder"),
    ],
)
def test_helper_that_is_nowhere(
    trueup: Trueup, roomy_model: Path, other_model: Path, tmp_path: Path,
    option: str, value: str, said: str
):  # fmt: skip
    name = next(name for name, needed in NEEDY if needed == option)
    out = tmp_path / "out"
    given = helpers(name, other_model) | {option: value}
    assert said in refused(trueup(*align(roomy_model, name, out, given)), out)


def test_reward_that_fails_is_one_line_with_its_place(
    trueup: Trueup, roomy_model: Path, tmp_path: Path
):
    file = tmp_path / "broken.py"
    file.write_text("def score(prompts, completions):\n    return [{}['x']]\n", "utf-8")
    options: dict[str, object] = {"--reward": f"{file}:score"}
    line = trueup(*align(roomy_model, "grpo", tmp_path / "out", options)).error()
    assert line == f"error: reward score: failed at {file}:2 (KeyError: 'x')"


def test_ranker_without_numbers_ranks_nothing(tmp_path: Path):
    file = tmp_path / "half.py"
    text = "def score(prompts, texts):\n    return [float(text or 'nan') for text in texts]\n"
    file.write_text(text, "utf-8")
    ranker = load_ranker(f"{file}:score")
    assert ranker("ask", ["1", "3", "2"], ()) == [1, 2, 0]
    assert ranker("ask", ["1", "", "2"], ()) is None


def test_help_shows_every_objective_without_other_options(trueup: Trueup):
    outcome = trueup("align", "--objective", "help")
    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= WIDTH
    named = {line.split()[0] for line in outcome.out.splitlines() if line.startswith("  ")}
    assert set(OBJECTIVES) <= named


def test_unknown_objective_points_to_the_list(trueup: Trueup, roomy_model: Path, tmp_path: Path):
    words = ("align", roomy_model, "--data", EXAMPLES / "pairs.jsonl", "--out", tmp_path / "out")
    line = refused(trueup(*words, "--objective", "grpoo"), tmp_path / "out")
    assert line.startswith("error: no objective 'grpoo'; did you mean 'grpo'? known: ")
    assert line.endswith("; `trueup align --objective help` shows them all")


@pytest.fixture(scope="module")
def steered(roomy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the heads `brief` and `helpful`."""
    import trueup

    out = tmp_path_factory.mktemp("steered") / "model"
    settings = {**SMALL, "learning_rate": 0.03}
    trueup.align(roomy_model, "mah-dpo", data=EXAMPLES / "routed.jsonl", out=out, **settings)
    return out


def sampled(trueup: Trueup, model: Path, out: Path, *more: object) -> list[float]:
    """The log-probabilities of greedy samples."""
    words = ("generate", model, "--prompts", EXAMPLES / "prompts.jsonl", "--temperature", 0)
    outcome = trueup(*words, "--max-new-tokens", 3, "--out", out, "--json", *more)
    assert (outcome.code, outcome.err) == (0, "")
    return [row["logp"] for row in outcome.json["samples"]]


def test_heads_steer_what_is_generated(trueup: Trueup, steered: Path, tmp_path: Path):
    plain = sampled(trueup, steered, tmp_path / "plain")
    even = sampled(trueup, steered, tmp_path / "even", "--heads", "brief=2", "--heads", "helpful=2")
    brief = sampled(trueup, steered, tmp_path / "brief", "--heads", "brief=1")
    assert even == pytest.approx(plain, abs=1e-4)
    assert brief != pytest.approx(plain, abs=1e-3)
    plain_run, brief_run = (
        json.loads((tmp_path / name / "run.json").read_text("utf-8")) for name in ("plain", "brief")
    )
    assert brief_run["arguments"]["heads"] == {"brief": 1.0}
    assert "heads" not in plain_run["arguments"]
    assert brief_run["model"]["hash"] != plain_run["model"]["hash"]


def test_heads_steer_what_is_audited(
    trueup: Trueup, steered: Path, sentences: Path, tmp_path: Path
):
    words = ("audit", steered, "--audit", "crows-pairs", "--data", sentences)
    out = tmp_path / "run"
    outcome = trueup(*words, "--heads", "helpful=1", "--out", out)
    assert (outcome.code, outcome.err) == (0, "")
    arguments = json.loads((out / "run.json").read_text("utf-8"))["arguments"]
    assert arguments["heads"] == {"helpful": 1.0}
    line = trueup(*words, "--heads", "helpful=2", "--heads", "brief=1", "--out", out).error()
    assert "holds a finished run" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["honest=1"], "no head 'honest'; known: brief, helpful"),
        (["breif=1"], "no head 'breif'; did you mean 'brief'? known: brief, helpful"),
        (["brief"], "--heads needs a name, '=' and a weight such as helpful=0.7, got 'brief'"),
        (["brief=much"], "--heads brief must be a number, got 'much'"),
        (["brief=1", "brief=2"], "--heads brief is given twice, '1' and '2'"),
        (["brief=-1"], "brief must be at least 0, got -1.0"),
        (["brief=nan"], "brief must be at least 0, got nan"),
        (["brief=0"], "the sum of the weights must be above 0, got 0.0"),
    ],
)
@pytest.mark.parametrize("verb", ["generate", "audit"])
def test_wrong_heads(
    trueup: Trueup, steered: Path, sentences: Path, tmp_path: Path, verb: str,
    words: list[str], said: str
):  # fmt: skip
    more = {
        "generate": ["--prompts", EXAMPLES / "prompts.jsonl"],
        "audit": ["--audit", "crows-pairs", "--data", sentences],
    }[verb]
    heads = [word for each in words for word in ("--heads", each)]
    outcome = trueup(verb, steered, *more, *heads, "--out", tmp_path / "out")
    assert refused(outcome, tmp_path / "out") == f"error: {said}"


def test_heads_of_a_model_that_has_none(trueup: Trueup, roomy_model: Path):
    words = ("generate", roomy_model, "--prompts", EXAMPLES / "prompts.jsonl")
    line = trueup(*words, "--heads", "brief=1").error()
    assert line.startswith(f"error: {roomy_model / 'heads.safetensors'}: no such file")


def test_scoring_models_make_the_column_of_poft(
    trueup: Trueup, roomy_model: Path, other_model: Path, tmp_path: Path
):
    """Two scorers on bare completions; the same as with their mean in the data."""
    words: list[object] = ["align", roomy_model, "--objective", "poft", "--out", tmp_path / "a"]
    words += ["--data", EXAMPLES / "completions.jsonl", "--scorer", roomy_model]
    words += ["--scorer", other_model, "--set", "steps=1", "--set", "batch_size=4"]
    outcome = trueup(*words, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["loss"]["first"] > 0


def test_a_scorer_is_refused_where_no_column_needs_it(
    trueup: Trueup, roomy_model: Path, tmp_path: Path
):
    words = align(roomy_model, "dpo", tmp_path / "a", {"--scorer": roomy_model})
    outcome = trueup(*words)
    assert outcome.code == 2
    assert outcome.err.strip() == (
        "error: --scorer makes mean_ref_logp, a column that pairs rows do not have"
    )
