"""Worlds of rewrites: by a formula, and by scripted models whose answers depend on added words.

Run as a program it searches slowly in one of them, to be killed: FOLDER PRINCIPLES SECONDS.
"""

import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as token_models

from trueup.synthesis.p_aligner import PAlignerSearch
from trueup.synthesis.rewrite_tree import RewriteTree
from trueup.worlds.scripted_writer import ScriptedWriter, Written

EFFECTS = {"A": 0.30, "B": -0.10, "C": 0.12, "D": 0.05}
STEP_COST, REPEATED = 0.03, 0.6
ADDS = {"focus": 0.25, "shout": -0.10, "detail": 0.12, "polish": 0.05}
BASE = 0.2
INSTRUCTIONS = [f"Please do task {number} now." for number in range(60)]
PRINCIPLES = "".join(
    f'[[principle]]\nname = "{word}"\nphrase = "adding the word {word}"\n' for word in ADDS
)
_ASKED = re.compile(
    r"AI assistant:\n\n(.*)\n\nImprove the request by adding the word (\w+)\.", re.S
)


def effect_of(path: Sequence[str], effects: dict[str, float], cost: float = 0.0) -> float:
    """The sum of a path's effects, a repeated one weaker each time, less a cost per step."""
    return sum(
        effects[step] * REPEATED ** path[:place].count(step) - cost
        for place, step in enumerate(path)
    )


class FormulaScene:
    """A rewrite adds its principle's letter to what stands behind the colon; no noise."""

    def rewrites(self, wanted: Sequence[tuple[str, str]]) -> list[str | None]:
        return [text + letter for text, letter in wanted]

    def rewards(self, wanted: Sequence[tuple[str, str]], *, fresh: bool) -> list[list[float]]:
        return [[effect_of(text.partition(":")[2], EFFECTS, STEP_COST)] for _, text in wanted]


def formula_trees(count: int) -> list[RewriteTree]:
    """Trees that differ in their instruction, and so in what is drawn for them."""
    return [RewriteTree(f"{number}:", {name: name for name in EFFECTS}) for number in range(count)]


@dataclass(frozen=True)
class Adding:
    """A strong model that puts the principle's word behind the request."""

    def __call__(self, prompt: str, rng: Random) -> str:
        found = _ASKED.search(json.loads(prompt)[-1]["content"])
        assert found is not None
        return f"{found[1]} {found[2]}"


@dataclass(frozen=True)
class Answering:
    """Twelve words, each right with the chance that the request's added words give it."""

    def __call__(self, prompt: str, rng: Random) -> str:
        chance = quality(json.loads(prompt)[-1]["content"])
        return " ".join("right" if rng.random() < chance else "wrong" for _ in range(12))


def quality(request: str) -> float:
    """The chance of each word of an answer to be right: the truth of this world."""
    added = [word for word in request.split() if word in ADDS]
    return min(1.0, max(0.0, BASE + effect_of(added, ADDS, 0.02)))


def share_right(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """The share of right words."""
    return [text.split().count("right") / 12 for text in completions]


def own_principles(folder: Path) -> str:
    """A file with this world's principles."""
    path = folder / "principles.toml"
    path.write_text(PRINCIPLES, encoding="utf-8")
    return str(path)


def save_word_llama(folder: Path, words: Sequence[str]) -> Path:
    """A tiny random Llama whose tokens are these words, blanks between them."""
    names = ["<pad>", "<s>", "</s>", *words]
    backend = Tokenizer(token_models.WordLevel({w: i for i, w in enumerate(names)}, "<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(names),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True, kw_only=True, eq=False)
class SlowWriter(ScriptedWriter):
    """Waits before it answers; its name, script and seed tell it from no faster one."""

    seconds: float = 0.0

    def sample(self, prompts: Sequence[Any], **settings: Any) -> list[list[Written]]:
        """As its kind, later."""
        time.sleep(self.seconds)
        return super().sample(prompts, **settings)


def models(seconds: float = 0.0) -> dict[str, ScriptedWriter]:
    """The rewriter and the answerer, which waits before every batch of answers."""
    return {
        "rewriter": ScriptedWriter(script=Adding(), name="adding"),
        "answerer": SlowWriter(script=Answering(), name="answering", seconds=seconds),
    }


if __name__ == "__main__":
    folder, principles, waiting = sys.argv[1:]
    killed = PAlignerSearch(iterations=8, principles=principles)
    killed.search(INSTRUCTIONS[:5], reward=share_right, folder=folder, **models(float(waiting)))
