"""What a model holds at the last real token of a text, in all of its layers at once."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trueup.errors import UserError
from trueup.models import architecture
from trueup.models.embedder import Embedder, vectors_of
from trueup.models.language_model import GPU_TOKEN_BUDGET, TOKEN_BUDGET
from trueup.models.shared_prefix import buckets

States = NDArray[np.float32]


class LayerStates(Protocol):
    """Whatever tells its states layer by layer: `Activations`, or a planted world."""

    @property
    def ends_in_norm(self) -> bool:
        """Whether the last layer is no residual stream but the final norm's output."""
        ...

    def last_states(self, texts: Sequence[str]) -> States:
        """The state of each text's last real token in every layer, [N, L, D]."""
        ...


class Activations:
    """The residual stream of a white-box model, read where a text ends.

    Layer 0 is the embedding, layer l the stream after block l; the last one is what the head reads,
    with the final norm where a causal model has one, as in `LanguageModel.hidden_states`.
    The last real token is the text's own last one: neither padding nor an end mark that the
    tokenizer adds.
    Fields: embedder gives the tokens and counts the work.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    @property
    def ends_in_norm(self) -> bool:
        """Whether the last layer is the final norm's output: so it is in causal models."""
        return self.embedder.is_causal

    def last_states(self, texts: Sequence[str]) -> States:
        """The state of each text's last real token in every layer, [N, L, D] in float32.

        Work:   every distinct text goes through the trunk once, beside others of its length; only
                its last token's states are kept.
        Raises: UserError where a text has no token or more than the model reads.
        """
        distinct = list(dict.fromkeys(texts))
        sentences = self.embedder.sentences(distinct)
        budget = TOKEN_BUDGET.get(self.embedder.device.type, GPU_TOKEN_BUDGET)
        found: dict[str, States] = {}
        for bucket in buckets([len(each.ids) for each in sentences], token_budget=budget):
            rows = [sentences[index].ids for index in bucket]
            states = self._read(rows, [sentences[index].words[-1] for index in bucket])
            found.update(zip([distinct[index] for index in bucket], states, strict=True))
        return np.stack([found[text] for text in texts])

    @torch.no_grad()
    def _read(self, rows: Sequence[Sequence[int]], ends: Sequence[int]) -> States:
        """The states [R, L, D] at one position of every row; rows are padded on the right."""
        model, pad = self.embedder.model.eval(), int(self.embedder.tokenizer.pad_token_id or 0)
        lengths = torch.tensor([len(ids) for ids in rows])
        input_ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(list(ids)) for ids in rows], batch_first=True, padding_value=pad
        )
        attention = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
        inputs: dict[str, Any] = {
            "input_ids": input_ids.to(self.embedder.device),
            "attention_mask": attention.to(self.embedder.device),
            "output_hidden_states": True,
        }
        if self.embedder.is_causal:
            inputs["use_cache"] = False
        layers = architecture.run_trunk(model, inputs).hidden_states
        real = int(lengths.sum())
        self.embedder.work.add(trunk_tokens=real, padding_tokens=input_ids.numel() - real)
        picked = [layer[range(len(rows)), list(ends)].float() for layer in layers]
        states: States = torch.stack(picked, dim=1).cpu().numpy()
        return states


def states_of(model: Any, wanted_by: str) -> LayerStates:
    """The model as one that tells its states: itself, or what `Activations` reads of it.

    Raises: UserError where it has no layers, as an endpoint or static vectors.
    """
    if hasattr(model, "last_states"):
        found: LayerStates = model
        return found
    embedder = vectors_of(model, wanted_by)
    if not isinstance(embedder, Embedder):
        raise UserError(f"{wanted_by} needs a model with layers (a white-box one), got {model!r}")
    return Activations(embedder)
