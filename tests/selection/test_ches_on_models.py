"""CHES on real architectures: the head's own inputs, one shared row per pair, nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.tiny_models import WIDE, make_tiny, make_tokenizer
from trueup.errors import UserError
from trueup.models import Group, LanguageModel, architecture, load
from trueup.models.prefix_tree import lay_out
from trueup.models.shared_prefix import head_inputs, pack
from trueup.selection.ches import Ches, ches_score, edit_distance, last_hidden_similarity

ARCHITECTURES = ["llama", "qwen2", "mistral", "gpt_neox", "gpt2", "bloom"]
ROWS = [
    {"prompt": "Are you well?", "chosen": " Yes, quite.", "rejected": " No."},
    {"prompt": "Are you here?", "chosen": " No", "rejected": " Never, I think."},
    {"prompt": "Hm.", "chosen": " A", "rejected": " B"},
    {"prompt": "Are you well?", "chosen": " Yes, quite.", "rejected": " Yes, quiet."},
]


def head_states(lm: LanguageModel, ids: list[int]) -> torch.Tensor:
    """What the output head reads at each token of one plain pass, caught at its door."""
    caught: list[torch.Tensor] = []
    head = architecture.causal_model(lm.model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        lm.model(input_ids=torch.tensor([ids]))
    hook.remove()
    return caught[0][0]


def one_by_one(lm: LanguageModel, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The scores from separate plain passes and the pure functions: no packing, no padding."""
    found: dict[str, list[float]] = {"ches": [], "ches_normalized": [], "last": []}
    for row in rows:
        group = lm.encode(row["prompt"], [row["chosen"], row["rejected"]], add_eos=True)
        inputs = []
        for completion in group.completions:
            states = head_states(lm, [*group.prompt, *completion])[None].double()
            places = torch.arange(states.shape[1])
            mask = (places >= len(group.prompt) - 1) & (places < states.shape[1] - 1)
            assert mask.sum() == len(completion)
            inputs += [states, mask[None]]
        found["ches"].append(ches_score(*inputs, length_normalize=False).item())
        found["ches_normalized"].append(ches_score(*inputs).item())
        found["last"].append(last_hidden_similarity(*inputs).item())
    return {name: np.array(values) for name, values in found.items()}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("ches") / request.param
    return load(make_tiny(request.param, folder), device="cpu")


def test_the_head_of_the_states_is_the_logits(lm: LanguageModel):
    groups = [Group([5, 6, 7], [[8, 9, 10], [8, 11]])]
    packed = pack([tree for group in groups for tree in lm.layout.trees([group])])
    with torch.no_grad():
        states = head_inputs(lm.model, packed)
        logits = architecture.causal_model(lm.model).get_output_embeddings()(states)
        for completion, tokens in enumerate(groups[0].completions):
            plain = lm.model(input_ids=torch.tensor([[5, 6, 7, *tokens]])).logits[0, 2:-1]
            rows = packed.source[packed.completion == completion]
            torch.testing.assert_close(logits[rows], plain, atol=1e-4, rtol=1e-4)


def test_packed_scores_equal_separate_passes(lm: LanguageModel):
    expected = one_by_one(lm, ROWS)
    for normalized, name in ((True, "ches_normalized"), (False, "ches")):
        found = Ches(length_normalize=normalized).score(lm, ROWS)
        np.testing.assert_allclose(found, expected[name], rtol=1e-3, atol=1e-3)
    report = Ches().report(lm, ROWS)
    np.testing.assert_allclose(report["last_hidden_similarity"], expected["last"], rtol=1e-3)


def test_scores_do_not_depend_on_the_other_rows(lm: LanguageModel):
    together = Ches().score(lm, ROWS)
    alone = np.concatenate([Ches().score(lm, [row]) for row in ROWS])
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-3)


def test_prompts_are_read_once_and_the_head_not_at_all(tiny_llama: LanguageModel):
    before = tiny_llama.work.as_dict()
    Ches().score(tiny_llama, ROWS[:1])
    spent = {name: count - before[name] for name, count in tiny_llama.work.as_dict().items()}
    group = tiny_llama.encode(ROWS[0]["prompt"], [" Yes, quite.", " No."], add_eos=True)
    tree = lay_out([group])  # the space that both answers begin with stands there once
    assert spent["trunk_tokens"] == len(tree)
    assert len(tree) < 2 * len(group.prompt) + sum(map(len, group.completions)) - 2
    assert spent["head_rows"] == 0


def test_half_precision_scores_are_near(tmp_path: Path):
    folder = make_tiny("llama", tmp_path / "llama")
    exact = Ches().score(load(folder, device="cpu"), ROWS)
    half = Ches().score(load(folder, device="cpu", dtype="bfloat16"), ROWS)
    np.testing.assert_allclose(half, exact, rtol=0.1, atol=0.1)


def test_swapped_sides_are_another_score(tiny_llama: LanguageModel):
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS]
    there, back = (Ches(length_normalize=False).score(tiny_llama, rows) for rows in (ROWS, turned))
    assert (there + back < 0).all()  # -||S_chosen - S_rejected||^2
    assert not np.allclose(there, back, atol=0.1)


def test_report_has_the_scores_beside_simpler_likenesses(tiny_llama: LanguageModel):
    report = Ches().report(tiny_llama, ROWS)
    assert list(report.columns) == [
        "ches", "ches_normalized", "last_hidden_similarity", "edit_distance", "chosen_length",
        "rejected_length",
    ]  # fmt: skip
    np.testing.assert_array_equal(report["ches_normalized"], Ches().score(tiny_llama, ROWS))
    assert report["chosen_length"].tolist() == [13, 4, 3, 13]  # bytes, and EOS
    assert report["edit_distance"][3] == pytest.approx(2 / 13)  # "te" for "et"
    group = tiny_llama.encode("Hm.", [" A", " B"], add_eos=True)
    assert report["edit_distance"][2] == edit_distance(*group.completions) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b" * 300, "rejected": "c"}, "row 2: prompt and completion"),
        ({"prompt": "a", "chosen": "b"}, "row 2: 'rejected' is missing"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(
    tiny_llama: LanguageModel, row: dict[str, str], message: str
):
    with pytest.raises(UserError, match=message):
        Ches().score(tiny_llama, [ROWS[0], row])


def test_a_prompt_without_tokens_is_refused(tmp_path: Path):
    lm = load(make_tiny("gpt2", tmp_path / "gpt2", add_bos=False), device="cpu")
    lm.encoder.tokenizer.bos_token = lm.encoder.tokenizer.eos_token = None
    with pytest.raises(UserError, match="row 1: the prompt has no tokens"):
        Ches().score(lm, [{"prompt": "", "chosen": "b", "rejected": "c"}])


def of(config: Any, kind: Any) -> LanguageModel:
    config.initializer_range = 0.2
    torch.manual_seed(0)
    return LanguageModel(kind(config).eval(), make_tokenizer(), name="made")


IDS = {"vocab_size": 260, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def test_a_head_with_capped_logits_is_scored_all_the_same():
    config = transformers.Gemma2Config(**WIDE, **IDS, num_key_value_heads=2, head_dim=8)
    config.final_logit_softcapping = 1.0
    lm = of(config, transformers.Gemma2ForCausalLM)
    assert not lm.layout.splits_head
    found = Ches().score(lm, ROWS)
    np.testing.assert_allclose(found, one_by_one(lm, ROWS)["ches_normalized"], rtol=1e-3, atol=1e-3)


def test_a_head_that_reads_something_else_is_refused():
    config = transformers.BertConfig(**WIDE, **IDS, is_decoder=True)
    lm = of(config, transformers.BertLMHeadModel)
    with pytest.raises(UserError, match="made: its output head does not read the last hidden"):
        Ches().score(lm, ROWS)
