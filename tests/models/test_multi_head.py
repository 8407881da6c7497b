"""Several heads on one trunk: each token by its own head, and any mix as an ordinary model."""

from pathlib import Path

import peft
import pytest
import torch
import transformers
from torch import Tensor

from tests.tiny_models import make_tiny, make_tokenizer
from trueup.errors import UserError
from trueup.models import LanguageModel, architecture, load
from trueup.models.multi_head import MultiHead, merge_heads

NAMES = ("honest", "helpful")
HALF = {"honest": 0.5, "helpful": 0.5}
TEXTS = ["The nurse said", "x = 3"]


@pytest.fixture(scope="module", params=["gpt2", "llama"])  # tied and untied
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = make_tiny(request.param, tmp_path_factory.mktemp(request.param))
    return load(folder, dtype="float64", device="cpu")


def started(lm: LanguageModel, *, noise: float = 0.1, seed: int = 0) -> MultiHead:
    return MultiHead.started(lm, NAMES, noise=noise, generator=torch.Generator().manual_seed(seed))


def batch_of(lm: LanguageModel) -> Tensor:
    return lm.tokenizer("The nurse said that", return_tensors="pt").input_ids


def hidden_of(lm: LanguageModel) -> Tensor:
    return architecture.run_trunk(lm.model, {"input_ids": batch_of(lm)}).last_hidden_state[0]


def biased() -> LanguageModel:
    """A tiny model whose output head has a bias that is not zero."""
    config = transformers.PhiConfig(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=64, initializer_range=0.2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.PhiForCausalLM(config).double()
        torch.nn.init.normal_(model.lm_head.bias)
    return LanguageModel(model, make_tokenizer(), name="biased")


# the heads alone


def test_without_noise_every_head_is_the_models_own(lm: LanguageModel) -> None:
    heads, own = started(lm, noise=0.0), lm.model.get_output_embeddings().weight
    assert all(torch.equal(weight, own) for weight in heads.weights)
    assert all(weight.data_ptr() != own.data_ptr() for weight in heads.weights)


def test_noise_differs_between_heads_has_its_size_and_follows_the_seed(lm: LanguageModel) -> None:
    own = lm.model.get_output_embeddings().weight
    first, second = ((weight - own).detach() for weight in started(lm, noise=0.01).weights)
    assert float(first.std()) == pytest.approx(0.01, rel=0.05)
    assert not torch.equal(first, second)
    assert torch.equal(started(lm).weights[1], started(lm).weights[1])
    assert not torch.equal(started(lm).weights[1], started(lm, seed=1).weights[1])


def test_the_global_generator_stays_where_it_was(lm: LanguageModel) -> None:
    before = torch.get_rng_state()
    merge_heads(lm, started(lm), HALF)
    assert torch.equal(before, torch.get_rng_state())


def test_tokens_go_through_their_own_head_even_where_they_share_a_row(lm: LanguageModel) -> None:
    heads, hidden = started(lm), hidden_of(lm).detach()
    numbers = torch.tensor([1, 0, 0, 1, 0])
    source, target = torch.tensor([2, 0, 2, 1, 3]), torch.tensor([7, 8, 7, 5, 9])
    found = heads.head_logps(hidden, numbers, source, target)
    every = torch.stack([(hidden @ weight.T).log_softmax(-1) for weight in heads.weights])
    torch.testing.assert_close(found, every[numbers, source, target], atol=1e-12, rtol=0)
    wrong = every[1 - numbers, source, target]
    assert (found - wrong).abs().min() > 1e-3


def test_only_the_own_head_and_the_trunk_have_gradients(lm: LanguageModel) -> None:
    heads = started(lm)
    hidden = hidden_of(lm)
    hidden.retain_grad()
    target = batch_of(lm)[0, 1:]
    source = torch.arange(len(target))
    heads.head_logps(hidden, torch.zeros_like(target), source, target).sum().backward()
    assert heads.weights[0].grad is not None
    assert heads.weights[0].grad.abs().sum() > 0
    assert heads.weights[1].grad is None
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() > 0
    lm.model.zero_grad()


def test_gradients_are_those_of_the_plain_way(lm: LanguageModel) -> None:
    heads, hidden = started(lm), hidden_of(lm).detach().requires_grad_(True)
    numbers, source = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 2])
    target = torch.tensor([5, 6, 7])
    inputs = [hidden, *heads.weights]
    ours = torch.autograd.grad(heads.head_logps(hidden, numbers, source, target).sum(), inputs)
    every = torch.stack([(hidden @ weight.T).log_softmax(-1) for weight in heads.weights])
    plain = torch.autograd.grad(every[numbers, source, target].sum(), inputs)
    for left, right in zip(ours, plain, strict=True):
        torch.testing.assert_close(left, right, atol=1e-11, rtol=0)


def test_half_precision_heads_train_in_float32(tiny_model_folder: Path) -> None:
    lm = load(tiny_model_folder, dtype="bfloat16", device="cpu")
    heads = started(lm)
    assert {weight.dtype for weight in heads.weights} == {torch.float32}
    target = batch_of(lm)[0, 1:]
    source = torch.arange(len(target))
    found = heads.head_logps(hidden_of(lm), torch.zeros_like(target), source, target)
    assert found.dtype == torch.float32
    assert merge_heads(lm, heads, HALF).model.lm_head.weight.dtype == torch.bfloat16


# the mix


def ensemble(lm: LanguageModel, heads: MultiHead, shares: tuple[float, ...]) -> Tensor:
    several = [hidden_of(lm) @ weight.T for weight in heads.weights]
    return sum(share * logits for share, logits in zip(shares, several, strict=True))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.7, 0.3), (1.0, 0.0)])
def test_the_merged_model_has_the_ensembles_logits(
    lm: LanguageModel, shares: tuple[float, float]
) -> None:
    heads = started(lm)
    merged = merge_heads(lm, heads, dict(zip(NAMES, shares, strict=True)))
    found = merged.model(input_ids=batch_of(lm)).logits[0]
    assert (found - ensemble(lm, heads, shares)).abs().max() < 1e-12
    own = lm.model(input_ids=batch_of(lm)).logits[0]
    assert (found - own).abs().max() > 1e-2  # the control: the heads do differ from the model's


def test_weights_are_normalised_and_the_unnamed_weigh_nothing(lm: LanguageModel) -> None:
    heads = started(lm)
    there = merge_heads(lm, heads, {"helpful": 3.0}).model.get_output_embeddings().weight
    torch.testing.assert_close(there, heads.weights[1], atol=1e-15, rtol=0)


def test_merging_changes_neither_the_model_nor_its_input_embedding(lm: LanguageModel) -> None:
    before, fingerprint = lm.text_logps(TEXTS), lm.fingerprint
    is_tied = lm.model.config.tie_word_embeddings
    merged = merge_heads(lm, started(lm), HALF)
    words = lm.model.get_input_embeddings().weight
    assert merged.model.get_input_embeddings().weight is words  # the trunk is shared
    assert merged.model.get_output_embeddings().weight.data_ptr() != words.data_ptr()
    assert (lm.text_logps(TEXTS) == before).all()
    assert (lm.fingerprint, lm.model.config.tie_word_embeddings) == (fingerprint, is_tied)
    assert merged.fingerprint != fingerprint


def test_the_merged_model_is_saved_and_read_as_any_other(lm: LanguageModel, tmp_path: Path) -> None:
    merged = merge_heads(lm, started(lm), HALF)
    merged.save(tmp_path)
    again = load(tmp_path, device="cpu")
    assert again.text_logps(TEXTS) == pytest.approx(merged.text_logps(TEXTS), abs=1e-9)
    assert again.text_logps(TEXTS) != pytest.approx(lm.text_logps(TEXTS), abs=1e-3)
    again.model.tie_weights()
    assert again.text_logps(TEXTS) == pytest.approx(merged.text_logps(TEXTS), abs=1e-9)


def test_the_merged_model_samples(lm: LanguageModel) -> None:
    merged = merge_heads(lm, started(lm), HALF)
    assert merged.name == f"{lm.name}[honest=0.5,helpful=0.5]"
    assert len(merged.sample(["The"], n=2, max_new_tokens=3)[0]) == 2


def test_a_bias_goes_with_its_head() -> None:
    lm = biased()
    heads, bias = started(lm), lm.model.lm_head.bias
    target = batch_of(lm)[0, 1:]
    source, numbers = torch.arange(len(target)), torch.arange(len(target)) % 2
    found = heads.head_logps(hidden_of(lm), numbers, source, target)
    every = torch.stack([(hidden_of(lm) @ w.T + bias).log_softmax(-1) for w in heads.weights])
    torch.testing.assert_close(found, every[numbers, source, target], atol=1e-12, rtol=0)
    merged = merge_heads(lm, heads, HALF).model(input_ids=batch_of(lm)).logits[0]
    assert (merged - ensemble(lm, heads, (0.5, 0.5)) - bias).abs().max() < 1e-12


def test_an_adapter_is_merged_into_a_copy(lm: LanguageModel) -> None:
    settings = peft.LoraConfig(
        r=2,
        target_modules="all-linear",
        init_lora_weights=False,
        fan_in_fan_out=lm.model.config.model_type == "gpt2",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft.get_peft_model(load(lm.name, dtype="float64", device="cpu").model, settings)
    adapted = LanguageModel(model, lm.tokenizer, name="adapted")
    before, heads = adapted.text_logps(TEXTS), started(adapted, noise=0.0)
    merged = merge_heads(adapted, heads, HALF)
    assert merged.text_logps(TEXTS) == pytest.approx(before, abs=1e-9)
    assert not hasattr(merged.model, "peft_config")
    assert (adapted.text_logps(TEXTS) == before).all()


# files and errors


def test_heads_come_back_from_their_file(lm: LanguageModel, tmp_path: Path) -> None:
    for model in (lm, biased()):
        heads = started(model)
        heads.save(tmp_path)
        again = MultiHead.load(tmp_path)
        assert again.names == NAMES
        for name, value in heads.state_dict().items():
            assert torch.equal(again.state_dict()[name], value)


def test_equal_heads_are_equal_bytes(lm: LanguageModel, tmp_path: Path) -> None:
    for name in ("a", "b"):
        started(lm).save(tmp_path / name)
    files = [(tmp_path / name / "heads.safetensors").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]


def test_no_or_foreign_files_are_one_clear_line(lm: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        MultiHead.load(tmp_path)
    (tmp_path / "heads.safetensors").write_bytes(b"no heads at all")
    with pytest.raises(UserError, match="holds no heads"):
        MultiHead.load(tmp_path)
    foreign = (Path(lm.name) / "model.safetensors").read_bytes()
    (tmp_path / "heads.safetensors").write_bytes(foreign)
    with pytest.raises(UserError, match="holds no heads"):
        MultiHead.load(tmp_path)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"honset": 1.0}, "did you mean 'honest'"),
        ({"honest": -1.0, "helpful": 2.0}, "honest must be at least 0"),
        ({"honest": 0.0}, "the sum of the weights must be above 0"),
    ],
)
def test_weights_that_make_no_mix_are_refused(
    lm: LanguageModel, weights: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        merge_heads(lm, started(lm), weights)


def test_heads_of_another_model_are_refused(lm: LanguageModel) -> None:
    narrow = MultiHead(NAMES, [torch.zeros(260, 8)] * 2)
    with pytest.raises(UserError, match="of another model, got 8 inputs"):
        merge_heads(lm, narrow, HALF)


@pytest.mark.parametrize("names", [(), ("honest",), ("honest", "honest")])
def test_names_must_match_the_heads(names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="2 heads need a name each"):
        MultiHead(names, [torch.zeros(4, 2)] * 2)


def test_a_head_that_does_more_than_one_product_is_refused(tiny_model_folder: Path) -> None:
    plain = load(tiny_model_folder, device="cpu")
    model = peft.get_peft_model(plain.model, peft.LoraConfig(target_modules=["lm_head"]))
    with pytest.raises(UserError, match="not one matrix"):
        started(LanguageModel(model, plain.tokenizer, name="adapted"))
