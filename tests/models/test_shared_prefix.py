"""A shared row gives exactly what separate passes give, and computes no more than it must."""

from pathlib import Path

import pytest
import torch
import transformers

from tests.tiny_models import make_config, make_tiny
from trueup.models import load
from trueup.models.prefix_tree import Group, Tree, lay_out, separated
from trueup.models.shared_prefix import (
    PackedScorer,
    buckets,
    find_layout,
    pack,
    score_groups,
    token_logps,
)
from trueup.models.work import Work

SHARING = ["llama", "qwen2", "gpt2", "gpt_neox", "mistral"]
GROUPS = [
    Group([5, 6, 7, 8, 9, 10], [[11, 12, 13], [14, 15], [16]]),
    Group([30, 31], [[32, 33, 34, 35, 36], [37, 38, 39, 40]]),
    Group([50, 51, 52], [[53]]),
]


def rows(groups: list[Group]) -> list[Tree]:
    return [lay_out([group]) for group in groups]


def separate_logps(model, groups: list[Group]) -> list[torch.Tensor]:
    """One whole pass of the plain model per completion: no packing, no padding, no masks."""
    results = []
    for group in separated(groups):
        ids = torch.tensor([[*group.prompt, *group.completions[0]]])
        logits = model(input_ids=ids).logits[0].log_softmax(-1)
        start = len(group.prompt)
        steps = torch.arange(start - 1, ids.shape[1] - 1)
        results.append(logits[steps, ids[0, start:]])
    return results


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", SHARING)
def test_shared_rows_equal_separate_passes(architecture: str, attention: str, tmp_path: Path):
    folder = make_tiny(architecture, tmp_path / architecture)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation=attention
    ).eval()
    layout = find_layout(model, vocab_size=260)
    assert layout.shares_prefix
    assert layout.splits_head
    table, mask = token_logps(model, pack(rows(GROUPS)))
    for row, keep, expected in zip(table, mask, separate_logps(model, GROUPS), strict=True):
        torch.testing.assert_close(row[keep], expected, atol=1e-5, rtol=0)
        assert (row[~keep] == 0).all()


@pytest.mark.parametrize("architecture", SHARING)
def test_gradients_equal_those_of_separate_passes(architecture: str, tmp_path: Path):
    model = load(make_tiny(architecture, tmp_path / "m"), dtype="float64").model
    weights = torch.linspace(-1, 1, 6, dtype=torch.float64)

    def gradients(sums: torch.Tensor) -> list[torch.Tensor]:
        model.zero_grad()
        (weights * sums).sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    shared = gradients(token_logps(model, pack(rows(GROUPS)))[0].sum(1))
    apart = gradients(torch.stack([part.sum() for part in separate_logps(model, GROUPS)]))
    for left, right in zip(shared, apart, strict=True):  # norms and rotations stay in float32
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


def test_alibi_model_falls_back_to_separate_rows_and_stays_exact(tmp_path: Path):
    lm = load(make_tiny("bloom", tmp_path / "bloom"))
    assert not lm.layout.shares_prefix
    scored = [torch.tensor(part) for parts in lm.score_groups(GROUPS) for part in parts]
    for got, expected in zip(scored, separate_logps(lm.model, GROUPS), strict=True):
        torch.testing.assert_close(got, expected.double(), atol=1e-5, rtol=0)


def test_uniform_sliding_window_is_kept_inside_shared_rows():
    config = make_config("mistral")
    config.sliding_window = 4
    config.initializer_range = 0.2
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    table, mask = token_logps(model, pack(rows(GROUPS)))
    for row, keep, expected in zip(table, mask, separate_logps(model, GROUPS), strict=True):
        torch.testing.assert_close(row[keep], expected, atol=1e-5, rtol=0)


def test_rows_beyond_the_window_of_a_mixed_model_are_not_shared():
    config = transformers.Qwen2Config(
        **{**make_config("qwen2").to_dict(), "layer_types": None},
    )
    config.use_sliding_window, config.sliding_window = True, 6
    config.layer_types = ["full_attention", "sliding_attention"]
    config.initializer_range = 0.2
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    layout = find_layout(model, vocab_size=260)
    assert layout.longest_shared == 6
    trees = [tree for group in GROUPS for tree in layout.trees([group])]
    assert len(trees) == 3 + 2 + 1
    packed = pack(trees)
    table, mask = token_logps(model, packed)
    for row, keep, expected in zip(table, mask, separate_logps(model, GROUPS), strict=True):
        torch.testing.assert_close(row[keep], expected, atol=1e-5, rtol=0)


def test_without_the_mask_the_completions_would_leak_into_one_another(tiny_llama):
    """Negative control: the same row under a plain causal mask gives other numbers."""
    packed = pack(rows(GROUPS[:1]))
    output = tiny_llama.model(input_ids=packed.input_ids, position_ids=packed.position_ids)
    logits = output.logits[packed.head_rows, packed.head_columns].log_softmax(-1)
    leaked = logits[packed.source, packed.target]
    clean = torch.cat(separate_logps(tiny_llama.model, [GROUPS[0]]))
    assert (leaked - clean).abs().max() > 0.01


def test_work_is_the_minimum():
    """Every prompt token once per group, every scored position once through the head."""
    work = Work()
    pack(rows(GROUPS)).count(work)
    inner = sum(len(completion) - 1 for group in GROUPS for completion in group.completions)
    assert work.trunk_tokens == sum(len(group.prompt) for group in GROUPS) + inner
    assert work.head_rows == len(GROUPS) + inner


def test_padding_ids_change_nothing(tiny_llama):
    first, _ = token_logps(tiny_llama.model, pack(rows(GROUPS), pad_id=0))
    second, _ = token_logps(tiny_llama.model, pack(rows(GROUPS), pad_id=77))
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_scores_do_not_depend_on_bucketing(tiny_llama):
    scorer = PackedScorer(tiny_llama.model, tiny_llama.layout)
    whole = dict(score_groups(scorer, GROUPS, token_budget=10_000))
    single = dict(score_groups(scorer, GROUPS, token_budget=1))
    for index in whole:
        for left, right in zip(whole[index], single[index], strict=True):
            torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


def test_buckets_hold_every_row_once_within_budget_and_waste():
    lengths = [3, 100, 98, 40, 41, 7, 300, 2, 95] * 20
    made = buckets(lengths, token_budget=1000, floor=200, waste=0.1)
    assert sorted(index for bucket in made for index in bucket) == list(range(len(lengths)))
    for bucket in made:
        longest = max(lengths[index] for index in bucket)
        assert longest * len(bucket) <= 1000 or len(bucket) == 1
    padded = sum(max(lengths[i] for i in bucket) * len(bucket) for bucket in made)
    assert padded <= 1.2 * sum(lengths)


def test_prompts_that_begin_alike_share_a_row_and_keep_their_numbers(tiny_llama):
    start = list(range(20, 40))
    groups = [
        Group([*start, 7], [[11, 12], [11, 13, 14]]),
        Group([90, 91, 92], [[5, 6]]),
        Group([*start, 8, 9], [[11, 12], [15]]),
        Group(start, [[7, 11, 12], [200]]),
    ]
    scorer = PackedScorer(tiny_llama.model, tiny_llama.layout)
    work = Work()
    scored = dict(score_groups(scorer, groups, token_budget=1000, work=work))
    flat = [part for index in range(len(groups)) for part in scored[index]]
    for got, expected in zip(flat, separate_logps(tiny_llama.model, groups), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    # the common start, then 7 11 13 of the first and the last, 8 9 11 of the third; and the second
    assert work.trunk_tokens == (20 + 3 + 3) + (3 + 1)
    # predicting: start, 7, 11 (twice: two tokens follow it), 13; 9, 11; 92, 5
    assert work.head_rows == 4 + 2 + 2
