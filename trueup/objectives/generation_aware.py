"""Generation-aware alignment: own replies at many decoding settings, told apart by a tag."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from trueup.errors import check_choice
from trueup.objectives.protocol import Data, Needs, Unweighted

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True, kw_only=True)
class GenerationAware(Unweighted):
    """Generation-aware alignment: learn aligned and misaligned replies, each behind its own tag.

    L = - mean over aligned (p, r) of log P(r | p, aligned tag)
        - mean over misaligned (p, r) of log P(r | p, misaligned tag)
    Both likelihoods rise: what parts the two kinds is the tag, which is put behind the prompt and
    is no target. A user's prompts then get the aligned tag. The replies are the model's own, drawn
    at every decoding setting that users may choose (`trueup.synthesis.generation_aware` draws,
    judges and tags them): the model meets in training what it says at settings that were never
    tested.

    Units:  nats; the mean over a reply's tokens ("mean") or their sum.
    Fields: reduction as above.
    Data:   prompt with its tag, completion, label: true for an aligned reply.
    Edges:  a batch without one of the two kinds has no term for it. Prompts without a tag are not
            trained: in the proof's world their worst rate went from 0.39 to 1.00 while that behind
            the aligned tag went to 0.002.
    Use:    a model whose answers are safe at its default settings and not at others: 95 % of
            attacks at varied settings succeeded before, 69 % after, and 88 % after training on
            replies at the default settings alone (Llama-2-7B-chat, as reviews of the paper report).
    Not:    where no bad reply may ever become likelier: the tagged data hold them as targets. Give
            `preference_rows` to dpo, or `aligned_rows` to sft; both need no tag.
    Source: Huang et al. 2023, arXiv 2310.06987. The token mean, and the mean over each kind within
            a batch, are ours.
    """

    reduction: Reduction = "mean"
    name: ClassVar[str] = "generation-aware"
    data: ClassVar[Data] = "labelled"
    needs: ClassVar[Needs] = Needs(whole_batch=True)
    arxiv: ClassVar[str] = "2310.06987"

    def __post_init__(self) -> None:
        check_choice(get_args(Reduction), reduction=self.reduction)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per reply, [B], whose mean is that of the two kinds added up."""
        return generation_aware_loss(
            logps=batch["logps"],
            lengths=batch["lengths"],
            labels=batch["labels"],
            reduction=self.reduction,
        )


def generation_aware_loss(
    *, logps: Tensor, lengths: Tensor, labels: Tensor, reduction: Reduction = "mean"
) -> Tensor:
    """The formula on plain tensors, [B] in, [B] out.

    loss_b = -(B / n_b) * logps_b, over lengths_b with "mean"; n_b counts the rows of b's kind
    Shapes: logps [B], given the prompt with the tag of the row's kind; lengths, labels [B].
    """
    is_aligned = labels.bool()
    n_aligned = is_aligned.sum()
    counts = torch.where(is_aligned, n_aligned, len(labels) - n_aligned).to(logps.dtype)
    costs = -logps / lengths.clamp(min=1) if reduction == "mean" else -logps
    return len(labels) / counts * costs
