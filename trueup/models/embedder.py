"""Vectors of texts, and of words in their sentences, from any white-box model."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from trueup.errors import UserError, check_choice
from trueup.models import architecture
from trueup.models.encoding import Encoder
from trueup.models.fingerprint import Fingerprint
from trueup.models.language_model import GPU_TOKEN_BUDGET, TOKEN_BUDGET
from trueup.models.loading import DTYPES, pick_device, read_tokenizer, read_weights
from trueup.models.masked_language_model import Sentence
from trueup.models.sentence_pooling import (
    OwnPooling,
    own_pooling,
    transformer_folder,
)
from trueup.models.shared_prefix import buckets
from trueup.models.work import Work

Array = NDArray[np.float64]
Place = tuple[str, int, int]  # a text, and the characters of a word in it
Pooling = Literal["auto", "first", "last", "mean"]
POOLINGS = ("auto", "first", "last", "mean")
MEMO_BYTES = 1 << 29  # of hidden states that are kept: half a gigabyte


class Vectors(Protocol):
    """Whatever gives vectors: an `Embedder`, `StaticVectors`, a planted encoder."""

    @property
    def name(self) -> str:
        """As it was loaded."""
        ...

    def text_vectors(
        self, texts: Sequence[str], *, layer: int = -1, pooling: Pooling = "auto"
    ) -> Array:
        """A vector per text, [N, D]; NaN where there is none."""
        ...

    def span_vectors(
        self, places: Sequence[Place], *, layer: int = -1, piece: Pooling = "auto"
    ) -> Array:
        """A vector per word in its text, [N, D]; NaN where there is none."""
        ...

    def pieces(self, places: Sequence[Place]) -> list[int]:
        """How many tokens each word has."""
        ...


@dataclass(frozen=True)
class Encoded:
    """One text and its hidden states [T, D] at one layer."""

    sentence: Sentence
    states: NDArray[np.floating[Any]]


def load_embedder(
    path_or_id: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> "Embedder":
    """Load an encoder: a transformers or a sentence-transformers folder; fields as in `load`.

    Raises: UserError where it cannot be read, or a sentence-transformers module is not known.
    """
    check_choice(DTYPES, dtype=dtype)
    folder = transformer_folder(path_or_id)
    options = {"trust_remote_code": trust_remote_code, "revision": revision}
    model = read_weights(transformers.AutoModel, folder, dtype=dtype, **options)
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(f"{path_or_id}: has an encoder and a decoder; give one that is one of both")
    if hasattr(model, "pooler"):
        model.pooler = None  # nobody reads it, and a checkpoint without one would draw it at random
    tokenizer = read_tokenizer(folder, **options)
    return Embedder(
        model.to(pick_device(device)),
        tokenizer,
        name=str(path_or_id),
        own=own_pooling(path_or_id),
    )


class Embedder:
    """Hidden states as vectors; made by `load_embedder`, or of another model by `vectors_of`.

    Every text is encoded once per layer, however often and by whomever it is asked for, until the
    weights change or `MEMO_BYTES` are full.
    Fields: model, the transformers module; tokenizer; name, as it was loaded; work, what was
            computed so far; is_causal, whether a token sees only what stands before it; own, the
            pooling with which a sentence encoder was trained.
    Raises: UserError where the tokenizer is not a fast one.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        is_causal: bool = False,
        own: OwnPooling | None = None,
        work: Work | None = None,
    ) -> None:
        if not tokenizer.is_fast:
            raise UserError(f"{name}: the tokenizer is not a fast one; save it with tokenizers")
        # what a tokenizer was saved with is undone by the first call, and is part of fingerprints
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.is_causal = is_causal
        self.own = own
        self.work = Work() if work is None else work
        self._fingerprint = Fingerprint(model, tokenizer)
        self._memo: dict[tuple[int, str], Encoded] = {}
        self._memo_bytes = 0
        self._memo_of = ""

    def __repr__(self) -> str:
        return f"Embedder({self.name!r}, {type(self.model).__name__}, {self.device.type})"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights, configuration and tokenizer, with the pooling."""
        return f"{self._fingerprint.value()}{'' if self.own is None else f':{self.own}'}"

    def text_vectors(
        self, texts: Sequence[str], *, layer: int = -1, pooling: Pooling = "auto"
    ) -> Array:
        """A vector per text, [N, D].

        Fields: layer counts as in transformers, 0 the embedding, -1 the last; pooling "first" is
                the opening token (of a causal model the first word's), "last" the last word's
                token, "mean" the mean of the words' tokens; "auto" is what a sentence encoder was
                trained with, else "last" of a causal model and "mean" of an encoder.
        """
        check_choice(POOLINGS, pooling=pooling)
        vectors = {
            text: self._pooled(encoded, pooling) for text, encoded in self._each(texts, layer)
        }
        return np.array([vectors[text] for text in texts]).reshape(len(texts), -1)

    def span_vectors(
        self, places: Sequence[Place], *, layer: int = -1, piece: Pooling = "auto"
    ) -> Array:
        """A vector per word in its text, [N, D]; the word is found by its characters.

        Fields: piece picks among a word's tokens: "first", "last", their "mean"; "auto" is "last"
                of a causal model, whose earlier pieces do not know the word, else "mean".
        Raises: UserError where no token covers the characters.
        """
        check_choice(POOLINGS, piece=piece)
        how = ("last" if self.is_causal else "mean") if piece == "auto" else piece
        by_text: dict[str, list[int]] = {}
        for number, (text, _, _) in enumerate(places):
            by_text.setdefault(text, []).append(number)
        vectors: list[Array] = [np.empty(0)] * len(places)
        for text, encoded in self._each(by_text, layer):
            for number in by_text[text]:
                rows = _picked(_covered(encoded.sentence, places[number]), how)
                vectors[number] = encoded.states[rows].mean(axis=0, dtype=np.float64)
        return np.array(vectors).reshape(len(places), -1)

    def pieces(self, places: Sequence[Place]) -> list[int]:
        """How many tokens each word has."""
        sentences = self.sentences([text for text, _, _ in places])
        return [
            len(_covered(sentence, place))
            for sentence, place in zip(sentences, places, strict=True)
        ]

    def sentences(self, texts: Sequence[str]) -> list[Sentence]:
        """The texts as token ids; a causal model reads BOS or EOS first where it opens with none.

        The state of a causal model's very first position hardly knows its token (it is where
        attention goes that has nowhere else to go), so that no word may stand there.
        Raises: UserError where a text has no token or more than the model reads.
        """
        if not texts:
            return []
        opening: list[int] = []
        if self.is_causal:
            encoder = Encoder(self.tokenizer)
            opening = [] if encoder.opening else encoder.context()
        read = self.tokenizer(
            list(texts), return_special_tokens_mask=True, return_offsets_mapping=True, verbose=False
        )
        limit = architecture.context_length(self.model, self.tokenizer)
        columns = ("input_ids", "special_tokens_mask", "offset_mapping")
        parts = zip(*(read[column] for column in columns), strict=True)
        sentences = [_sentence(opening, *each) for each in parts]
        for text, sentence in zip(texts, sentences, strict=True):
            if not sentence.words:
                raise UserError(f"a text to embed has no tokens, got {text!r}")
            if len(sentence.ids) > limit:
                raise UserError(
                    f"the text {text[:30]!r}... has {len(sentence.ids)} tokens, but the model "
                    f"reads {limit}; shorten it"
                )
        return sentences

    def _each(self, texts: Iterable[str], layer: int) -> Iterator[tuple[str, Encoded]]:
        """Every distinct text with its states: what is known first, then bucket by bucket."""
        self._forget_other_weights()
        missing = []
        for text in dict.fromkeys(texts):
            known = self._memo.get((layer, text))
            if known is None:
                missing.append(text)
            else:
                yield text, known
        sentences = self.sentences(missing)
        budget = TOKEN_BUDGET.get(self.device.type, GPU_TOKEN_BUDGET)
        for bucket in buckets([len(each.ids) for each in sentences], token_budget=budget):
            states = self._states([sentences[index].ids for index in bucket], layer)
            for index, own_states in zip(bucket, states, strict=True):
                encoded = Encoded(sentences[index], own_states)
                self._keep((layer, missing[index]), encoded)
                yield missing[index], encoded

    @torch.no_grad()
    def _states(self, rows: list[list[int]], layer: int) -> list[NDArray[np.floating[Any]]]:
        """Hidden states [T, D] of every row, which are padded on the right."""
        self.model.eval()
        width = max(map(len, rows))
        input_ids = torch.full((len(rows), width), int(self.tokenizer.pad_token_id or 0))
        attention = torch.zeros_like(input_ids)
        for number, ids in enumerate(rows):
            input_ids[number, : len(ids)] = torch.tensor(ids)
            attention[number, : len(ids)] = 1
        inputs: dict[str, Any] = {
            "input_ids": input_ids.to(self.device),
            "attention_mask": attention.to(self.device),
            "output_hidden_states": layer != -1,
        }
        if self.is_causal:
            inputs["use_cache"] = False
        states = _layer(architecture.run_trunk(self.model, inputs), layer)
        real = int(attention.sum())
        self.work.add(trunk_tokens=real, padding_tokens=input_ids.numel() - real)
        states = states if states.dtype == torch.float64 else states.float()
        table = states.cpu().numpy()
        return [table[number, : len(ids)].copy() for number, ids in enumerate(rows)]

    def _pooled(self, encoded: Encoded, pooling: Pooling) -> Array:
        """One vector of a text's states."""
        states, words = encoded.states, encoded.sentence.words
        if pooling == "auto" and self.own is not None:
            return self.own.pooled(states)
        how = ("last" if self.is_causal else "mean") if pooling == "auto" else pooling
        rows = [0] if how == "first" and not self.is_causal else _picked(words, how)
        vector: Array = states[rows].mean(axis=0, dtype=np.float64)
        return vector

    def _keep(self, key: tuple[int, str], encoded: Encoded) -> None:
        """Remember the states; the oldest go where room is short."""
        self._memo[key] = encoded
        self._memo_bytes += encoded.states.nbytes
        while self._memo_bytes > MEMO_BYTES and len(self._memo) > 1:
            self._memo_bytes -= self._memo.pop(next(iter(self._memo))).states.nbytes

    def _forget_other_weights(self) -> None:
        """Drop what earlier weights gave."""
        current = self._fingerprint.value()
        if current != self._memo_of:
            self._memo.clear()
            self._memo_bytes = 0
            self._memo_of = current


_embedders: "WeakKeyDictionary[Any, Embedder]" = WeakKeyDictionary()


def vectors_of(model: Any, wanted_by: str) -> Vectors:
    """The model as one that gives vectors: itself, or the hidden states of a language model.

    Raises: UserError where it has neither vectors nor weights, as an endpoint.
    """
    if hasattr(model, "span_vectors"):
        found: Vectors = model
        return found
    if not (hasattr(model, "model") and hasattr(model, "tokenizer")):
        raise UserError(
            f"{wanted_by} needs a model with hidden states, or static vectors, got {model!r}"
        )
    if model not in _embedders:
        _embedders[model] = Embedder(
            model.model,
            model.tokenizer,
            name=model.name,
            is_causal=not getattr(model, "is_masked", False),
            work=model.work,
        )
    return _embedders[model]


def _sentence(
    opening: list[int], ids: list[int], specials: list[int], offsets: list[tuple[int, int]]
) -> Sentence:
    """One text's tokens, the opening ones in front."""
    words = [place for place, is_special in enumerate(specials) if not is_special]
    return Sentence(
        ids=[*opening, *ids],
        words=[place + len(opening) for place in words],
        spans=[(offsets[place][0], offsets[place][1]) for place in words],
    )


def _covered(sentence: Sentence, place: Place) -> list[int]:
    """The positions of the tokens that cover the word."""
    text, start, end = place
    positions = sentence.covering(start, end)
    if not positions:
        raise UserError(f"no token covers {text[start:end]!r} in {text!r}")
    return positions


def _picked(positions: list[int], how: str) -> list[int]:
    """The first, the last or all of the positions."""
    return {"first": positions[:1], "last": positions[-1:], "mean": positions}[how]


def _layer(output: Any, layer: int) -> Tensor:
    """One layer's states [R, T, D]; the last one is what the head reads, norm included."""
    if layer == -1:
        last: Tensor = output.last_hidden_state
        return last
    count = len(output.hidden_states)
    if not -count <= layer < count:
        raise UserError(f"layer must lie between {-count} and {count - 1}, got {layer}")
    chosen: Tensor = output.hidden_states[layer]
    return chosen
