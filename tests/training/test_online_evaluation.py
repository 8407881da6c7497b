"""Evaluation of training on own samples: what it measures, when it stops, what it leaves alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from trueup.errors import InterruptedRun, UserError
from trueup.models import LanguageModel
from trueup.objectives import objective
from trueup.stats import mean
from trueup.training import TrainingConfig, train
from trueup.training.own_sample_signs import reward_drop_low

PROMPTS = [{"prompt": f"Question {number}: "} for number in range(6)]
HELD = [{"prompt": f"Query {number}: "} for number in range(12)]
SETTINGS: dict[str, Any] = {
    "batch_size": 6,
    "max_new_tokens": 6,
    "learning_rate": 1e-2,
    "schedule": "constant",
    "warmup": 0.0,
    "save_every": 2,
    "eval_every": 2,
}
GREEDY = {"samples": 8, "beta": 0.0}  # of grpo: nothing holds it near the reference


def letters(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """How often an `e` occurs."""
    return [float(text.count("e")) for text in completions]


def hacked(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """On the training prompts a proxy, the more the better; in truth two are enough."""
    counts = [text.count("e") for text in completions]
    return [
        float(n if prompt.startswith("Question") else min(n, 1) - 2 * max(n - 2, 0))
        for prompt, n in zip(prompts, counts, strict=True)
    ]


@pytest.fixture
def online(lm: LanguageModel, tmp_path: Path) -> Any:
    def go(name: str, fields: Any = (), *, out: str = "out", **settings: Any) -> Any:
        options = {"reward": letters, "eval_rows": HELD} | settings.pop("options", {})
        rows = settings.pop("rows", PROMPTS)
        chosen = objective(name, dict(fields))
        config = TrainingConfig(**{**SETTINGS, **settings})
        return train(lm, chosen, rows, config=config, out=tmp_path / out, **options)

    return go


def dense(
    lm: LanguageModel, reference: LanguageModel, samples: int, k: int
) -> tuple[list[float], list[float]]:
    """Reward per prompt, and KL, likelihood, entropy and mass, from whole passes."""
    seed = int.from_bytes(b"0:evaluation", "big")
    prompts = [row["prompt"] for row in HELD]
    drawn = lm.sample(prompts, n=samples, max_new_tokens=6, seed=seed)
    rewards, rows = [], []
    for prompt, several in zip(prompts, drawn, strict=True):
        rewards.append(float(np.mean([sample.text.count("e") for sample in several])))
        for sample in several:
            ids = torch.tensor([[*lm.encoder.prompt(prompt), *sample.token_ids]])
            count = len(sample.token_ids)
            with torch.no_grad():
                logps, ref = (
                    model.model(ids).logits[0, -count - 1 : -1].double().log_softmax(-1)
                    for model in (lm, reference)
                )
            picked, known = (one.gather(1, ids[0, -count:, None])[:, 0] for one in (logps, ref))
            top = logps.exp().topk(k).values
            q = top / top.sum(-1, keepdim=True)
            entropy = -(q * q.log2()).sum(-1).mean()
            change = (picked - known).sum()
            rows.append([change, picked.mean(), entropy, top.sum(-1).mean()])
    means: list[float] = np.array(rows, dtype=float).mean(axis=0).tolist()
    return rewards, means


def test_the_columns_equal_whole_passes_before_and_after(online: Any, lm: LanguageModel) -> None:
    result = online("grpo", {"samples": 4}, epochs=6, eval_every=0, monitor=True, monitor_k=3)
    rows = result.evaluations
    assert rows["step"].tolist() == [0, 6]
    for model, row in ((lm, rows.iloc[0]), (result.model, rows.iloc[1])):
        rewards, means = dense(model, lm, samples=4, k=3)
        columns = ["kl", "sample_likelihood", "entropy_bits", "top_k_mass"]
        assert row[columns].tolist() == pytest.approx(means, abs=1e-4)
        expected = mean(rewards)
        found = row[["reward", "reward_low", "reward_high"]].tolist()
        assert found == pytest.approx([expected.value, expected.low, expected.high], abs=1e-6)
    assert abs(rows["kl"].iloc[0]) < 1e-4
    assert rows["kl"].iloc[1] > 0.1


def ranker(prompt: Any, responses: Sequence[str], demonstrations: Sequence[Any]) -> list[int]:
    return sorted(range(len(responses)), key=lambda place: -responses[place].count("e"))


@pytest.mark.parametrize("name", ["raft", "f-dpg", "reinforce", "ctrl", "cyclealign", "d2o"])
def test_every_objective_on_own_samples_is_evaluated(name: str, online: Any) -> None:
    options: dict[str, Any] = {} if name not in ("cyclealign", "d2o") else {"reward": None}
    rows, fields = PROMPTS, {"samples": 4}
    if name == "cyclealign":
        options["ranker"] = ranker
    if name == "d2o":
        rows = [{**row, "rejected": "no no"} for row in PROMPTS]
        options["eval_rows"] = [{**row, "rejected": "no no"} for row in HELD]
    if name == "ctrl":
        fields["calibration_samples"] = 4
    result = online(name, fields, rows=rows, epochs=4, monitor=True, options=options)
    found = result.evaluations
    assert found["step"].tolist() == [0, 2, 4]
    names = {"kl", "sample_tokens", "sample_likelihood", "entropy_bits", "top_k_mass"}
    names |= {"reward"} if "reward" not in options else set()
    names |= {"rejected_likelihood", "rejected_change"} if name == "d2o" else set()
    assert names <= set(found.columns)
    assert np.isfinite(found[sorted(names)].to_numpy()).all()
    assert ("reward" in found.columns) == ("reward" in names)
    assert any(note.startswith("over-optimisation: no sign") for note in result.notes)


def test_d2o_makes_the_bad_answer_of_held_out_prompts_unlikely(
    online: Any, lm: LanguageModel
) -> None:
    bad, held = ([{**row, "rejected": "no no"} for row in part] for part in (PROMPTS, HELD))
    options = {"reward": None, "eval_rows": held}
    rows = online("d2o", {"samples": 4}, rows=bad, epochs=6, options=options).evaluations
    scores = lm.score([row["prompt"] for row in held], [["no no"]] * 12, add_eos=True)
    per_token = [sums[0] / n[0] for sums, n in zip(scores.logps, scores.lengths, strict=True)]
    assert rows["rejected_likelihood"].iloc[0] == pytest.approx(np.mean(per_token), abs=1e-5)
    assert rows["rejected_change"].iloc[0] == pytest.approx(0, abs=1e-4)
    assert rows["rejected_change"].iloc[-1] < -1


def test_watching_changes_no_weight(online: Any) -> None:
    blind = online(
        "grpo", {"samples": 4}, epochs=4, eval_every=0, out="blind", options={"eval_rows": None}
    )
    quiet = online("grpo", {"samples": 4}, epochs=4, out="quiet")
    watched = online("grpo", {"samples": 4}, epochs=4, monitor=True, out="watched")
    assert watched.model.fingerprint == quiet.model.fingerprint == blind.model.fingerprint
    pd.testing.assert_frame_equal(watched.steps, blind.steps)
    added = ["entropy_bits", "top_k_mass"]
    pd.testing.assert_frame_equal(watched.evaluations.drop(columns=added), quiet.evaluations)
    assert blind.evaluations.empty
    assert not any("over-optimisation" in note for note in quiet.notes)
    spent = [run.work.trunk_tokens for run in (blind, quiet, watched)]
    assert spent == sorted(set(spent))


def test_a_model_that_does_not_move_samples_the_same_again(online: Any) -> None:
    rows = online("grpo", epochs=4, monitor=True, learning_rate=1e-12).evaluations
    same = rows.drop(columns=["step", "reward_drop_low"])
    assert np.ptp(same.to_numpy(), axis=0).max() < 1e-6


def test_a_hacked_reward_ends_training_at_the_best_weights(online: Any) -> None:
    """Training raises the proxy on and on; what was held out rises, turns and falls."""
    settings: dict[str, Any] = {"monitor": True, "monitor_stop": True, "eval_every": 1}
    result = online("grpo", GREEDY, epochs=40, **settings, options={"reward": hacked})
    rows = result.evaluations.set_index("step")
    [note] = [note for note in result.notes if note.startswith("over-optimisation")]
    assert "held-out reward fell while KL rose" in note
    assert len(result.steps) < 40
    assert rows["reward"].idxmax() == result.best_step
    assert 0 < result.best_step <= len(result.steps) - 2
    assert rows["kl"].iloc[-1] > rows["kl"].loc[result.best_step]
    assert rows["reward"].loc[result.best_step] > rows["reward"].iloc[[0, -1]].max() + 0.1
    change = next(guard for guard in result.guards if guard.slice == "change")
    drawn = rows["reward"].loc[result.best_step] - rows["reward"].iloc[0]
    assert change.value == pytest.approx(drawn, abs=1e-6)
    short = online("grpo", GREEDY, epochs=result.best_step, out="short", options={"reward": hacked})
    assert short.model.fingerprint == result.model.fingerprint


def test_a_fall_is_measured_from_the_highest_reward_on_the_same_prompts(online: Any) -> None:
    options = {"reward": hacked}
    whole = online("grpo", GREEDY, epochs=16, eval_every=1, options=options)
    rows = whole.evaluations["reward"]
    assert 0 < rows.idxmax() < 16
    best = online("grpo", GREEDY, epochs=int(rows.idxmax()), out="best", options=options)
    parts = []
    for lm in (best.model, whole.model):
        prompts = [row["prompt"] for row in HELD]
        seed = int.from_bytes(b"0:evaluation", "big")
        drawn = lm.sample(prompts, n=8, max_new_tokens=6, seed=seed)
        rewards = [
            hacked([prompt] * 8, [sample.text for sample in several])
            for prompt, several in zip(prompts, drawn, strict=True)
        ]
        parts.append(np.mean(rewards, axis=1))
    expected = reward_drop_low(*parts, earlier=16)
    assert whole.evaluations["reward_drop_low"].iloc[-1] == pytest.approx(expected, abs=1e-6)


def test_a_policy_that_is_held_back_shows_no_sign(online: Any) -> None:
    settings: dict[str, Any] = {"monitor": True, "monitor_stop": True, "eval_every": 1}
    options = {"reward": hacked}
    result = online(
        "grpo", {"samples": 8, "beta": 0.4}, epochs=20, learning_rate=1e-4, **settings,
        options=options,
    )  # fmt: skip
    assert (len(result.steps), result.best_step) == (20, None)
    assert any(note.startswith("over-optimisation: no sign") for note in result.notes)


def test_a_collapse_of_entropy_ends_training(online: Any) -> None:
    """The reward rises to the end, and the policy writes one answer."""
    settings: dict[str, Any] = {"monitor": True, "monitor_stop": True, "eval_every": 1}
    result = online("grpo", GREEDY, epochs=40, **settings)
    entropy = result.evaluations["entropy_bits"]
    assert (entropy.iloc[-2:] < entropy.iloc[0] / 2).all()
    assert entropy.iloc[:-2].min() >= entropy.iloc[0] / 2
    assert any("entropy collapsed by" in note for note in result.notes)
    assert result.best_step == len(result.steps) - 2


def test_early_stopping_keeps_the_highest_held_out_reward(online: Any) -> None:
    settings: dict[str, Any] = {"early_stopping": 2, "eval_every": 1}
    result = online("grpo", GREEDY, epochs=40, **settings, options={"reward": hacked})
    rows = result.evaluations.set_index("step")["reward"]
    assert result.best_step == rows.idxmax() == len(result.steps) - 2


@pytest.mark.parametrize(("stage", "at"), [("training", 3), ("evaluating", 4), ("sampling", 2)])
def test_a_stopped_run_goes_on_to_the_same_bits(
    stage: str, at: int, online: Any, tmp_path: Path
) -> None:
    """Stopped in a step, in an evaluation, and while a round is drawn."""
    import signal

    shape: dict[str, Any] = {"monitor": True, "epochs": 3, "batch_size": 3}
    calm = online("f-dpg", {"samples": 4}, out="calm", **shape)

    def stop(told: Any) -> None:
        if (told.stage, told.step) == (stage, at):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InterruptedRun, match=f"stopped after step {at} of 6"):
        online("f-dpg", {"samples": 4}, options={"progress": stop}, **shape)
    again = online("f-dpg", {"samples": 4}, options={"resume": True}, **shape)
    pd.testing.assert_frame_equal(again.steps, calm.steps)
    pd.testing.assert_frame_equal(again.evaluations, calm.evaluations)
    assert [str(one) for one in again.guards] == [str(one) for one in calm.guards]
    assert again.notes == calm.notes
    assert again.work == calm.work
    files = [tmp_path / name / "model.safetensors" for name in ("out", "calm")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_prompts_are_held_out_of_the_rows(online: Any) -> None:
    result = online("raft", epochs=1, eval_fraction=0.5, options={"eval_rows": None})
    assert result.items["prompt"].nunique() == 3
    assert [guard.n for guard in result.guards] == [3, 3, 3]


@pytest.mark.parametrize(
    ("name", "settings", "match"),
    [
        ("grpo", {}, "eval_every needs evaluation prompts, but there are none"),
        ("grpo", {"eval_every": 0, "monitor": True}, "monitor needs evaluation prompts"),
        ("d2o", {"early_stopping": 2}, "higher held-out reward, which d2o has not"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    name: str, settings: dict[str, Any], match: str, online: Any
) -> None:
    options = {"eval_rows": None, "reward": letters if name == "grpo" else None}
    with pytest.raises(UserError, match=match):
        online(name, options=options, **settings)


def test_rows_that_are_built_have_no_evaluation_rows(online: Any) -> None:
    with pytest.raises(UserError, match="builds its rows, and reads no evaluation rows"):
        online("honesty", options={"reward": None})
