"""How a base model ranks what an aligned one wrote: ranks, probabilities and divergences."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trueup.errors import UserError
from trueup.models import architecture
from trueup.models.language_model import LanguageModel
from trueup.models.loading import load
from trueup.models.prefix_tree import Group, lay_out
from trueup.models.shared_prefix import Packed, buckets, head_inputs, head_logits_of_own_pass, pack

CHUNK = 64  # positions that have logits of both models at a time


@dataclass(frozen=True)
class Shift:
    """One number per token, [T] each: rank and probability under the base model, and the KL."""

    ranks: Tensor
    base_probs: Tensor
    kl: Tensor

    def part(self, rows: slice) -> "Shift":
        """Some of the tokens."""
        return Shift(self.ranks[rows], self.base_probs[rows], self.kl[rows])


def token_shift_scores(base_logits: Tensor, aligned_logits: Tensor, tokens: Tensor) -> Shift:
    """Where the base model stands on tokens of the aligned one.

    rank_t = 1 + number of tokens z with P_base(z) > P_base(o_t)
    kl_t   = sum_z P_aligned(z) (log P_aligned(z) - log P_base(z))
    Shapes: logits [T, V], of which row t predicts token t; tokens [T] -> [T] each.
    Units:  nats, in float32 at least.
    Edges:  tied tokens share the best of their ranks; ids that only one model has are left out.
    Source: Lin et al. 2023, arXiv 2312.01552.
    """
    width = min(base_logits.shape[-1], aligned_logits.shape[-1])
    base, aligned = (_precise(each[:, :width]) for each in (base_logits, aligned_logits))
    own = base.gather(-1, tokens[:, None])
    ranks = 1 + (base > own).sum(-1)
    base_logps, logps = base.log_softmax(-1), aligned.log_softmax(-1)
    gaps = torch.where(logps > -torch.inf, logps - base_logps, 0.0)
    return Shift(
        ranks=ranks,
        base_probs=base_logps.gather(-1, tokens[:, None])[:, 0].exp(),
        kl=(logps.exp() * gaps).sum(-1).clamp_min(0),
    )


@torch.no_grad()
def shifts(base: LanguageModel, aligned: LanguageModel, groups: Sequence[Group]) -> list[Shift]:
    """The shift of every group's one completion, from one pass of each model.

    Rows of similar length share a pass; the result is that of rows one by one. `CHUNK` positions
    have logits at a time.
    """
    found: list[Shift] = [Shift(*(torch.empty(0) for _ in range(3)))] * len(groups)
    trees = [lay_out([group]) for group in groups]
    budget = min(base.token_budget, aligned.token_budget)
    for bucket in buckets([len(tree) for tree in trees], token_budget=budget):
        packed = pack([trees[index] for index in bucket], pad_id=aligned.pad_id)
        whole = _joined([*_chunks(base, aligned, packed)])
        lengths = packed.lengths.tolist()
        for number, index in enumerate(bucket):
            start = sum(lengths[:number])
            found[index] = whole.part(slice(start, start + lengths[number]))
    return found


def base_model(base: str | LanguageModel, aligned: LanguageModel) -> LanguageModel:
    """The base model with the aligned one's vocabulary, loaded where it is a path.

    Fields: base "" is what the aligned model says that it was tuned from: its field `base`, or the
            model that its adapter names.
    Raises: UserError where it does not say, or the two tokenizers know other tokens.
    """
    chosen = _own_base(aligned) if base == "" else base
    lm = _loaded(chosen, str(aligned.device)) if isinstance(chosen, str) else chosen
    own, other = aligned.tokenizer.get_vocab(), lm.tokenizer.get_vocab()
    if own != other:
        differing = sum(own.get(token) != other.get(token) for token in own.keys() | other.keys())
        raise UserError(
            f"token-shift: {lm.name} and {aligned.name} must share one vocabulary, got "
            f"{differing} tokens that differ; give the model that {aligned.name} was tuned from"
        )
    return lm


def _own_base(aligned: LanguageModel) -> str | LanguageModel:
    """What a model says that it was tuned from."""
    known: LanguageModel | None = getattr(aligned, "base", None)
    if known is not None:
        return known
    for adapter in getattr(aligned.model, "peft_config", {}).values():
        return str(adapter.base_model_name_or_path)
    raise UserError(
        f"token-shift: {aligned.name} does not say what it was tuned from; give base, a model's "
        "folder"
    )


@functools.lru_cache(maxsize=1)
def _loaded(path: str, device: str) -> LanguageModel:
    """The model of a path, loaded once."""
    return load(path, device=device)


def _chunks(base: LanguageModel, aligned: LanguageModel, packed: Packed) -> Iterator[Shift]:
    """The shift of the packed tokens, some positions at a time, in the order of the completions."""
    logits = [_logits_of(lm, packed) for lm in (base, aligned)]
    for start in range(0, len(packed.target), CHUNK):
        rows = slice(start, start + CHUNK)
        base_logits, aligned_logits = (each(rows).cpu() for each in logits)
        yield token_shift_scores(base_logits, aligned_logits, packed.target[rows])


def _logits_of(lm: LanguageModel, packed: Packed) -> Callable[[slice], Tensor]:
    """One pass of a model, and its logits at some of the scored tokens."""
    packed.count(lm.work)
    lm.model.eval()
    there = packed.to(lm.device)
    if not lm.layout.splits_head:
        logits = head_logits_of_own_pass(lm.model, there)[there.source]
        return lambda rows: logits[rows]
    hidden = head_inputs(lm.model, there)[there.source]
    head = architecture.causal_model(lm.model).get_output_embeddings()

    def logits_of(rows: slice) -> Tensor:
        found: Tensor = head(hidden[rows])
        return found

    return logits_of


def _joined(parts: Sequence[Shift]) -> Shift:
    """Chunks one after the other."""
    names = [field.name for field in dataclasses.fields(Shift)]
    return Shift(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _precise(logits: Tensor) -> Tensor:
    """Float32 at least: half precision makes ties."""
    return logits if logits.dtype == torch.float64 else logits.float()
