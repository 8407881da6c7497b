"""Teachers: frozen models whose whole next-token distributions the policy is compared with.

Logits are never kept: the teachers' hidden states of a micro-batch are, and the heads run over a
few positions at a time, forward and backward (`models.token_divergence`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trueup.errors import UserError
from trueup.models import LanguageModel, Work, architecture
from trueup.models.shared_prefix import Compared, Layout, Packed, head_inputs
from trueup.models.token_divergence import teacher_advantage, teacher_kl
from trueup.objectives import Objective
from trueup.objectives.protocol import ROLES


@dataclass(frozen=True)
class Teachers:
    """The frozen models of a distillation, and which completions they speak of.

    Fields: reference is the teacher before its own alignment, for the advantage; roles are the
            completions that are compared; name is what the batch calls the result.
    """

    teacher: LanguageModel
    reference: LanguageModel | None
    roles: tuple[str, ...]
    name: str

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

        Raises: UserError where a teacher reads other tokens, or has a head of more than one matrix.
        """
        needs = objective.needs
        if teacher is None or not (needs.teacher or needs.advantage):
            return None
        for model in (teacher, reference):
            if model is None:
                continue
            if model.tokenizer.get_vocab() != lm.tokenizer.get_vocab():
                raise UserError(
                    f"teacher {model.name}: its vocabulary differs from that of {lm.name}; give a "
                    "teacher with the same tokenizer"
                )
            if not (lm.layout.splits_head and model.layout.splits_head):
                raise UserError(
                    f"teacher {model.name}: its output head, or the policy's, is not one matrix"
                )
            model.model.to(device).eval()
        if needs.advantage:
            return cls(teacher, reference, ("sample",), "advantage")
        compared = [role for role in ROLES[objective.data] if role != "sample"]
        return cls(teacher, None, tuple(compared), "teacher_kl")

    def narrowed(self, own: Layout) -> Layout:
        """The policy's layout with the shortcuts that all teachers allow too: rows are the same."""
        models = (self.teacher, self.reference)
        layouts = [own, *(model.layout for model in models if model is not None)]
        limits = [one.longest_shared for one in layouts if one.longest_shared is not None]
        return replace(
            own,
            shares_prefix=all(one.shares_prefix for one in layouts),
            longest_shared=min(limits, default=None),
        )

    def wanted(self, roles: Sequence[str], examples: int) -> Tensor:
        """Which completions are compared, [C] bool, of examples with these roles."""
        own = [role in self.roles for role in roles]
        return torch.tensor(own * examples)

    @torch.no_grad()
    def compare(self, packed: Packed, wanted: Tensor, work: Work) -> Compared:
        """The teachers' states at the positions that predict the wanted completions."""
        tokens = wanted.to(packed.completion.device)[packed.completion]
        rows = torch.unique(packed.source[tokens])
        states = []
        for model in (self.teacher, self.reference):
            if model is None:
                continue
            packed.count(work)
            head = architecture.causal_model(model.model).get_output_embeddings()
            states += [head_inputs(model.model, packed)[rows], head.weight]

        def divergence(hidden: Tensor, weight: Tensor) -> Tensor:
            # heads are padded to different sizes beyond the one vocabulary
            rows = min(len(weight), *(len(known) for known in states[1::2]))
            cut = [known[:rows] if place % 2 else known for place, known in enumerate(states)]
            if self.name == "advantage":
                return teacher_advantage(hidden, weight[:rows], *cut)
            return teacher_kl(hidden, weight[:rows], *cut)

        return Compared(rows, tokens, divergence)
