"""Supervised fine-tuning: the negative log-likelihood of completions, in its three reductions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from trueup.errors import check_choice
from trueup.objectives.protocol import Data, Needs

Reduction = Literal["token-mean", "sequence-mean", "sum"]


@dataclass(frozen=True, kw_only=True)
class SFT:
    """Supervised fine-tuning: make the given completions likely.

    token-mean     mean over all completion tokens of the batch: long completions weigh more
    sequence-mean  mean over completions of their mean over tokens
    sum            mean over completions of their sum over tokens

    Units:  nats. A coefficient or learning rate found for one reduction does not fit another.
    Fields: reduction as above.
    Source: Ouyang et al. 2022, arXiv 2203.02155, section 3.5; token-mean is what TRL calls "sft".
    """

    reduction: Reduction = "token-mean"
    name: ClassVar[str] = "sft"
    data: ClassVar[Data] = "completions"
    needs: ClassVar[Needs] = Needs()
    arxiv: ClassVar[str] = "2203.02155"

    def __post_init__(self) -> None:
        check_choice(("token-mean", "sequence-mean", "sum"), reduction=self.reduction)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per completion, [B]: its mean over tokens, or its sum."""
        return sft_loss(
            logps=batch["logps"], lengths=batch["lengths"], per_token=self.reduction != "sum"
        )

    def weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Lengths for the token mean, else 1, [B]."""
        lengths = batch["lengths"].to(batch["logps"].dtype)
        return lengths if self.reduction == "token-mean" else lengths.new_ones(len(lengths))


def sft_loss(*, logps: Tensor, lengths: Tensor, per_token: bool = True) -> Tensor:
    """-logps, over lengths if `per_token`; [B] in, [B] out; an empty completion costs 0."""
    return -logps / lengths.clamp(min=1) if per_token else -logps
