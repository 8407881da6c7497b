"""CycleAlign: imitate a black-box ranker's order of own samples, and tell it where both agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from trueup.errors import UserError, check_at_least, check_choice, check_positive
from trueup.objectives.protocol import Data, Needs

RankingLoss = Literal["rrhf", "pro"]
# Weights of the likelihood term, as recalled from RRHF and from PRO for two responses.
SFT_WEIGHTS: dict[RankingLoss, float] = {"rrhf": 1.0, "pro": 0.05}


@dataclass(frozen=True, kw_only=True)
class CycleAlign:
    """CycleAlign: a ranking loss on own samples, in the order that a black-box ranker gives them.

    p_ij  = log pi(sample_ij) / length_ij
    rrhf  : loss_i = sum over pairs, j ranked above k, of max(0, p_ik - p_ij) + sft_weight * nll_i
    pro   : loss_i = -sum over ranks m of log softmax(spread * p_i)_m among ranks m and below
                     + sft_weight * nll_i
    nll_i = -log pi(best ranked sample of i)

    A round's agreement is the longest common subsequence of the ranker's order and the policy's
    own, by p; two responses and more of it make the ranker's next demonstration.

    Units:  p in nats per token, nll in nats, a sum over tokens.
    Fields: samples K >= 2, 3 to 6; sft_weight >= 0, None for 1 with rrhf and 0.05 with pro;
            spread > 0 widens the small differences of pro, and stays 1 with rrhf.
    Edges:  a rank of -1, which stands behind the others, counts nothing; a row with fewer than two
            ranks weighs 0; equal p have no gradient in rrhf, and a right order none but nll's.
    Raises: UserError where a field leaves its range.
    Use:    some thousand prompts, no labels, a strong ranker behind an endpoint, which the
            demonstrations improve over about five cycles.
    Not:    scores or pairs are at hand (DPO, RAFT); samples of a prompt have become equal.
    Source: Hong et al. 2023, arXiv 2310.16271, whose code is not public; the losses are RRHF's and
            PRO's. Reconstructed: the longest common subsequence as the agreement, K, the weights.
    """

    samples: int = 4
    ranking_loss: RankingLoss = "rrhf"
    sft_weight: float | None = None
    spread: float = 1.0
    name: ClassVar[str] = "cyclealign"
    data: ClassVar[Data] = "samples"
    source: ClassVar[str] = "prompts"
    needs: ClassVar[Needs] = Needs(ranking=True)
    arxiv: ClassVar[str] = "2310.16271"

    def __post_init__(self) -> None:
        check_at_least(2, samples=self.samples)
        check_choice(SFT_WEIGHTS, ranking_loss=self.ranking_loss)
        if self.sft_weight is not None:
            check_at_least(0, sft_weight=self.sft_weight)
        check_positive(spread=self.spread)
        if self.ranking_loss == "rrhf" and self.spread != 1:
            raise UserError(
                f"spread must be 1 with ranking_loss rrhf, got {self.spread}; pro has one"
            )

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per prompt, [B]."""
        default = SFT_WEIGHTS[self.ranking_loss]
        sft_weight = default if self.sft_weight is None else self.sft_weight
        logps, lengths, ranking = (
            batch[name] for name in ("sample_logps", "sample_lengths", "ranking")
        )
        if self.ranking_loss == "rrhf":
            return rrhf_loss(
                sample_logps=logps, sample_lengths=lengths, ranking=ranking, sft_weight=sft_weight
            )
        return pro_loss(
            sample_logps=logps,
            sample_lengths=lengths,
            ranking=ranking,
            sft_weight=sft_weight,
            temperature=self.spread,
        )

    def weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        """1 for a prompt whose samples were ranked, 0 for one that was skipped."""
        ranked = (batch["ranking"] >= 0).sum(dim=-1) >= 2
        return ranked.to(batch["sample_lengths"].dtype)

    def collected(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`ranking` and `agreement`, [B, K] sample numbers, best first, -1 behind the last.

        Given: black_box_ranking [B, K], the ranker's, -1 for what it did not rank.
        """
        ranking = counted_ranking(batch["black_box_ranking"], batch["sample_mask"])
        likely = _per_token(batch["sample_logps"], batch["sample_lengths"])
        own = likely.argsort(dim=-1, descending=True, stable=True)
        agreement = torch.full_like(ranking, -1)
        for row, (ranked, sorted_) in enumerate(zip(ranking.tolist(), own.tolist(), strict=True)):
            common = agreement_ranking([one for one in ranked if one >= 0], sorted_)
            agreement[row, : len(common)] = ranking.new_tensor(common)
        return {"ranking": ranking, "agreement": agreement}


def rrhf_loss(
    *,
    sample_logps: Tensor,
    sample_lengths: Tensor,
    ranking: Tensor,
    sft_weight: float = 1.0,
) -> Tensor:
    """RRHF's formula on plain tensors, [B, K] in, [B] out; symbols as in `CycleAlign`."""
    ranked = _ranked(_per_token(sample_logps, sample_lengths), ranking)
    counts = ranking >= 0
    gaps = ranked[:, None, :] - ranked[:, :, None]  # [B, better, worse]
    pairs = (counts[:, :, None] & counts[:, None, :]).triu(1)
    order = gaps.relu().masked_fill(~pairs, 0).sum(dim=(1, 2))
    return order + sft_weight * _nll(sample_logps, ranking)


def pro_loss(
    *,
    sample_logps: Tensor,
    sample_lengths: Tensor,
    ranking: Tensor,
    sft_weight: float = 0.05,
    temperature: float = 1.0,
) -> Tensor:
    """PRO's formula, Plackett-Luce, on plain tensors, [B, K] in, [B] out; as in `CycleAlign`."""
    ranked = _ranked(temperature * _per_token(sample_logps, sample_lengths), ranking)
    counts = ranking >= 0
    below = counts[:, None, :].expand(-1, counts.shape[-1], -1).triu()  # [B, rank, rank]
    lowest = torch.finfo(ranked.dtype).min
    rivals = ranked[:, None, :].masked_fill(~below, lowest).logsumexp(dim=-1)
    order = (rivals - ranked).masked_fill(~counts, 0).sum(dim=-1)  # the last rank has no rival: 0
    return order + sft_weight * _nll(sample_logps, ranking)


def agreement_ranking(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """The longest common subsequence of two rankings, best first; of several a's earliest.

    Edges: what stands in one ranking only is left out. Of several that are longest, the one whose
           positions in `a` come first in lexicographic order.
    """
    place = {one: number for number, one in enumerate(b)}
    common = [one for one in a if one in place]
    longest = [1] * len(common)  # of a subsequence that starts here
    for i in reversed(range(len(common))):
        after = [
            longest[j] for j in range(i + 1, len(common)) if place[common[j]] > place[common[i]]
        ]
        longest[i] = 1 + max(after, default=0)
    found: list[int] = []
    wanted = max(longest, default=0)
    for one, length in zip(common, longest, strict=True):
        if length == wanted and (not found or place[one] > place[found[-1]]):
            found.append(one)
            wanted -= 1
    return found


def counted_ranking(ranking: Tensor, sample_mask: Tensor) -> Tensor:
    """The rankings without samples that do not count, closed up, -1 behind; [B, K].

    Edges: a row that ranks fewer than two is -1 throughout.
    """
    counts = (ranking >= 0) & sample_mask.bool().gather(-1, ranking.clamp(min=0))
    counts &= counts.sum(dim=-1, keepdim=True) >= 2
    order = (~counts).to(torch.int8).argsort(dim=-1, stable=True)
    return ranking.masked_fill(~counts, -1).gather(-1, order)


def _per_token(sample_logps: Tensor, sample_lengths: Tensor) -> Tensor:
    return sample_logps / sample_lengths.clamp(min=1)


def _ranked(values: Tensor, ranking: Tensor) -> Tensor:
    """The values in the ranker's order, any value where nothing is ranked."""
    return values.gather(-1, ranking.clamp(min=0))


def _nll(sample_logps: Tensor, ranking: Tensor) -> Tensor:
    """Minus the log-probability of the best sample, 0 where nothing is ranked, [B]."""
    best = _ranked(sample_logps, ranking[:, :1])
    return -best.masked_fill(ranking[:, :1] < 0, 0)[:, 0]
