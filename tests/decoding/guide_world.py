"""A world of topics: inputs by template, three guidelines a topic, and encoders of word bags."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

TOPICS, RULES, TRAINED, UNSEEN = 12, 3, 6, 2
LETTERS = list("abcdefghijklmnopqrstuvwxyz")


class World:
    """Words of a topic mixed with words that say nothing, all drawn from the seed."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        words = list(dict.fromkeys("".join(rng.choice(LETTERS, 6)) for _ in range(200)))
        self.topic_words = [words[8 * topic : 8 * topic + 8] for topic in range(TOPICS)]
        self.noise = words[8 * TOPICS : 8 * TOPICS + 20]
        self.words = [*self.noise, *(word for each in self.topic_words for word in each)]
        templates = [[str(rng.choice(self.noise)) for _ in range(3)] for _ in range(8)]
        self.inputs = [
            [" ".join([*form, *map(str, rng.choice(own, 3))]) for form in templates]
            for own in self.topic_words
        ]
        self.rules = [
            [self._rule(own[2 * rule : 2 * rule + 4], rng) for rule in range(RULES)]
            for own in self.topic_words
        ]

    def _rule(self, own: Sequence[str], rng: np.random.Generator) -> str:
        noise = map(str, rng.choice(self.noise, 3))
        return f"{own[0]} {own[1]}: {' '.join([*own[2:], *noise])}"

    def every_rule(self) -> list[str]:
        """The rules of all topics."""
        return [*itertools.chain(*self.rules)]

    def pairs(self) -> list[tuple[str, str]]:
        """Inputs of the first templates, each with its topic's rules."""
        return [
            (question, rule)
            for questions, rules in zip(self.inputs, self.rules, strict=True)
            for question in questions[:TRAINED]
            for rule in rules
        ]

    def unseen(self) -> list[tuple[str, list[str]]]:
        """Inputs of the other templates, with their topic's rules."""
        return [
            (question, rules)
            for questions, rules in zip(self.inputs, self.rules, strict=True)
            for question in questions[TRAINED:]
        ]


class Bag(nn.Module):
    """The mean of the words' vectors; a module to train, and an encoder to ask."""

    name = "bag"

    def __init__(self, words: Sequence[str], width: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.lines = {word: line for line, word in enumerate(words)}
        start = np.random.default_rng(seed).normal(size=(len(words), width))
        self.table = nn.EmbeddingBag.from_pretrained(torch.tensor(start).float(), freeze=False)

    def forward(self, texts: Sequence[str]) -> torch.Tensor:
        """A vector per text."""
        bags = [[self.lines[w] for w in text.replace(":", "").split()] for text in texts]
        offsets = np.cumsum([0, *map(len, bags)])[:-1]
        return self.table(torch.tensor([*itertools.chain(*bags)]), torch.tensor(offsets))

    def text_vectors(self, texts: Sequence[str], **how: Any) -> np.ndarray:
        """The same as numbers."""
        with torch.no_grad():
            return self(texts).double().numpy()

    @property
    def fingerprint(self) -> str:
        """The sum of the table."""
        return str(float(self.table.weight.detach().double().sum()))
