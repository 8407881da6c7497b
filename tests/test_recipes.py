"""Recipes: checked as a whole with line numbers, run in order, resumed by what they read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_models import make_tiny
from trueup.cli.session import run_words
from trueup.errors import UserError
from trueup.recipes import StepResult, read_recipe, run_recipe
from trueup.recipes.yaml_lines import read_yaml

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "loop.yaml"
STEPS = ["before", "tuned", "after", "change", "texts", "6-report"]

Edit = Callable[[str, str], Path]


@pytest.fixture
def place(tmp_path: Path, tiny_model_folder: Path) -> Path:
    """What the example recipe names, small: a model and the data files."""
    shutil.copytree(tiny_model_folder, tmp_path / "models" / "small")
    data = tmp_path / "data"
    data.mkdir()
    lines = ["id,sent_more,sent_less,stereo_antistereo,bias_type"]
    lines += [f"{n},Group {n % 3} is bad.,Group {n % 2} is good.,stereo,a" for n in range(12)]
    (data / "crows_pairs.csv").write_text("\n".join(lines), "utf-8")
    rows = [{"prompt": f"Ask {n}:", "chosen": f" yes {n}", "rejected": " no"} for n in range(12)]
    for name, kept in (("prefs", rows[:8]), ("held_out", rows[8:]), ("prompts", rows[:2])):
        text = "".join(json.dumps(row) + "\n" for row in kept)
        (data / f"{name}.jsonl").write_text(text, "utf-8")
    shutil.copy(EXAMPLE, tmp_path / "loop.yaml")
    return tmp_path


@pytest.fixture
def edited(place: Path) -> Edit:
    """The example with one text replaced."""

    def edit(old: str, new: str) -> Path:
        text = (place / "loop.yaml").read_text("utf-8")
        assert old in text
        (place / "loop.yaml").write_text(text.replace(old, new, 1), "utf-8")
        return place / "loop.yaml"

    return edit


def results(path: Path, *, resume: bool = False) -> list[StepResult]:
    return list(run_recipe(path, resume=resume))


def skipped(path: Path) -> list[str]:
    return [result.step.name for result in results(path, resume=True) if result.is_skipped]


def error(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_recipe(path)
    return str(caught.value)


def line_of(path: Path, text: str) -> int:
    lines = path.read_text("utf-8").splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)


def test_example_runs_from_end_to_end(place: Path):
    done = results(place / "loop.yaml")
    assert [result.step.name for result in done] == STEPS
    out = place / "runs" / "loop"
    assert json.loads((out / "change" / "compare.json").read_text("utf-8"))["rows"]
    tuned = json.loads((out / "after" / "run.json").read_text("utf-8"))["model"]["id"]
    assert tuned == str(out / "tuned")
    settings = json.loads((out / "tuned" / "run.json").read_text("utf-8"))["arguments"]
    assert settings["objective"]["beta"] == 0.1
    assert settings["training"]["learning_rate"] == 1e-4
    texts = (out / "texts" / "samples.jsonl").read_text("utf-8").splitlines()
    assert len(texts) == 4
    assert done[-1].folder == out / "change" / "report.html"


@pytest.mark.slow
def test_example_runs_on_real_data(
    place: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    data = place / "data"
    pairs = (shared_data / "hh_harmless_pairs.jsonl").read_text("utf-8").splitlines()
    short = sorted(pairs, key=len)[:60]
    for name, kept in (("prefs", short[:40]), ("held_out", short[40:]), ("prompts", short[:4])):
        (data / f"{name}.jsonl").write_text("\n".join(kept), "utf-8")
    crows = (shared_data / "crows_pairs.csv").read_text("utf-8").splitlines()
    (data / "crows_pairs.csv").write_text("\n".join(crows[:151]), "utf-8")
    shutil.rmtree(place / "models" / "small")
    make_tiny("llama", place / "models" / "small", seed=3)
    for file, key in (
        ("config.json", "max_position_embeddings"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        path = place / "models" / "small" / file
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {key: 2048}), "utf-8")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(place)
    assert run_words(["run", "loop.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "change: compare done, runs/loop/change" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert run_words(["run", "loop.yaml", "--resume", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [step["skipped"] for step in told["steps"]] == [True] * 5 + [False]


def test_finished_steps_are_skipped(place: Path):
    results(place / "loop.yaml")
    metrics = place / "runs" / "loop" / "after" / "metrics.json"
    stamp = metrics.stat().st_mtime_ns
    assert skipped(place / "loop.yaml") == STEPS[:-1]
    assert metrics.stat().st_mtime_ns == stamp


def test_changed_setting_repeats_its_step_and_what_reads_it(place: Path, edited: Edit):
    results(place / "loop.yaml")
    assert skipped(edited("learning_rate: 1e-4", "learning_rate: 1e-2")) == ["before"]
    out = place / "runs" / "loop"
    assert (out / "tuned.old-1" / "model.safetensors").is_file()  # nothing is lost
    assert not (out / "before.old-1").exists()


def test_changed_data_repeat_what_reads_them(place: Path):
    results(place / "loop.yaml")
    with (place / "data" / "prompts.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"prompt": "one more"}\n')
    assert skipped(place / "loop.yaml") == ["before", "tuned", "after", "change"]


def test_changed_model_repeats_what_reads_it(place: Path):
    results(place / "loop.yaml")
    make_tiny("llama", place / "models" / "small", seed=9)
    assert skipped(place / "loop.yaml") == []


def test_tampered_output_repeats_its_step(place: Path):
    results(place / "loop.yaml")
    (place / "runs" / "loop" / "before" / "metrics.json").unlink()
    assert skipped(place / "loop.yaml") == ["tuned", "after", "change", "texts"]


def test_stopped_step_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch):
    from trueup.audits import CrowsPairs

    calm = place / "calm"
    shutil.copytree(place, calm)
    results(calm / "loop.yaml")

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CrowsPairs, "estimate", stopped)
        with pytest.raises(KeyboardInterrupt):
            results(place / "loop.yaml")
    assert skipped(place / "loop.yaml") == []
    for name in ("before/items.parquet", "after/metrics.json", "change/compare.json"):
        made = place / "runs" / "loop" / name
        if name != "after/metrics.json":  # which names the model's folder
            assert made.read_bytes() == (calm / "runs" / "loop" / name).read_bytes()
    assert not list((place / "runs" / "loop").glob("*.old-*"))


def test_second_run_without_resume_is_refused(place: Path):
    results(place / "loop.yaml")
    with pytest.raises(UserError, match="holds this recipe's runs; add --resume"):
        run_recipe(place / "loop.yaml")


def test_folder_of_something_else_is_refused(place: Path):
    out = place / "runs" / "loop"
    out.mkdir(parents=True)
    (out / "thesis.txt").write_text("precious", "utf-8")
    with pytest.raises(UserError, match="holds something else"):
        run_recipe(place / "loop.yaml")


def test_failing_step_names_its_line(place: Path, edited: Edit):
    path = edited("set:\n      beta: 0.1", "set:\n      eval_every: 2\n      beta: 0.1")
    text = path.read_text("utf-8").replace("    eval_data: data/held_out.jsonl", "   ")
    path.write_text(text, "utf-8")
    with pytest.raises(UserError) as caught:
        results(path)
    assert str(caught.value).startswith(f"{path}:{line_of(path, 'name: tuned')}: eval_every is 2")


@pytest.mark.parametrize(
    ("old", "new", "at", "said"),
    [
        ("name: before", "nam: before", "nam: ", "a step of audit has no key 'nam'; did you mean"),
        ("steps:", "step:", "step:", "a recipe has no key 'step'; did you mean 'steps'?"),
        ("seed: 0", "seed: a", "seed: a", "'seed' must be a whole number of at least 0, got 'a'"),
        ("seed: 0", "seed: true", "seed: ", "'seed' must be a whole number"),
        ("out: runs/loop", "out: [1]", "out: ", "'out' must be a text, got [1]"),
        ("audit: crows-pairs", "audit: crow-pairs", "crow-p", "no audit 'crow-pairs'; did you"),
        ("align: rpo", "align: rpoo", "rpoo", "no objective 'rpoo'; did you mean 'rpo'?"),
        ("beta: 0.1", "beta: many", "beta: ", "rpo.beta must be a number, got 'many'"),
        ("beta: 0.1", "beta: -1", "beta: ", "beta must be above 0, got -1.0"),
        ("beta: 0.1", "beta: [1]", "beta: ", "a value of the wrong type, got [1]"),
        ("batch_size: 8", "batch_siz: 8", "batch_siz", "no setting 'batch_siz'; did you mean"),
        ("batch_size: 8", "batch_size: 0.5", "batch_size", "must be a whole number, got '0.5'"),
        ("batch_size: 8", "beta: 1", "beta: 1", "'beta' stands twice"),
        ("n: 2", "m: 2", "m: 2", "sample has no field 'm'"),
        ("n: 2", "n: 0", "n: 0", "n must be at least 1, got 0"),
        ("model: tuned", "model: tuend", "tuend", "no step or model folder 'tuend'; did you mean"),
        ("model: tuned", "model: before", "model: b", "an alignment is wanted here, but step 'bef"),
        ("[before, after]", "[befor, after]", "befor,", "no earlier step or run folder 'befor'"),
        ("[before, after]", "[before, texts]", "texts]", "no earlier step or run folder 'texts'"),
        ("[before, after]", "[before, tuned]", "tuned]", "an audit is wanted here, but step 'tun"),
        ("[before, after]", "before", "compare: b", "'compare' must be [BEFORE, AFTER], got 'bef"),
        ("data/prefs.jsonl", "data/x.jsonl", "x.jsonl", "no such file 'data/x.jsonl', looked for"),
        ("name: after", "name: before", "name: before", "the name 'before' stands twice"),
        ("name: after", "name: a/b", "a/b", "a name has letters, digits, '-', '_' and '.'"),
        ("report: change", "reprt: change", "reprt", "a step needs exactly one of audit, align"),
        ("report: change", "report: texts", "report: t", "but step 'texts' is of 'generate'"),
        ("models/small", "models/big", "models/big", "no step or model folder"),
    ],
)
def test_mistake_is_told_with_its_line(edited: Edit, old: str, new: str, at: str, said: str):
    if "models/" in new:
        new = f"./{new}"  # owner/name alone may be a hub id
    path = edited(old, new)
    found = error(path)
    if old == "name: after":
        lines = path.read_text("utf-8").splitlines()
        number = max(n for n, line in enumerate(lines, start=1) if at in line)
    else:
        number = line_of(path, at)
    assert found.startswith(f"{path}:{number}: ")
    assert said in found
    assert "\n" not in found


HELPED = """model: models/small
out: runs/helped
steps:
  - name: taught
    align: dckd
    data: data/prefs.jsonl
    teacher: models/other
    set: {steps: 2, batch_size: 4}
  - name: absorbed
    align: adpa
    data: data/completions.jsonl
    teacher: taught
    ref_teacher: models/other
    set: {steps: 2, batch_size: 4, max_new_tokens: 4}
  - name: rewarded
    align: raft
    data: data/prompts.jsonl
    reward: lexicon:data/lexicon.txt
    set: {steps: 2, batch_size: 2, max_new_tokens: 4}
  - name: scored
    align: grpo
    data: data/prompts.jsonl
    reward: score.py:length
    set: {steps: 2, batch_size: 2, max_new_tokens: 4}
  - name: ranked
    align: cyclealign
    data: data/prompts.jsonl
    ranker: words
    set: {steps: 2, batch_size: 2, max_new_tokens: 4}
"""


@pytest.fixture
def helped(place: Path) -> Path:
    """A recipe whose objectives need teachers, rewards and a ranker."""
    make_tiny("llama", place / "models" / "other", seed=1)
    rows = [{"prompt": f"Ask {n}:", "completion": f" yes {n}"} for n in range(4)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (place / "data" / "completions.jsonl").write_text(text, "utf-8")
    (place / "data" / "lexicon.txt").write_text("yes\nno\n", "utf-8")
    source = "def length(prompts, completions):\n    return [len(text) for text in completions]\n"
    (place / "score.py").write_text(source, "utf-8")
    (place / "helped.yaml").write_text(HELPED, "utf-8")
    return place / "helped.yaml"


def test_steps_give_their_objective_what_it_needs(helped: Path, monkeypatch: pytest.MonkeyPatch):
    names = ["taught", "absorbed", "rewarded", "scored", "ranked"]
    assert [result.step.name for result in results(helped)] == names
    out = helped.parent / "runs" / "helped"
    told = {
        name: json.loads((out / name / "run.json").read_text("utf-8"))["arguments"]
        for name in names
    }
    assert told["taught"]["teacher"] == told["absorbed"]["ref_teacher"]
    assert told["absorbed"]["teacher"] != told["absorbed"]["ref_teacher"]
    assert told["rewarded"]["reward"].startswith("lexicon ")
    assert told["scored"]["reward"].startswith("length ")
    assert told["ranked"]["ranker"].startswith("reward words ")
    monkeypatch.chdir(helped.parent)  # nothing depends on where the command is run
    assert skipped(helped) == names


def test_changed_reward_repeats_its_step(helped: Path):
    results(helped)
    (helped.parent / "data" / "lexicon.txt").write_text("maybe\n", "utf-8")
    assert skipped(helped) == ["taught", "absorbed", "scored", "ranked"]


def test_changed_teacher_repeats_what_learns_from_it(helped: Path):
    results(helped)
    make_tiny("llama", helped.parent / "models" / "other", seed=2)
    assert skipped(helped) == ["rewarded", "scored", "ranked"]


@pytest.mark.parametrize(
    ("old", "new", "at", "said"),
    [
        ("    teacher: models/other\n", "", "name: taught", "dckd needs a teacher; give 'teacher'"),
        ("    ref_teacher: models/other\n", "", "absorbed", "give 'ref_teacher' with the teacher"),
        ("    ranker: words\n", "", "ranked", "cyclealign needs a ranker; give 'ranker' with"),
        ("ranker: words", "reward: words", "ranked", "cyclealign needs a ranker"),
        ("    reward: lexicon:data/lexicon.txt\n", "", "rewarded", "raft needs a reward; give"),
        ("ref_teacher: models/other", "reward: words", "absorbed", "adpa takes no reward; leave "),
        ("teacher: taught", "teacher: tought", "tought", "no step or model folder 'tought'; did"),
        ("lexicon.txt", "lexicons.txt", "lexicons.txt", "cannot be read as a list of words"),
        ("score.py:length", "scores.py:length", "scores.py", "no such file; give FILE.py:FUNCTION"),
        ("score.py:length", "score.py:size", "score.py:size", "has no function 'size'"),
        ("reward: score.py:length", "reward: taught", "reward: t", "step 'taught' makes none"),
        ("reward: score.py:length", "reward: ./no", "reward: ./no", "no step or model folder"),
        ("ranker: words", "ranker: [words]", "ranker: [", "'ranker' must be a text, got ['words']"),
        ("ranker: words", "ranker: http://x/v1", "ranker: h", "names no model; write URL#MODEL"),
        ("ranker: words", "rankr: words", "rankr", "no key 'rankr'; did you mean 'ranker'?"),
        ("data/prompts.jsonl", "data/lexicon.txt", "data: data/lexicon", "lexicon.txt"),
    ],
)
def test_mistake_in_what_an_objective_needs(helped: Path, old: str, new: str, at: str, said: str):
    text = helped.read_text("utf-8")
    assert old in text
    helped.write_text(text.replace(old, new, 1), "utf-8")
    found = error(helped)
    assert found.startswith(f"{helped}:{line_of(helped, at)}: ")
    assert said in found
    assert "\n" not in found
    assert "--" not in found


def test_wrong_data_are_found_before_any_work(place: Path):
    path = place / "data" / "held_out.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b"}\n', "utf-8")
    recipe = place / "loop.yaml"
    number = line_of(recipe, "eval_data:")
    assert error(recipe).startswith(f"{recipe}:{number}: {path}:1: 'rejected' is missing")
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ": the file is empty"),
        ("# only a remark\n", ": the file is empty"),
        ("- 1\n", ":1: a recipe must be a mapping, got [1]"),
        ("model: x/y\n", ":1: 'steps' is missing"),
        ("steps: []\n", ":1: 'steps' must be a list of steps, got []"),
        ("steps: [1]\n", ":1: a step must be a mapping"),
        ("steps:\n  - audit: bbq\n", ":2: 'data' is missing"),
        ("a: 1\nb: [\n", ":3: not valid YAML"),
        ("a: 1\n\tb: 2\n", ":2: not valid YAML"),
        ("a: 1\n---\nb: 2\n", ":2: not valid YAML"),
        ("a: !!python/name:os.system x\n", ":1: not valid YAML"),
        ("? [1]\n: 2\n", ":1: a name must be plain text"),
        ("a: &x [*x]\n", "nested too deeply"),
        ("a: \0\n", "not valid YAML"),
    ],
)
def test_file_that_is_no_recipe(tmp_path: Path, text: str, said: str):
    path = tmp_path / "r.yaml"
    path.write_text(text, "utf-8")
    found = error(path)
    assert found.startswith(str(path))
    assert said in found
    assert "\n" not in found


def test_missing_file(tmp_path: Path):
    assert error(tmp_path / "no.yaml") == f"{tmp_path / 'no.yaml'}: no such file"


def test_aliases_cannot_multiply_without_end(tmp_path: Path):
    path = tmp_path / "r.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(UserError, match="nested too deeply"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("2E3", 2e3), ("-1.5e+2", -150.0), ("e4", "e4"), ("1e", "1e"), ("7", 7)],
)
def test_numbers_with_exponents_are_numbers(tmp_path: Path, text: str, value: object):
    (tmp_path / "r.yaml").write_text(f"x: {text}\n", "utf-8")
    assert read_yaml(tmp_path / "r.yaml").plain() == {"x": value}


def steered(place: Path, lines: str, *, settings: str = "n: 2, max_new_tokens: 5") -> Path:
    """The example's texts, by a decoder."""
    text = (place / "loop.yaml").read_text("utf-8")
    start = text.index("  - name: texts")
    end = text.index("  - ", start + 5)
    step = f"  - name: texts\n    generate: data/prompts.jsonl\n{lines}    set: {{{settings}}}\n"
    (place / "steered.yaml").write_text(text[:start] + step + text[end:], "utf-8")
    return place / "steered.yaml"


def test_a_decoder_with_its_reward_is_run_and_is_a_part_of_what_a_step_hangs_on(place: Path):
    lines = "    decoder: best-of-n\n    reward: max-words:2\n"
    path = steered(place, lines, settings="candidates: 3")
    results(path)
    out = read_recipe(path).out / "texts" / "samples.jsonl"
    [first, *_] = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert first["settings"]["decoder"] == "best-of-n"
    assert first["settings"]["decoders"]["best-of-n"]["candidates"] == 3
    assert first["rewards"] == {"reward": first["score"]}
    assert "texts" in skipped(path)
    steered(place, lines.replace("2", "9"), settings="candidates: 3")
    assert "texts" not in skipped(path)


@pytest.mark.parametrize(
    ("lines", "settings", "said"),
    [
        ("    decoder: dealt\n", "n: 1", "no decoder 'dealt'; did you mean 'deal'"),
        ("    decoder: deal\n", "n: 1", "deal needs a reward, got none"),
        ("    reward: words\n", "n: 1", "sample reads no reward, got reward"),
        ("    decoder: deal\n    reward: words\n", "lamb: 1", "deal has no field 'lamb'"),
        ("    decoder: deal\n    reward: max-words:x\n", "lam: 1", "max-words"),
        ("    decoder: guide-align\n", "k: 1", "guide-align needs library, encoder"),
    ],
)
def test_a_wrong_decoder_is_told_with_its_line(place: Path, lines: str, settings: str, said: str):
    path = steered(place, lines, settings=settings)
    found = error(path)
    assert said in found
    assert found.startswith(f"{path}:")
