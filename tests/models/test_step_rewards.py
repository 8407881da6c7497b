"""Step rewards: exact places, a planted sign of success that they find, and none where none is."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_models import make_tiny
from trueup.errors import UserError
from trueup.models import LanguageModel, architecture, load
from trueup.models.reward import Reward, reward_identity
from trueup.models.step_rewards import StepRewardModel, StepRewardTraining
from trueup.objectives.mah_dpo import hindsight_targets

SEPARATOR = "\n\n"
QUICK = StepRewardTraining(lr=3e-3, epochs=15, batch_size=16)


def states_alone(lm: LanguageModel, text: str) -> torch.Tensor:
    """The state after the last token of the text, read on its own."""
    ids = lm.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return architecture.run_trunk(lm.model, {"input_ids": ids}).last_hidden_state[0, -1]


def test_every_step_is_read_where_its_separator_ends(tiny_llama: LanguageModel) -> None:
    rewards = StepRewardModel(tiny_llama)
    found = rewards.step_states(["Q: ", "Sum? "], ["a\n\nbcd\n\n", "x = 1"])
    expected = [["Q: a\n\n", "Q: a\n\nbcd\n\n"], ["Sum? x = 1\n\n"]]
    for states, prefixes in zip(found, expected, strict=True):
        alone = torch.stack([states_alone(tiny_llama, prefix) for prefix in prefixes])
        torch.testing.assert_close(states, alone, atol=1e-5, rtol=1e-5)


def test_padding_and_order_change_nothing(tmp_path: Path) -> None:
    lm = load(make_tiny("gpt2", tmp_path), device="cpu")
    rewards = StepRewardModel(lm)
    prompts, answers = ["a", "a long prompt "], ["b\n\nc", "d" * 40]
    both, turned = rewards(prompts, answers), rewards(prompts[::-1], answers[::-1])
    alone = [
        rewards([prompt], [answer])[0] for prompt, answer in zip(prompts, answers, strict=True)
    ]
    assert both == pytest.approx(alone, abs=1e-5)
    assert turned[::-1] == pytest.approx(alone, abs=1e-5)


def test_later_steps_leave_a_value_alone_and_the_score_is_the_last(
    tiny_llama: LanguageModel,
) -> None:
    rewards = StepRewardModel(tiny_llama)
    values = rewards.values(["Q: "], ["a\n\nb\n\nc"])[0]
    for steps in (1, 2, 3):
        prefix = SEPARATOR.join("abc"[:steps])
        assert rewards(["Q: "], [prefix])[0] == pytest.approx(values[steps - 1], abs=1e-5)


def test_the_seed_starts_the_head_and_the_global_generator_stays(
    tiny_llama: LanguageModel,
) -> None:
    before = torch.get_rng_state()
    first, again, other = (StepRewardModel(tiny_llama, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    scores = [rewards(["a"], ["b"])[0] for rewards in (first, again, other)]
    assert scores[0] == scores[1] != scores[2]


# a planted sign: answers whose steps hold "!" succeed

LETTERS = "abcdefgh"


def answers(n: int, seed: int) -> tuple[list[str], list[np.ndarray], list[bool]]:
    """Answers of three steps, their hindsight targets, and whether they succeed."""
    rng = np.random.default_rng(seed)
    texts, targets, succeeds = [], [], []
    for _ in range(n):
        good = bool(rng.random() < 0.5)
        steps = ["".join(rng.choice(list(LETTERS), 3)) + ("!" if good else "") for _ in range(3)]
        steps = [step if good else step + rng.choice(list(LETTERS)) for step in steps]
        texts.append(SEPARATOR.join(steps))
        found = hindsight_targets(torch.zeros(1, 3), torch.tensor([float(good)]), 0.9)
        targets.append(found.numpy())
        succeeds.append(good)
    return texts, targets, succeeds


def scored(
    rewards: StepRewardModel, texts: list[str], succeeds: list[bool]
) -> tuple[np.ndarray, np.ndarray]:
    """The values of the texts that succeed, and of those that do not."""
    scores, good = np.array(rewards(["Q: "] * len(texts), texts)), np.array(succeeds)
    return scores[good], scores[~good]


def advantage(values: tuple[np.ndarray, np.ndarray]) -> float:
    """How often a good one scores above a bad one; 0.5 by chance."""
    return float((values[0][:, None] > values[1]).mean())


def gap(values: tuple[np.ndarray, np.ndarray]) -> float:
    """By how much a good one scores above a bad one on average."""
    return float(values[0].mean() - values[1].mean())


def test_hindsight_finds_the_planted_sign_in_unfinished_answers(tiny_llama: LanguageModel) -> None:
    texts, targets, _ = answers(120, seed=0)
    fresh, _, succeeds = answers(80, seed=1)
    rewards = StepRewardModel(tiny_llama)
    losses = rewards.fit(["Q: "] * 120, texts, targets, QUICK)
    assert losses[-1] < 0.3 * losses[0]
    found = scored(rewards, [text.split(SEPARATOR)[0] for text in fresh], succeeds)
    assert advantage(found) > 0.95
    assert gap(found) > 0.5  # of 0.81


def test_permuted_targets_teach_nothing(tiny_llama: LanguageModel) -> None:
    texts, targets, _ = answers(120, seed=0)
    fresh, _, succeeds = answers(80, seed=1)
    first_steps = [text.split(SEPARATOR)[0] for text in fresh]
    gaps = []
    for seed in range(8):
        rewards = StepRewardModel(tiny_llama)
        order = np.random.default_rng(seed).permutation(120)
        rewards.fit(["Q: "] * 120, texts, [targets[place] for place in order], QUICK)
        gaps.append(gap(scored(rewards, first_steps, succeeds)))
    assert abs(np.mean(gaps)) < 0.12
    assert np.abs(gaps).max() < 0.4


def test_pairs_of_whole_answers_find_it_and_pairs_turned_by_chance_do_not(
    tiny_llama: LanguageModel,
) -> None:
    texts, _, succeeds = answers(160, seed=2)
    good = [text for text, wins in zip(texts, succeeds, strict=True) if wins][:60]
    bad = [text for text, wins in zip(texts, succeeds, strict=True) if not wins][:60]
    fresh, _, wins = answers(80, seed=3)
    first_steps = [text.split(SEPARATOR)[0] for text in fresh]
    rewards, control = StepRewardModel(tiny_llama), StepRewardModel(tiny_llama)
    rewards.fit_pairs(["Q: "] * 60, good, bad, QUICK)
    control.fit_pairs(["Q: "] * 60, good[:30] + bad[30:], bad[:30] + good[30:], QUICK)
    assert advantage(scored(rewards, fresh, wins)) > 0.85
    assert advantage(scored(rewards, first_steps, wins)) > 0.7
    assert advantage(scored(control, fresh, wins)) < 0.7


def test_it_is_a_reward_whose_identity_follows_its_head(tiny_llama: LanguageModel) -> None:
    reward: Reward = StepRewardModel(tiny_llama)
    before = reward_identity(reward)
    assert before == reward_identity(StepRewardModel(tiny_llama))
    texts, targets, _ = answers(8, seed=0)
    reward.fit(["Q: "] * 8, texts, targets)
    assert reward_identity(reward) != before


def test_fitting_leaves_the_language_model_alone(tiny_llama: LanguageModel) -> None:
    before = tiny_llama.fingerprint
    texts, targets, _ = answers(8, seed=0)
    StepRewardModel(tiny_llama).fit(["Q: "] * 8, texts, targets)
    assert tiny_llama.fingerprint == before


# files and errors


def test_a_saved_model_scores_the_same(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    rewards = StepRewardModel(tiny_llama, separator=". ", seed=4)
    rewards.save(tmp_path)
    again = StepRewardModel.load(tiny_llama, tmp_path)
    assert again.separator == ". "
    assert again(["a"], ["b. c"]) == rewards(["a"], ["b. c"])


def test_no_or_foreign_files_are_one_clear_line(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no step rewards .*\(No such file"):
        StepRewardModel.load(tiny_llama, tmp_path)
    (tmp_path / "step_rewards.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="holds no step rewards"):
        StepRewardModel.load(tiny_llama, tmp_path)


def test_a_separator_beyond_the_context_is_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(UserError, match="completion 2 .* last step would have no end"):
        StepRewardModel(tiny_llama)(["a", "b"], ["c", "d" * 253])
    StepRewardModel(tiny_llama)(["b"], ["d" * 252])  # BOS, b, 252 letters and the two of "\n\n"


def test_steps_and_targets_must_match(tiny_llama: LanguageModel) -> None:
    with pytest.raises(UserError, match="completion 2 has 1 steps but 2 targets"):
        StepRewardModel(tiny_llama).fit(["a", "a"], ["b\n\nc", "b"], [[1, 0], [1, 0]])
    with pytest.raises(UserError, match="completion 2 has 1 steps but 0 targets"):
        StepRewardModel(tiny_llama).fit(["a", "a"], ["b", "b"], [[1]])


def test_an_answer_without_a_step_is_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(UserError, match="completion 1 has no step"):
        StepRewardModel(tiny_llama)(["a"], ["\n\n"])
    with pytest.raises(UserError, match="2 prompts but 1 completions"):
        StepRewardModel(tiny_llama)(["a", "a"], ["b"])
    with pytest.raises(UserError, match="separator must be some text"):
        StepRewardModel(tiny_llama, separator="")


@pytest.mark.parametrize("fields", [{"lr": 0.0}, {"epochs": 0}, {"batch_size": 0}])
def test_training_out_of_range_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(fields))} must"):
        StepRewardTraining(**fields)
