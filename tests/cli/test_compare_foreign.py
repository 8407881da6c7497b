"""`trueup compare` on logs of other tools, from the command line to the verdict."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from tests.cli.conftest import Trueup
from tests.interop.foreign_files import DATA, answers, lm_eval_row, write_samples
from trueup.api import compare
from trueup.audits import compare_audits
from trueup.cli.session import GATE_TRIPPED
from trueup.interop import ForeignMetric, ForeignTask
from trueup.interop.foreign_log import Sample, items_of

KEYS = [
    "audit", "metric", "slice", "before", "after", "delta", "low", "high", "p_value",
    "p_adjusted", "n_pairs", "test", "verdict",
]  # fmt: skip
PAIRS = [("lm_eval_before", "lm_eval_after"), ("before.eval", "after.eval")]
SEEDS = 200
N = 200
MARGIN = 0.046  # three standard errors of a rate of 0.05 over the seeds


def right(seed: int, share: float = 0.6) -> np.ndarray:
    return (np.random.default_rng(seed).random(N) < share).astype(float)


@pytest.mark.parametrize("names", PAIRS)
def test_real_logs_give_a_comparison_as_audits_do(
    trueup: Trueup, tmp_path: Path, names: tuple[str, str]
):
    before, after = (DATA / name for name in names)
    out = tmp_path / "change"
    outcome = trueup("compare", before, after, "--out", out)
    assert (outcome.code, outcome.err) == (0, "")
    lines = [line for line in outcome.out.splitlines() if "/" not in line]
    assert max(map(len, lines)) <= 80
    assert {path.name for path in out.iterdir()} == {"run.json", "compare.json", "report.html"}
    written = json.loads((out / "compare.json").read_text("utf-8"))
    assert all(list(row) == KEYS for row in written["rows"])
    told = trueup("compare", before, after, "--json").json
    assert told["rows"] == written["rows"]
    info = json.loads((out / "run.json").read_text("utf-8"))
    assert info["arguments"] == {"before": str(before), "after": str(after)}


def test_shares_are_tested_by_exact_mcnemar_and_adjusted_over_all_metrics(tmp_path: Path):
    # 40 of 200 answers become right, 10 become wrong; a second metric does not change
    before = np.repeat([0.0, 1.0], N // 2)
    after = before.copy()
    after[:40], after[N // 2 : N // 2 + 10] = 1.0, 0.0
    sides = [
        write_samples(
            tmp_path / name / "samples_t.jsonl",
            [lm_eval_row(n, acc=value, em=1.0) for n, value in enumerate(values)],
        )
        for name, values in (("a", before), ("b", after))
    ]
    row, other = compare(*sides).rows
    expected = 2 * binom.cdf(10, 50, 0.5)
    assert row.p_value == pytest.approx(expected, rel=1e-9)
    assert row.p_adjusted == pytest.approx(2 * expected, rel=1e-9)
    assert (row.before, row.after, row.n_pairs) == (0.5, 0.65, N)
    assert row.test.startswith("McNemar exact")
    assert (row.verdict, other.verdict) == ("improved", "no evidence")


@pytest.mark.parametrize(("metric", "verdict"), [("acc", "improved"), ("brier_score", "worse")])
def test_verdict_follows_what_is_better_of_the_metric(tmp_path: Path, metric: str, verdict: str):
    lower = [[0, [0.9, 0.1]]] * N if metric == "brier_score" else [0.0] * N
    higher = [[0, [0.5, 0.5]]] * N if metric == "brier_score" else [1.0] * N
    before = answers(tmp_path / "a" / "samples_t.jsonl", lower, metric=metric)
    after = answers(tmp_path / "b" / "samples_t.jsonl", higher, metric=metric)
    (up,) = compare(before, after).rows
    (down,) = compare(after, before).rows
    assert up.delta > 0 > down.delta
    assert up.verdict == verdict
    assert {up.verdict, down.verdict} == {"improved", "worse"}


@pytest.mark.parametrize("name", [name for pair in PAIRS for name in pair])
def test_log_against_itself_has_not_changed(name: str):
    rows = compare(DATA / name, DATA / name).rows
    assert {row.delta for row in rows} == {0.0}
    assert {row.verdict for row in rows} == {"no evidence"}


def task(*, is_share: bool) -> ForeignTask:
    return ForeignTask(name="t", scores=(ForeignMetric(name="acc", is_share=is_share),))


def items(values: np.ndarray, epochs: int, audit: ForeignTask) -> pd.DataFrame:
    samples = [Sample(f"item {n // epochs}", "", {"acc": (v,)}) for n, v in enumerate(values)]
    return items_of(samples, audit.scores)


def test_equal_models_raise_no_alarm():
    audit = task(is_share=True)
    alarms = 0
    for seed in range(SEEDS):
        sides = (items(right(2 * seed + k), 1, audit) for k in range(2))
        alarms += compare_audits([(audit, *sides)])[0].verdict != "no evidence"
    assert alarms / SEEDS < 0.05 + MARGIN


def test_epochs_of_a_sample_are_no_evidence_of_their_own():
    # each of 25 samples moves by chance, the same in all of its 8 epochs: no model is better
    audit = task(is_share=False)
    alarms = {True: 0, False: 0}
    seeds, few = 100, 30  # a bootstrap each
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        moves = np.repeat(rng.normal(size=N // 8), 8)
        before = items(np.zeros(N), 8, audit)
        after = items(moves + 0.1 * rng.normal(size=N), 8, audit)
        for is_clustered in (True, False) if seed < few else (True,):
            tables = before, after
            if not is_clustered:
                tables = before.assign(cluster=""), after.assign(cluster="")
            row = compare_audits([(audit, *tables)])[0]
            alarms[is_clustered] += row.verdict != "no evidence"
    assert alarms[True] / seeds < 0.05 + 0.065  # three standard errors
    assert alarms[False] / few > 0.25  # what epochs taken for new samples would have claimed


def test_gate_of_compare_reads_foreign_rows(trueup: Trueup, tmp_path: Path):
    before = answers(tmp_path / "a" / "samples_t.jsonl", [1.0] * 40)
    after = answers(tmp_path / "b" / "samples_t.jsonl", [0.0] * 40)
    gate = "count(worse) > 0 and after(t.acc) < 0.5"
    assert trueup("compare", before, after, "--fail-if", gate).code == GATE_TRIPPED
    assert trueup("compare", before, before, "--fail-if", gate).code == 0


def test_refusal_is_one_line(trueup: Trueup, tmp_path: Path):
    before = answers(tmp_path / "a" / "samples_t.jsonl", [1.0] * 4)
    rows = [lm_eval_row(n, prompt=f"Other {n}", acc=1.0) for n in range(4)]
    after = write_samples(tmp_path / "b" / "samples_t.jsonl", rows)
    line = trueup("compare", before, after, "--out", tmp_path / "c").error()
    assert line.startswith("error: t: 4 of 4 prompts or targets are not in the other run")
    assert not (tmp_path / "c").exists()
