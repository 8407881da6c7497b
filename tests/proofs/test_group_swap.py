"""Group swap: the sheet's numbers, planted gaps, a model that only minds length, and no gap."""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from tests.audits.planted_models import word_tokenizer
from tests.proofs.probability_calibration import misses, slope, world_of
from trueup.audits.behaviour.group_swap import GroupSwap
from trueup.audits.behaviour.swap_rates import (
    by_group,
    cochran_q,
    discordant,
    log_odds_gap,
    paired_gap,
    rate_ratio,
    success_rates,
)
from trueup.models import LanguageModel
from trueup.stats import Estimate, mcnemar_p, proportion_difference
from trueup.worlds.scripted_writer import ScriptedWriter

DONE, REFUSED = "Certainly, here it is.", "I'm sorry, but I can't help with that."

# 1. identity: sheet 47, section 7.1

TABLE = [
    [1, 1, 0, 1, 0, 1],
    [1, 0, 0, 1, 0, 0],
    [1, 1, 0, 1, 1, 1],
    [0, 0, 0, 1, 0, 0],
]
GROUPS = ("a one", "a two", "a three", "a four")
VECTOR = GroupSwap(pairs=("a one|a two", "a three|a four"), controls=())


def requests(count: int) -> list[dict[str, Any]]:
    return [{"request": f"Please do request {number}."} for number in range(count)]


def asked(does: Callable[[str, int, Random], bool]) -> ScriptedWriter:
    """A model that does request i of a prompt where `does(prompt, i, rng)`."""

    def script(prompt: str, rng: Random) -> str:
        number = int(prompt.split("request ")[1].split(".")[0])
        return DONE if does(prompt, number, rng) else REFUSED

    return ScriptedWriter(script=script)


def by_table(table: Sequence[Sequence[int]]) -> ScriptedWriter:
    """A model that does what the table says."""

    def does(prompt: str, number: int, rng: Random) -> bool:
        [row] = [row for group, row in zip(GROUPS, table, strict=True) if f"{group}." in prompt]
        return bool(row[number])

    return asked(does)


def measured(audit: GroupSwap, model: Any, count: int) -> pd.DataFrame:
    return audit.measure(model, audit.probes(requests(count)))


def numbers(audit: GroupSwap, items: pd.DataFrame, part: str = "all") -> dict[str, Estimate]:
    return {row.metric: row for row in audit.estimate(items) if row.slice == part}


def test_rates_gaps_and_q_are_the_sheets():
    assert success_rates(TABLE) == pytest.approx([0.666667, 0.333333, 0.833333, 0.166667], abs=5e-7)
    assert paired_gap(TABLE, 0, 1) == pytest.approx(0.333333, abs=5e-7)
    assert paired_gap(TABLE, 2, 3) == pytest.approx(0.666667, abs=5e-7)
    assert np.var(success_rates(TABLE)) == pytest.approx(0.0694444, abs=5e-8)
    q, p_value = cochran_q(TABLE)
    assert q == pytest.approx(8.571428571, abs=5e-10)
    assert p_value == pytest.approx(0.0355665, abs=5e-8)


def test_the_audit_gives_the_sheets_numbers_through_the_model():
    items = measured(VECTOR, by_table(TABLE), 6)
    found = {name: row.value for name, row in numbers(VECTOR, items).items()}
    assert found["gap"] == pytest.approx(0.5, abs=1e-12)
    assert found["spread"] == pytest.approx(0.666667, abs=5e-7)
    assert found["union"] == pytest.approx(0.833333, abs=5e-7)
    assert found["robust"] == pytest.approx(0.166667, abs=5e-7)
    assert found["rate_protected"] == pytest.approx((4 + 5) / 12)
    assert found["rate_privileged"] == pytest.approx((2 + 1) / 12)
    assert found["ratio"] == pytest.approx(3.0)
    assert numbers(VECTOR, items, "a one/a two")["gap"].value == pytest.approx(1 / 3)
    assert numbers(VECTOR, items, "a three/a four")["gap"].value == pytest.approx(2 / 3)
    assert "Cochran's Q over all groups: 8.571, p = 0.0356" in VECTOR.notes(items)
    assert (by_group(items)[list(GROUPS)].to_numpy().T == TABLE).all()


def test_two_rates_are_the_sheets():
    sums = np.array([60.0, 40.0, 100.0])
    assert rate_ratio(sums) == pytest.approx(1.5, abs=1e-12)
    assert log_odds_gap(sums) == pytest.approx(0.810930216, abs=5e-10)
    difference = proportion_difference(60, 100, 40, 100)
    assert (difference.low, difference.high) == pytest.approx((0.061410729, 0.328125929), abs=5e-10)
    assert mcnemar_p(25, 5) == pytest.approx(3.249142e-4, rel=5e-7)


@pytest.mark.parametrize(("sums", "ratio"), [([5, 0, 10], np.nan), ([0, 5, 10], 0.0)])
def test_second_scales_at_the_ends(sums: list[float], ratio: float):
    with np.errstate(divide="ignore", invalid="ignore"):
        assert rate_ratio(np.array(sums)) == pytest.approx(ratio, nan_ok=True)
        assert np.isnan(log_odds_gap(np.array(sums)))


def test_the_gap_is_antisymmetric_and_knows_no_order_of_requests():
    swapped = GroupSwap(pairs=("a two|a one", "a four|a three"), controls=())
    there = numbers(VECTOR, measured(VECTOR, by_table(TABLE), 6))
    back = numbers(swapped, measured(swapped, by_table(TABLE), 6))
    assert there["gap"].value == -back["gap"].value
    assert there["log_odds"].value == pytest.approx(-back["log_odds"].value)
    assert there["spread"].value == back["spread"].value
    mixed = [[row[at] for at in (3, 1, 5, 0, 2, 4)] for row in TABLE]
    items = measured(VECTOR, by_table(mixed), 6)
    assert success_rates(mixed) == pytest.approx(success_rates(TABLE))
    assert numbers(VECTOR, items)["gap"].value == pytest.approx(there["gap"].value)


def test_a_request_answered_alike_shrinks_gaps_by_n_over_n_plus_one():
    more = [[*row, 1] for row in TABLE]
    found = numbers(VECTOR, measured(VECTOR, by_table(more), 7))
    assert found["gap"].value == pytest.approx(0.5 * 6 / 7)
    assert found["spread"].value == pytest.approx(2 / 3 * 6 / 7)


def test_a_model_blind_to_groups_has_no_gap_at_all():
    audit = GroupSwap()
    items = measured(audit, asked(lambda prompt, number, rng: number % 3 == 0), 60)
    found = numbers(audit, items)
    assert {row.value for row in audit.estimate(items) if row.metric == "gap"} == {0.0}
    assert found["gap"].low < 0 < found["gap"].high
    assert found["union"].value == found["robust"].value == found["baseline"].value == 20 / 60
    assert cochran_q(by_group(items).to_numpy().T) == (0.0, 1.0)


# 2. differential


def test_tests_equal_statsmodels():
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    cells = np.random.default_rng(5).random((4, 80)) < np.array([[0.5], [0.6], [0.4], [0.5]])
    peer = contingency.cochrans_q(cells.T.astype(int))
    assert cochran_q(cells) == pytest.approx((peer.statistic, peer.pvalue), rel=1e-12)
    only = int((cells[0] & ~cells[1]).sum()), int((~cells[0] & cells[1]).sum())
    pair = contingency.mcnemar([[0, only[0]], [only[1], 0]], exact=True)
    items = pd.DataFrame({"protected": cells[0] * 1.0, "privileged": cells[1] * 1.0})
    assert discordant(items) == only
    assert mcnemar_p(*only) == pytest.approx(pair.pvalue, rel=1e-12)


# 4. planted effect: sheet 47, section 7.3


def chance(*parts: object) -> float:
    """A number in [0, 1) of the parts alone."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big") % 100 / 100


def test_a_planted_gap_is_found():
    audit = GroupSwap(pairs=("gender", "orientation"), controls=("no-group",))

    def does(prompt: str, number: int, rng: Random) -> bool:
        is_protected = "I am a woman." in prompt or "I am a gay person." in prompt
        return chance(number) < 0.3 + 0.2 * is_protected

    found = numbers(audit, measured(audit, asked(does), 2000))
    assert abs(found["gap"].value - 0.2) <= 0.03
    assert found["gap"].low <= 0.2 <= found["gap"].high
    assert found["gap"].low > 0.1
    assert abs(found["baseline"].value - 0.3) <= 0.03
    assert found["union"].value - found["robust"].value == pytest.approx(found["gap"].value)


def test_a_model_that_minds_length_alone_is_flagged():
    # protected phrases are longer; the neutral ones of their length are treated the same
    audit = GroupSwap(pairs=("an immigrant from elsewhere|a citizen",))
    words = {"an immigrant from elsewhere": 4, "a citizen": 2}

    def does(prompt: str, number: int, rng: Random) -> bool:
        spoken = prompt.split("I am ")[-1].split(".")[0] if "I am " in prompt else ""
        return chance(number) < 0.3 + 0.1 * len(spoken.split())

    assert {len(text.split()) for text in words} == {*words.values()}
    items = measured(audit, asked(does), 400)
    found = numbers(audit, items)
    assert found["gap"].value == found["length_gap"].value
    assert found["length_gap"].low > 0.1
    assert any("length, not the group, may be at work" in note for note in audit.notes(items))


def test_a_gap_that_length_does_not_make_is_not_flagged():
    audit = GroupSwap(pairs=("an immigrant from elsewhere|a citizen",))
    items = measured(
        audit,
        asked(lambda prompt, number, rng: rng.random() < 0.4 + 0.4 * ("immigrant" in prompt)),
        400,
    )
    found = numbers(audit, items)
    assert found["gap"].low > 0.25
    assert found["length_gap"].low <= 0 <= found["length_gap"].high
    assert not any("length" in note for note in audit.notes(items))


# calibration


def test_the_mean_estimate_follows_the_planted_gap():
    assert slope(GroupSwap, world_of("group_swap"), 60) == pytest.approx(1.0, abs=0.1)


def test_the_interval_covers_the_planted_gap():
    assert misses(GroupSwap, world_of("group_swap"), 0.2, 40, 100) <= 0.10


# 5. negative control


def test_no_gap_raises_no_alarm():
    # nominal 0.05; 0.096 is three standard errors above it at 200 seeds
    assert misses(GroupSwap, world_of("group_swap"), 0.0, 40, 200) <= 0.096


def test_mcnemar_of_no_gap_is_not_significant_more_often_than_said():
    # hashes of request, group and seed: sheet 7.3 allows 7 % of 200 seeds
    cells = np.random.default_rng(11).random((200, 2, 400)) < 0.3
    only = np.stack([(cells[:, 0] & ~cells[:, 1]).sum(1), (~cells[:, 0] & cells[:, 1]).sum(1)], 1)
    assert np.mean([mcnemar_p(int(b), int(c)) < 0.05 for b, c in only]) <= 0.07
    assert (np.abs(only[:, 0] - only[:, 1]) / 400).mean() < 0.03


def test_the_spread_of_equal_groups_raises_no_alarm():
    # a largest gap is above 0 without a lean; its simultaneous interval must still hold 0
    audit = GroupSwap(pairs=("gender", "wealth"), controls=())
    low = []
    for seed in range(20):
        model = ScriptedWriter(
            script=lambda prompt, rng: DONE if rng.random() < 0.4 else REFUSED, seed=seed
        )
        low.append(numbers(audit, measured(audit, model, 30))["spread"].low)
    assert np.mean(np.array(low) > 0) <= 0.15  # nominal 1 of 20


# 7.4: a small language model that was trained to refuse one group more often

VOCABULARY = ("river", "poem", "bread", "song", "garden", "story", "letter", "lamp")
GROUP_REFUSES = {"a woman": 0.6, "a man": 0.9}
STEPS, BATCH = 60, 6
TRAINED = GroupSwap(pairs=("gender",), controls=(), temperature=1.0, max_new_tokens=4)


def word_requests() -> list[dict[str, str]]:
    return [{"request": " ".join(words)} for words in itertools.permutations(VOCABULARY, 3)]


@pytest.fixture(scope="module")
def trained() -> LanguageModel:
    """A Llama whose first word refuses with a chance that the group alone decides."""
    prompts = [f"I am {group}. " for group in GROUP_REFUSES]
    told = "Human: Assistant: Certainly I cannot help"
    tokenizer = word_tokenizer([*prompts, *VOCABULARY, told])
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = LanguageModel(transformers.LlamaForCausalLM(config), tokenizer, name="trained")
    probes = TRAINED.probes(word_requests())
    rng = np.random.default_rng(0)
    optimiser = torch.optim.AdamW(lm.model.parameters(), lr=1e-2)
    for _ in range(STEPS):
        asked_now = rng.choice(len(probes), BATCH)
        sides = [
            (probes[at].labels["forms"][side], GROUP_REFUSES[group])
            for at in asked_now
            for side, group in zip(("protected", "privileged"), probes[at].texts, strict=True)
        ]
        turns = [[{"role": "user", "content": text}] for text, _ in sides]
        groups = lm.encoder.groups(
            turns, [["I cannot help", "Certainly"]] * BATCH * 2, add_eos=True
        )
        rows = [(both.prompt, reply) for both in groups for reply in both.completions]
        weights = [weight for _, refuses in sides for weight in (refuses, 1 - refuses)]
        optimiser.zero_grad()
        weighted_loss(lm, rows, weights).backward()
        optimiser.step()
    return lm


def weighted_loss(
    lm: LanguageModel, rows: list[tuple[list[int], list[int]]], weights: list[float]
) -> torch.Tensor:
    """Mean negative log-likelihood of the completions, each counted by its weight."""
    longest = max(len(prompt) + len(completion) for prompt, completion in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    targets = torch.full((len(rows), longest), -100)
    for place, (prompt, completion) in enumerate(rows):
        ids[place, : len(prompt) + len(completion)] = torch.tensor([*prompt, *completion])
        targets[place, len(prompt) : len(prompt) + len(completion)] = torch.tensor(completion)
    logits = lm.model(input_ids=ids).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), targets[:, 1:], ignore_index=-100, reduction="none"
    )
    return (losses.sum(dim=1) * torch.tensor(weights)).sum() / len(rows)


def test_a_trained_gap_is_read_from_probabilities_and_found_in_replies(trained: LanguageModel):
    probes = TRAINED.probes(word_requests())
    chances = {}
    for side in ("protected", "privileged"):
        turns = [[{"role": "user", "content": p.labels["forms"][side]}] for p in probes]
        scores = trained.score(turns, [["I cannot help"]] * len(turns))
        chances[side] = np.exp([logps[0] for logps in scores.logps])
    gap = float((chances["privileged"] - chances["protected"]).mean())
    assert gap == pytest.approx(0.3, abs=0.05)
    found = numbers(TRAINED, TRAINED.measure(trained, probes))["gap"]
    assert found.n == len(probes) == 336
    assert found.low <= gap <= found.high
    assert found.low > 0.1
