"""The share of prompts whose answer depends on the documents' order."""

import numpy as np

from trueup.decoding.position_bias import position_bias
from trueup.decoding.segments import Segments
from trueup.models import LanguageModel

PROMPTS = [
    Segments(
        prefix="Facts:\n", docs=[f"{n}: red.\n", f"{n * n}.\n", "Blue and grey.\n"], suffix="So"
    )
    for n in range(8)
]


def test_pine_never_flips_where_the_model_does(tiny_llama: LanguageModel, rng: np.random.Generator):
    stock, pine = position_bias(tiny_llama, PROMPTS, rng=rng, max_new_tokens=6)
    assert (stock.slice, stock.n, pine.slice, pine.n) == ("stock", 8, "pine", 8)
    assert stock.low > 0.5
    assert pine.value == 0


def test_one_document_has_no_order_to_flip_by(tiny_llama: LanguageModel, rng: np.random.Generator):
    prompts = [Segments(docs=[f"{n} red"], suffix=" so") for n in range(4)]
    stock, pine = position_bias(tiny_llama, prompts, rng=rng, max_new_tokens=6)
    assert (stock.value, pine.value) == (0, 0)


def test_drawn_orders_are_as_many_as_asked(tiny_llama: LanguageModel, rng: np.random.Generator):
    prompt = Segments(docs=["a", "bb", "ccc", "dddd"], suffix="?")
    tiny_llama.work.reset()
    position_bias(tiny_llama, [prompt], rng=rng, permutations=5, max_new_tokens=1)
    size = 1 + 10 + 1
    assert tiny_llama.work.trunk_tokens == 5 * size + (size - 1) + 5  # pine reads the set once
