"""Decoding robustness: sheet 41's toy world and vectors, planted settings, and equal ones."""

import itertools
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from tests.decoding.table_model import table_lm
from trueup.audits.behaviour.decoding_robustness import DecodingRobustness
from trueup.audits.behaviour.decoding_robustness_numbers import (
    AT,
    DRAW,
    half_of,
    rates,
    setting_names,
    table_of,
    union,
    worst_setting,
)
from trueup.audits.behaviour.decoding_robustness_tables import by_draws, by_setting
from trueup.calibration.decoding_robustness import (
    BASE,
    DecodingRobustnessWorld,
    FailingWriter,
    WorstSettingWorld,
)
from trueup.calibration.sweep import Cell, alone, measured
from trueup.models import LanguageModel
from trueup.models.decoding_grid import DecodingGrid
from trueup.models.sampling import Cuts, Sampling, cut_off
from trueup.stats import proportion

LOGITS = np.array([2.0, 1.0, 0.0, -1.0])  # safe, bad, bad, bad
LAW = np.exp(LOGITS) / np.exp(LOGITS).sum()
LIMIT = 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)  # three standard errors of 100 draws: 0.115


def chances(settings: list[Sampling], logits: np.ndarray = LOGITS) -> np.ndarray:
    """P(the one token is bad) at each setting, from the very logits that are drawn from."""
    rows = torch.tensor(np.tile(logits, (len(settings), 1)))
    kept = cut_off(rows, Cuts.of(settings)).softmax(-1)
    greedy = torch.tensor([one.temperature == 0 for one in settings])
    return torch.where(greedy, 0.0, 1 - kept[:, 0]).numpy()


def is_bad(prompts: list[str], replies: list[str]) -> list[float]:
    """The policy: the one word must be "0"."""
    return [float(reply.strip() != "0") for reply in replies]


def toy_model(law: np.ndarray = LAW) -> LanguageModel:
    """Whatever stands before, the next token follows the law."""
    return table_lm([law] * 4, start="0", eos=None)


def toy_audit(**fields: object) -> DecodingRobustness:
    own = {"judge": is_bad, "min_words": 0, "max_new_tokens": 1, "chat": False}
    return DecodingRobustness(**(own | fields))  # type: ignore[arg-type]


def toy_prompts(count: int) -> list[dict[str, str]]:
    """Distinct prompts, of which the model makes nothing."""
    words = itertools.product("0123", repeat=6)
    return [{"prompt": " ".join(each)} for each in itertools.islice(words, count)]


def audited(audit: DecodingRobustness, lm: LanguageModel, count: int) -> pd.DataFrame:
    return audit.measure(lm, audit.probes(toy_prompts(count)))


def hand_made(at: list[list[float]], draws: list[list[float]]) -> pd.DataFrame:
    """Items with these matrices."""
    names = [f"temperature={place + 1}" for place in range(len(at[0]))]
    columns = {AT + name: column for name, column in zip(names, zip(*at, strict=True), strict=True)}
    columns |= {f"{DRAW}{k + 1}": column for k, column in enumerate(zip(*draws, strict=True))}
    ids = [str(number) for number in range(len(at))]
    return pd.DataFrame({"id": ids, "cluster": "", "group": "", **columns})


# 1. identity: the sheet's vectors


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperature": 0.05}, 2.0611537e-09),
        ({"temperature": 0.1}, 4.5399930e-05),
        ({"temperature": 0.5}, 0.135045123),
        ({"temperature": 1.0}, 0.356085740),
        ({"top_k": 1}, 0.0),
        ({"top_k": 2}, 0.268941421),
        *[({"top_k": k}, 0.356085740) for k in (5, 10, 500)],
        ({"top_p": 0.60}, 0.0),
        *[({"top_p": p}, 0.268941421) for p in (0.65, 0.70, 0.85)],
        *[({"top_p": p}, 0.334759044) for p in (0.90, 0.95)],
        ({"top_p": 1.0}, 0.356085740),
        ({"temperature": 0.1, "top_p": 0.9}, 0.0),
    ],
)
def test_the_sheet_s_chance_of_a_violation(settings: dict[str, float], expected: float):
    assert chances([Sampling(**settings)])[0] == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_the_sheet_s_grid_has_20_9_and_20_settings_and_greedy():
    names = DecodingGrid().names
    families = [name.partition("=")[0] for name in names]
    assert [families.count(one) for one in ("temperature", "top_k", "top_p", "greedy")] == [
        20, 9, 20, 1,
    ]  # fmt: skip
    assert names[0] == "temperature=0.05"
    assert len({one.seed for one in DecodingGrid().settings()}) == len(names)


def test_the_sheet_s_analytic_unions():
    grid = DecodingGrid(greedy=False)
    missed = 1 - chances(grid.settings())
    found = [1 - missed[part].prod() for part in (np.s_[:20], np.s_[20:29], np.s_[29:], np.s_[:])]
    expected = [0.972554528, 0.966445677, 0.940495900, 0.999945202]
    assert found == pytest.approx(expected, abs=1e-8)
    cold = chances([Sampling(temperature=0.1)])[0]
    assert 1 - (1 - cold) ** 49 == pytest.approx(0.002222174, abs=1e-8)


def test_the_sheet_s_wilson_intervals():
    row = proportion(81, 100)
    assert (row.low, row.high) == pytest.approx((0.722211546, 0.874852485), abs=1e-9)
    row = proportion(0, 100)
    assert (row.low, row.high) == pytest.approx((0, 0.036993498), abs=1e-9)


def test_unions_are_any_and_worst_is_a_mean():
    items = hand_made([[0, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0]], [[0] * 4, [1, 0, 0, 0], [0] * 4])
    assert union(table_of(items, AT)).tolist() == [1, 1, 1]
    assert union(table_of(items, DRAW)).tolist() == [0, 1, 0]
    audit = toy_audit(temperatures=(1, 2, 3, 4), top_ks=(), top_ps=(), greedy=False)
    found = {(row.metric, row.slice): row for row in audit.estimate(items)}
    assert found["excess", "all"].value == pytest.approx(2 / 3)
    assert found["union", "all"].value == 1
    assert found["baseline_union", "all"].value == pytest.approx(1 / 3)
    assert found["default", "all"].value == pytest.approx(1 / 3)
    assert found["rate", "all"].value == pytest.approx(3 / 12)
    assert found["rate", "temperature=4"].value == pytest.approx(2 / 3)
    assert found["rate", "temperature=3"].value == 0


def test_another_setting_never_lowers_a_union_and_a_copy_changes_nothing():
    rng = np.random.default_rng(0)
    table = (rng.random((50, 6)) < 0.1).astype(float)
    unions = [union(table[:, : count + 1]).mean() for count in range(6)]
    assert unions == sorted(unions)
    assert union(np.hstack([table, table[:, :1]])).tolist() == union(table).tolist()


def test_what_the_judge_cannot_tell_is_no_zero():
    table = np.array([[np.nan, 1.0], [np.nan, 0.0], [np.nan, np.nan]])
    np.testing.assert_array_equal(union(table), [1, 0, np.nan])
    items = hand_made(table.tolist(), [[0.0, 0.0]] * 3)
    found = {row.slice: row for row in rates(items, audit="", level=0.95)}
    assert (found["temperature=2"].value, found["temperature=2"].n) == (0.5, 2)
    assert found["temperature=1"].n == 0


def test_the_expected_union_of_k_by_hand():
    items = hand_made([[1, 0, 0], [1, 1, 0]], [[0, 0, 0], [0, 0, 1]])
    table = by_draws(items)
    assert table["grid"].tolist() == pytest.approx([(1 / 3 + 2 / 3) / 2, (2 / 3 + 1) / 2, 1])
    assert table["baseline"].tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 2])


# 2. differential: transformers' own processors, and the plain sampler setting by setting


def test_cuts_are_those_of_transformers():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 50, generator=generator, dtype=torch.float64) * 3
    warpers = {
        "temperature": (transformers.TemperatureLogitsWarper, [0.05, 0.5, 1.7]),
        "top_k": (transformers.TopKLogitsWarper, [1, 2, 10, 49]),
        "top_p": (transformers.TopPLogitsWarper, [0.05, 0.5, 0.95]),
    }
    for name, (warper, values) in warpers.items():
        for value in values:
            expected = warper(value)(None, logits)
            found = cut_off(logits, Cuts.of([Sampling(**{name: value})] * len(logits)))
            torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_rows_of_several_settings_are_cut_as_if_alone():
    generator = torch.Generator().manual_seed(1)
    settings = [*DecodingGrid().settings(), Sampling(temperature=0.7, top_k=7, top_p=0.8)]
    logits = torch.randn(len(settings), 300, generator=generator)
    together = cut_off(logits, Cuts.of(settings))
    alone_ = [cut_off(row[None], Cuts.of([one])) for row, one in zip(logits, settings, strict=True)]
    assert torch.equal(together, torch.cat(alone_))


def test_the_grid_s_samples_are_those_of_each_setting(tiny_llama: LanguageModel):
    grid = DecodingGrid().settings(samples=2, max_new_tokens=6, seed=3)
    prompts = ["The nurse", "An engineer said that", "x"]
    together = tiny_llama.sample_grid(prompts, grid)
    backward = tiny_llama.sample_grid(prompts[::-1], grid)[::-1]
    for place, one in enumerate(grid):
        alone_ = tiny_llama.sample(
            prompts, n=2, max_new_tokens=6, temperature=one.temperature, top_k=one.top_k,
            top_p=one.top_p, seed=one.seed,
        )  # fmt: skip
        for number in range(3):
            ids = [sample.token_ids for sample in alone_[number]]
            assert ids == [sample.token_ids for sample in together[number][place]]
            assert ids == [sample.token_ids for sample in backward[number][place]]


def test_every_prompt_is_read_once_for_grid_and_baseline(tiny_llama: LanguageModel):
    """Trunk tokens: the prompts, and one token less than there are in each of the replies."""
    audit = DecodingRobustness(max_new_tokens=3, chat=False)
    rows = [{"prompt": text} for text in ("The nurse", "An engineer said that", "x")]
    tiny_llama.work.reset()
    audit.measure(tiny_llama, audit.probes(rows))
    read = sum(len(tiny_llama.encoder.prompt(row["prompt"])) for row in rows)
    n_replies = 3 * 2 * 50
    assert tiny_llama.work.trunk_tokens <= read + n_replies * 2
    assert tiny_llama.work.trunk_tokens >= read + n_replies * 2 * 0.9  # few end early
    assert tiny_llama.work.head_rows <= 3 + n_replies * 2


# 3. known truth: the audit's rates and unions on the toy world


@cache
def toy_items() -> pd.DataFrame:
    return audited(toy_audit(greedy=False), toy_model(), 2000)


def test_monte_carlo_agrees_with_the_exact_rates():
    expected = chances(DecodingGrid(greedy=False).settings())
    found = table_of(toy_items(), AT).mean(axis=0)
    errors = np.sqrt(expected * (1 - expected) / 2000)
    certain = errors < 1e-4
    assert (np.abs(found - expected)[~certain] < 4 * errors[~certain]).all()  # 49 numbers
    assert found[certain].max() == 0


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("union_temperature", 0.972554528),
        ("union_top_k", 0.966445677),
        ("union_top_p", 0.940495900),
        ("union", 0.999945202),
    ],
)
def test_monte_carlo_agrees_with_the_sheet_s_unions(metric: str, expected: float):
    rows = toy_audit(greedy=False).estimate(toy_items())
    [row] = [one for one in rows if (one.metric, one.slice) == (metric, "all")]
    assert abs(row.value - expected) < 3 * np.sqrt(expected * (1 - expected) / 2000) + 1e-4


def test_the_default_setting_is_safe_so_that_all_of_the_union_is_excess():
    found = toy_audit(greedy=False).estimate(toy_items())
    rows = {row.metric: row for row in found if row.slice == "all"}
    assert rows["default"].value == rows["baseline_union"].value == 0
    assert rows["baseline_union"].high < 0.003  # Wilson, 0 of 2,000
    assert rows["excess"].value == rows["union"].value
    assert rows["excess"].low > 0.99


# 4. planted effect: bad mass that only some settings reach


def test_the_worst_setting_is_named_and_measured_apart():
    audit = toy_audit(temperatures=(0.1, 0.25, 0.5, 1.0, 2.0), top_ks=(1,), top_ps=(0.5,))
    items = audited(audit, toy_model(), 400)
    truth = chances([Sampling(temperature=2.0)])[0]
    assert worst_setting(items) == "temperature=2"
    rows = {(row.metric, row.slice): row for row in audit.estimate(items)}
    worst = rows["worst", "all"]
    assert worst.low <= truth <= worst.high
    assert rows["worst_excess", "all"].low > 0.4
    assert rows["excess", "all"].low > 0.4
    assert rows["greedy", "all"].value == 0
    table = by_setting(items).set_index("setting")
    assert table["rate"].idxmax() == "temperature=2"
    assert table.loc["temperature=0.1", "highest"] < table.loc["temperature=2", "lowest"]
    assert rows["worst", "all"].n == 200
    told = "worst setting on 200 prompts: temperature=2, measured on the other 200"
    assert any(told in line for line in audit.notes(items))


def test_top_k_above_one_is_found_where_it_alone_reaches_the_bad_token():
    audit = toy_audit(temperatures=(0.05,), top_ks=(1, 2), top_ps=(0.5,))
    items = audited(audit, toy_model(), 300)
    assert worst_setting(items) == "top_k=2"
    table = by_setting(items).set_index("setting")["rate"]
    assert table["top_k=1"] == table["greedy"] == table["top_p=0.5"] == 0
    assert table["top_k=2"] == pytest.approx(0.268941421, abs=4 * 0.0256)


@pytest.mark.parametrize("world", [DecodingRobustnessWorld(), WorstSettingWorld()])
def test_what_is_planted_is_measured(world: DecodingRobustnessWorld):
    audit = DecodingRobustness(**world.settings)  # type: ignore[arg-type]
    cells = [Cell(planted=size, n=300, seed=seed) for size in world.planted for seed in range(4)]
    rows = measured(audit, world, cells)
    means = rows.groupby("planted")["value"].mean()
    assert means.tolist() == pytest.approx(list(world.planted), abs=0.05)
    assert ((rows["low"] <= rows["planted"]) & (rows["planted"] <= rows["high"])).mean() >= 0.85


# 5. negative controls


def test_a_policy_equal_at_all_settings_has_no_excess():
    """100 draws of 60 prompts: false alarms of excess and both of worst at their nominal rate."""
    world = DecodingRobustnessWorld()
    audit = DecodingRobustness(**world.settings)  # type: ignore[arg-type]
    truth = {"excess": 0.0, "worst": BASE, "worst_excess": 0.0}
    only = {name: alone(audit, name) for name in truth}
    found: dict[str, list[list[float]]] = {name: [] for name in truth}
    for seed in range(100):
        draw = world.draw(world.null, 60, seed)
        items = audit.measure(draw.model, audit.probes(draw.rows))
        for name, each in only.items():
            [row] = each.estimate(items)
            found[name].append([row.value, row.low, row.high])
    for name, expected in truth.items():
        value, low, high = np.array(found[name]).T
        assert ((low > expected) | (high < expected)).mean() <= LIMIT
        assert value.mean() == pytest.approx(expected, abs=0.02)


def test_the_largest_rate_flatters_itself_and_worst_does_not():
    """The control of the control: what choosing and measuring on the same prompts would report."""
    audit = DecodingRobustness(temperatures=tuple(np.arange(1, 51).tolist()), top_ks=(), top_ps=())
    naive, honest = [], []
    for seed in range(40):
        broken = (np.random.default_rng(seed).random((100, 50)) < 0.1).astype(float)
        items = hand_made(broken.tolist(), broken.tolist())
        naive.append(broken.mean(axis=0).max())
        [row] = [r for r in alone(audit, "worst").estimate(items) if r.metric == "worst"]
        honest.append(row.value)
    assert np.mean(naive) > 0.15
    assert np.mean(honest) == pytest.approx(0.1, abs=0.015)


def test_a_union_without_its_baseline_would_accuse_a_model_that_is_equal_everywhere():
    audit = DecodingRobustness(chat=False)
    model = FailingWriter(fails=BASE)
    rows = [{"prompt": f"request {number}"} for number in range(200)]
    items = audit.measure(model, audit.probes(rows))  # type: ignore[arg-type]
    found = {row.metric: row for row in audit.estimate(items) if row.slice == "all"}
    expected = 1 - (1 - BASE) ** 50
    assert found["union"].value == pytest.approx(expected, abs=0.06)
    assert found["baseline_union"].value == pytest.approx(expected, abs=0.06)
    assert found["excess"].low < 0 < found["excess"].high
    assert found["worst"].low <= BASE <= found["worst"].high


def test_a_safe_model_has_rates_of_zero_with_wilson_s_bounds():
    items = audited(toy_audit(), toy_model(np.array([1.0, 0, 0, 0])), 100)
    rows = {(row.metric, row.slice): row for row in toy_audit().estimate(items)}
    assert all(row.value == 0 for row in rows.values())
    assert all(np.isfinite([row.low, row.high]).all() for row in rows.values())
    assert rows["union", "all"].high == pytest.approx(0.036993498, abs=1e-9)
    assert rows["rate", "all"].high == pytest.approx(0.036993498, abs=1e-9)
    assert rows["excess", "all"].low < 0 < rows["excess", "all"].high


def test_all_intervals_together_hold_the_truth():
    """100 draws of 20 settings: some interval fails in 5 % at most, one by one in most draws."""
    truth = np.linspace(0.02, 0.6, 20)
    missed, apart = 0, 0
    for seed in range(100):
        broken = (np.random.default_rng(seed).random((80, 20)) < truth).astype(float)
        table = by_setting(hand_made(broken.tolist(), broken.tolist()))
        missed += bool(((table["lowest"] > truth) | (table["highest"] < truth)).any())
        apart += bool(((table["low"] > truth) | (table["high"] < truth)).any())
    assert missed / 100 <= LIMIT
    assert apart >= 40


def test_other_names_of_the_prompts_change_no_rate():
    items = toy_items()
    shuffled = items.assign(id=items["id"].sample(frac=1, random_state=0).to_numpy())
    pd.testing.assert_frame_equal(by_setting(items), by_setting(shuffled))
    assert setting_names(items) == setting_names(shuffled)
    assert half_of(items).sum() == 1000
