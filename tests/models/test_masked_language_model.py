from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.tiny_models import make_tiny, make_tokenizer
from trueup.errors import UserError
from trueup.models.masked_language_model import MaskedLanguageModel, load_masked

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 260}
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
CONFIGS = {
    "bert": lambda: transformers.BertConfig(**SIZES, **IDS),
    "roberta": lambda: transformers.RobertaConfig(**SIZES, **IDS),
    "albert": lambda: transformers.AlbertConfig(embedding_size=16, **SIZES, **IDS),
    "electra": lambda: transformers.ElectraConfig(embedding_size=16, **SIZES, **IDS),
    "distilbert": lambda: transformers.DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=64, initializer_range=0.2, **IDS
    ),
    "modernbert": lambda: transformers.ModernBertConfig(
        **SIZES, **{**IDS, "cls_token_id": 1, "sep_token_id": 2}
    ),
}
TEXTS = ["one word", "a somewhat longer text of words", "x"]


def made(architecture: str, *, seed: int = 0) -> MaskedLanguageModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForMaskedLM.from_config(CONFIGS[architecture]())
    return MaskedLanguageModel(model, make_tokenizer(), name=architecture)


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("bert", tmp_path_factory.mktemp("masked") / "bert")


@pytest.fixture
def bert(bert_folder: Path) -> MaskedLanguageModel:
    return load_masked(bert_folder, device="cpu")


def rows_of(model: MaskedLanguageModel) -> list[tuple[list[int], list[int], list[int]]]:
    """Every own token of every text masked on its own."""
    rows = []
    for sentence in model.sentences(TEXTS):
        for place in sentence.words:
            masked = list(sentence.ids)
            masked[place] = model.mask_id
            rows.append((masked, [place], [sentence.ids[place]]))
    return rows


@torch.no_grad()
def plainly(model: MaskedLanguageModel, ids: list[int]) -> np.ndarray:
    """All log-probabilities of one row by the whole model, without a batch."""
    logits = model.model(input_ids=torch.tensor([ids])).logits[0]
    return torch.log_softmax(logits.double(), dim=-1).numpy()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_batches_give_what_single_passes_give(architecture: str):
    model = made(architecture)
    rows = rows_of(model)
    for (ids, [place], [target]), [logp] in zip(rows, model.masked_logps(rows), strict=True):
        assert logp == pytest.approx(plainly(model, ids)[place, target], abs=1e-5)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_head_runs_on_masked_positions_only(architecture: str):
    model = made(architecture)
    rows = rows_of(model)
    model.masked_logps(rows)
    assert model.work.trunk_tokens == sum(len(ids) for ids, _, _ in rows)
    assert model.work.head_rows == len(rows)


def test_a_head_that_cannot_be_split_off_counts_every_token(monkeypatch: pytest.MonkeyPatch):
    model = made("bert")
    expected = model.masked_logps(rows_of(model))
    whole = made("bert")
    monkeypatch.setattr(whole, "_gives_logits", lambda head: False)
    for one, other in zip(whole.masked_logps(rows_of(whole)), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert whole.work.head_rows == whole.work.trunk_tokens


def test_a_position_named_twice_goes_through_the_head_once(bert: MaskedLanguageModel):
    [logps] = bert.masked_logps([([1, 3, 70], [1, 1, 2], [80, 90, 70])])
    assert logps.shape == (3,)
    assert bert.work.head_rows == 2
    np.testing.assert_allclose(logps[:2], plainly(bert, [1, 3, 70])[1, [80, 90]], atol=1e-5)


def test_targets_of_one_position_make_a_distribution(bert: MaskedLanguageModel):
    size = len(bert.tokenizer)
    [logps] = bert.masked_logps([([1, 3, 70], [1] * size, list(range(size)))])
    assert np.exp(logps).sum() == pytest.approx(1, abs=1e-5)


def test_unmasked_scores_the_tokens_that_stand_there(bert: MaskedLanguageModel):
    ids = [1, 60, 61, 62]
    [logps] = bert.unmasked([(ids, [1, 3])])
    np.testing.assert_allclose(logps, plainly(bert, ids)[[1, 3], [60, 62]], atol=1e-5)


def test_a_row_without_positions_is_empty(bert: MaskedLanguageModel):
    parts = bert.masked_logps([([1, 60], [], []), ([1, 60], [1], [60])])
    assert [len(part) for part in parts] == [0, 1]
    assert bert.masked_logps([]) == []


def test_a_row_without_positions_is_not_run(bert: MaskedLanguageModel):
    assert [len(part) for part in bert.masked_logps([([1, 60], [], [])])] == [0]
    assert bert.work.trunk_tokens == 0


def test_special_tokens_are_no_words(bert: MaskedLanguageModel):
    [sentence] = bert.sentences(["ab c"])
    assert sentence.ids[0] == bert.tokenizer.bos_token_id
    assert sentence.words == [1, 2, 3, 4]
    assert sentence.spans == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_no_texts_no_sentences(bert: MaskedLanguageModel):
    assert bert.sentences([]) == []


@pytest.mark.parametrize(("text", "message"), [("", "has no tokens"), ("a" * 300, "300|301")])
def test_texts_that_cannot_be_read_are_refused(bert: MaskedLanguageModel, text: str, message: str):
    with pytest.raises(UserError, match=message):
        bert.sentences(["fine", text])


def test_the_fingerprint_knows_the_weights(bert: MaskedLanguageModel, bert_folder: Path):
    assert bert.fingerprint == load_masked(bert_folder, device="cpu").fingerprint
    with torch.no_grad():
        next(bert.model.parameters()).add_(1)
    assert bert.fingerprint != load_masked(bert_folder, device="cpu").fingerprint


def test_it_says_that_it_is_masked(bert: MaskedLanguageModel):
    assert bert.is_masked
    assert "BertForMaskedLM" in repr(bert)


def test_a_tokenizer_without_a_mask_is_refused(bert: MaskedLanguageModel):
    tokenizer = make_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="no mask token"):
        MaskedLanguageModel(bert.model, tokenizer, name="bare")


@pytest.mark.parametrize("settings", [{"dtype": "int8"}, {"device": "abacus"}])
def test_unknown_types_and_devices_are_refused(bert_folder: Path, settings: dict):
    with pytest.raises(UserError):
        load_masked(bert_folder, **settings)


def test_a_missing_folder_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no such model folder"):
        load_masked(tmp_path / "nothing")
