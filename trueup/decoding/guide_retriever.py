"""The retriever of guidelines: a bi-encoder from inputs to the guidelines written for them."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trueup.decoding.bi_encoder import BiEncoder
from trueup.decoding.guideline_dedup import ratios
from trueup.errors import UserError, check_at_least, check_between, check_choice, check_positive
from trueup.models import architecture
from trueup.models.embedder import Embedder

Pair = tuple[str, str]  # an input, and a guideline written for it


def guide_retriever_loss(
    query_vectors: Tensor,
    positive_vectors: Tensor,
    negative_vectors: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Minus the log-probability of each query's own guideline among all of the batch.

    contexts = [positive_1, negative_1, .., positive_B, negative_B], or the positives alone
    loss_b   = -log softmax(query_b . contexts)[positive_b]
    Shapes: vectors [B, D]; mask [B, C] bool over the contexts, True = counts -> [B].
    Source: Luo et al. 2024, arXiv 2403.11838, who mask nothing.
    """
    parts = [positive_vectors] if negative_vectors is None else [positive_vectors, negative_vectors]
    contexts = torch.stack(parts, dim=1).flatten(0, 1)  # [C, D]
    scores = query_vectors @ contexts.T
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    own = len(parts) * torch.arange(len(scores), device=scores.device)
    return nn.functional.cross_entropy(scores, own, reduction="none")


def counted_contexts(positives: Sequence[str], contexts: Sequence[str], threshold: float) -> Tensor:
    """Which contexts count for which pair, [B, C]: no other column that says what its own does.

    Fields: contexts begin with, or interleave, the positives in order; a ratio above the threshold
            says the same.
    """
    same = torch.from_numpy(ratios(positives, contexts, cutoff=threshold) > threshold)
    step = len(contexts) // len(positives)
    own = torch.arange(len(positives))
    same[own, step * own] = False
    return ~same


@dataclass(frozen=True, kw_only=True)
class RetrieverTraining:
    """How a retriever is trained: the authors' settings but for the learning rate and the epochs.

    Fields: negatives draws a guideline of another input for every pair; same is the ratio above
            which a context is no negative of a pair, above 1 for never; temperature divides the
            scores of normalised vectors, which stall without (0.05 is usual).
    """

    epochs: int = 3
    batch: int = 32
    lr: float = 2e-5
    warmup: int = 1000
    clip: float = 1.0
    negatives: bool = True
    same: float = 0.75
    normalise: bool = False
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(1, epochs=self.epochs)
        check_at_least(2, batch=self.batch)
        check_at_least(0, warmup=self.warmup, seed=self.seed)
        check_positive(lr=self.lr, clip=self.clip, temperature=self.temperature)
        check_between(0, 2, same=self.same)


class EncoderTower(nn.Module):
    """An encoder as a module from texts to vectors [B, D], with gradients."""

    def __init__(self, encoder: Embedder, pooling: Literal["first", "mean"]) -> None:
        super().__init__()
        check_choice(("first", "mean"), pooling=pooling)
        self.encoder = encoder
        self.model: Any = encoder.model
        self.pooling = pooling

    def forward(self, texts: Sequence[str]) -> Tensor:
        """A vector per text, as `Embedder.text_vectors` gives it."""
        sentences = self.encoder.sentences(texts)
        width = max(len(sentence.ids) for sentence in sentences)
        ids = torch.full((len(texts), width), int(self.encoder.tokenizer.pad_token_id or 0))
        attention, weights = torch.zeros_like(ids), torch.zeros(ids.shape)
        for row, sentence in enumerate(sentences):
            ids[row, : len(sentence.ids)] = torch.tensor(sentence.ids)
            attention[row, : len(sentence.ids)] = 1
            places = [0] if self.pooling == "first" else sentence.words
            weights[row, places] = 1 / len(places)
        device = self.encoder.device
        inputs = {"input_ids": ids.to(device), "attention_mask": attention.to(device)}
        states: Tensor = architecture.run_trunk(self.model, inputs).last_hidden_state
        return (weights.to(states)[:, None, :] @ states)[:, 0]


def train_retriever(
    encoder: Embedder,
    pairs: Sequence[Pair],
    *,
    pooling: Literal["first", "mean"] = "first",
    settings: RetrieverTraining | None = None,
) -> BiEncoder:
    """A bi-encoder of two copies of the encoder, trained on pairs of input and guideline.

    Raises: UserError for fewer than two pairs.
    """
    chosen = settings or RetrieverTraining()
    query, guideline = (
        Embedder(copy.deepcopy(encoder.model), encoder.tokenizer, name=f"{encoder.name} {side}")
        for side in ("query", "guideline")
    )
    train_towers(EncoderTower(query, pooling), EncoderTower(guideline, pooling), pairs, chosen)
    return BiEncoder(query, guideline, pooling=pooling, normalise=chosen.normalise)


def train_towers(
    query: nn.Module, guideline: nn.Module, pairs: Sequence[Pair], settings: RetrieverTraining
) -> list[float]:
    """Train two modules from texts to vectors in place; the loss of every step.

    Adam without weight decay, linear warm-up (of a tenth of the steps at most) and decay.
    """
    if len(pairs) < 2:
        raise UserError(f"a retriever learns from at least two pairs, got {len(pairs)}")
    towers = nn.ModuleList([query, guideline]).train()
    optimizer = torch.optim.Adam(towers.parameters(), lr=settings.lr)
    steps = settings.epochs * -(-len(pairs) // settings.batch)
    warmup = min(settings.warmup, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (warmup + 1), (steps - step) / (steps - warmup))
    )
    losses = []
    for batch, negatives in _batches(pairs, settings):
        loss = _batch_loss(query, guideline, batch, negatives, settings).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(towers.parameters(), settings.clip)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    towers.eval()
    return losses


def _batch_loss(
    query: nn.Module,
    guideline: nn.Module,
    batch: Sequence[Pair],
    negatives: Sequence[str],
    settings: RetrieverTraining,
) -> Tensor:
    """The loss of every pair, [B]."""
    positives = [text for _, text in batch]
    contexts = [text for both in zip(positives, negatives, strict=True) for text in both]
    contexts = contexts if settings.negatives else positives
    queries, vectors = query([text for text, _ in batch]), guideline(contexts)
    if settings.normalise:
        queries, vectors = (nn.functional.normalize(each, dim=-1) for each in (queries, vectors))
    step = len(contexts) // len(positives)
    return guide_retriever_loss(
        queries / settings.temperature,
        vectors[::step],
        vectors[1::step] if settings.negatives else None,
        counted_contexts(positives, contexts, settings.same).to(queries.device),
    )


def _batches(
    pairs: Sequence[Pair], settings: RetrieverTraining
) -> Iterator[tuple[list[Pair], list[str]]]:
    """Shuffled pairs, and for each a guideline that was written for other inputs only.

    Edges:  an input for which every guideline was written gets its own, which the mask leaves out.
    """
    rng = np.random.default_rng(settings.seed)
    pool = list(dict.fromkeys(text for _, text in pairs))
    own: dict[str, set[str]] = {}
    for question, text in pairs:
        own.setdefault(question, set()).add(text)
    for _ in range(settings.epochs):
        order = rng.permutation(len(pairs))
        for start in range(0, len(order), settings.batch):
            batch = [pairs[index] for index in order[start : start + settings.batch]]
            yield batch, [_other(pair, pool, own[pair[0]], rng) for pair in batch]


def _other(pair: Pair, pool: Sequence[str], own: set[str], rng: np.random.Generator) -> str:
    """A guideline that is not among the input's own; the pair's where there is none."""
    if len(own) >= len(pool):
        return pair[1]
    while (found := pool[int(rng.integers(len(pool)))]) in own:
        pass
    return found
