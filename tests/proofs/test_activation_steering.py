"""Activation steering: the sheet's numbers, exact restoration, a planted tone moved, controls."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.models.residual_models import direction, ids_of, inputs_of, logits_of, wide_llama
from tests.proofs.two_tone_world import REPLIES, TwoToneWorld, two_tone_world
from trueup.decoding.activation_steering import ActivationSteering
from trueup.decoding.steering_strength import choose_strength, margin_on, reward_on, strength_curve
from trueup.decoding.steering_vectors import (
    SteeringVector,
    contrastive_js,
    search_layers,
    steering_vector,
)
from trueup.models import LanguageModel
from trueup.models.integrity import (
    hook_findings,
    residual_deltas,
    residual_findings,
    state_findings,
    weight_hashes,
)
from trueup.models.residual_stream import blocks_of
from trueup.models.sampling import Sampling

EXACT = {"atol": 1e-12, "rtol": 0}
DIGITS = {"atol": 5e-14, "rtol": 0}  # the sheet gives fourteen decimals
LAYER = 1
GRID = (0.0, 0.25, 0.5, 0.75, 1.0)


def double(rows: list) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


ALIGNED = double([[1, 0, -1, 0.5], [0.2, -0.4, 0.6, 0]])
CONTRAST = double([[0, 1, 0.5, -0.5], [0.1, 0.3, -0.2, 0.4]])


def official_statistic(aligned: Tensor, contrast: Tensor) -> float:
    """What the authors' code calls JS: mean_j m_j (log m_j - p_j), both sides and pairs averaged.

    It is here to show that it is no divergence.
    """
    p, q = aligned.softmax(-1), contrast.softmax(-1)
    m = (p + q) / 2
    return float(((m * (m.log() - p)).mean(-1) + (m * (m.log() - q)).mean(-1)).mean() / 2)


# 1. Identity: the sheet's vectors


def test_the_vector_of_the_sheet():
    expected = double([0.55, -0.85, -0.35, 0.30])
    torch.testing.assert_close(steering_vector(ALIGNED, CONTRAST), expected, **EXACT)


def test_js_of_the_sheet():
    js = contrastive_js(ALIGNED, CONTRAST)
    torch.testing.assert_close(js, double([0.12929765455695, 0.03835820541244]), **DIGITS)
    torch.testing.assert_close(js.mean(), double(0.08382792998470), **DIGITS)
    torch.testing.assert_close(contrastive_js(CONTRAST, ALIGNED), js, **EXACT)


def test_js_is_not_the_authors_statistic_which_is_no_divergence():
    assert official_statistic(ALIGNED, CONTRAST) == pytest.approx(-0.40634480416330, abs=5e-14)
    assert official_statistic(ALIGNED, ALIGNED) == pytest.approx(-0.39252914277422, abs=5e-14)
    assert contrastive_js(ALIGNED, ALIGNED).tolist() == [0, 0]


def test_the_divergence_and_the_authors_statistic_rank_layers_differently():
    same, one, other = (double([row]) for row in ([8, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]))
    assert contrastive_js(same, same).tolist() == [0]
    # All three by mpmath with thirty digits: the sheet's own are right to nine decimals only.
    assert contrastive_js(one, other).item() == pytest.approx(0.0721407825020418, abs=5e-16)
    assert official_statistic(same, same) == pytest.approx(-0.2517598715088512, abs=5e-16)
    assert official_statistic(one, other) == pytest.approx(-0.4032539284551286, abs=5e-16)


def test_js_reaches_its_bound_and_does_not_leave_it():
    js = contrastive_js(double([[50, 0], [1e4, 0]]), double([[0, 50], [0, 1e4]]))
    torch.testing.assert_close(js, double([math.log(2)] * 2), **DIGITS)
    assert float(js.max()) <= math.log(2)


# 2. Identities on a random Llama in double precision


@pytest.fixture
def llama() -> LanguageModel:
    return wide_llama()


def steering(lm: LanguageModel, vector: Tensor, **fields) -> ActivationSteering:
    """The edit that adds this vector behind block `LAYER`."""
    made = SteeringVector(
        layer=LAYER, direction=vector, model_fingerprint=wide_llama().fingerprint, typical_norm=1.0
    )
    return ActivationSteering(vector=made, **fields)


@pytest.mark.parametrize(("strength", "size"), [(0.0, 1.0), (1.0, 0.0)])
def test_no_strength_or_no_vector_changes_no_bit(
    llama: LanguageModel, strength: float, size: float
):
    ids = ids_of(llama, "hello", "there")
    clean = logits_of(llama.model, ids)
    with steering(llama, size * direction(), strength=strength).applied(llama):
        assert torch.equal(logits_of(llama.model, ids), clean)


def test_leaving_restores_every_bit_and_leaves_no_hook(llama: LanguageModel):
    ids = ids_of(llama, "hello", "there")
    clean, weights = logits_of(llama.model, ids), weight_hashes(llama.model)
    with steering(llama, direction()).applied(llama):
        assert not torch.equal(logits_of(llama.model, ids), clean)
    assert hook_findings(llama.model) == []
    assert state_findings(llama.model, weights) == []
    assert torch.equal(logits_of(llama.model, ids), clean)


def test_an_exception_inside_restores_every_bit_as_well(llama: LanguageModel):
    ids = ids_of(llama, "hello", "there")
    clean = logits_of(llama.model, ids)
    with pytest.raises(KeyError), steering(llama, direction()).applied(llama):
        raise KeyError("a reward that fails")
    assert hook_findings(llama.model) == []
    assert torch.equal(logits_of(llama.model, ids), clean)


def test_the_next_block_reads_the_sum_and_earlier_ones_no_other_bit(llama: LanguageModel):
    ids = ids_of(llama, "hello", "there")
    clean = inputs_of(llama.model, ids)
    with steering(llama, direction(), strength=-0.7).applied(llama):
        steered = inputs_of(llama.model, ids)
    assert all(torch.equal(steered[block], clean[block]) for block in range(LAYER + 1))
    added = steered[LAYER + 1] - clean[LAYER + 1]
    torch.testing.assert_close(added, (-0.7 * direction()).expand_as(added), **EXACT)


def test_edits_add_up(llama: LanguageModel):
    a, b, ids = direction(seed=1), direction(seed=2), ids_of(llama, "hello", "there")
    with steering(llama, a).applied(llama), steering(llama, b).applied(llama):
        nested, nested_logits = inputs_of(llama.model, ids), logits_of(llama.model, ids)
    with steering(llama, a + b).applied(llama):
        joint, joint_logits = inputs_of(llama.model, ids), logits_of(llama.model, ids)
    torch.testing.assert_close(nested[LAYER + 1], joint[LAYER + 1], **EXACT)
    torch.testing.assert_close(nested_logits, joint_logits, atol=1e-6, rtol=0)


def test_opposite_edits_are_none(llama: LanguageModel):
    ids = ids_of(llama, "hello", "there")
    clean, clean_logits = inputs_of(llama.model, ids), logits_of(llama.model, ids)
    there, back = (steering(llama, direction(), strength=c) for c in (1.5, -1.5))
    with there.applied(llama), back.applied(llama):
        both, both_logits = inputs_of(llama.model, ids), logits_of(llama.model, ids)
    torch.testing.assert_close(both[LAYER + 1], clean[LAYER + 1], **EXACT)
    torch.testing.assert_close(both_logits, clean_logits, atol=1e-6, rtol=0)


def test_a_bias_does_the_same_and_the_state_check_names_it_alone(llama: LanguageModel):
    ids = ids_of(llama, "hello", "there")
    with steering(llama, direction(), strength=0.5).applied(llama):
        hooked = logits_of(llama.model, ids)
    reference = weight_hashes(llama.model)
    blocks_of(llama.model)[LAYER].mlp.down_proj.bias = nn.Parameter(0.5 * direction())
    torch.testing.assert_close(logits_of(llama.model, ids), hooked, atol=1e-6, rtol=0)
    found = state_findings(llama.model, reference)
    assert [finding.name for finding in found] == [f"model.layers.{LAYER}.mlp.down_proj.bias"]
    assert hook_findings(llama.model) == []


def test_the_stream_check_names_layer_and_vector(llama: LanguageModel):
    ids = ids_of(llama, "hello", "there")
    clean = residual_deltas(llama.model, ids)
    assert float(clean.abs().max()) == 0  # negative control
    with steering(llama, direction(), strength=-0.8).applied(llama):
        deltas = residual_deltas(llama.model, ids)
    others = [layer for layer in range(len(deltas)) if layer != LAYER]
    assert float(deltas[others].abs().max()) == 0
    torch.testing.assert_close(
        deltas[LAYER], (-0.8 * direction()).expand_as(deltas[LAYER]), **EXACT
    )
    ((finding, vector),) = residual_findings(deltas)
    assert finding.name == f"block {LAYER}"
    torch.testing.assert_close(vector, -0.8 * direction(), **EXACT)


def test_subtracting_what_the_stream_check_found_undoes_it(llama: LanguageModel):
    ids = ids_of(llama, "hello", "there")
    clean = logits_of(llama.model, ids)
    with steering(llama, direction(), strength=-0.8).applied(llama):
        ((_, vector),) = residual_findings(residual_deltas(llama.model, ids))
        with steering(llama, -vector).applied(llama):
            torch.testing.assert_close(logits_of(llama.model, ids), clean, atol=1e-6, rtol=0)


def test_generating_with_a_cache_is_generating_without_one(llama: LanguageModel):
    ids = ids_of(llama, "hello", "there")
    how = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False}
    clean = llama.model.generate(ids, **how)
    with steering(llama, direction()).applied(llama):
        cached = llama.model.generate(ids, use_cache=True, **how)
        whole = llama.model.generate(ids, use_cache=False, **how)
    assert cached.tolist() == whole.tolist()
    assert cached.tolist() != clean.tolist()


def test_batches_sample_as_prompts_one_by_one_and_greedy_is_generate(llama: LanguageModel):
    prompts, how = ["hello", "who is there?", "x"], {"max_new_tokens": 10, "n": 2, "seed": 3}
    with steering(llama, direction()).applied(llama):
        together = llama.sample(prompts, **how)
        apart = [llama.sample([prompt], **how)[0] for prompt in prompts]
        greedy = llama.sample(["hello"], max_new_tokens=10, temperature=0)[0][0].token_ids
        peer = llama.model.generate(ids_of(llama, "hello"), max_new_tokens=10, do_sample=False)
    assert [[s.token_ids for s in each] for each in together] == [
        [s.token_ids for s in each] for each in apart
    ]
    assert greedy == peer[0, -len(greedy) :].tolist()


# 3. Planted effect: a model of two tones


@pytest.fixture(scope="module")
def world() -> TwoToneWorld:
    return two_tone_world(seed=0)


def formal_rates(world: TwoToneWorld, vector: SteeringVector, strengths=GRID) -> list[float]:
    """The formal rate on casual prompts at each strength."""
    rates = []
    for strength in strengths:
        with ActivationSteering(vector=vector, strength=strength).applied(world.lm):
            rates.append(world.formal_rate(world.casual_prompts()))
    return rates


def of_norm(vector: SteeringVector, other: Tensor) -> SteeringVector:
    """Another direction of the vector's norm in its place."""
    return dataclasses.replace(vector, direction=other * vector.norm / other.norm())


def test_the_world_is_learnt(world: TwoToneWorld):
    casual = world.casual_prompts()
    assert world.formal_rate(casual) < 0.02
    assert world.formal_rate([text.replace("casually", "formally") for text in casual]) > 0.95


def test_the_logit_lens_at_the_last_layer_is_what_the_model_predicts():
    """So that norm and head are the model's own: JS of the two next-token distributions."""
    lm = wide_llama()
    pairs = [{"prompt": "Who is it", "aligned": ", sir", "contrast": "?"}]
    found = search_layers(lm, pairs, space="logit_lens", candidates="all")
    logits = [logits_of(lm.model, ids_of(lm, "Who is it" + end))[:, -1] for end in (", sir", "?")]
    torch.testing.assert_close(found.js[-1], contrastive_js(*logits)[0], atol=1e-6, rtol=0)
    assert float(found.js[-1]) > 1e-3


@pytest.mark.parametrize("space", ["hidden", "logit_lens"])
def test_the_search_finds_the_layer_where_tones_differ_more(world: TwoToneWorld, space):
    found = search_layers(world.lm, world.pairs(), space=space)
    assert list(found.candidates) == [0, 1]
    assert found.layer == 1
    assert 0 < float(found.js[0]) < float(found.js[1]) < math.log(2)


def test_the_lower_layer_wins_a_tie():
    lm = wide_llama()
    found = search_layers(lm, [{"prompt": "a", "aligned": "bc", "contrast": "bd"}])
    tied = dataclasses.replace(found, js=torch.ones(4))
    assert tied.layer == 0
    assert list(tied.candidates) == [0, 1, 2]


@pytest.mark.parametrize("layer", [0, 1])
def test_strength_moves_held_out_prompts_monotonely_to_the_aligned_tone(
    world: TwoToneWorld, layer: int
):
    vector = SteeringVector.from_pairs(world.lm, world.pairs(), layer=layer)
    rates = formal_rates(world, vector)
    assert all(later > before - 0.01 for before, later in itertools.pairwise(rates))
    assert rates[0] < 0.02
    assert rates[-1] > 0.9


def test_samples_change_their_tone_and_back(world: TwoToneWorld):
    """The public path: pairs alone, sampled texts, 64 held-out prompts; 0 to all but a few."""
    edit = ActivationSteering(pairs=world.pairs())
    prompts = world.casual_prompts()

    def formal_texts() -> int:
        found = world.lm.sample(prompts, max_new_tokens=1, seed=1)
        return sum(several[0].text.strip() in REPLIES["formal"] for several in found)

    before = formal_texts()
    with edit.applied(world.lm):
        steered = formal_texts()
    assert before <= 3
    assert steered >= 60
    assert formal_texts() == before


def test_strength_below_zero_moves_formal_prompts_away(world: TwoToneWorld):
    vector = SteeringVector.from_pairs(world.lm, world.pairs())
    formal = [text.replace("casually", "formally") for text in world.casual_prompts()]
    with ActivationSteering(vector=vector, strength=-1.0).applied(world.lm):
        assert world.formal_rate(formal) < 0.05


def test_the_chosen_strength_is_the_smallest_that_wins_within_the_cost_allowed(
    world: TwoToneWorld,
):
    """A small model pays for every strength; neutral texts are beginnings, which have no tone."""
    vector = SteeringVector.from_pairs(world.lm, world.pairs())

    def is_formal(_, completions):
        return [float(text.strip() in REPLIES["formal"]) for text in completions]

    by_reward = reward_on(
        world.casual_prompts(32, stream=11), is_formal, Sampling(max_new_tokens=1, temperature=0)
    )
    neutral = world.topics(64, stream=12)
    curve = strength_curve(world.lm, vector, by_reward, neutral, strengths=(0.5, 0.75, 1, 4))
    assert [point.strength for point in curve] == [0, 0.5, 0.75, 1, 4]
    assert [point.value for point in curve[2:]] == [1, 1, 1]
    assert curve[0].value == 0
    costs = [point.perplexity for point in curve]
    assert costs == sorted(costs)
    assert choose_strength(curve, slack=1.5).strength == 0.75
    assert choose_strength(curve, slack=0.05).strength == 0


def test_held_out_pairs_tell_the_strength_as_well(world: TwoToneWorld):
    """Nats per token that the aligned answer gains on the contrast: more with every strength."""
    vector = SteeringVector.from_pairs(world.lm, world.pairs())
    margin = margin_on(world.pairs(32, stream=13))
    curve = strength_curve(world.lm, vector, margin, world.topics(8, 12), strengths=(-0.5, 0.5, 1))
    values = [point.value for point in curve]
    assert values == sorted(values)
    assert values[-1] > values[0] + 1
    assert abs(values[1]) < 0.2  # the model itself prefers neither
    assert curve[-1].relative_norm == pytest.approx(vector.norm / vector.typical_norm)


# 4. A guard: the clamp bounds what an attack can do


def test_the_clamp_bounds_an_attack_and_leaves_a_clean_model_alone(world: TwoToneWorld):
    """It holds projections in their clean range, and gives back no more than that."""
    lm = world.lm
    formal = [text.replace("casually", "formally") for text in world.casual_prompts()]
    guard = ActivationSteering(pairs=world.pairs(), mode="clamp")
    vector = guard.vector_for(lm)
    clean = world.formal_rate(formal)
    with guard.applied(lm):
        assert world.formal_rate(formal) == pytest.approx(clean, abs=0.01)
    attacked, guarded = [], []
    for strength in (-2, -8):
        attack = strength * vector.direction.float()
        block = blocks_of(lm.model)[vector.layer]
        handle = block.register_forward_hook(lambda *given, attack=attack: given[2] + attack)
        attacked.append(world.formal_rate(formal))
        with guard.applied(lm):
            guarded.append(world.formal_rate(formal))
        handle.remove()
    assert clean > 0.95
    assert max(attacked) < 0.01
    assert min(guarded) > 0.2
    assert guarded[0] == pytest.approx(guarded[1], abs=1e-4)


# 5. Negative controls


@pytest.mark.parametrize("layer", [0, 1])
def test_random_vectors_of_the_same_norm_do_not_move_the_tone(world: TwoToneWorld, layer: int):
    """The median of twenty: single random ones move a small model (sheet: up to .38 of .99)."""
    vector = SteeringVector.from_pairs(world.lm, world.pairs(), layer=layer)
    rates = [
        formal_rates(world, of_norm(vector, direction(32, seed=seed)), (1.0,))[0]
        for seed in range(100, 120)
    ]
    assert float(np.median(rates)) < 0.1


@pytest.mark.parametrize("layer", [0, 1])
def test_the_vector_of_shuffled_pairs_does_not_move_the_tone(world: TwoToneWorld, layer: int):
    """Half of the pairs turned round, at its own length and stretched to the real one's."""
    pairs = world.pairs()
    turned = [
        {**pair, "aligned": pair["contrast"], "contrast": pair["aligned"]} if number % 2 else pair
        for number, pair in enumerate(pairs)
    ]
    real = SteeringVector.from_pairs(world.lm, pairs, layer=layer)
    shuffled = SteeringVector.from_pairs(world.lm, turned, layer=layer)
    stretched = of_norm(real, shuffled.direction)
    for vector in (shuffled, stretched):
        assert formal_rates(world, vector, (1.0,))[0] < 0.1


def test_the_search_finds_nothing_where_nothing_differs():
    """Equal states: exactly 0 in every layer, and no vector."""
    states = torch.randn(5, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(contrastive_js(states, states).abs().max()) == 0
    assert not steering_vector(states, states).any()
