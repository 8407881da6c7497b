"""Searches on real prompts: a small model that learned HH's answers, a lexicon as the reward."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trueup
from tests.test_real_text import small_model
from trueup.data import read
from trueup.models.reward import Lexicon

ADDRESSED = Lexicon(["you", "your", "please", "help"])
SEARCHES: dict[str, dict[str, Any]] = {
    "best-of-n": {"candidates": 8},
    "args": {"weight": 4.0},
    "deal": {"lam": 4.0, "lookahead": 4},
}


def coin(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """A scorer that knows nothing: a hash of the text."""
    return [zlib.crc32(text.encode()) / 2**32 for text in completions]


def lower_bound(values: np.ndarray) -> float:
    return float(values.mean() - 2.2 * values.std(ddof=1) / np.sqrt(len(values)))  # t of 15


@pytest.mark.slow
def test_a_lexicon_is_followed_and_a_coin_is_not(shared_data: Path, tmp_path: Path):
    """Words that address the reader, in answers to held-out prompts, against plain answers."""
    rows = read(shared_data / "hh_harmless_pairs.jsonl", contract="pairs").rows
    answers = [row["chosen"] for row in rows[:600]]
    lm = trueup.align(
        small_model(["\n\nAssistant:", *answers], words=1024),
        "sft",
        data=[{"prompt": "\n\nAssistant:", "completion": answer} for answer in answers],
        out=tmp_path / "sft",
        learning_rate=3e-3,
        batch_size=16,
        max_length=40,
    )
    prompts = [row["prompt"] for row in rows[800:] if len(row["prompt"]) < 300][:16]
    asked = {"max_new_tokens": 16, "seed": 1}
    for name, settings in SEARCHES.items():
        asked["temperature"] = 1.0 if name == "best-of-n" else 0.0
        plain = ADDRESSED([], trueup.generate(lm, prompts, **asked).texts)

        def gain(
            reward: Any, name: str = name, settings: Any = settings, plain: Any = plain
        ) -> np.ndarray:
            found = trueup.generate(lm, prompts, decoder=name, reward=reward, **asked, **settings)
            return np.subtract(ADDRESSED([], found.texts), plain)

        real, blind = gain(ADDRESSED), gain(coin)
        assert lower_bound(real) > 0.3, name
        assert lower_bound(real - blind) > 0.3, name
