"""What the training engine needs to know of an objective, and what an objective is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

Data = Literal["pairs", "labelled", "completions"]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the engine must compute beside the policy's log-probabilities, and nothing else.

    Fields: reference: log-probabilities of the frozen reference (`ref_*`).
            mismatched: `kl`, the scalar KL of policy and reference on completions of other rows
            under this prompt, clamped at 0 and detached, over the whole global batch.
            mean_length: `mean_chosen_length`, a scalar: the mean number of chosen tokens over the
            whole global batch, so that a token mean survives accumulation and many processes.
    """

    reference: bool = False
    mismatched: bool = False
    mean_length: bool = False


class Objective(Protocol):
    """A training loss: a frozen dataclass of hyper-parameters around a pure function.

    The batch holds tensors under the canonical keywords, [B] unless said otherwise:
    pairs        chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, with a reference
                 ref_chosen_logps, ref_rejected_logps; baseline_logps where the data bring it
    labelled     logps, lengths, labels (bool), with a reference ref_logps, and kl (scalar)
    completions  logps, lengths
    *_logps are sums over completion tokens in nats, *_lengths count those tokens.
    """

    name: ClassVar[str]
    data: ClassVar[Data]
    needs: ClassVar[Needs]
    arxiv: ClassVar[str]

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per example, [B], not reduced."""
        ...

    def weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What each example weighs, [B]: a step's loss is sum(weights * loss) / sum(weights).

        Both sums run over the whole global batch; weights depend on lengths and labels only.
        """
        ...


class PairObjective:
    """The part that objectives on pairs share: every pair weighs the same."""

    data: ClassVar[Data] = "pairs"

    def weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        """1 for every pair."""
        return batch["chosen_logps"].detach().new_ones(len(batch["chosen_logps"]))
