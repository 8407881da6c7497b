"""What the training engine needs to know of an objective, and what an objective is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

Data = Literal[
    "pairs",
    "routed",
    "anchored",
    "traces",
    "labelled",
    "completions",
    "scored",
    "dispreferred",
    "samples",
    "imitated",
    "demonstrations",
]
ROLES: dict[Data, tuple[str, ...]] = {
    "pairs": ("chosen", "rejected"),
    "routed": ("chosen", "rejected"),
    "anchored": ("chosen", "rejected", "baseline"),
    "traces": ("chosen", "rejected", "empty_chosen", "empty_rejected"),
    "labelled": ("",),
    "completions": ("",),
    "scored": ("",),
    "dispreferred": ("rejected", "sample"),
    "samples": ("sample",),
    "imitated": ("chosen", "sample"),
    "demonstrations": ("sequence", "sample"),
}
MANY: dict[Data, str] = {"dispreferred": "sample", "samples": "sample", "demonstrations": "sample"}


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the engine must compute beside the policy's log-probabilities, and nothing else.

    Fields: reference: log-probabilities of the frozen reference (`ref_*`).
            mismatched: `kl`, the scalar KL of policy and reference on completions of other rows
            under this prompt, clamped at 0 and detached, over the whole global batch.
            mean_length: `mean_ROLE_length`, scalars: the mean number of tokens per role over the
            whole global batch, so that a token mean survives accumulation and many processes.
            whole_batch: the examples of a batch depend on one another; `loss` is given the whole
            global batch at once, however it is cut for the model.
            rewards: `rewards` [B, K] of own samples, from a reward that the user gives.
            ranking: `black_box_ranking` [B, K], sample numbers best first, from a ranker that the
            user gives; -1 for what was not ranked.
            teacher: the token-level divergence from a frozen teacher, `ROLE_teacher_kl` [B], sums
            over the completion of KL(teacher || policy).
            advantage: with a teacher and its reference, `sample_advantage` [B]: sums over the
            sample's positions of E_policy[log teacher - log reference teacher].
    """

    reference: bool = False
    mismatched: bool = False
    mean_length: bool = False
    whole_batch: bool = False
    rewards: bool = False
    ranking: bool = False
    teacher: bool = False
    advantage: bool = False


class Objective(Protocol):
    """A training loss: a frozen dataclass of hyper-parameters around a pure function.

    `data` names what an example is made of; its roles (`ROLES`) name the tensors of the batch:
    ROLE_logps sums over completion tokens in nats, ROLE_lengths counts those tokens, with a
    reference ref_ROLE_logps; all [B], or [B, K] for a role that has many completions (`MANY`).
    pairs           chosen, rejected
    routed          the same, with objective_ids [B], the number of the pair's own objective
    anchored        chosen, rejected, baseline: a sample of another policy, to stay likely
    traces          chosen, rejected, empty_chosen, empty_rejected; trace_mask and empty_mask [B]
    labelled        logps, lengths, labels (bool), and kl (scalar); density_weights [B] where the
                    rows bring them
    completions     logps, lengths
    scored          the same, with mean_ref_logps [B], per token, averaged over scoring models
    dispreferred    rejected, and sample [B, K] with sample_mask [B, K]
    samples         sample [B, K] with sample_mask, proposal_logps [B, K], and what `collected` made
    imitated        chosen, and sample [B], one of the policy's own
    demonstrations  sequence [B], and sample [B, K], the target after K sets of demonstrations
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


@runtime_checkable
class Stateful(Protocol):
    """An objective with running quantities; the engine holds them and saves them in checkpoints.

    Such an objective needs `whole_batch`: its state changes once per optimiser step.
    """

    def start(self) -> dict[str, float]:
        """The state before the first step."""
        ...

    def advance(
        self, state: Mapping[str, float], batch: Mapping[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The state after seeing the batch (all detached), and the scalars that `loss` reads.

        In evaluation the engine drops the new state.
        """
        ...


@runtime_checkable
class Collecting(Protocol):
    """An objective that trains on the policy's own samples.

    Fields: source is the contract of the user's rows (`prompts`, `dispreferred`, ...); samples is
            how many completions are drawn for each prompt, K.
    """

    source: ClassVar[str]

    @property
    def samples(self) -> int:
        """K."""
        ...

    def collected(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a round's samples teach, from tensors without gradient: kept for its updates.

        Given: sample_logps [B, K] of the policy that sampled, sample_lengths, sample_mask (False:
        an empty sample), and as declared in `needs` ref_sample_logps, rewards.
        Gives: further tensors [B, ...] that `loss` finds in its batch; `keep` [B, K] bool, where
        it is given, says which samples become the examples of an objective on `completions`.
        """
        ...


class Unweighted:
    """The part that objectives share in which every example weighs the same."""

    data: ClassVar[Data]

    def weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        """1 for every example."""
        lengths = batch[first_lengths(self.data)]
        return lengths.new_ones(len(lengths))


class PairObjective(Unweighted):
    """The same for pairs."""

    data: ClassVar[Data] = "pairs"


def first_lengths(data: Data) -> str:
    """The keyword under which the lengths of the first role stand."""
    role = ROLES[data][0]
    return f"{role}_lengths" if role else "lengths"
