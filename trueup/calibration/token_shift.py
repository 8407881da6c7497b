"""Token shift where the shifted share is known: bigram models that part on some words."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_world import ScriptedWorld
from trueup.models.language_model import LanguageModel

Array = NDArray[np.float64]

RINGS = 40  # words stand in pairs on a ring; the base model stays in its lane, a tuned one changes
WORDS = tuple(f"w{ring}{lane}" for ring in range(RINGS) for lane in "ab")
OWN_LANE, FILLERS, OTHER_LANE, TUNED = 6.0, (4.0, 3.0, 2.0), 1.0, 9.0  # logits; the others are 0
FALLEN = 2 + len(FILLERS)  # the base model's rank of the other lane


class TunedModel(LanguageModel):
    """A model that knows the one that it was tuned from."""

    base: LanguageModel


class TokenShiftWorld(ScriptedWorld):
    """Answers that change lanes where the base model would not."""

    audit = "token-shift"
    metric = "shifted"
    planted: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75)
    null = 0.0
    settings: Mapping[str, Any] = MappingProxyType({"max_new_tokens": 4})
    story = (
        "Words stand in two lanes on a ring. The base model goes on in its lane; the aligned one "
        "changes lanes behind the planted share of the places, to a word that the base model ranks "
        "fifth. Every place is as likely as any other at every position of an answer."
    )
    unit = "prompts"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Answers of four words that start anywhere."""
        rng = np.random.default_rng(seed)
        rings = rng.permutation(RINGS)[: round(planted * RINGS)]
        rows = [{"prompt": str(word)} for word in rng.choice(WORDS, n)]
        return Draw(tuned_model(rings.tolist()), rows)


def tuned_model(rings: list[int]) -> TunedModel:
    """The aligned model, which changes lanes on these rings."""
    model = TunedModel(_bigram(tuned_table(rings)), _tokenizer(), name="planted")
    model.base = base_model()
    return model


@functools.cache
def base_model() -> LanguageModel:
    """The model that it was tuned from."""
    return LanguageModel(_bigram(base_table()), _tokenizer(), name="planted base")


def base_table() -> Array:
    """Logits [V, V] of the next word: own lane first, three fillers, then the other lane."""
    table = np.zeros((len(WORDS), len(WORDS)))
    for word in range(len(WORDS)):
        ahead, lane = _ahead(word), word % 2
        fillers = [(ahead + 2 * step) % len(WORDS) for step in range(3, 3 + len(FILLERS))]
        table[word, [ahead + lane, *fillers, ahead + 1 - lane]] = [OWN_LANE, *FILLERS, OTHER_LANE]
    return table


def tuned_table(rings: list[int]) -> Array:
    """The base model's logits; on these rings the other lane comes first.

    Both lanes of a ring are changed together, so a step maps words one to one and a start that is
    uniform over the words stays so.
    """
    table = base_table()
    for ring in rings:
        for lane in (0, 1):
            table[2 * ring + lane, _ahead(2 * ring) + 1 - lane] = TUNED
    return table


def _ahead(word: int) -> int:
    """The first of the two words on the next ring."""
    return 2 * ((word // 2 + 1) % RINGS)


def _bigram(table: Array) -> transformers.PreTrainedModel:
    """A transformer whose one layer adds nothing, so that its logits are the table's rows."""
    size = len(table)
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        rms_norm_eps=0.0,
    )
    with torch.random.fork_rng():
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_(torch.tensor(table).T / size**0.5)
    return model


def _tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A token per word."""
    lines = {word: line for line, word in enumerate(WORDS)}
    backend = Tokenizer(models.WordLevel(lines, unk_token=WORDS[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]


WORLDS: tuple[CalibrationWorld, ...] = (TokenShiftWorld(),)
