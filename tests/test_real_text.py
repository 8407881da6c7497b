"""The loop on real text: a small model learns HH's chosen answers, then prefers them by RPO."""

from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import trueup
from trueup.data import read
from trueup.models import LanguageModel
from trueup.runs import Run

WORDS = 4096


def byte_level_bpe(texts: list[str], words: int) -> transformers.PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=words,
            special_tokens=["<pad>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", model_max_length=1024
    )


def small_model(texts: list[str], words: int = WORDS) -> LanguageModel:
    """About 3.4 million random weights of the Llama architecture, with 4,096 words."""
    tokenizer = byte_level_bpe(texts, words)
    config = transformers.LlamaConfig(
        vocab_size=words,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    return LanguageModel(model, tokenizer, name="small")


@pytest.mark.slow
def test_rpo_on_real_pairs_raises_the_held_out_margin(shared_data: Path, tmp_path: Path):
    rows = read(shared_data / "hh_harmless_pairs.jsonl", contract="pairs").rows
    train, held_out = rows[:800], rows[800:]
    small_model([row["prompt"] + row["chosen"] for row in train]).save(tmp_path / "base")
    trueup.align(
        tmp_path / "base",
        "sft",
        data=[{"prompt": row["prompt"], "completion": row["chosen"]} for row in train],
        out=tmp_path / "sft",
        learning_rate=2e-3,
        batch_size=16,
        max_length=160,
    )
    tuned = trueup.align(
        tmp_path / "sft",
        "rpo",
        data=train,
        eval_data=held_out,
        out=tmp_path / "rpo",
        beta=0.1,
        eta=0.005,
        learning_rate=1e-3,
        batch_size=16,
        max_length=160,
    )
    assert 3e6 < sum(weight.numel() for weight in tuned.model.parameters()) < 6e6
    found = {(row["metric"], row["slice"]): row for row in Run.open(tmp_path / "rpo").estimates()}
    margin = found["positive-margin", "all"]
    assert margin["n"] == 200
    assert margin["low"] > 0.5  # the reference has no margin: 50 %
    chosen = found["likelihood-displacement", "chosen"]
    assert chosen["n"] == 200
    assert chosen["low"] <= chosen["value"] <= chosen["high"]
