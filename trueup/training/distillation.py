"""Teachers: frozen models whose whole next-token distributions the policy is compared with.

Logits are never kept: the teachers' hidden states of a micro-batch are, and the heads run over a
few positions at a time, forward and backward (`models.token_divergence`). With a cache the
teachers read every example once, and what is kept of their answers is sparse (`teacher_cache`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from trueup.errors import UserError
from trueup.models import LanguageModel, Work, architecture
from trueup.models.shared_prefix import Compared, Layout, Packed, head_inputs
from trueup.models.token_divergence import (
    SparseLogps,
    sparse_head,
    sparse_head_pair,
    teacher_advantage,
    teacher_kl,
)
from trueup.objectives import Objective
from trueup.objectives.protocol import ROLES
from trueup.training.examples import Examples, roles_of


class Cache(Protocol):
    """The teachers' answers to whole tables of examples, each table asked once."""

    def learn(self, name: str, examples: Examples) -> object:
        """Have the answers to these examples at hand, stored under a name."""
        ...

    def comparison(
        self, examples: Examples, indices: Sequence[int]
    ) -> Callable[[Packed], Compared]:
        """What compares packed rows of some of these examples with the answers."""
        ...


@dataclass(frozen=True)
class Teachers:
    """The frozen models of a distillation, and which completions they speak of.

    Fields: reference is the teacher before its own alignment, for the advantage; roles are the
            completions that are compared; name is what the batch calls the result; words is the
            size that all heads have in common, as they are padded to different sizes beyond the
            one vocabulary; cache None asks the teachers again at every step.
    """

    teacher: LanguageModel
    reference: LanguageModel | None
    roles: tuple[str, ...]
    name: str
    words: int
    cache: Cache | None = None

    @classmethod
    def of(
        cls,
        objective: Objective,
        lm: LanguageModel,
        teacher: LanguageModel | None,
        reference: LanguageModel | None,
        device: torch.device,
    ) -> "Teachers | None":
        """The teachers that the objective needs, None where it needs none.

        Raises: UserError where a teacher reads other tokens, or has a head that is more than one
                matrix.
        """
        needs = objective.needs
        if teacher is None or not (needs.teacher or needs.advantage):
            return None
        sizes = []
        for model in (teacher, reference):
            if model is None:
                continue
            if model.tokenizer.get_vocab() != lm.tokenizer.get_vocab():
                raise UserError(
                    f"teacher {model.name}: its vocabulary differs from that of {lm.name}; give a "
                    "teacher with the same tokenizer"
                )
            heads = [architecture.plain_head(each.model) for each in (lm, model)]
            if not (lm.layout.splits_head and model.layout.splits_head and all(heads)):
                raise UserError(
                    f"teacher {model.name}: its output head, or the policy's, is not one matrix"
                )
            sizes += [len(head.weight) for head in heads if head is not None]
            model.model.to(device).eval()
        if needs.advantage:
            return cls(teacher, reference, ("sample",), "advantage", min(sizes))
        compared = [role for role in ROLES[objective.data] if role != "sample"]
        return cls(teacher, None, tuple(compared), "teacher_kl", min(sizes))

    @property
    def models(self) -> list[LanguageModel]:
        """The teacher, and its reference where there is one."""
        return [model for model in (self.teacher, self.reference) if model is not None]

    def narrowed(self, own: Layout) -> Layout:
        """A layout with the shortcuts that all teachers allow too: rows are the same."""
        layouts = [own, *(model.layout for model in self.models)]
        limits = [one.longest_shared for one in layouts if one.longest_shared is not None]
        return replace(
            own,
            shares_prefix=all(one.shares_prefix for one in layouts),
            longest_shared=min(limits, default=None),
        )

    def wanted(self, examples: Examples) -> list[bool]:
        """Which of an example's completions are compared."""
        return [role in self.roles for role in roles_of(examples.kind, examples.width)]

    def comparison(
        self, examples: Examples, indices: Sequence[int], own: Layout, work: Work
    ) -> tuple[Layout, Callable[[Packed], Compared]]:
        """How to lay these examples out, and what compares their rows with the teachers.

        Fields: own is the policy's layout, to which a cache adds no limit.
        """
        if self.cache is not None:
            return own, self.cache.comparison(examples, indices)
        wanted = torch.tensor(self.wanted(examples) * len(indices))
        return self.narrowed(own), partial(self.compare, wanted=wanted, work=work)

    def compare(self, packed: Packed, *, wanted: Tensor, work: Work) -> Compared:
        """The teachers' states at the positions that predict the wanted completions, [C] bool."""
        tokens = wanted.to(packed.completion.device)[packed.completion]
        rows = torch.unique(packed.source[tokens])
        states = self._states(packed, rows, work)

        def divergence(hidden: Tensor, weight: Tensor) -> Tensor:
            if self.name == "advantage":
                return teacher_advantage(hidden, weight[: self.words], *states)
            return teacher_kl(hidden, weight[: self.words], *states)

        return Compared(rows, tokens, divergence)

    def sparse(self, packed: Packed, k: int, work: Work) -> list[SparseLogps]:
        """Each teacher's k likeliest tokens (of two teachers those of both) at all head rows."""
        states = self._states(packed, slice(None), work)
        if len(states) == 2:
            return [sparse_head(*states, k=k)]
        return [*sparse_head_pair(*states, k=k)]

    @torch.no_grad()
    def _states(self, packed: Packed, rows: Tensor | slice, work: Work) -> list[Tensor]:
        """The hidden states [P, D] that each teacher's head reads in some rows, and the head."""
        states: list[Tensor] = []
        for model in self.models:
            packed.count(work)
            head = architecture.causal_model(model.model).get_output_embeddings()
            states += [head_inputs(model.model, packed)[rows], head.weight[: self.words]]
        return states
