"""A planted world of two tones: a tag sets the tone of the reply, and a small Llama knows it."""

from dataclasses import dataclass

import numpy as np
import torch
import transformers

from tests.audits.planted_models import word_tokenizer
from trueup.models import LanguageModel

TAGS = {"formal": "formally", "casual": "casually"}
REPLIES = {
    "formal": ("sir", "madam", "indeed", "certainly"),
    "casual": ("dude", "yeah", "yo", "nah"),
}
TOPICS = [f"{letter}{number}" for letter in "abc" for number in range(8)]
LENGTH = 3  # topics before the tag


@dataclass(frozen=True)
class TwoToneWorld:
    """The trained model; the world's texts are `topics tag reply reply`, replies of the tag's tone.

    A share `noise` of the replies has the other tone, so that neither is certain.
    """

    lm: LanguageModel
    seed: int

    def topics(self, number: int, stream: int) -> list[str]:
        """So many beginnings."""
        rng = np.random.default_rng([self.seed, stream])
        return [" ".join(rng.choice(TOPICS, LENGTH)) for _ in range(number)]

    def pairs(self, number: int = 64, stream: int = 1) -> list[dict[str, str]]:
        """The same beginning, answered formally (aligned) and casually (contrast)."""
        rng = np.random.default_rng([self.seed, stream, 7])
        return [
            {"prompt": start, "aligned": answer(rng, "formal"), "contrast": answer(rng, "casual")}
            for start in self.topics(number, stream)
        ]

    def casual_prompts(self, number: int = 64, stream: int = 2) -> list[str]:
        """Beginnings that ask for the casual tone, which the pairs do not have."""
        return [f"{start} {TAGS['casual']}" for start in self.topics(number, stream)]

    def texts(self, number: int = 64, stream: int = 3) -> list[str]:
        """Texts of both tones."""
        rng = np.random.default_rng([self.seed, stream, 8])
        tones = rng.choice(list(TAGS), number)
        return [
            start + answer(rng, tone)
            for start, tone in zip(self.topics(number, stream), tones, strict=True)
        ]

    def formal_rate(self, prompts: list[str]) -> float:
        """The model's mean probability that the first reply is formal."""
        ids = self.lm.tokenizer.convert_tokens_to_ids(list(REPLIES["formal"]))
        return float(self.lm.start(prompts).logprobs.exp()[:, ids].sum(dim=1).mean())


def answer(rng: np.random.Generator, tone: str) -> str:
    """A tag with two replies of its tone."""
    return " ".join(["", TAGS[tone], *rng.choice(REPLIES[tone], 2)])


def two_tone_world(seed: int = 0, steps: int = 300, noise: float = 0.0) -> TwoToneWorld:
    """The world with its model: two blocks, width 32, some seconds of AdamW."""
    words = [*TOPICS, *TAGS.values(), *REPLIES["formal"], *REPLIES["casual"]]
    tokenizer = word_tokenizer(words)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(config)
        world = TwoToneWorld(LanguageModel(model, tokenizer, name="two-tone"), seed)
        rows = torch.tensor(tokenizer(world.texts(2048, stream=0))["input_ids"])
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        model.train()
        for _ in range(steps):
            ids = rows[torch.randint(len(rows), (64,))]
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval().requires_grad_(False)
    return world
