"""What the benchmarks share: real preference pairs, a tokenizer of them, a model of some size."""

import json
import resource
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from trueup.worlds.occupations import OccupationWorld

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
HH = SHARED / "hh_harmless_pairs.jsonl"
BBQ = SHARED / "bbq_age.jsonl"


def read_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """The first rows of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(count), strict=False)]


def pairs(path: Path | None, count: int) -> tuple[list[dict[str, str]], str]:
    """Preference pairs and where they are from: a file, else text of the occupations world."""
    if path is not None:
        rows = read_rows(path, count)
        return [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows], str(
            path
        )
    text = OccupationWorld(seed=1).corpus()
    rows = []
    for index in range(count):
        part = text[index * 18 : (index + 1) * 18]
        cut = 6 + index % 7
        rows.append(
            {
                "prompt": " ".join(part[:cut]),
                "chosen": " " + " ".join(part[cut : cut + 3]),
                "rejected": " " + " ".join(part[-3:]),
            }
        )
    return rows, "text of the occupations world (no --data was given)"


def make_tokenizer(texts: list[str], vocab_size: int = 8192) -> Any:
    """A byte-level BPE tokenizer trained on the texts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", model_max_length=2048
    )


def make_model(vocab_size: int, hidden: int, layers: int, *, seed: int = 0) -> Any:
    """A random Llama-architecture model, the same for the same arguments."""
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=round(hidden * 8 / 3 / 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        num_key_value_heads=max(1, hidden // 64),
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config)


def peak_mb() -> float:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print the rows as a JSON list, or one field per line."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        for key, value in row.items():
            print(f"{key:24} {value:.4g}" if isinstance(value, float) else f"{key:24} {value}")
        print()
