"""Distillation in the engine: streamed divergences against dense ones, and their effect."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_models import make_tiny
from tests.training.tiny_teachers import TASKS, make_teachers
from trueup.errors import UserError
from trueup.models import LanguageModel, load
from trueup.objectives.bialign import subset_ranking_loss
from trueup.objectives.dckd import DCKD
from trueup.synthesis.demonstrations import in_context_texts


def dense_kl(
    teacher: LanguageModel,
    policy: LanguageModel,
    prompt: str,
    completion: str,
    *,
    add_eos: bool = True,
) -> float:
    """Sum over completion tokens of KL(teacher || policy), from whole logits."""
    group = policy.encode(prompt, [completion], add_eos=add_eos)
    ids = torch.tensor([[*group.prompt, *group.completions[0]]])
    start = len(group.prompt)
    with torch.no_grad():
        found = [
            lm.model(ids).logits[0, start - 1 : -1].log_softmax(-1) for lm in (teacher, policy)
        ]
    return float((found[0].exp() * (found[0] - found[1])).sum())


def dense_advantage(
    teacher: LanguageModel, before: LanguageModel, policy: LanguageModel, prompt: str, tokens: Any
) -> float:
    ids = torch.tensor([[*policy.encoder.prompt(prompt), *tokens]])
    start = ids.shape[1] - len(tokens)
    with torch.no_grad():
        found = [
            lm.model(ids).logits[0, start - 1 : -1].log_softmax(-1)
            for lm in (teacher, before, policy)
        ]
    return float((found[2].exp() * (found[0] - found[1])).sum())


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, LanguageModel]:
    """Two other random models with the same tokenizer."""
    return make_teachers(tmp_path_factory.mktemp("teachers"))


def test_dckd_is_given_the_dense_divergence(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel, teachers: Any
) -> None:
    teacher = teachers[0]
    options = {"teacher": teacher}
    settings = {"steps": 1, "batch_size": 12, "shuffle": False}
    steps = run("dckd", pairs, options=options, **settings).steps
    sums = {
        side: sum(dense_kl(teacher, lm, row["prompt"], row[side]) for row in pairs)
        for side in ("chosen", "rejected")
    }
    scores = lm.score(
        [row["prompt"] for row in pairs],
        [[row["chosen"], row["rejected"]] for row in pairs],
        add_eos=True,
    )
    lengths = [sum(row[side] for row in scores.lengths) for side in (0, 1)]
    nll = -sum(row[0] for row in scores.logps) / lengths[0]
    expected = nll + sums["chosen"] / lengths[0] + sums["rejected"] / lengths[1]
    assert steps["loss"].iloc[0] == pytest.approx(expected, abs=1e-4)


def test_a_teacher_that_cannot_share_prompts_gives_the_dense_divergence(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel, tmp_path: Path
) -> None:
    """ALiBi takes no positions of its own: policy and teacher then read a row per completion."""
    teacher = load(make_tiny("bloom", tmp_path / "bloom"), device="cpu")
    assert not teacher.layout.shares_prefix
    settings = {"steps": 1, "batch_size": 12, "shuffle": False}
    objective = DCKD(sft_weight=0.0)
    steps = run(objective, pairs, options={"teacher": teacher}, **settings).steps
    scores = lm.score(
        [row["prompt"] for row in pairs],
        [[row["chosen"], row["rejected"]] for row in pairs],
        add_eos=True,
    )
    expected = 0.0
    for place, side in enumerate(("chosen", "rejected")):
        total = sum(dense_kl(teacher, lm, row["prompt"], row[side]) for row in pairs)
        expected += total / sum(row[place] for row in scores.lengths)
    assert steps["loss"].iloc[0] == pytest.approx(expected, abs=1e-4)


def test_a_student_comes_nearer_to_its_teacher(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel, teachers: Any
) -> None:
    settings = {"steps": 25, "learning_rate": 1e-2, "schedule": "constant", "warmup": 0.0}
    result = run("dckd", pairs, options={"teacher": teachers[0]}, **settings)
    row = pairs[0]
    before = dense_kl(teachers[0], lm, row["prompt"], row["rejected"])
    after = dense_kl(teachers[0], result.model, row["prompt"], row["rejected"])
    assert after < 0.7 * before


def test_adpa_is_given_the_dense_advantage(
    run: Any, completions: list[dict[str, Any]], lm: LanguageModel, teachers: Any
) -> None:
    teacher, before = teachers
    options = {"teacher": teacher, "ref_teacher": before}
    settings = {"steps": 1, "batch_size": 12, "shuffle": False, "max_new_tokens": 5}
    result = run("adpa", completions, options=options, **settings)
    samples = result.items
    total = tokens = 0.0
    texts = [row["prompt"] for row in completions]
    drawn = lm.sample(texts, n=1, max_new_tokens=5, seed=int.from_bytes(b"0:0", "big"))
    assert [sample[0].text for sample in drawn] == list(samples["completion"])
    for prompt, [sample] in zip(texts, drawn, strict=True):
        total += dense_advantage(teacher, before, lm, prompt, sample.token_ids)
        tokens += len(sample.token_ids)
    scores = lm.score(texts, [[row["completion"]] for row in completions], add_eos=True)
    nll = -sum(row[0] for row in scores.logps) / sum(row[0] for row in scores.lengths)
    expected = nll - total / tokens
    assert result.steps["loss"].iloc[0] == pytest.approx(expected, abs=1e-4)


def test_bialign_is_given_the_dense_divergence_and_the_teachers_ranking(
    run: Any, lm: LanguageModel, teachers: Any
) -> None:
    teacher = teachers[0]
    settings = {"steps": 1, "batch_size": 6, "shuffle": False, "seed": 3}
    steps = run("bialign", TASKS, options={"teacher": teacher}, **settings).steps
    rng = np.random.default_rng(3)
    kl = tokens = ranking = 0.0
    for row in TASKS:
        found = in_context_texts(row, rng, n_subsets=4)
        kl += dense_kl(teacher, lm, "", found.sequence, add_eos=False)
        tokens += len(lm.encoder.tokens([found.sequence])[0])
        scores = [
            torch.tensor([[one.score([p], [[found.target]]).logps[0][0] for p in found.prompts]])
            for one in (lm, teacher)
        ]
        loss = subset_ranking_loss(sample_logps=scores[0], teacher_sample_logps=scores[1])
        ranking += float(loss) / len(TASKS)
    assert steps["loss"].iloc[0] == pytest.approx(kl / tokens + ranking, abs=1e-3)


def test_a_student_learns_its_teachers_preferences(run: Any, teachers: Any) -> None:
    settings = {"steps": 40, "learning_rate": 3e-3, "batch_size": 6, "schedule": "constant"}
    steps = run("bialign", TASKS, options={"teacher": teachers[0]}, **settings).steps
    assert steps["loss"].iloc[-5:].mean() < 0.7 * steps["loss"].iloc[:5].mean()


def test_too_few_demonstrations_are_one_line(run: Any, teachers: Any) -> None:
    rows = [{**TASKS[0], "demonstrations": TASKS[0]["demonstrations"][:1]}]
    with pytest.raises(UserError, match=r"the data row 1: .* have no 4 subsets"):
        run("bialign", rows, options={"teacher": teachers[0]}, steps=1)


def test_the_teacher_stays_as_it_was(run: Any, pairs: list[dict[str, Any]], teachers: Any) -> None:
    mark = teachers[0].fingerprint
    run("dckd", pairs, options={"teacher": teachers[0]}, steps=2)
    assert teachers[0].fingerprint == mark
    assert all(weight.grad is None for weight in teachers[0].model.parameters())


def test_a_resumed_distillation_needs_the_same_teacher(
    run: Any, pairs: list[dict[str, Any]], teachers: Any
) -> None:
    run("dckd", pairs, options={"teacher": teachers[0]}, steps=1)
    with pytest.raises(UserError, match="another teacher"):
        run("dckd", pairs, options={"teacher": teachers[1], "resume": True}, steps=1)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("dckd", "dckd needs a teacher; give --teacher"),
        ("adpa", "adpa needs a teacher; give --teacher"),
    ],
)
def test_a_missing_teacher_is_one_line(name: str, match: str, run: Any, pairs: Any) -> None:
    with pytest.raises(UserError, match=match):
        run(name, pairs)


def test_a_teacher_with_another_vocabulary_is_refused(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    other = load(make_tiny("llama", tmp_path / "other"), device="cpu")
    other.tokenizer.add_tokens(["brandnew"])
    with pytest.raises(UserError, match="vocabulary differs"):
        run("dckd", pairs, options={"teacher": other})


@pytest.mark.parametrize("whose", ["teacher", "policy"])
def test_a_head_with_a_bias_is_refused(
    whose: str, run: Any, pairs: list[dict[str, Any]], lm: LanguageModel, tmp_path: Path
) -> None:
    """The divergence is streamed from the head's matrix alone."""
    teacher = load(make_tiny("llama", tmp_path / "teacher"), device="cpu")
    other = {"teacher": teacher, "policy": lm}[whose]
    other.model.lm_head = torch.nn.Linear(32, 260, bias=True)
    with pytest.raises(UserError, match="its output head, or the policy's, is not one matrix"):
        run("dckd", pairs, options={"teacher": teacher})
