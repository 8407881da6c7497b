"""CycleAlign: sheet 66's numbers, rankings by brute force, a planted judge, a random one."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor

from tests.proofs.dpo_family import is_close, row
from trueup.errors import UserError
from trueup.judging.ranking import Demonstration, DemoPool, rank_with
from trueup.objectives.cyclealign import (
    CycleAlign,
    agreement_ranking,
    counted_ranking,
    pro_loss,
    rrhf_loss,
)

LOGPS = row(-6, -2.1, -10, -4.5)[None]
LENGTHS = row(5, 3, 5, 3)[None]
P = row(-1.2, -0.7, -2.0, -1.5)[None]
ONES = torch.ones_like(P)
JUDGES, OWN = torch.tensor([[2, 0, 3, 1]]), torch.tensor([[1, 0, 3, 2]])

losses = pytest.mark.parametrize("loss", [rrhf_loss, pro_loss])


def of(loss: Callable[..., Tensor], p: Tensor, ranking: Tensor, **fields: float) -> Tensor:
    """The ranking term alone, for given means per token."""
    given = {"sample_logps": p, "sample_lengths": torch.ones_like(p), "ranking": ranking}
    return loss(**given, **({"sft_weight": 0.0} | fields))


# 8.1: where two rankings agree


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([2, 0, 3, 1], [1, 0, 3, 2], [0, 3]),
        ([2, 0, 3, 1], [2, 0, 3, 1], [2, 0, 3, 1]),
        ([2, 0, 3, 1], [1, 3, 0, 2], [2]),
        ([1, 2, 0, 3], [2, 1, 0, 3], [1, 0, 3]),
        ([2, 0], [3, 0, 1, 2], [2]),
        ([], [0, 1], []),
    ],
)
def test_agreement_is_the_sheets(a: list[int], b: list[int], expected: list[int]) -> None:
    assert agreement_ranking(a, b) == expected


def fewest_moves(a: Sequence[int], b: Sequence[int]) -> int:
    """How many items must be taken out and put in elsewhere to turn a into b, breadth first."""
    seen, frontier, moves = {tuple(a)}, {tuple(a)}, 0
    while tuple(b) not in seen:
        moves += 1
        frontier = {
            (*rest[:place], one, *rest[place:])
            for now in frontier
            for one in now
            for rest in [tuple(other for other in now if other != one)]
            for place in range(len(now))
        } - seen
        seen |= frontier
    return moves


def test_agreement_is_the_brute_force_one_for_all_rankings_of_four() -> None:
    lengths = []
    for a, b in itertools.product(itertools.permutations(range(4)), repeat=2):
        common = [
            places
            for size in range(5)
            for places in itertools.combinations(range(4), size)
            if sorted(b.index(a[place]) for place in places)
            == [b.index(a[place]) for place in places]
        ]
        longest = max(len(places) for places in common)
        earliest = min(places for places in common if len(places) == longest)
        found = agreement_ranking(a, b)
        assert found == [a[place] for place in earliest]
        assert len(found) == 4 - fewest_moves(a, b)
        lengths.append(len(found))
    assert sum(lengths) / len(lengths) == pytest.approx(58 / 24)


def test_agreement_is_no_substring() -> None:
    assert agreement_ranking([0, 1, 2, 3], [0, 3, 1, 2]) == [0, 1, 2]
    assert agreement_ranking([0, 1, 2, 3, 4], [0, 3, 2, 1, 4]) == [0, 1, 4]


# 8.2, 8.3: the losses


@pytest.mark.parametrize(
    ("loss", "ranking", "expected"),
    [
        (rrhf_loss, JUDGES, 3.9),
        (pro_loss, JUDGES, 4.5369723850),
        (rrhf_loss, OWN, 0.0),
        (pro_loss, OWN, 2.1032233835),
    ],
)
def test_losses_are_the_sheets(
    loss: Callable[..., Tensor], ranking: Tensor, expected: float
) -> None:
    assert is_close(of(loss, P, ranking), expected)
    given = {"sample_logps": LOGPS, "sample_lengths": LENGTHS, "ranking": ranking}
    assert is_close(loss(**given, sft_weight=0.0), expected)


def test_pro_of_two_is_the_logistic_loss_of_their_gap() -> None:
    found = of(pro_loss, row(-1.2, -0.7)[None], torch.tensor([[0, 1]]))
    assert is_close(found, 0.9740769842)
    assert is_close(found, math.log1p(math.exp(0.5)), tolerance=1e-12)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (CycleAlign(), 3.9 + 10),
        (CycleAlign(sft_weight=0.3), 3.9 + 3),
        (CycleAlign(ranking_loss="pro"), 4.5369723850 + 0.5),
        (CycleAlign(ranking_loss="pro", sft_weight=0.0), 4.5369723850),
    ],
)
def test_the_best_samples_sum_joins_with_its_own_weight(
    objective: CycleAlign, expected: float
) -> None:
    batch = {"sample_logps": LOGPS, "sample_lengths": LENGTHS, "ranking": JUDGES}
    assert is_close(objective.loss(batch), expected)


def test_temperature_widens_pros_differences() -> None:
    found = of(pro_loss, P, JUDGES, temperature=3.0)
    assert is_close(found, float(of(pro_loss, 3 * P, JUDGES)), tolerance=1e-12)


# 8.4: identities


def test_equal_samples_cost_the_logarithm_of_all_orders_or_nothing() -> None:
    for ranking in itertools.permutations(range(4)):
        ids = torch.tensor([ranking])
        assert is_close(of(pro_loss, 0 * P - 1, ids), 3.1780538303)
        assert is_close(of(rrhf_loss, 0 * P - 1, ids), 0.0)


@losses
def test_a_constant_on_all_samples_changes_nothing(loss: Callable[..., Tensor]) -> None:
    assert torch.allclose(of(loss, P + 7, JUDGES), of(loss, P, JUDGES), atol=1e-12)


@losses
def test_renaming_the_samples_changes_nothing(loss: Callable[..., Tensor]) -> None:
    names = torch.tensor([3, 1, 0, 2])  # the old name of each new sample
    renamed = torch.argsort(names)[JUDGES]
    assert torch.allclose(of(loss, P[:, names], renamed), of(loss, P, JUDGES), atol=1e-12)
    assert not torch.allclose(of(loss, P[:, names], JUDGES), of(loss, P, JUDGES), atol=0.1)


def test_pro_is_positive_and_vanishes_only_with_wide_gaps() -> None:
    found = [float(of(pro_loss, scale * P, OWN)) for scale in (0.0, 1.0, 10.0, 100.0)]
    assert found == sorted(found, reverse=True)
    assert found[2] > 0
    assert found[3] == pytest.approx(0, abs=1e-12)


# 8.5: gradients


@losses
def test_gradients_pass_gradcheck(loss: Callable[..., Tensor]) -> None:
    ranking = torch.tensor([[2, 0, 3, 1], [1, 0, -1, -1], [-1, -1, -1, -1]])
    p = P.expand(3, 4).clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: of(loss, x, ranking, sft_weight=0.7), (p,))


@losses
def test_gradient_lifts_the_best_and_lowers_the_likely_worst(loss: Callable[..., Tensor]) -> None:
    p = P.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(of(loss, p, JUDGES).sum(), p)
    assert slope[0, 1] > 0 > slope[0, 2]
    assert float(slope.sum()) == pytest.approx(0, abs=1e-12)


def test_a_right_order_and_a_tie_have_no_gradient_in_rrhf() -> None:
    for values, ranking in ((P, OWN), (0 * P, JUDGES)):
        p = values.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(of(rrhf_loss, p, ranking).sum(), p)
        assert torch.equal(slope, 0 * P)


# 8.6: peers


def test_rrhf_of_two_is_torchs_margin_ranking_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    peer = torch.nn.MarginRankingLoss(margin=0, reduction="none")
    expected = peer(p[:, 1], p[:, 0], torch.ones(50))
    ranking = torch.tensor([[1, 0]]).expand(50, 2)
    assert torch.allclose(of(rrhf_loss, p, ranking), expected, atol=1e-15)


def test_pro_is_minus_the_log_probability_of_a_plackett_luce_draw() -> None:
    """A race of exponential clocks with rates exp(p) ends in each order as often as exp(-loss)."""
    generator = torch.Generator().manual_seed(0)
    p, races = row(0.3, -0.5, 0.1), 200_000
    times = torch.rand(races, 3, generator=generator, dtype=torch.float64).log() / -p.exp()
    orders = times.argsort(dim=1)
    total = 0.0
    for order in itertools.permutations(range(3)):
        share = float((orders == torch.tensor(order)).all(dim=1).double().mean())
        probability = float((-of(pro_loss, p[None], torch.tensor([order]))).exp())
        assert share == pytest.approx(probability, abs=0.005)  # 4.5 sd and more
        total += probability
    assert total == pytest.approx(1, abs=1e-12)


# what was not ranked


@losses
def test_samples_without_a_rank_count_nothing(loss: Callable[..., Tensor]) -> None:
    part = of(loss, P, torch.tensor([[2, 0, -1, -1]]), sft_weight=0.7)
    alone = of(loss, P[:, [2, 0]], torch.tensor([[0, 1]]), sft_weight=0.7)
    assert torch.allclose(part, alone, atol=1e-12)
    assert is_close(of(loss, P, torch.full((1, 4), -1), sft_weight=0.7), 0.0)


def test_masked_samples_leave_the_ranking() -> None:
    ranking = torch.tensor([[2, 0, 3, 1], [2, 0, 3, 1], [-1, -1, -1, -1], [3, 1, -1, -1]])
    mask = torch.tensor([[True, True, False, True], [False, True, False, False]])
    mask = torch.cat([mask, torch.ones(2, 4, dtype=torch.bool)])
    expected = [[0, 3, 1, -1], [-1, -1, -1, -1], [-1, -1, -1, -1], [3, 1, -1, -1]]
    assert counted_ranking(ranking, mask).tolist() == expected


def test_a_round_keeps_the_judges_order_and_the_agreement() -> None:
    objective = CycleAlign()
    given = {
        "sample_logps": LOGPS.expand(3, 4),
        "sample_lengths": LENGTHS.expand(3, 4),
        "sample_mask": torch.tensor([[True] * 4, [True] * 4, [False] + [True] * 3]),
        "black_box_ranking": torch.tensor([[2, 0, 3, 1], [-1] * 4, [1, 0, 2, -1]]),
    }
    found = objective.collected(given)
    assert found["ranking"].tolist() == [[2, 0, 3, 1], [-1] * 4, [1, 2, -1, -1]]
    assert found["agreement"].tolist() == [[0, 3, -1, -1], [-1] * 4, [1, 2, -1, -1]]
    assert objective.weights(given | found).tolist() == [1, 0, 1]


# 8.7, 8.8: a planted judge


CYCLES, PROMPTS, K, TOKENS, WANTED = 5, 30, 4, 16, 7


@functools.cache
def cycles(objective: CycleAlign, judge: str, seed: int) -> tuple[list[float], ...]:
    """Mean count of the wanted token, Kendall's tau and agreement length, per cycle."""
    generator = torch.Generator().manual_seed(seed)
    tables = 0.3 * torch.randn(K, TOKENS, generator=generator)
    tables.requires_grad_(True)
    optimizer = torch.optim.Adam([tables], lr=0.05)
    lengths = torch.full((1, K), 4.0)
    history: tuple[list[float], ...] = ([], [], [])
    for _ in range(CYCLES):
        counts, taus, agreed = [], [], []
        for _ in range(PROMPTS):
            logps = tables.log_softmax(-1)
            samples = torch.multinomial(logps.detach().exp(), K, True, generator=generator)
            sums = logps.gather(1, samples).sum(0)[None]  # [1, K]
            count = (samples == WANTED).sum(0)
            ties = torch.rand(K, generator=generator)
            ranking = (count * (judge == "counts") + ties).argsort(descending=True)[None]
            batch = {
                "sample_logps": sums.detach(),
                "sample_lengths": lengths,
                "sample_mask": torch.ones(1, K, dtype=torch.bool),
                "black_box_ranking": ranking,
            }
            batch |= objective.collected(batch) | {"sample_logps": sums}
            places = ranking[0].argsort()
            taus.append(kendalltau(places, -sums[0].detach()).statistic)
            agreed.append(int((batch["agreement"] >= 0).sum()))
            counts.append(float(count.float().mean()))
            optimizer.zero_grad()
            objective.loss(batch).sum().backward()
            optimizer.step()
        for column, values in zip(history, (counts, taus, agreed), strict=True):
            column.append(sum(v for v in values if v == v) / sum(v == v for v in values))
    return history


RRHF, PRO = CycleAlign(), CycleAlign(ranking_loss="pro")
seeds = pytest.mark.parametrize("seed", [0, 1, 2])


@seeds
@pytest.mark.parametrize("objective", [RRHF, PRO])
def test_the_judges_taste_is_learned(objective: CycleAlign, seed: int) -> None:
    counts, taus, agreed = cycles(objective, "counts", seed)
    assert all(later > earlier for earlier, later in itertools.pairwise(counts))
    assert counts[-1] - counts[0] > 1.2
    assert taus[0] < 0.4  # the policy learns within the first cycle already
    assert sum(taus[-2:]) / 2 >= 0.5
    assert agreed[0] < 3.0  # by chance 58 / 24
    assert sum(agreed[-2:]) / 2 >= 3.0


@seeds
def test_a_judge_without_taste_teaches_none(seed: int) -> None:
    counts, taus, agreed = cycles(RRHF, "random", seed)
    assert counts[-1] < 0.6
    assert abs(sum(taus) / CYCLES) <= 0.2
    assert 2.2 <= sum(agreed) / CYCLES <= 2.65


@seeds
def test_the_order_alone_teaches_too_but_more_slowly(seed: int) -> None:
    counts, _, _ = cycles(CycleAlign(sft_weight=0.0), "counts", seed)
    assert counts[0] + 0.1 < counts[-1] < cycles(RRHF, "counts", seed)[0][-1]


# 8.9: the closed loop


def test_the_ranker_sees_what_was_agreed_on_an_earlier_prompt_and_the_static_one() -> None:
    static = Demonstration(prompt="static", responses=("good", "bad"))
    pool = DemoPool(static=[static])
    seen: dict[tuple[int, str], list[Demonstration]] = {}
    responses = ["r0", "r1", "r2", "r3"]
    objective = CycleAlign()
    for cycle in range(2):
        for prompt in ("first", "second"):

            def ranker(
                prompt: object,
                texts: Sequence[str],
                demonstrations: Sequence[Demonstration],
                at: tuple[int, str] = (cycle, prompt),
            ) -> list[int]:
                seen[at] = list(demonstrations)
                return [texts.index(responses[number]) for number in JUDGES[0].tolist()]

            ranking = rank_with(ranker, prompt, responses, pool.shown(prompt), seed=cycle)
            round_ = {
                "sample_logps": LOGPS,
                "sample_lengths": LENGTHS,
                "sample_mask": torch.ones(1, 4, dtype=torch.bool),
                "black_box_ranking": torch.tensor([ranking]),
            }
            agreed = [one for one in objective.collected(round_)["agreement"][0] if one >= 0]
            pool.add(prompt, [responses[one] for one in agreed])
    agreement = ("r0", "r3")
    assert seen[0, "first"] == [static]
    assert seen[0, "second"] == [static, Demonstration(prompt="first", responses=agreement)]
    # its own of the first cycle stays away
    assert seen[1, "first"] == [static, Demonstration(prompt="second", responses=agreement)]


# settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 1}, "samples must be at least 2, got 1"),
        ({"sft_weight": -1.0}, "sft_weight must be at least 0, got -1.0"),
        ({"sft_weight": float("nan")}, "sft_weight must be at least 0, got nan"),
        ({"spread": 0.0}, "spread must be above 0, got 0.0"),
        ({"spread": 2.0}, "spread must be 1 with ranking_loss rrhf, got 2.0"),
        ({"ranking_loss": "dpo"}, "ranking_loss must be one of rrhf, pro, got 'dpo'"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CycleAlign(**fields)
