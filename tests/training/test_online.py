"""Online training: rounds of own samples, resumable between and inside rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor

from trueup.errors import InterruptedRun, UserError
from trueup.models import LanguageModel
from trueup.objectives import objective
from trueup.objectives.protocol import Data, Needs, Unweighted
from trueup.objectives.raft import RAFT
from trueup.training import TrainingConfig, train
from trueup.training.rounds import Rounds

PROMPTS = [{"prompt": f"Question {number}: "} for number in range(6)]


@dataclass(frozen=True)
class Gradient(Unweighted):
    """REINFORCE with the mean as baseline, as plain as it can be."""

    samples: int = 4
    name: ClassVar[str] = "gradient"
    data: ClassVar[Data] = "samples"
    source: ClassVar[str] = "prompts"
    needs: ClassVar[Needs] = Needs(reference=True, rewards=True)
    arxiv: ClassVar[str] = ""

    def collected(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rewards = batch["rewards"]
        return {"advantages": rewards - rewards.mean(dim=1, keepdim=True)}

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        ratio = (batch["sample_logps"] - batch["proposal_logps"]).exp()
        return -(ratio * batch["advantages"]).mean(dim=1)


def letters(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """How often an `e` occurs."""
    return [float(text.count("e")) for text in completions]


def vowels(text: str) -> int:
    return sum(text.lower().count(letter) for letter in "aeiou")


SETTINGS: dict[str, Any] = {
    "batch_size": 3,
    "max_new_tokens": 6,
    "learning_rate": 1e-2,
    "schedule": "constant",
    "warmup": 0.0,
    "save_every": 2,
}


@pytest.fixture
def online(lm: LanguageModel, tmp_path: Path) -> Any:
    def go(objective: Any, rows: Any = PROMPTS, *, out: str = "out", **settings: Any) -> Any:
        options = settings.pop("options", {})
        options.setdefault("reward", letters)
        return train(
            lm,
            objective,
            rows,
            config=TrainingConfig(**{**SETTINGS, **settings}),
            out=tmp_path / out,
            **options,
        )

    return go


def test_the_reward_rises(online: Any) -> None:
    result = online(Gradient(samples=16), epochs=12)
    guards = {guard.slice: guard for guard in result.guards}
    assert guards["change"].low > 0
    assert guards["after"].value > guards["before"].value + 0.5
    assert len(result.items) == 12 * 6 * 16
    assert result.steps["kl"].iloc[-1] > result.steps["kl"].iloc[0]


def test_a_constant_reward_moves_nothing(online: Any, lm: LanguageModel) -> None:
    flat = {"reward": lambda prompts, completions: [1.0] * len(completions)}
    result = online(Gradient(), epochs=2, options=flat)
    before, after = (one.model.state_dict() for one in (lm, result.model))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_the_first_step_of_a_round_is_on_policy(online: Any) -> None:
    """Sampler and scorer give the same log-probabilities: the importance ratio starts at 1."""
    steps = online(Gradient(samples=16), round_prompts=6, round_epochs=2, epochs=1).steps
    assert len(steps) == 4
    assert steps["loss"].iloc[0] == pytest.approx(0.0, abs=1e-4)  # mean advantage, ratio 1
    assert abs(steps["loss"].iloc[2]) > 1e-3  # the second time over the samples it is not


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_stopped_run_goes_on_to_the_same_bits(at: int, online: Any, tmp_path: Path) -> None:
    shape = {"round_prompts": 6, "round_epochs": 2, "epochs": 2}  # two rounds of four steps
    calm = online(Gradient(), out="calm", **shape)

    def stop(told: Any) -> None:
        if told.stage == "training" and told.step == at:
            raise KeyboardInterrupt

    with pytest.raises((InterruptedRun, KeyboardInterrupt)):
        online(Gradient(), options={"progress": stop}, **shape)
    again = online(Gradient(), options={"resume": True}, **shape)
    pd.testing.assert_frame_equal(again.steps, calm.steps)
    pd.testing.assert_frame_equal(again.items, calm.items)
    files = [tmp_path / name / "model.safetensors" for name in ("out", "calm")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_running_quantity_comes_back_with_its_prompt(online: Any) -> None:
    seen: list[Tensor] = []

    class Running(Gradient):
        def collected(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
            known = batch.get("running_count", torch.full((3,), torch.nan))
            seen.append(known)
            return {**super().collected(batch), "running_count": known.nan_to_num() + 1}

    online(Running(), epochs=3, shuffle=False)
    assert [part.nan_to_num(-1).tolist() for part in seen[::2]] == [[-1] * 3, [1] * 3, [2] * 3]


def test_d2o_pushes_the_bad_answer_down_and_keeps_its_samples(online: Any) -> None:
    rows = [{**row, "rejected": "no no no"} for row in PROMPTS]
    steps = online("d2o", rows, epochs=4, options={"reward": None}).steps
    assert steps["rejected_change"].iloc[-1] < -1
    assert steps["sample_change"].iloc[-1] > steps["rejected_change"].iloc[-1]
    assert steps["loss"].iloc[0] == pytest.approx(0.693147, abs=1e-3)


@pytest.mark.parametrize("name", ["f-dpg", "grpo", "reinforce", "raft", "ctrl"])
def test_every_objective_on_rewards_raises_the_reward(name: str, online: Any) -> None:
    settings: dict[str, Any] = {"samples": 16} if name != "ctrl" else {"samples": 16, "beta": 0.3}
    settings |= {"calibration_samples": 40} if name == "ctrl" else {}
    result = online(objective(name, settings), epochs=12, round_prompts=6)
    change = next(guard for guard in result.guards if guard.slice == "change")
    assert change.low > 0, change
    assert (result.steps["sample_tokens"] > 0).all()


@pytest.mark.parametrize("name", ["f-dpg", "grpo", "reinforce"])
def test_a_constant_reward_leaves_the_reward_where_it_was(name: str, online: Any) -> None:
    flat = {"reward": lambda prompts, completions: [1.0] * len(completions)}
    settings: dict[str, Any] = {"samples": 8} | ({"beta": 0.0} if name == "reinforce" else {})
    result = online(objective(name, settings), epochs=2, options=flat)
    assert result.steps["kl"].abs().max() < 0.05


def test_a_ranker_and_the_policy_teach_each_other(online: Any) -> None:
    """The ranker is shown what both agreed on; more of what it likes is written."""
    seen: list[int] = []

    def ranker(prompt: Any, responses: Sequence[str], demonstrations: Sequence[Any]) -> list[int]:
        seen.append(len(demonstrations))
        return sorted(range(len(responses)), key=lambda k: -vowels(responses[k]))

    chosen = objective("cyclealign", {"samples": 6})
    result = online(chosen, epochs=15, options={"reward": None, "ranker": ranker})
    counts = result.items["completion"].map(vowels).groupby(result.items["round"]).mean()
    assert counts.iloc[-5:].mean() > counts.iloc[:5].mean() + 0.3
    assert seen[0] == 0
    assert max(seen) == 3


def test_honesty_is_taught_from_own_answers(online: Any, tmp_path: Path) -> None:
    rows = [{"question": f"What is {n}?", "answers": ["e"]} for n in range(6)]
    settings = {"strategy": "multisample", "samples": 4}
    result = online(objective("honesty", settings), rows, epochs=2, options={"reward": None})
    [built] = (tmp_path / "out" / "training").glob("built-*.jsonl")
    assert len(built.read_text().splitlines()) == 6 * 4
    assert result.steps["loss"].iloc[-1] < result.steps["loss"].iloc[0]


def test_samples_that_are_not_the_policys_are_refused(online: Any) -> None:
    with pytest.raises(UserError, match="leave temperature at 1"):
        online("grpo", temperature=0.7)


def test_whole_tables_are_drawn_again_when_the_objective_says_so() -> None:
    from trueup.objectives.d2o import D2O

    rounds = Rounds.of(
        10, D2O(refresh_every=5, warmup_steps=8), TrainingConfig(batch_size=5, epochs=10)
    )
    assert (rounds.starts, rounds.steps) == ((0, 8, 13, 18), 20)
    assert [rounds.length(number) for number in range(4)] == [8, 5, 5, 2]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"reward": None}, "needs a reward; give --reward"),
        ({"reward": lambda prompts, completions: [1.0]}, "gave 1 numbers for 12"),
        ({"reward": lambda p, completions: [float("nan")] * len(completions)}, "is not finite"),
        ({"reward": lambda p, completions: [1 / 0]}, r"failed at .*test_online.py:\d+ \(ZeroDiv"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line(
    online: Any, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(UserError, match=match) as caught:
        online(Gradient(), options=options)
    assert "\n" not in str(caught.value)


def test_a_reward_is_refused_where_it_is_ignored(online: Any) -> None:
    rows = [{**row, "rejected": "no"} for row in PROMPTS]
    with pytest.raises(UserError, match="takes no reward"):
        online("d2o", rows)


def test_a_run_with_another_reward_is_not_resumed(online: Any) -> None:
    online(Gradient(), epochs=1)
    other = {"reward": lambda prompts, completions: [0.5] * len(completions), "resume": True}
    with pytest.raises(UserError, match="another reward"):
        online(Gradient(), epochs=1, options=other)


def test_a_round_that_keeps_nothing_is_left_out(online: Any) -> None:
    """No sample of the first of 4 rounds is good enough; those of the others are."""
    calls = []

    def late(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        calls.append(len(completions))
        return [float(len(calls) > 1)] * len(completions)

    result = online(RAFT(samples=2, min_reward=0.5), epochs=2, options={"reward": late})
    assert result.notes == ["1 of 4 rounds kept no sample and taught nothing"]
    assert list(result.steps["step"]) == [1, 2, 3]
    assert result.items["round"].nunique() == 4


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_run_that_keeps_nothing_at_all_says_so(online: Any, value: float) -> None:
    def low(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [value] * len(completions)

    with pytest.raises(UserError, match="no round kept a sample"):
        online(RAFT(min_reward=0.5), options={"reward": low})


def test_equal_prompts_get_samples_of_their_own(online: Any) -> None:
    items = online(Gradient(), [PROMPTS[0]] * 3, batch_size=3, epochs=1).items
    assert items.groupby("prompt")["completion"].agg(tuple).nunique() == 3
