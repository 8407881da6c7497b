"""CHES: which preference pairs would push their own chosen completion down, told before training.

Also how far likelihoods did move (`displacement_report`), and where the mass went.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from trueup.data import Table, read
from trueup.errors import UserError
from trueup.models import Group, LanguageModel, architecture
from trueup.models.shared_prefix import Packed, buckets, head_inputs, pack, token_logps_from_logits
from trueup.stats import Estimate, mean

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
ROUNDING = 1e-9  # 0.29 * 100 is 28.999999999999996, and 29 rows are meant
COLUMNS = ("ches", "ches_normalized", "last_hidden_similarity")


@dataclass(frozen=True, kw_only=True)
class Ches:
    """Centred hidden embedding similarity: pairs too alike for a preference loss drop out.

    ches       = <S_chosen, S_rejected> - ||S_chosen||^2
    normalized = <S_chosen, S_rejected> / (n_chosen * n_rejected) - ||S_chosen||^2 / n_chosen^2
    S_y        = sum of the hidden states from which the tokens of y are predicted

    The higher, the further ln pi(chosen) is expected to fall; not symmetric in the two sides.
    Units:  those of the output head's input; float32 or better. EOS ends both completions.
    Fields: length_normalize is for filtering, off for pairs of equal length.
    Edges:  two completions of one token each score 0: CHES cannot rank them, see
            `unembedding_displacement`.
    Use:    before DPO, IPO or SLiC on pairs that differ little, such as two refusals; on the very
            checkpoint that will be trained. In the paper: refusal rate 33 % -> above DPO + SFT.
    Not:    to drop 95 % of general data: keep 0.8 to 0.95 there. Nor together with a strong
            likelihood term (`rpo`), which prevents displacement itself.
    Source: Razin et al. 2025, arXiv 2410.08847, definitions 2 and 3. As defined, |y| states per
            completion; the authors' script sums |y| + 1, and masks no padding on the right.
    """

    length_normalize: bool = True
    name: ClassVar[str] = "ches"
    contract: ClassVar[str] = "pairs"
    arxiv: ClassVar[str] = "2410.08847"

    def score(self, lm: LanguageModel, rows: Any) -> Array:
        """One score per pair, [N], from one pass per pair without the output head.

        Fields: rows is anything that `trueup.data.read` takes as pairs.
        Raises: UserError where a pair is longer than the model reads, a prompt has no tokens, or
                the model's head reads something else than its last hidden state.
        """
        return self.of_groups(lm, _groups(lm, read(rows, "pairs")))

    def of_groups(self, lm: LanguageModel, groups: Sequence[Group]) -> Array:
        """The same for pairs of tokens: a prompt with chosen and rejected each."""
        values = _measured(lm, groups)
        return values[:, COLUMNS.index("ches_normalized" if self.length_normalize else "ches")]

    def kept(self, scores: ArrayLike, keep: float) -> list[int]:
        """The rows to train on, as `filter_by_ches`."""
        return filter_by_ches(scores, keep)

    def report(self, lm: LanguageModel, rows: Any) -> "pd.DataFrame":
        """Both scores of every pair beside simpler likenesses, which rank displacement worse.

        Columns: ches, ches_normalized, last_hidden_similarity, edit_distance, chosen_length,
                 rejected_length; lengths in tokens, EOS included.
        """
        import pandas as pd

        groups = _groups(lm, read(rows, "pairs"))
        frame = pd.DataFrame(_measured(lm, groups), columns=[*COLUMNS])
        pairs = [group.completions for group in groups]
        frame["edit_distance"] = [edit_distance(*pair) for pair in pairs]
        frame["chosen_length"] = [len(chosen) for chosen, _ in pairs]
        frame["rejected_length"] = [len(rejected) for _, rejected in pairs]
        return frame


def ches_score(
    chosen_hidden: Tensor,
    chosen_mask: Tensor,
    rejected_hidden: Tensor,
    rejected_mask: Tensor,
    length_normalize: bool = True,
) -> Tensor:
    """CHES of each pair; symbols as in `Ches`.

    Shapes: hidden [B, T, D] as the output head reads them, masks [B, T] True at exactly the |y|
            positions that predict a token of y: the prompt's last to y's last but one -> [B].
    Edges:  masked states may hold anything; a completion without a position: 0, NaN normalized.
    """
    chosen, rejected = _sums(chosen_hidden, chosen_mask), _sums(rejected_hidden, rejected_mask)
    if length_normalize:
        chosen = chosen / chosen_mask.sum(-1, keepdim=True)
        rejected = rejected / rejected_mask.sum(-1, keepdim=True)
    return _score(chosen, rejected)


def last_hidden_similarity(
    chosen_hidden: Tensor, chosen_mask: Tensor, rejected_hidden: Tensor, rejected_mask: Tensor
) -> Tensor:
    """Inner product of the two last states that predict a token, [B]; shapes as `ches_score`."""
    chosen, rejected = _last(chosen_hidden, chosen_mask), _last(rejected_hidden, rejected_mask)
    return (chosen * rejected).sum(-1)


def edit_distance(chosen_ids: Sequence[int], rejected_ids: Sequence[int]) -> float:
    """Levenshtein distance of two token sequences over the longer's length: 0 equal, 1 nothing.

    Edges: 0 where both are empty.
    """
    longest = max(len(chosen_ids), len(rejected_ids))
    other, steps = np.asarray(rejected_ids), np.arange(len(rejected_ids) + 1)
    distances = steps
    for count, token in enumerate(chosen_ids, start=1):
        changed = distances[:-1] + (other != token)
        best = np.concatenate([[count], np.minimum(changed, distances[1:] + 1)])
        distances = np.minimum.accumulate(best - steps) + steps  # tokens put in, at 1 each
    return float(distances[-1]) / longest if longest else 0.0


def filter_by_ches(scores: ArrayLike, keep: float) -> list[int]:
    """Indices of the pairs with the lowest scores, in data order: max(1, floor(keep * N)).

    Fields: keep in (0, 1]: 0.05 in the paper's refusal data, 0.8 to 0.95 for general data.
    Edges:  of equal scores the earlier row stays; NaN is dropped first; no scores, no rows.
    Raises: UserError where keep leaves its range.
    """
    if not 0 < keep <= 1:
        raise UserError(f"keep must be above 0 and at most 1, got {keep}")
    order = np.argsort(np.asarray(scores, dtype=np.float64), kind="stable")
    count = max(1, math.floor(keep * len(order) + ROUNDING))
    return sorted(order[:count].tolist())


def unembedding_displacement(
    unembedding: Tensor, hidden: Tensor, chosen_id: int, rejected_id: int, slope: float
) -> Tensor:
    """How fast every token's ln pi moves when a pair of one-token completions is trained on.

    d/dt ln pi(v) = slope * [<W_v, d> + (1[v = chosen] - 1[v = rejected]) ||h||^2], less its mean
                    over pi;  d = W_chosen - W_rejected
    Gradient flow with free unembeddings W and hidden state h; a token along d gains.

    Shapes: unembedding [V, D], hidden [D] -> [V].
    Fields: slope is -loss' in the difference of log-probabilities: beta / 2 for DPO at its start.
    Source: Razin et al. 2025, arXiv 2410.08847, theorem 1, for all tokens at once.
    """
    towards = unembedding @ (unembedding[chosen_id] - unembedding[rejected_id])
    norm = hidden @ hidden
    towards[chosen_id] += norm
    towards[rejected_id] -= norm
    probabilities = (unembedding @ hidden).softmax(-1)
    return slope * (towards - probabilities @ towards)


@dataclass(frozen=True, kw_only=True)
class Displacement:
    """How far training moved the likelihoods of both sides: mean changes in nats, with intervals.

    Fields: chosen below 0 is likelihood displacement, whatever the margin did.
    """

    chosen: Estimate
    rejected: Estimate

    @property
    def is_displaced(self) -> bool:
        """Whether chosen completions became less likely on average."""
        return self.chosen.value < 0

    def __str__(self) -> str:
        sides = f"chosen {self.chosen.numbers()}  rejected {self.rejected.numbers()}"
        return f"{self.chosen.metric}  {sides}  n={self.chosen.n}"


def displacement_report(
    *,
    chosen_before: ArrayLike,
    chosen_after: ArrayLike,
    rejected_before: ArrayLike,
    rejected_after: ArrayLike,
    level: float = 0.95,
) -> Displacement:
    """Mean change of ln pi(chosen) and of ln pi(rejected) over pairs, with Student's intervals.

    Shapes: sums over completion tokens before and after training, [N] each.
    Edges:  one pair: the interval is undefined.
    """
    return Displacement(
        chosen=_mean_change(chosen_before, chosen_after, "chosen", level),
        rejected=_mean_change(rejected_before, rejected_after, "rejected", level),
    )


def rising_tokens(before: Tensor, after: Tensor, count: int = 10) -> list[tuple[int, float]]:
    """The tokens that training made likelier most, with the mean rise of their probability.

    Shapes: before, after: log-probabilities [N, V] of the next token at the same N positions.
    Edges:  fewer than `count` where fewer rose.
    """
    rise = (after.exp() - before.exp()).mean(0)
    values, ids = rise.topk(min(count, len(rise)))
    return [
        (token, value)
        for token, value in zip(ids.tolist(), values.tolist(), strict=True)
        if value > 0
    ]


def _sums(hidden: Tensor, mask: Tensor) -> Tensor:
    """The masked states summed in float32 or better, [B, T, D] -> [B, D]."""
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    return torch.where(mask[..., None].bool(), wide, 0).sum(-2)


def _score(chosen: Tensor, rejected: Tensor) -> Tensor:
    """<c, r> - <c, c> as <c, r - c>, which loses no digits where the two are close."""
    return (chosen * (rejected - chosen)).sum(-1)


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    """The state at the last True position, [B, T, D] -> [B, D]."""
    places = torch.arange(mask.shape[-1], device=mask.device)
    last = torch.where(mask.bool(), places, 0).amax(-1)
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    return wide[torch.arange(len(wide), device=wide.device), last]


def _mean_change(before: ArrayLike, after: ArrayLike, side: str, level: float) -> Estimate:
    """The mean of after - before with its interval."""
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return mean(change, metric="likelihood-displacement", slice=side, level=level, ideal=0.0)


def _groups(lm: LanguageModel, table: Table) -> list[Group]:
    """The pairs as tokens, as training sees them.

    Raises: UserError with the place of a pair that does not fit, or whose prompt has no tokens.
    """
    groups = lm.encoder.groups(
        [row["prompt"] for row in table],
        [[row["chosen"], row["rejected"]] for row in table],
        add_eos=True,
    )
    for index, group in enumerate(groups):
        longest = len(group.prompt) + max(map(len, group.completions))
        if longest > lm.max_length:
            raise UserError(
                f"{table.place(index)}: prompt and completion have {longest} tokens, but the "
                f"model reads {lm.max_length}; shorten them"
            )
        if not group.prompt:
            raise UserError(f"{table.place(index)}: the prompt has no tokens; write into it")
    return groups


@torch.no_grad()
def _measured(lm: LanguageModel, groups: Sequence[Group]) -> Array:
    """`COLUMNS` of every pair, [N, 3]."""
    values = np.full((len(groups), len(COLUMNS)), np.nan)
    lm.model.eval()
    layout = lm.layout
    families = layout.families(groups)
    trees = [layout.trees([groups[index] for index in family]) for family in families]
    lengths = [sum(map(len, several)) for several in trees]
    parts = buckets(lengths, token_budget=lm.token_budget, floor=layout.bucket_floor)
    for number, part in enumerate(parts):
        packed = pack([tree for row in part for tree in trees[row]], pad_id=lm.pad_id)
        tokens = int(packed.lengths_of_rows.sum())
        lm.work.add(trunk_tokens=tokens, padding_tokens=packed.input_ids.numel() - tokens)
        packed = packed.to(lm.device)
        hidden = head_inputs(lm.model, packed)
        if number == 0 and not layout.splits_head:
            _check_head(lm, packed, hidden)
        values[[index for row in part for index in families[row]]] = _pair_values(packed, hidden)
    return values


def _pair_values(packed: Packed, hidden: Tensor) -> Array:
    """`COLUMNS` of the packed pairs, [P, 3], in their order."""
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    members = wide.new_zeros(len(packed.lengths), len(wide))  # [C, S], a product sums in one order
    members[packed.completion, packed.source] = 1
    sums = (members @ wide).double().cpu()
    last = wide[packed.source[packed.lengths.cumsum(0) - 1]].double().cpu()
    means = sums / packed.lengths[:, None].cpu()
    columns = [
        _score(sums[0::2], sums[1::2]),
        _score(means[0::2], means[1::2]),
        (last[0::2] * last[1::2]).sum(-1),
    ]
    values: Array = torch.stack(columns, dim=1).numpy()
    return values


def _check_head(lm: LanguageModel, packed: Packed, hidden: Tensor) -> None:
    """Raise UserError where the output head does not read `hidden`, the trunk's last state."""
    seen: list[Tensor] = []
    head = architecture.causal_model(lm.model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        token_logps_from_logits(lm.model, packed)
    finally:
        hook.remove()
    expected = seen[-1][packed.head_rows, packed.head_columns] if seen else hidden[:0]
    is_same = expected.shape == hidden.shape and torch.allclose(
        expected.float(), hidden.float(), rtol=1e-2, atol=1e-3 * float(hidden.abs().max())
    )
    if not is_same:
        raise UserError(
            f"{lm.name}: its output head does not read the last hidden state, so ches has no "
            "states to sum; choose another model"
        )
