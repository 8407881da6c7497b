"""D2O: sheet 18's numbers, its optimum and lack of one, and unlearning without collapse."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.proofs.chain_world import COMPLETION, PROMPT, VOCABULARY, ChainWorld
from tests.proofs.dpo_family import SUMS, is_close, row, slopes
from trueup.errors import UserError
from trueup.objectives.d2o import D2O, d2o_loss, d2o_optimum
from trueup.objectives.dpo import dpo_loss
from trueup.objectives.logps import sequence_logps
from trueup.objectives.protocol import Collecting
from trueup.worlds.enumerable import minimised

SAMPLED = {
    "sample_logps": torch.stack(
        [row(-10, -12, -9.5, -11), row(-20, -18, -25, -22), row(-5, -5.5, -6, -4)]
    ),
    "ref_sample_logps": torch.stack(
        [row(-10.5, -11, -9.5, -12), row(-19, -18.5, -24, -23), row(-5, -5, -5, -5)]
    ),
    "rejected_logps": row(-15, -14, -7),
    "ref_rejected_logps": row(-13, -15, -7),
}
EVERY = torch.ones(3, 4, dtype=torch.bool)
BATCH = SAMPLED | {"sample_mask": EVERY, "rejected_lengths": row(6, 7, 8)}
COLUMNS = ("sample_logps", "ref_sample_logps")


def columns(index: list[int]) -> dict[str, Tensor]:
    """The batch with some of its samples."""
    return SAMPLED | {name: SAMPLED[name][:, index] for name in COLUMNS}


# a) the sheet's numbers


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        (0.1, 0.1, (0.592531123, 0.750978378, 0.699416712)),
        (0.1, 0.5, (0.570485845, 0.777694336, 0.724885382)),
        (0.5, 0.1, (0.309915250, 0.981876067, 0.699416712)),
    ],
)
def test_losses_are_the_sheets(alpha: float, beta: float, expected: tuple[float, ...]) -> None:
    assert is_close(D2O(alpha=alpha, beta=beta).loss(BATCH), *expected)
    assert is_close(d2o_loss(**SAMPLED, alpha=alpha, beta=beta), *expected)


def test_swapped_coefficients_are_seen() -> None:
    there = d2o_loss(**SAMPLED, alpha=0.1, beta=0.5)
    assert not torch.allclose(there, d2o_loss(**SAMPLED, alpha=0.5, beta=0.1), atol=0.02)


def instance_losses() -> Tensor:
    """DPO of every sample over the rejected answer, [B, K]."""
    return dpo_loss(
        chosen_logps=SAMPLED["sample_logps"],
        ref_chosen_logps=SAMPLED["ref_sample_logps"],
        rejected_logps=SAMPLED["rejected_logps"][:, None],
        ref_rejected_logps=SAMPLED["ref_rejected_logps"][:, None],
        beta=0.1,
    )


def test_group_costs_less_than_its_pairs() -> None:
    pairs = instance_losses().mean(dim=1)
    assert is_close(pairs, 0.593207548, 0.751971142, 0.700100037)
    assert (d2o_loss(**SAMPLED, alpha=0.1, beta=0.1) < pairs).all()


# b) identities


def test_one_sample_is_dpo() -> None:
    found = d2o_loss(
        sample_logps=SUMS["chosen_logps"][:, None],
        ref_sample_logps=SUMS["ref_chosen_logps"][:, None],
        rejected_logps=SUMS["rejected_logps"],
        ref_rejected_logps=SUMS["ref_rejected_logps"],
        alpha=0.1,
        beta=0.1,
    )
    assert torch.allclose(found, dpo_loss(**SUMS, beta=0.1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("index", [[3, 1, 0, 2], [0, 1, 2, 3, 0, 1, 2, 3]])
def test_order_and_copies_of_the_samples_change_nothing(index: list[int]) -> None:
    found = d2o_loss(**columns(index), alpha=0.1, beta=0.5)
    assert torch.allclose(found, d2o_loss(**SAMPLED, alpha=0.1, beta=0.5), rtol=0, atol=1e-14)


def test_a_masked_sample_is_as_if_absent() -> None:
    mask = EVERY.clone()
    mask[:, 2] = False
    given = {name: SAMPLED[name].clone() for name in SAMPLED}
    given["sample_logps"][:, 2] = -math.inf  # an empty sample has no log-probability
    found = d2o_loss(**given, sample_mask=mask, alpha=0.1, beta=0.5)
    expected = d2o_loss(**columns([0, 1, 3]), alpha=0.1, beta=0.5)
    assert torch.allclose(found, expected, rtol=0, atol=1e-14)


def test_dividing_by_the_nominal_number_would_be_seen() -> None:
    mask = EVERY.clone()
    mask[:, 2] = False
    zeroed = {
        name: torch.where(mask, SAMPLED[name], 0) if name in COLUMNS else SAMPLED[name]
        for name in SAMPLED
    }
    nominal = d2o_loss(**zeroed, alpha=0.1, beta=0.5)
    found = d2o_loss(**SAMPLED, sample_mask=mask, alpha=0.1, beta=0.5)
    assert not torch.allclose(nominal[:2], found[:2], atol=1e-3)


def test_a_row_without_samples_weighs_nothing() -> None:
    mask = EVERY.clone()
    mask[1] = False
    batch = BATCH | {"sample_mask": mask}
    assert torch.equal(D2O().weights(batch), row(1, 0, 1))
    assert torch.isfinite(D2O().loss(batch)).all()


def test_samples_are_collected_without_further_columns() -> None:
    assert isinstance(D2O(), Collecting)
    assert D2O().collected(BATCH) == {}


# c, g) gradients


def test_gradients_are_the_sheets() -> None:
    own = SAMPLED["sample_logps"].clone().requires_grad_(True)
    rejected = SAMPLED["rejected_logps"].clone().requires_grad_(True)
    given = SAMPLED | {"sample_logps": own, "rejected_logps": rejected}
    to_own, to_rejected = slopes(d2o_loss(**given, alpha=0.1, beta=0.5), own, rejected)
    weight = row(0.434749252, 0.540535839, 0.515619916)
    assert is_close(to_own[0], *[-0.054343657] * 4)
    assert torch.allclose(to_own, (-0.5 / 4 * weight)[:, None].expand(3, 4), atol=1e-9)
    assert is_close(to_rejected, 0.043474925, 0.054053584, 0.051561992)


def test_gradients_pass_gradcheck_with_a_mask() -> None:
    mask = EVERY.clone()
    mask[0, 1] = mask[2, 3] = False
    inputs = [
        SAMPLED[name].clone().requires_grad_(True) for name in ("sample_logps", "rejected_logps")
    ]

    def of(own: Tensor, rejected: Tensor) -> Tensor:
        given = SAMPLED | {"sample_logps": own, "rejected_logps": rejected}
        return d2o_loss(**given, sample_mask=mask, alpha=0.1, beta=0.5)

    assert torch.autograd.gradcheck(of, inputs)


def test_the_reference_itself_costs_ln_two_and_weighs_half() -> None:
    rejected = SAMPLED["ref_rejected_logps"].clone().requires_grad_(True)
    given = SAMPLED | {
        "sample_logps": SAMPLED["ref_sample_logps"],
        "rejected_logps": rejected,
    }
    found = d2o_loss(**given, alpha=0.3, beta=0.1)
    assert torch.allclose(found, row(math.log(2)).expand(3), atol=1e-15)
    (slope,) = slopes(found, rejected)
    assert torch.allclose(slope, row(0.3 / 2).expand(3), atol=1e-15)


# d, e) one prompt, four responses, the first one rejected

REF = row(0.4, 0.3, 0.2, 0.1)
TEN = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])  # ten samples in the reference's proportions


def expected_loss(logits: Tensor, alpha: float, beta: float) -> Tensor:
    """The loss with the exact expectation over the reference's samples."""
    logps, ref_logps = logits.log_softmax(-1), REF.log()
    return d2o_loss(
        sample_logps=logps[None, TEN],
        ref_sample_logps=ref_logps[None, TEN],
        rejected_logps=logps[:1],
        ref_rejected_logps=ref_logps[:1],
        alpha=alpha,
        beta=beta,
    ).sum()


def test_optimum_is_the_sheets() -> None:
    found = d2o_optimum(REF, 0, alpha=0.1, beta=1.0)
    assert is_close(found, 0.333333333, 0.333333333, 0.222222222, 0.111111111)
    assert is_close(expected_loss(found.log(), 0.1, 1.0), 0.688896333)


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 1.0), (0.3, 1.0), (0.05, 0.5)])
def test_training_reaches_the_optimum(alpha: float, beta: float) -> None:
    found = minimised(lambda logits: expected_loss(logits, alpha, beta), REF.log()).softmax(-1)
    assert torch.allclose(found, d2o_optimum(REF, 0, alpha, beta), rtol=0, atol=1e-8)
    assert torch.allclose(found[1:] / found[1:].sum(), REF[1:] / REF[1:].sum(), atol=1e-7)


def test_a_wrong_sign_misses_the_optimum() -> None:
    def wrong(logits: Tensor) -> Tensor:
        return expected_loss(logits, -0.1, 1.0)

    found = minimised(wrong, REF.log()).softmax(-1)
    assert float(found[0]) > 0.4 > float(d2o_optimum(REF, 0, 0.1, 1.0)[0])


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.1), (0.4, 1.0), (0.5, 0.1)])
def test_too_much_dispreference_has_no_optimum(alpha: float, beta: float) -> None:
    with pytest.raises(UserError, match=r"alpha must be below beta \* ref\(rejected\)"):
        d2o_optimum(REF, 0, alpha, beta)


def test_equal_coefficients_have_no_restoring_force() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        logits = torch.randn(4, generator=generator, dtype=torch.float64).requires_grad_(True)
        loss = expected_loss(logits, 0.1, 0.1)
        argument = -torch.expm1(loss).log()  # loss = log(1 + exp(-argument))
        (slope,) = torch.autograd.grad(argument, logits)
        assert is_close(slope, -0.06, 0.03, 0.02, 0.01)


def test_long_training_at_equal_coefficients_sharpens() -> None:
    logits, found = REF.log().requires_grad_(True), {}
    for step in range(1, 501):
        (slope,) = torch.autograd.grad(expected_loss(logits, 0.1, 0.1), logits)
        logits = (logits - slope).detach().requires_grad_(True)
        found[step] = logits.detach().softmax(-1)
    assert is_close(found[100], 0.012350888, 0.638578541, 0.265980805, 0.083089766)
    assert is_close(found[500], 5.4e-8, 0.901394759, 0.091620715, 0.006984472)


# f) a transformer unlearns a token

BAD, STEPS, SAMPLES = 5, 40, 6


def has_bad(ids: Tensor) -> Tensor:
    return (ids[:, PROMPT:] == BAD).any(dim=1)


def bad_share(ids: Tensor) -> float:
    """How many completion tokens are the bad one."""
    return float((ids[:, PROMPT:] == BAD).float().mean())


def sums(model: torch.nn.Module, ids: Tensor) -> Tensor:
    mask = (torch.arange(PROMPT + COMPLETION) >= PROMPT).expand(ids.shape)
    return sequence_logps(logits=model(ids).logits, ids=ids, completion_mask=mask).logps


class Unlearning:
    """Negatives among samples of a chain world, own samples under their prompts, fresh samples."""

    def __init__(self, seed: int) -> None:
        self.world = ChainWorld(seed, n_pairs=400)
        drawn = self.world.ids[:400]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.negatives = drawn[has_bad(drawn)][:40]
            prompts = self.negatives[:, :PROMPT].repeat_interleave(SAMPLES, dim=0)
            self.samples = self.world.continued(prompts, COMPLETION)
            noise = torch.randint(VOCABULARY - 1, (len(self.negatives), COMPLETION))
            noise += noise >= BAD  # any token but the bad one
            self.noise = torch.cat([self.negatives[:, :PROMPT], noise], dim=1)
        fresh = self.sampled(self.world.reference)
        self.share, self.clean = bad_share(fresh), fresh[~has_bad(fresh)]
        self.nll = self.clean_nll(self.world.reference)

    def clean_nll(self, model: torch.nn.Module) -> float:
        """Negative log-likelihood per token of the reference's samples without the bad token."""
        with torch.no_grad():
            return -float(sums(model, self.clean).mean()) / COMPLETION

    def sampled(self, model: torch.nn.Module) -> Tensor:
        """Fresh samples, under the same prompts and random numbers for every model."""
        sampling = copy.copy(self.world)  # `continued` samples from the world's own model
        sampling.reference = model
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return sampling.continued(sampling.chains(500, PROMPT), COMPLETION)

    def trained(self, loss: Callable[[Tensor, Tensor], Tensor], negatives: Tensor) -> list[float]:
        """The bad token's share in fresh samples, and the rise of the clean samples' NLL."""
        model = copy.deepcopy(self.world.reference).requires_grad_(True)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
        ids = torch.cat([negatives, self.samples])
        ref_logps = sums(self.world.reference, ids)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss(sums(model, ids), ref_logps).backward()
            optimizer.step()
        return [bad_share(self.sampled(model)), self.clean_nll(model) - self.nll]

    def d2o(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        n = len(self.negatives)
        batch = {
            "rejected_logps": logps[:n],
            "ref_rejected_logps": ref_logps[:n],
            "sample_logps": logps[n:].unflatten(0, (n, SAMPLES)),
            "ref_sample_logps": ref_logps[n:].unflatten(0, (n, SAMPLES)),
            "sample_mask": torch.ones(n, SAMPLES, dtype=torch.bool),
        }
        return D2O().loss(batch).mean()

    def ascent(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        return logps[: len(self.negatives)].mean() / COMPLETION


@pytest.mark.parametrize("seed", [0, 1])
def test_a_transformer_unlearns_a_token_and_keeps_the_rest(seed: int) -> None:
    case = Unlearning(seed)
    share, rise = case.trained(case.d2o, case.negatives)
    _, collapse = case.trained(case.ascent, case.negatives)
    assert share < 0.2 * case.share
    assert rise < 0.6
    assert rise < 0.5 * collapse
    unrelated, _ = case.trained(case.d2o, case.noise)
    assert unrelated > 0.6 * case.share  # nothing about the token to learn there
