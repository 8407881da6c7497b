"""Steering as a decoder: settings from texts, vectors on disk, errors, what is learnt once."""

import json
from pathlib import Path

import pytest
import torch

from tests.models.residual_models import direction, ids_of, logits_of, wide_llama
from trueup.decoding.activation_steering import ActivationSteering
from trueup.decoding.compose import compose
from trueup.decoding.protocol import Request
from trueup.decoding.steering_strength import StrengthPoint, choose_strength, strength_curve
from trueup.decoding.steering_vectors import SteeringVector, read_pairs, search_layers
from trueup.decoding.urial import Urial
from trueup.errors import UserError, build
from trueup.models import LanguageModel
from trueup.models.sampling import Sampling

PAIRS = [
    {"prompt": "Hello", "aligned": ", sir", "contrast": ", yo"},
    {"prompt": "Who is it", "aligned": ", madam?", "contrast": "?"},
]


@pytest.fixture
def lm() -> LanguageModel:
    return wide_llama()


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return path


def made(settings: dict[str, str]) -> ActivationSteering:
    return build("activation-steering", ActivationSteering, settings)


def steered(lm: LanguageModel, edit: ActivationSteering) -> torch.Tensor:
    with edit.applied(lm):
        return logits_of(lm.model, ids_of(lm, "hello"))


def tokens(found: list) -> list[list[int]]:
    return [list(several[0].token_ids) for several in found]


def test_texts_make_the_edit_that_a_file_of_pairs_makes(lm: LanguageModel, pairs_file: Path):
    texts = {"pairs": str(pairs_file), "layer": "2", "strength": "-0.5", "positions": "all"}
    assert torch.equal(
        steered(lm, made(texts)),
        steered(lm, ActivationSteering(pairs=PAIRS, layer=2, strength=-0.5)),
    )
    auto = made({"pairs": str(pairs_file), "layer": "auto", "space": "logit_lens"})
    assert auto.layer == "auto"
    assert auto.strength is None
    assert auto.vector_for(lm).layer in (0, 1, 2)


def test_a_chain_tells_its_settings_by_content(lm: LanguageModel, pairs_file: Path):
    """What a run's record holds: two vectors of one model are two settings."""
    vector = SteeringVector.from_pairs(lm, PAIRS)
    edits = [
        ActivationSteering(pairs=pairs_file),
        ActivationSteering(pairs=read_pairs(PAIRS)),
        ActivationSteering(vector=vector),
        ActivationSteering(vector=vector.with_strength(2.0)),
    ]
    told = [json.dumps(compose(edit).settings(), sort_keys=True) for edit in edits]
    assert len(set(told)) == 4
    assert str(pairs_file) in told[0]


def test_a_chain_steers_behind_a_prompt_step_that_keeps_its_prefix(lm: LanguageModel):
    """Greedy texts are those of the bare edit on the whole prompt, and not those without it."""
    urial = Urial(prefix="Be kind. " * 4)
    edit = ActivationSteering(pairs=PAIRS, strength=3.0)
    request = Request(sampling=Sampling(max_new_tokens=8, temperature=0))
    chain, prompts = compose([urial, edit]), ["Hello?", "Who is there?"]
    kept = chain.writer(lm)  # made outside, where its prefix is another one
    plain = tokens(chain.decode(kept, prompts, request))
    with chain.applied(lm):
        found = tokens(chain.decode(kept, prompts, request))
        whole = lm.sample(
            urial.prepare(prompts, lm), max_new_tokens=8, temperature=0, stop=urial.stop
        )
    assert found == tokens(whole)
    assert found != plain


def test_a_saved_vector_steers_as_the_pairs_do(lm: LanguageModel, pairs_file: Path, tmp_path: Path):
    vector = SteeringVector.from_pairs(lm, PAIRS, layer=1).with_strength(0.5)
    vector.save(tmp_path / "v.safetensors")
    expected = steered(lm, ActivationSteering(pairs=PAIRS, layer=1, strength=0.5))
    assert torch.equal(steered(lm, made({"vector": str(tmp_path / "v.safetensors")})), expected)


def test_saving_and_loading_keeps_all_of_it(lm: LanguageModel, tmp_path: Path):
    vector = SteeringVector.from_pairs(lm, PAIRS, layer=1).with_range(lm, PAIRS)
    for name in ("a.safetensors", "b.safetensors"):
        vector.save(tmp_path / name)
    loaded = SteeringVector.load(tmp_path / "a.safetensors")
    assert loaded.fingerprint == vector.fingerprint
    assert str(loaded) == str(vector)
    assert loaded.low is not None
    assert loaded.low < loaded.high
    first, second = ((tmp_path / name).read_bytes() for name in ("a.safetensors", "b.safetensors"))
    assert first == second


def test_chosen_and_rejected_are_aligned_and_contrast(lm: LanguageModel):
    names = {"prompt": "prompt", "aligned": "chosen", "contrast": "rejected"}
    rows = [{names[name]: value for name, value in row.items()} for row in PAIRS]
    assert read_pairs(rows).rows == read_pairs(PAIRS).rows
    first, second = (search_layers(lm, each) for each in (rows, PAIRS))
    assert torch.equal(first.vectors, second.vectors)


def test_the_search_does_not_depend_on_the_order_of_pairs(lm: LanguageModel):
    first, second = (search_layers(lm, each) for each in (PAIRS, PAIRS[::-1]))
    torch.testing.assert_close(first.vectors, second.vectors, atol=1e-6, rtol=0)
    torch.testing.assert_close(first.js, second.js, atol=1e-9, rtol=0)


def test_all_layers_are_candidates_when_asked(lm: LanguageModel):
    assert list(search_layers(lm, PAIRS).candidates) == [0, 1, 2]
    assert list(search_layers(lm, PAIRS, candidates="all").candidates) == [0, 1, 2, 3]


def test_the_vector_is_learnt_once_and_again_after_training(lm: LanguageModel):
    edit = ActivationSteering(pairs=PAIRS)
    with edit.applied(lm):
        pass
    once = lm.work.trunk_tokens
    with edit.applied(lm):
        pass
    assert lm.work.trunk_tokens == once
    with torch.no_grad():
        lm.model.model.embed_tokens.weight.mul_(1.1)
    with edit.applied(lm):
        pass
    assert lm.work.trunk_tokens == 2 * once


def test_two_edits_learn_from_the_same_model(lm: LanguageModel):
    """The second one is applied under the first, and must not learn from what that one made."""
    first, second = (ActivationSteering(pairs=PAIRS, strength=c) for c in (5.0, 1.0))
    with first.applied(lm), second.applied(lm):
        pass
    assert torch.equal(first.vector_for(lm).direction, second.vector_for(lm).direction)
    assert first.vector_for(lm).model_fingerprint == lm.fingerprint


def test_relative_norm_is_the_share_of_a_tokens_median_norm(lm: LanguageModel):
    vector = SteeringVector(
        layer=0, direction=3 * torch.ones(16), model_fingerprint="x", typical_norm=6.0, n_pairs=2
    )
    assert vector.norm == pytest.approx(12)
    assert vector.relative_norm(-0.5) == pytest.approx(1)
    assert str(vector) == "layer 0  norm 12  strength 1, 2.000 of a token's norm  n=2"


def test_equal_values_go_to_the_smaller_strength_and_costly_ones_are_out():
    curve = [
        StrengthPoint(strength=c, relative_norm=abs(c), value=value, perplexity=perplexity)
        for c, value, perplexity in [(0, 0.1, 10), (1, 0.5, 10.4), (2, 0.5, 10.4), (3, 0.9, 11)]
    ]
    assert choose_strength(curve).strength == 1
    assert choose_strength(curve, slack=0.1).strength == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs a vector or pairs, one of them"),
        ({"vector": "v", "pairs": "p"}, "needs a vector or pairs, one of them"),
        ({"vector": "v", "layer": "1"}, "a vector has a layer of its own, got layer=1"),
        ({"pairs": "p", "layer": "-1"}, "layer must be at least 0, got -1"),
        ({"pairs": "p", "layer": "top"}, "layer must be a whole number or one of auto, got 'top'"),
        ({"pairs": "p", "strength": "inf"}, "strength must be a finite number, got inf"),
        ({"pairs": "p", "space": "logits"}, "space must be one of hidden, logit_lens"),
        ({"pairs": "p", "mode": "mul"}, "mode must be one of add, clamp"),
        ({"pairs": "p", "positions": "last"}, "positions must be one of all, generated"),
        ({"pairs": "p", "candidates": "none"}, "candidates must be one of first-half, all"),
    ],
)
def test_settings_that_are_wrong_say_so(settings: dict[str, str], message: str):
    with pytest.raises(UserError, match=message):
        made(settings)


def test_pairs_that_are_wrong_name_their_place(lm: LanguageModel, tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        json.dumps(PAIRS[0]) + "\n" + json.dumps({"prompt": "x", "aligned": "y"}) + "\n"
    )
    with (
        pytest.raises(UserError, match=r"pairs.jsonl:2: 'contrast' is missing"),
        made({"pairs": str(path)}).applied(lm),
    ):
        pass


def test_pairs_without_a_difference_are_refused(lm: LanguageModel):
    """The same last states: the answers are read to their last token, which sees all before."""
    with pytest.raises(UserError, match="must prefer one"):
        SteeringVector.from_pairs(lm, [{"prompt": "a", "aligned": "b", "contrast": "b"}])


def test_a_vector_of_another_model_is_refused_unless_allowed(lm: LanguageModel):
    vector = SteeringVector.from_pairs(wide_llama(seed=1), PAIRS)
    with (
        pytest.raises(UserError, match="was made of another model than wide-llama"),
        ActivationSteering(vector=vector).applied(lm),
    ):
        pass
    clean = logits_of(lm.model, ids_of(lm, "hello"))
    allowed = steered(lm, ActivationSteering(vector=vector, any_model=True))
    assert not torch.equal(allowed, clean)


def test_a_vector_that_does_not_fit_is_refused(lm: LanguageModel):
    def of(layer: int, width: int) -> ActivationSteering:
        vector = SteeringVector(
            layer=layer, direction=direction(width), model_fingerprint=lm.fingerprint
        )
        return ActivationSteering(vector=vector)

    with pytest.raises(UserError, match="has 8 coordinates, but wide-llama has 16"):
        of(0, 8).vector_for(lm)
    with pytest.raises(UserError, match="layer must lie between 0 and 3, got 7"):
        of(7, 16).vector_for(lm)


def test_a_clamp_without_a_range_is_refused(lm: LanguageModel):
    vector = SteeringVector.from_pairs(lm, PAIRS)
    with pytest.raises(UserError, match="has no clean range to clamp to"):
        ActivationSteering(vector=vector, mode="clamp").vector_for(lm)


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_a_file_that_holds_no_vector_says_so(tmp_path: Path, content: bytes | None):
    path = tmp_path / "v.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"v.safetensors: is no steering vector"):
        SteeringVector.load(path)


def test_a_foreign_safetensors_file_is_no_vector(tmp_path: Path):
    import safetensors.torch

    safetensors.torch.save_file({"direction": torch.ones(4)}, tmp_path / "v.safetensors")
    with pytest.raises(UserError, match="is no steering vector"):
        SteeringVector.load(tmp_path / "v.safetensors")


def test_a_curve_without_neutral_text_is_refused(lm: LanguageModel):
    vector = SteeringVector.from_pairs(lm, PAIRS)
    with pytest.raises(UserError, match="neutral text is missing"):
        strength_curve(lm, vector, lambda _: 0.0, [])
