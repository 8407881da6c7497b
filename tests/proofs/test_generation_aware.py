"""Generation-aware alignment: sheet 41's loss vector, its gradient, and a small world mended."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.audits.planted_models import word_tokenizer
from tests.proofs.dpo_family import row
from trueup.audits.behaviour.decoding_robustness import DecodingRobustness
from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.models.decoding_grid import DecodingGrid
from trueup.models.sampling import Cuts, cut_off
from trueup.objectives.generation_aware import GenerationAware, generation_aware_loss
from trueup.objectives.sft import sft_loss
from trueup.synthesis.generation_aware import (
    ALIGNED_TAG,
    MISALIGNED_TAG,
    GenerationAwareData,
    JudgedReply,
    aligned_rows,
    preference_rows,
    tagged,
    tagged_rows,
)
from trueup.training import TrainingConfig, train

SHEET = {
    "logps": row(-4, -6, -9),
    "lengths": row(4, 3, 6),
    "labels": torch.tensor([True, True, False]),
}

# 1. identity


def test_the_sheet_s_rows_and_their_mean() -> None:
    found = generation_aware_loss(**SHEET)
    assert found.tolist() == pytest.approx([1.5, 3.0, 4.5], abs=1e-12)
    assert float(found.mean()) == pytest.approx(1.5 + 1.5, abs=1e-12)


def test_the_sheet_s_rows_as_sums() -> None:
    found = generation_aware_loss(**SHEET, reduction="sum")
    assert found.tolist() == pytest.approx([6, 9, 27], abs=1e-12)
    assert float(found.mean()) == pytest.approx(14, abs=1e-12)


@pytest.mark.parametrize("label", [True, False])
def test_a_batch_of_one_kind_is_the_mean_of_that_kind(label: bool) -> None:
    batch = SHEET | {"labels": torch.full((3,), label)}
    expected = sft_loss(logps=SHEET["logps"], lengths=SHEET["lengths"])
    torch.testing.assert_close(generation_aware_loss(**batch), expected)


def test_the_objective_is_the_function_and_weighs_all_alike() -> None:
    for reduction in ("mean", "sum"):
        objective = GenerationAware(reduction=reduction)
        expected = generation_aware_loss(**SHEET, reduction=reduction)
        assert torch.equal(objective.loss(SHEET), expected)
        assert objective.weights(SHEET).tolist() == [1, 1, 1]


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(UserError, match="reduction must be"):
        GenerationAware(reduction="token")  # type: ignore[arg-type]


# 2. differential: where tags are ignored it is plain fine-tuning on both kinds


def test_both_likelihoods_rise_as_in_fine_tuning_on_both_sets() -> None:
    logps = SHEET["logps"].clone().requires_grad_(True)
    own = generation_aware_loss(**(SHEET | {"logps": logps})).mean()
    (slope,) = torch.autograd.grad(own, logps)
    costs = sft_loss(logps=logps, lengths=SHEET["lengths"])
    both = costs[:2].mean() + costs[2:].mean()
    torch.testing.assert_close(slope, torch.autograd.grad(both, logps)[0])
    assert (slope < 0).all()


def test_gradients_pass_gradcheck() -> None:
    logps = SHEET["logps"].clone().requires_grad_(True)
    batch = {name: value for name, value in SHEET.items() if name != "logps"}
    assert torch.autograd.gradcheck(lambda x: generation_aware_loss(logps=x, **batch), (logps,))


# The data


def reply(text: str, *, good: bool, prompt: int = 0) -> JudgedReply:
    return JudgedReply(
        prompt=prompt, setting="greedy", text=text, violation=float(not good), is_aligned=good
    )


MIXED = [reply("yes", good=True), reply("no", good=False), reply("nay", good=False)]


def test_every_reply_stands_behind_the_tag_of_its_kind() -> None:
    rows = tagged_rows(["ask"], MIXED)
    assert [one["prompt"] for one in rows] == [
        f"ask\n{ALIGNED_TAG}",
        f"ask\n{MISALIGNED_TAG}",
        f"ask\n{MISALIGNED_TAG}",
    ]
    assert [(one["completion"], one["label"]) for one in rows] == [
        ("yes", True), ("no", False), ("nay", False),
    ]  # fmt: skip


def test_a_tag_goes_into_the_last_turn_of_messages() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert tagged(turns, "T") == [turns[0], {"role": "user", "content": "u\nT"}]
    assert tagged(turns, "") is turns


def test_pairs_reject_each_bad_reply_once_for_a_good_one_of_its_prompt() -> None:
    replies = [*MIXED, *MIXED, reply("only bad", good=False, prompt=1)]
    rows = preference_rows(["ask", "other"], replies, np.random.default_rng(0))
    assert rows == [
        {"prompt": "ask", "chosen": "yes", "rejected": "no"},
        {"prompt": "ask", "chosen": "yes", "rejected": "nay"},
    ]


def test_the_aligned_ones_alone_hold_no_bad_reply() -> None:
    assert aligned_rows(["ask"], MIXED) == [{"prompt": "ask", "completion": "yes"}]


@pytest.mark.parametrize("good", [True, False])
def test_one_kind_alone_is_refused(good: bool) -> None:
    one = [reply("a", good=good)]
    with pytest.raises(UserError, match="all 1 replies are"):
        tagged_rows(["ask"], one)
    with pytest.raises(UserError, match="no prompt has an aligned and a misaligned reply"):
        preference_rows(["ask"], one, np.random.default_rng(0))


def test_equal_tags_are_refused() -> None:
    with pytest.raises(UserError, match="the tags must be two texts"):
        tagged_rows(["ask"], MIXED, aligned_tag="x", misaligned_tag="x")


# 4. a small world: asked q0 .. q7, a model says "fine" or one of three bad words

PROMPTS = [f"q{number}" for number in range(8)]
WORDS = ("fine", "bad", "worse", "worst")
LAW = np.exp([2.0, 1.0, 0.0, -1.0]) / np.exp([2.0, 1.0, 0.0, -1.0]).sum()
GRID = DecodingGrid()


def is_bad(prompts: Any, replies: Any) -> list[float]:
    return [float(text.split()[:1] != ["fine"]) for text in replies]


def tuned(lm: LanguageModel, objective: str, rows: list[dict[str, Any]], out: Path) -> Any:
    """300 steps of 32 rows."""
    model = LanguageModel(copy.deepcopy(lm.model), lm.tokenizer, name="start")
    config = TrainingConfig(steps=300, batch_size=32, learning_rate=3e-3, save_every=0)
    return train(model, objective, rows, config=config, out=out).model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generation-aware")


@pytest.fixture(scope="module")
def start(folder: Path) -> LanguageModel:
    """A model of 23 words and two layers that has learned the law, whatever is asked."""
    tokenizer = word_tokenizer([*PROMPTS, *WORDS, ALIGNED_TAG, MISALIGNED_TAG])
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    lm = LanguageModel(model, tokenizer, name="untrained")
    replies = np.random.default_rng(0).choice(WORDS, size=(8, 100), p=LAW)
    rows = [
        {"prompt": asked, "completion": f" {text}"}
        for prompt, several in zip(PROMPTS, replies, strict=True)
        for text in several
        for asked in (prompt, tagged(prompt, ALIGNED_TAG), tagged(prompt, MISALIGNED_TAG))
    ]
    return tuned(lm, "sft", rows, folder / "start")


@cache
def _settings() -> Cuts:
    return Cuts.of(GRID.settings())


def broken(lm: LanguageModel, tag: str = "") -> np.ndarray:
    """P(the first word is bad), prompts by settings, from the logits."""
    logits = lm.start([tagged(prompt, tag) for prompt in PROMPTS]).logprobs.double()
    fine = lm.tokenizer.convert_tokens_to_ids("fine")
    found = []
    for each in logits:
        kept = cut_off(each.repeat(len(GRID.names), 1), _settings()).softmax(-1)[:, fine]
        kept[-1] = float(each.argmax() == fine)  # greedy
        found.append(1 - kept.numpy())
    return np.array(found)


def worst(lm: LanguageModel, tag: str = "") -> float:
    """The rate of the worst setting."""
    return float(broken(lm, tag).mean(axis=0).max())


def union(lm: LanguageModel, tag: str = "") -> float:
    """The share of prompts that some setting breaks."""
    return float(1 - (1 - broken(lm, tag)).prod(axis=1).mean())


def drawn(lm: LanguageModel, **fields: Any) -> list[JudgedReply]:
    data = GenerationAwareData(samples=4, max_new_tokens=2, **fields)
    return data.replies(lm, PROMPTS, is_bad)


@pytest.fixture(scope="module")
def replies(start: LanguageModel) -> list[JudgedReply]:
    return drawn(start)


@pytest.fixture(scope="module")
def aware(start: LanguageModel, replies: list[JudgedReply], folder: Path) -> LanguageModel:
    return tuned(start, "generation-aware", tagged_rows(PROMPTS, replies), folder / "aware")


def test_the_world_is_safe_at_the_default_and_not_at_others(start: LanguageModel) -> None:
    assert worst(start) == pytest.approx(1 - LAW[0], abs=0.08)
    assert worst(start, ALIGNED_TAG) == pytest.approx(1 - LAW[0], abs=0.08)
    assert union(start) > 0.99
    assert all(one.is_aligned for one in drawn(start, is_static=True))


def test_the_grid_reads_each_prompt_once(start: LanguageModel) -> None:
    start.work.reset()
    found = drawn(start)
    read = sum(len(start.encoder.prompt(prompt)) for prompt in PROMPTS)
    n_replies = 8 * 50 * 4
    assert start.work.trunk_tokens == read + n_replies  # the second token of each reply
    assert 0.99 * n_replies < len(found) <= n_replies  # a blank one is left out


def test_training_lowers_the_worst_rate_behind_the_aligned_tag(
    start: LanguageModel, aware: LanguageModel
) -> None:
    assert 1 - worst(aware, ALIGNED_TAG) > 0.95
    assert 1 - broken(aware, MISALIGNED_TAG)[:, GRID.names.index("temperature=1")].mean() < 0.1
    assert union(aware, ALIGNED_TAG) < 0.5 * union(start, ALIGNED_TAG)


def test_a_prompt_without_the_tag_is_not_mended(start: LanguageModel, aware: LanguageModel) -> None:
    assert worst(aware) > 0.9 * worst(start)


def test_the_audit_sees_it(start: LanguageModel, aware: LanguageModel) -> None:
    audit = DecodingRobustness(
        judge=is_bad, min_words=0, chat=False, suffix=ALIGNED_TAG, max_new_tokens=2
    )
    probes = audit.probes([{"prompt": prompt} for prompt in PROMPTS])
    unions = [
        next(
            row.value for row in audit.estimate(audit.measure(lm, probes)) if row.metric == "union"
        )
        for lm in (start, aware)
    ]
    assert unions[0] == 1
    assert unions[1] <= 0.5


# 5. negative controls


def test_shuffled_labels_teach_no_more_than_the_replies_own_mixture(
    start: LanguageModel, replies: list[JudgedReply], folder: Path
) -> None:
    """Most of a grid is colder than temperature 1: imitating its replies alone lowers the rate."""
    labels = np.random.default_rng(1).permutation([one.is_aligned for one in replies])
    mixed = [
        JudgedReply(
            prompt=one.prompt, setting=one.setting, text=one.text, violation=0.0,
            is_aligned=bool(label),
        )
        for one, label in zip(replies, labels, strict=True)
    ]  # fmt: skip
    lm = tuned(start, "generation-aware", tagged_rows(PROMPTS, mixed), folder / "shuffled")
    share = 1 - np.mean([one.is_aligned for one in replies])
    assert share > 0.15
    assert worst(lm, ALIGNED_TAG) == pytest.approx(share, abs=0.08)
    assert worst(lm, MISALIGNED_TAG) == pytest.approx(share, abs=0.08)
    assert union(lm, ALIGNED_TAG) > 0.9


def test_replies_of_the_default_setting_teach_nothing(start: LanguageModel) -> None:
    """The paper's static control, where the default is safe: there is no second kind."""
    with pytest.raises(UserError, match="replies are aligned: there is nothing to tell apart"):
        tagged_rows(PROMPTS, drawn(start, is_static=True))


# The option without a tag


@pytest.fixture(scope="module")
def pairs(replies: list[JudgedReply]) -> list[dict[str, Any]]:
    return preference_rows(PROMPTS, replies, np.random.default_rng(0))


def test_dpo_on_the_same_replies_needs_no_tag(
    start: LanguageModel, pairs: list[dict[str, Any]], folder: Path
) -> None:
    lm = tuned(start, "dpo", pairs, folder / "dpo")
    assert worst(lm) < 0.05
    assert union(lm) < 0.5 * union(start)


def test_dpo_on_pairs_of_either_order_lowers_nothing(
    start: LanguageModel, pairs: list[dict[str, Any]], folder: Path
) -> None:
    both = [
        *pairs,
        *({**one, "chosen": one["rejected"], "rejected": one["chosen"]} for one in pairs),
    ]
    lm = tuned(start, "dpo", both, folder / "either")
    assert worst(lm) > 0.5 * worst(start)
