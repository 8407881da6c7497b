"""Tiny random models of many architectures with a byte-level vocabulary, made in milliseconds."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

SPECIALS = ["<pad>", "<s>", "</s>", "<mask>"]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
GPT2_SIZES: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
WIDE: dict[str, Any] = {**SIZES, "intermediate_size": 64}


def make_tokenizer(*, add_bos: bool = True) -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: 4 special tokens and the 256 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if add_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
        model_max_length=256,
    )


def make_config(architecture: str) -> transformers.PretrainedConfig:
    """The configuration of a tiny model of the named architecture."""
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 260}
    if architecture == "llama":
        return transformers.LlamaConfig(**WIDE, **ids, num_key_value_heads=2)
    if architecture == "qwen2":
        return transformers.Qwen2Config(**WIDE, **ids, num_key_value_heads=2)
    if architecture == "mistral":
        return transformers.MistralConfig(**WIDE, **ids, num_key_value_heads=2, sliding_window=None)
    if architecture == "gpt_neox":
        return transformers.GPTNeoXConfig(**WIDE, **ids)
    if architecture == "gpt2":
        return transformers.GPT2Config(
            **GPT2_SIZES, **ids, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
        )
    if architecture == "bloom":
        return transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **ids)
    if architecture == "bert":
        return transformers.BertConfig(
            **WIDE, **ids, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
    raise ValueError(architecture)


def make_tiny(architecture: str, folder: Path, *, seed: int = 0, add_bos: bool = True) -> Path:
    """Save a tiny random model and its tokenizer into `folder`, and give the folder back.

    The weights are drawn wide (std 0.2), so that log-probabilities differ visibly.
    """
    config = make_config(architecture)
    config.initializer_range = 0.2
    head = (
        transformers.AutoModelForMaskedLM
        if architecture == "bert"
        else transformers.AutoModelForCausalLM
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = head.from_config(config)
    model.save_pretrained(folder)
    make_tokenizer(add_bos=add_bos).save_pretrained(folder)
    return folder
