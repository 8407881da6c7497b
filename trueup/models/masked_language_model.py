"""A masked language model with its tokenizer: log-probabilities of tokens at masked positions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from trueup.errors import UserError, check_choice
from trueup.models import architecture
from trueup.models.fingerprint import Fingerprint
from trueup.models.language_model import GPU_TOKEN_BUDGET, TOKEN_BUDGET
from trueup.models.loading import DTYPES, pick_device, read_tokenizer, read_weights
from trueup.models.shared_prefix import buckets
from trueup.models.work import Work

# The modules that make logits of the trunk's states, by architecture: BERT, RoBERTa, ALBERT,
# ELECTRA, ModernBERT, DistilBERT. A chain is used only where a trial gives the model's own logits.
_HEADS = (
    ("cls",),
    ("lm_head",),
    ("predictions",),
    ("generator_predictions", "generator_lm_head"),
    ("head", "decoder"),
    ("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
)

MaskedRow = tuple[Sequence[int], Sequence[int], Sequence[int]]
Attended = tuple[NDArray[np.float64], NDArray[np.float64]]
Head = Callable[[Tensor], Tensor]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Sentence:
    """One text as the model reads it.

    Fields: ids, with the tokenizer's special tokens around; words, the positions in ids that are
            the text's own tokens; spans, for each of these the characters that it covers.
    """

    ids: list[int]
    words: list[int]
    spans: list[tuple[int, int]]

    def covering(self, start: int, end: int) -> list[int]:
        """The positions of the tokens that cover the characters from start to end."""
        return [
            position
            for position, (first, last) in zip(self.words, self.spans, strict=True)
            if first < end and last > start
        ]


@dataclass(frozen=True)
class _Reading:
    """What one forward pass gave.

    Fields: heads, the line of each (row, position) in logps [S, V]; attentions, a tensor
            [N, heads, T, T] per layer where they were asked for.
    """

    rows: Sequence[MaskedRow]
    heads: dict[tuple[int, int], int]
    logps: Tensor
    attentions: tuple[Tensor, ...]

    def picked(self) -> list[NDArray[np.float64]]:
        """The targets' log-probabilities, an array per row."""
        source = [
            self.heads[number, place]
            for number, (_, places, _) in enumerate(self.rows)
            for place in places
        ]
        target = [token for _, _, targets in self.rows for token in targets]
        flat = self.logps[source, target].double().cpu().numpy()
        return np.split(flat, np.cumsum([len(places) for _, places, _ in self.rows])[:-1])

    def all(self) -> NDArray[np.float64]:
        """Every token's log-probability at each position, [S, V]."""
        table: NDArray[np.float64] = self.logps.double().cpu().numpy()
        return table


def load_masked(
    path_or_id: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> "MaskedLanguageModel":
    """Load a masked language model and its tokenizer; fields and errors as in `load`."""
    check_choice(DTYPES, dtype=dtype)
    options = {"trust_remote_code": trust_remote_code, "revision": revision}
    model = read_weights(transformers.AutoModelForMaskedLM, path_or_id, dtype=dtype, **options)
    tokenizer = read_tokenizer(path_or_id, **options)
    return MaskedLanguageModel(model.to(pick_device(device)), tokenizer, name=str(path_or_id))


class MaskedLanguageModel:
    """A white-box masked language model; made by `load_masked`.

    Fields: model, the transformers module; tokenizer; name, as it was loaded; work, what was
            computed so far; mask_id, the token that hides a position.
    Raises: UserError where the tokenizer has no mask token, or is not a fast one.
    """

    is_masked = True

    def __init__(self, model: Any, tokenizer: Any, *, name: str) -> None:
        if tokenizer.mask_token_id is None:
            raise UserError(f"{name}: the tokenizer has no mask token; give a masked model's")
        if not tokenizer.is_fast:
            raise UserError(f"{name}: the tokenizer is not a fast one; save it with tokenizers")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.work = Work()
        self.mask_id = int(tokenizer.mask_token_id)
        self._fingerprint = Fingerprint(model, tokenizer)
        self._head: Head | None = None
        self._was_tried = False

    def __repr__(self) -> str:
        kind = type(self.model).__name__
        return f"MaskedLanguageModel({self.name!r}, {kind}, {self.device.type})"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def max_length(self) -> int:
        """Tokens that one sequence may have, special ones included."""
        return architecture.context_length(self.model, self.tokenizer)

    @property
    def pad_id(self) -> int:
        """The token id of positions that hold none."""
        return int(self.tokenizer.pad_token_id or 0)

    @property
    def token_budget(self) -> int:
        """Tokens that go through the model at once."""
        return TOKEN_BUDGET.get(self.device.type, GPU_TOKEN_BUDGET)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights, configuration and tokenizer."""
        return self._fingerprint.value()

    def sentences(self, texts: Sequence[str]) -> list[Sentence]:
        """The texts as token ids, and which of these are their own.

        Raises: UserError where a text has no token or more than the model reads.
        """
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts),
            return_attention_mask=False,
            return_special_tokens_mask=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        columns = ("input_ids", "special_tokens_mask", "offset_mapping")
        result = []
        for text, ids, specials, offsets in zip(
            texts, *(encoded[column] for column in columns), strict=True
        ):
            words = [place for place, is_special in enumerate(specials) if not is_special]
            if not words:
                raise UserError(f"a text to score has no tokens, got {text!r}")
            if len(ids) > self.max_length:
                raise UserError(
                    f"the text {text[:30]!r}... has {len(ids)} tokens, but the model reads "
                    f"{self.max_length}; shorten it"
                )
            result.append(Sentence(list(ids), words, [tuple(offsets[place]) for place in words]))
        return result

    @torch.no_grad()
    def masked_logps(self, rows: Sequence[MaskedRow]) -> list[NDArray[np.float64]]:
        """Log-probabilities of targets at positions, a forward row each.

        Shapes: rows [N] of (ids with the masks already in place, positions [P], targets [P]); the
                same position may be named twice with other targets -> N arrays [P] in nats.
        Edges:  a row without positions is not run.
        Work:   every token of a row once; the head on the distinct positions only, where the
                architecture lets it stand apart from the trunk, else on all tokens.
        """
        return self._by_bucket(rows, lambda some: self._run(some).picked(), np.empty(0))

    @torch.no_grad()
    def attended_logps(self, rows: Sequence[MaskedRow]) -> list[Attended]:
        """`masked_logps`, and how much attention each named position received, in one pass.

        attention received by position s = mean over layers, heads and real query positions (those
        of special tokens too) of the attention from the query to s; over a row they add up to 1
        Shapes: rows [N] as in `masked_logps` -> N pairs of arrays [P].
        """
        nothing = (np.empty(0), np.empty(0))
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")  # the fused kernels keep no attentions
        try:
            return self._by_bucket(rows, self._attended, nothing)
        finally:
            self.model.set_attn_implementation(before)

    @torch.no_grad()
    def vocabulary_logps(self, rows: Sequence[tuple[Sequence[int], int]]) -> NDArray[np.float64]:
        """Log-probabilities of every token at one position of each row (ids, position), [N, V]."""
        asked = [(ids, [place], [0]) for ids, place in rows]
        nothing = np.empty(0)
        return np.stack(self._by_bucket(asked, lambda some: list(self._run(some).all()), nothing))

    def unmasked(
        self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[NDArray[np.float64]]:
        """Log-probabilities of the tokens that stand at the positions, nothing masked."""
        return self.masked_logps(
            [(ids, places, [ids[place] for place in places]) for ids, places in rows]
        )

    def _by_bucket(
        self,
        rows: Sequence[MaskedRow],
        read: Callable[[Sequence[MaskedRow]], list[Result]],
        nothing: Result,
    ) -> list[Result]:
        """What `read` gives for rows that go through the model together, in the rows' order."""
        self.model.eval()
        results = [nothing] * len(rows)
        asked = [index for index, (_, places, _) in enumerate(rows) if places]
        lengths = [len(rows[index][0]) for index in asked]
        for bucket in buckets(lengths, token_budget=self.token_budget):
            indices = [asked[number] for number in bucket]
            for index, part in zip(indices, read([rows[index] for index in indices]), strict=True):
                results[index] = part
        return results

    def _attended(self, rows: Sequence[MaskedRow]) -> list[Attended]:
        """One forward pass with its attentions."""
        reading = self._run(rows, output_attentions=True)
        layers = torch.stack(
            [layer.float().mean(1) for layer in reading.attentions]
        )  # [L, N, Q, T]
        received = []
        for number, (ids, places, _) in enumerate(rows):
            mean = layers[:, number, : len(ids)].mean((0, 1))
            received.append(mean[list(places)].double().cpu().numpy())
        return list(zip(reading.picked(), received, strict=True))

    def _run(self, rows: Sequence[MaskedRow], **options: bool) -> "_Reading":
        """One forward pass through the trunk, and the head at the named positions."""
        width = max(len(ids) for ids, _, _ in rows)
        input_ids = torch.full((len(rows), width), self.pad_id)
        attention = torch.zeros_like(input_ids)
        heads: dict[tuple[int, int], int] = {}  # (row, position) -> line through the head
        for number, (ids, places, _) in enumerate(rows):
            input_ids[number, : len(ids)] = torch.tensor(list(ids))
            attention[number, : len(ids)] = 1
            for place in places:
                heads.setdefault((number, place), len(heads))
        real = int(attention.sum())
        inputs = {
            "input_ids": input_ids.to(self.device),
            "attention_mask": attention.to(self.device),
            **options,
        }
        logits, output = self._logits(inputs, torch.tensor(list(heads)).reshape(-1, 2))
        head_rows = len(heads) if self._head is not None else real
        self.work.add(
            trunk_tokens=real, head_rows=head_rows, padding_tokens=input_ids.numel() - real
        )
        logps = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), -1)
        return _Reading(rows, heads, logps, getattr(output, "attentions", None) or ())

    def _logits(self, inputs: dict[str, Any], places: Tensor) -> tuple[Tensor, Any]:
        """Logits [S, V] at the places [S, 2], and the model's whole output."""
        head = self._find_head()
        line, column = places.to(self.device).unbind(1)
        if head is None:
            output = self.model(**inputs)
            return output.logits[line, column], output
        output = architecture.trunk_of(self.model)(**inputs)
        return head(output.last_hidden_state[line, column]), output

    def _find_head(self) -> Head | None:
        """The head apart from the trunk, where a trial gives the model's own logits; tried once."""
        if not self._was_tried:
            chains = [_chain(self.model, names) for names in _HEADS]
            trials = (head for head in chains if head is not None and self._gives_logits(head))
            self._head = next(trials, None)
            self._was_tried = True
        return self._head

    def _gives_logits(self, head: Head) -> bool:
        """Whether trunk and head in turn give what the whole model gives, on a small example."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(len(self.tokenizer), (2, 6), generator=generator).to(self.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        expected = self.model(**inputs).logits
        try:
            states = architecture.trunk_of(self.model)(**inputs).last_hidden_state
            result = head(states[:, 1:3].reshape(4, -1)).reshape(2, 2, -1)
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
            return False
        wanted = expected[:, 1:3]
        is_same_shape = result.shape == wanted.shape
        return is_same_shape and bool(torch.allclose(result, wanted, rtol=1e-3, atol=1e-4))


def _chain(model: Any, names: Sequence[str]) -> Head | None:
    """The named modules of the model one after the other; None where one is not there."""
    if not all(hasattr(model, name) for name in names):
        return None
    modules = [getattr(model, name) for name in names]

    def head(states: Tensor) -> Tensor:
        for module in modules:
            states = module(states)
        return states

    return head
