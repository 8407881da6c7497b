"""The search with models: one call a step, nothing asked twice, killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.synthesis.rewrite_world import (
    INSTRUCTIONS,
    models,
    own_principles,
    share_right,
)
from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.synthesis.p_aligner import PAlignerSearch
from trueup.synthesis.rewrite_forms import read_form
from trueup.worlds.scripted_writer import Script, ScriptedWriter, Written

ROOT = Path(__file__).parents[2]
ANSWERER = ScriptedWriter(script=lambda prompt, rng: "answer")


@dataclass(frozen=True, kw_only=True, eq=False)
class Counting(ScriptedWriter):
    """Keeps how many prompts each call had, and how many samples it asked for."""

    calls: list[tuple[int, int]] = field(default_factory=list)

    def sample(self, prompts: Sequence[Any], *, n: int = 1, **settings: Any) -> list[list[Written]]:
        self.calls.append((len(prompts), n))
        return super().sample(prompts, n=n, **settings)


def flat(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    return [0.5] * len(completions)


def counting(script: Script) -> Counting:
    return Counting(script=script)


def test_every_step_asks_each_model_once_for_all_trees(tmp_path: Path):
    made = iter(range(10**6))
    rewriter = counting(lambda prompt, rng: f"rewrite {next(made)}")
    answerer = counting(lambda prompt, rng: "answer")
    search = PAlignerSearch(iterations=6, principles=own_principles(tmp_path))
    search.search(INSTRUCTIONS[:5], rewriter=rewriter, answerer=answerer, reward=flat)
    assert rewriter.calls == [(5, 1)] * 6
    assert answerer.calls == [(5, 3)] * 7 + [(5, 3)]  # steps and roots; fresh: the raw is best


def test_what_a_tree_knows_is_not_asked_again(tmp_path: Path):
    """All rewrites are one text: it is answered once, and rewritten once by each principle."""
    rewriter = counting(lambda prompt, rng: "the same")
    answerer = counting(lambda prompt, rng: "answer")
    search = PAlignerSearch(iterations=20, principles=own_principles(tmp_path), recheck=False)
    [tree] = search.search(["raw"], rewriter=rewriter, answerer=answerer, reward=flat)
    assert answerer.calls == [(1, 3)] * 2
    assert len(rewriter.calls) == 8  # four of the raw text, four of the other
    assert len(tree.nodes) == 21


def test_equal_instructions_have_equal_trees_and_order_changes_none(tmp_path: Path):
    search = PAlignerSearch(iterations=6, principles=own_principles(tmp_path))
    one, two, three = INSTRUCTIONS[:3]
    first = search.search([one, two, one, three], reward=share_right, **models())
    other = search.search([three, one, two], reward=share_right, **models())
    assert first[0].as_dict() == first[2].as_dict()
    assert [first[n].as_dict() for n in (3, 0, 1)] == [tree.as_dict() for tree in other]


def test_another_seed_is_another_search(tmp_path: Path):
    principles = own_principles(tmp_path)
    texts = [
        [
            node.text
            for node in PAlignerSearch(iterations=8, principles=principles, seed=seed)
            .search(INSTRUCTIONS[:1], reward=share_right, **models())[0]
            .nodes
        ]
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


def run(folder: Path, principles: str, seconds: float) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.synthesis.rewrite_world", folder, principles, str(seconds)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def steps_in(path: Path) -> int:
    return len(json.loads(path.read_text())["trees"][0]["nodes"]) - 1 if path.exists() else 0


def test_killed_and_gone_on_with_it_ends_as_if_it_had_not_been(tmp_path: Path):
    principles = own_principles(tmp_path)
    name = "trees-000001.json"
    process = run(tmp_path / "killed", principles, 0.3)
    deadline = time.monotonic() + 60
    while steps_in(tmp_path / "killed" / name) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 3 <= steps_in(tmp_path / "killed" / name) < 8
    search = PAlignerSearch(iterations=8, principles=principles)
    for folder in ("killed", "calm"):
        search.search(INSTRUCTIONS[:5], reward=share_right, folder=tmp_path / folder, **models())
    files = [(tmp_path / folder / name).read_bytes() for folder in ("killed", "calm")]
    assert files[0] == files[1]


def test_a_model_that_fails_loses_no_step(tmp_path: Path):
    class Failing(ScriptedWriter):
        def sample(self, *given: Any, **settings: Any) -> list:
            if self.work.texts >= 15:
                raise UserError("the server is gone")
            return super().sample(*given, **settings)

    whole = models()
    search = PAlignerSearch(iterations=8, principles=own_principles(tmp_path))
    broken = Failing(script=whole["answerer"].script, name="answering")
    how = {"reward": share_right, "folder": tmp_path / "out"}
    with pytest.raises(UserError, match="server is gone"):
        search.search(["raw"], rewriter=whole["rewriter"], answerer=broken, **how)
    kept = steps_in(tmp_path / "out" / "trees-000001.json")
    assert 0 < kept < 9
    again = search.search(["raw"], **whole, **how)
    calm = search.search(["raw"], **models(), reward=share_right)
    assert [tree.as_dict() for tree in again] == [tree.as_dict() for tree in calm]


def test_a_folder_of_another_search_is_refused(tmp_path: Path):
    principles = own_principles(tmp_path)
    how = {"reward": share_right, "folder": tmp_path / "out", **models()}
    PAlignerSearch(iterations=4, principles=principles).search(["raw"], **how)
    for changed in ({"w": 1.0}, {"seed": 1}, {"principles": ""}, {"max_new_tokens": 9}):
        search = PAlignerSearch(**{"iterations": 4, "principles": principles, **changed})
        with pytest.raises(UserError, match="other instructions, settings or models"):
            search.search(["raw"], **how)
    other = {**how, "answerer": ScriptedWriter(script=how["answerer"].script, name="other")}
    with pytest.raises(UserError, match="settings or models"):
        PAlignerSearch(iterations=4, principles=principles).search(["raw"], **other)
    with pytest.raises(UserError, match="trees of 4 iterations, got iterations = 3"):
        PAlignerSearch(iterations=3, principles=principles).search(["raw"], **how)
    with pytest.raises(UserError, match="other instructions"):
        PAlignerSearch(iterations=4, principles=principles).search(["other"], **how)
    [tree] = PAlignerSearch(iterations=6, principles=principles).search(["raw"], **how)
    assert tree.iterations == 6


@pytest.mark.parametrize("asked_as", ["teacher", "rewriter"])
def test_a_rewrite_that_cannot_be_had_leaves_the_text_and_is_marked(asked_as: str, tmp_path: Path):
    rewriter = counting(lambda prompt, rng: "  ")
    search = PAlignerSearch(
        iterations=3, principles=own_principles(tmp_path), asked_as=asked_as, attempts=2
    )
    [tree] = search.search(["raw"], rewriter=rewriter, answerer=models()["answerer"], reward=flat)
    assert [(node.text, node.failed) for node in tree.nodes[1:]] == [("raw", True)] * 3
    assert len(rewriter.calls) == 6
    assert tree.summary()["failed"] == 3


def test_a_step_rewriter_answers_between_marks_and_may_say_that_none_is_needed(tmp_path: Path):
    form = read_form()
    texts = iter(["No rewrite", "better", "best"])
    rewriter = ScriptedWriter(script=lambda prompt, rng: form.response(next(texts)))
    search = PAlignerSearch(iterations=3, principles=own_principles(tmp_path), asked_as="rewriter")
    [tree] = search.search(["raw"], rewriter=rewriter, answerer=models()["answerer"], reward=flat)
    assert [(n.text, n.failed) for n in tree.nodes[1:]] == [
        ("raw", False), ("better", False), ("best", False),
    ]  # fmt: skip


def test_a_local_model_and_its_short_context(tiny_llama: LanguageModel, tmp_path: Path):
    """A rewrite too long to be answered counts as failed; an instruction too long is refused."""
    lengths = iter([400, 3, 2])
    rewriter = ScriptedWriter(script=lambda prompt, rng: "x" * next(lengths))
    search = PAlignerSearch(
        iterations=2,
        max_new_tokens=8,
        n_responses=2,
        attempts=1,
        principles=own_principles(tmp_path),
    )
    how = {"rewriter": rewriter, "answerer": tiny_llama}
    seen: list[str] = []

    def words(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        seen.extend(prompts)
        return [float(len(text)) for text in completions]

    [tree] = search.search(["raw"], reward=words, **how)
    assert [(n.text, n.failed) for n in tree.nodes[1:]] == [("raw", True), ("xxx", False)]
    assert set(seen) == {"\n\nHuman: raw\n\nAssistant:"}
    with pytest.raises(UserError, match="instruction 2 leaves an answer 0 tokens"):
        search.search(["raw", "y" * 300], reward=words, **how)


def test_a_rewriter_without_room_is_not_asked(tiny_llama: LanguageModel, tmp_path: Path):
    search = PAlignerSearch(iterations=1, principles=own_principles(tmp_path))
    before = tiny_llama.work.as_dict()
    [tree] = search.search(["z" * 300], rewriter=tiny_llama, reward=flat, answerer=ANSWERER)
    assert tree.nodes[1].failed
    assert tiny_llama.work.as_dict() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_names_the_instruction(value: float, tmp_path: Path):
    search = PAlignerSearch(iterations=1, principles=own_principles(tmp_path))
    with pytest.raises(UserError, match="instruction 'raw': the reward must be finite"):
        search.search(["raw"], reward=lambda p, c: [value] * len(c), **models())


def test_a_reward_that_fails_names_the_instruction(tmp_path: Path):
    def failing(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [1 / 0 if "two" in prompt else 1.0 for prompt in prompts]

    search = PAlignerSearch(iterations=1, principles=own_principles(tmp_path))
    with pytest.raises(UserError, match="instruction 'two': reward .*ZeroDivisionError"):
        search.search(["one", "two"], reward=failing, **models())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"w": -1.0}, "w must be at least 0"),
        ({"backup": "median"}, "backup must be one of"),
        ({"asked_as": "pupil"}, "asked_as must be one of"),
        ({"temperature": 0.0}, "n_responses must be 1 at temperature 0"),
        ({"attempts": 0}, "attempts must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        PAlignerSearch(**settings)


def test_what_is_given_for_the_instructions_must_fit():
    with pytest.raises(UserError, match="instruction 2 is blank"):
        PAlignerSearch().search(["a", " "], reward=flat, **models())
    with pytest.raises(UserError, match="2 instructions but 1 lists of domains"):
        PAlignerSearch().search(["a", "b"], reward=flat, domains=[()], **models())


def test_progress_counts_trees(tmp_path: Path):
    told: list[tuple[int, int]] = []
    search = PAlignerSearch(iterations=4, principles=own_principles(tmp_path))
    search.search(
        INSTRUCTIONS[:4],
        reward=share_right,
        progress=lambda done, total, what: told.append((done, total)),
        **models(),
    )
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
