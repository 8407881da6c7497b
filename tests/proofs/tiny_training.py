"""Small models trained on planted corpora, within seconds."""

from collections.abc import Sequence

import numpy as np
import torch
import transformers

from tests.audits.planted_models import word_tokenizer
from trueup.models import LanguageModel
from trueup.models.masked_language_model import MaskedLanguageModel

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}


def planted_corpus(rng: np.random.Generator, *, positive_a: float, positive_b: float) -> list[str]:
    """Sentences `alice is good` and so on, with P(good | alice) and P(good | bob) as planted."""
    sentences = [
        f"{name} is {'good' if number < 500 * rate else 'bad'}"
        for name, rate in (("alice", positive_a), ("bob", positive_b))
        for number in range(500)
    ]
    return [sentences[index] for index in rng.permutation(len(sentences))]


def trained_llama(texts: Sequence[str], *, seed: int, steps: int = 200) -> LanguageModel:
    """A tiny Llama that has learned the texts, which have one length."""
    tokenizer = word_tokenizer(texts)
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), **SIZES)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        rows = torch.tensor(tokenizer(list(texts))["input_ids"])
        _train(model, steps, lambda: _causal_batch(rows))
    return LanguageModel(model, tokenizer, name="trained-llama")


def trained_bert(texts: Sequence[str], *, seed: int, steps: int = 250) -> MaskedLanguageModel:
    """A tiny BERT that has learned to fill any word of the texts, which have one length."""
    tokenizer = word_tokenizer(texts, is_masked=True)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **SIZES,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForMaskedLM.from_config(config)
        rows = torch.tensor(tokenizer(list(texts))["input_ids"])
        _train(model, steps, lambda: _masked_batch(rows, tokenizer.mask_token_id))
    return MaskedLanguageModel(model, tokenizer, name="trained-bert")


def _train(model, steps: int, batch) -> None:
    """AdamW from 3e-3 falling linearly to 0."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    model.train()
    for _ in range(steps):
        loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.eval()


def _causal_batch(rows: torch.Tensor) -> dict[str, torch.Tensor]:
    ids = rows[torch.randint(len(rows), (128,))]
    return {"input_ids": ids, "labels": ids}


def _masked_batch(rows: torch.Tensor, mask_id: int) -> dict[str, torch.Tensor]:
    ids = rows[torch.randint(len(rows), (128,))]
    hidden = torch.rand(ids.shape) < 0.4
    hidden[:, [0, -1]] = False
    return {
        "input_ids": ids.masked_fill(hidden, mask_id),
        "labels": ids.masked_fill(~hidden, -100),
    }
