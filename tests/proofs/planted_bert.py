"""A tiny BERT trained on the exact distribution of `NAME is ATTRIBUTE`, no sampling noise in it."""

import itertools

import numpy as np
import torch
import transformers

from tests.audits.planted_models import word_tokenizer
from tests.proofs.tiny_training import SIZES
from trueup.models.masked_language_model import MaskedLanguageModel

STEPS = 300
HIDDEN = 0.4  # chance that a word is masked, each on its own


def joint(p_a: float, positive_a: float, positive_b: float) -> dict[str, float]:
    """The probability of each of the four sentences."""
    return {
        f"{name} is {word}": share * rate
        for name, share, positive in (("alice", p_a, positive_a), ("bob", 1 - p_a, positive_b))
        for word, rate in (("good", positive), ("bad", 1 - positive))
    }


def corpus(p_a: float, positive_a: float, positive_b: float, size: int = 1000) -> list[str]:
    """Sentences in these proportions, shuffled."""
    counts = joint(p_a, positive_a, positive_b)
    texts = [text for text, chance in counts.items() for _ in range(round(size * chance))]
    return [texts[index] for index in np.random.default_rng(0).permutation(len(texts))]


def planted_bert(
    p_a: float, positive_a: float, positive_b: float, *, seed: int
) -> MaskedLanguageModel:
    """Trained on every sentence under every mask pattern, weighted by its probability."""
    sentences = joint(p_a, positive_a, positive_b)
    tokenizer = word_tokenizer(sentences, is_masked=True)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **SIZES,
    )
    ids = torch.tensor(tokenizer(list(sentences))["input_ids"])  # [4, 5]
    patterns = torch.tensor([p for p in itertools.product((False, True), repeat=3) if any(p)])
    rows = ids.repeat_interleave(len(patterns), 0)
    masks = torch.nn.functional.pad(patterns, (1, 1)).repeat(len(ids), 1)
    chance = HIDDEN ** patterns.sum(1) * (1 - HIDDEN) ** (~patterns).sum(1)
    weights = torch.tensor(list(sentences.values())).repeat_interleave(len(patterns))
    weights = weights * chance.repeat(len(ids))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForMaskedLM.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    for _ in range(STEPS):
        logits = model(input_ids=rows.masked_fill(masks, tokenizer.mask_token_id)).logits
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), rows, reduction="none")
        ((losses * masks).sum(1) * weights).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return MaskedLanguageModel(model, tokenizer, name="planted-bert")
