"""AULA: the sheet's closed-form vectors, the attention it weighs with, and nothing from nothing."""

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from tests.audits.planted_models import random_bert
from tests.proofs.probability_calibration import misses, slope, world_of
from tests.proofs.toy_masked_model import S1, S2, ToyMaskedModel
from tests.tiny_models import make_tokenizer
from trueup.audits.probability.aul import AUL
from trueup.audits.probability.aula import AULA
from trueup.audits.probability.sentence_pairs import SentencePairs
from trueup.models.masked_language_model import MaskedLanguageModel
from trueup.stats import Estimate

WORLD = world_of("aula")
COUNT = 80
ROWS = [
    {"id": str(n), "sent_more": f"group a{n} is lazy", "sent_less": f"group b{n} is lazy"}
    for n in range(COUNT)
]
SWAPPED = [{**row, "sent_more": row["sent_less"], "sent_less": row["sent_more"]} for row in ROWS]
TEXTS = [row[side] for row in ROWS for side in ("sent_more", "sent_less")]


def items_of(
    model: MaskedLanguageModel, rows: list[dict], audit: SentencePairs | None = None
) -> pd.DataFrame:
    audit = audit or AULA()
    return audit.measure(model, audit.probes(rows))


def numbers(items: pd.DataFrame) -> dict[str, Estimate]:
    return {row.metric: row for row in AULA().estimate(items)}


# 1. identity: sheet 33, section 8.1


def test_vector_of_the_closed_form_pair():
    items = items_of(ToyMaskedModel(), [{"sent_more": S1, "sent_less": S2}])
    assert items["more"][0] == pytest.approx(-0.527595811281, abs=1e-11)
    assert items["less"][0] == pytest.approx(-0.449902526382, abs=1e-11)


def test_even_attention_gives_aul_over_the_row_length():
    class Even(ToyMaskedModel):
        def attended_logps(self, rows):
            pairs = zip(self.masked_logps(rows), rows, strict=True)
            return [(logps, np.full(len(logps), 1 / len(ids))) for logps, (ids, _, _) in pairs]

    rows = [{"sent_more": S1, "sent_less": S2}]
    weighted, plain = items_of(Even(), rows), items_of(ToyMaskedModel(), rows, AUL())
    for side in ("more", "less"):
        assert weighted[side][0] == pytest.approx(plain[side][0] / 6, abs=1e-12)


def test_swapping_the_sentences_maps_the_share_to_its_complement():
    there, back = (numbers(items_of(random_bert(TEXTS), rows)) for rows in (ROWS, SWAPPED))
    assert there["share"].value == pytest.approx(1 - back["share"].value, abs=1e-12)


# 2. differential: attentions as transformers returns them, a row at a time

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 260}
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
}
CONFIGS = [transformers.BertConfig, transformers.RobertaConfig, transformers.ElectraConfig]
LINES = [[1, 60, 61, 2], [1, 70, 71, 72, 73, 74, 2], [1, 80, 2]]


def made(config: type) -> MaskedLanguageModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForMaskedLM.from_config(config(**SIZES, **IDS))
    return MaskedLanguageModel(model, make_tokenizer(), name="random")


def rows_of(lines: list[list[int]]) -> list:
    return [(ids, list(range(1, len(ids) - 1)), ids[1:-1]) for ids in lines]


@torch.no_grad()
def received(model: MaskedLanguageModel, ids: list[int]) -> np.ndarray:
    """Mean attention of each column over layers, heads and queries, of one row alone."""
    model.model.set_attn_implementation("eager")
    layers = model.model(input_ids=torch.tensor([ids]), output_attentions=True).attentions
    return torch.stack(layers).mean((0, 1, 2, 3)).numpy()


@pytest.mark.parametrize("config", CONFIGS)
def test_attention_is_the_models_own_whatever_the_padding(config: type):
    model = made(config)
    for (logps, weights), ids in zip(model.attended_logps(rows_of(LINES)), LINES, strict=True):
        expected = received(made(config), ids)
        assert expected.sum() == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(weights, expected[1:-1], atol=1e-6)
        assert len(logps) == len(ids) - 2


@pytest.mark.parametrize("config", CONFIGS)
def test_log_probabilities_are_those_without_attentions(config: type):
    model = made(config)
    plain = model.masked_logps(rows_of(LINES))
    for (logps, _), expected in zip(model.attended_logps(rows_of(LINES)), plain, strict=True):
        np.testing.assert_allclose(logps, expected, rtol=1e-5, atol=1e-5)  # float32


def test_the_attention_kernel_is_as_before():
    model = made(transformers.BertConfig)
    before = model.model.config._attn_implementation
    model.attended_logps(rows_of(LINES))
    assert model.model.config._attn_implementation == before == "sdpa"


def test_a_sentence_is_one_forward_row():
    model = random_bert(TEXTS)
    items_of(model, ROWS[:3])
    assert model.work.trunk_tokens == 3 * 2 * 6
    assert model.work.head_rows == 3 * 2 * 4


# 4. planted effect


def test_calibration_follows_the_planted_sizes():
    assert slope(AULA, WORLD, 100) == pytest.approx(1, abs=0.1)


def test_calibration_intervals_cover():
    assert misses(AULA, WORLD, 0.65, 60, 100) <= 0.1


# 5. negative control


def test_calibration_raises_few_false_alarms():
    assert misses(AULA, WORLD, 0.5, 60, 200) <= 0.096


def test_a_random_model_has_no_lean():
    share = numbers(items_of(random_bert(TEXTS, seed=1), ROWS))["share"]
    assert abs(share.value - 0.5) <= 2 * np.sqrt(0.25 / COUNT)


def test_shuffled_labels_show_nothing(rng: np.random.Generator):
    draw = WORLD.draw(0.8, COUNT, 3)
    flipped = rng.permutation(np.repeat([True, False], COUNT // 2))
    rows = [
        {**row, "sent_more": row["sent_less"], "sent_less": row["sent_more"]} if flip else row
        for row, flip in zip(draw.rows, flipped, strict=True)
    ]
    found = numbers(items_of(draw.model, rows))
    assert found["share"].low <= 0.5 <= found["share"].high
    assert found["log_ratio"].low <= 0 <= found["log_ratio"].high
