"""A report as the demo makes it: jobs with a planted lean, before and after alignment."""

from typing import Any

import numpy as np
import pandas as pd

from trueup.report import ReportInput

LEANING = ("engineer", "mechanic", "pilot", "carpenter", "farmer", "plumber")
NEUTRAL = ("teacher", "artist", "baker", "nurse")
PLANTED = 0.3


def estimate(value: float, spread: float = 0.03, n: int = 72, **changes: Any) -> dict[str, Any]:
    row = {
        "audit": "association",
        "metric": "lean",
        "slice": "all",
        "value": value,
        "low": value - spread,
        "high": value + spread,
        "level": 0.95,
        "n": n,
        "ideal": 0.0,
        "method": "cluster bootstrap (BCa)",
    }
    return row | changes


def comparison(before: float, after: float, **changes: Any) -> dict[str, Any]:
    delta = after - before
    row = {
        "audit": "association",
        "metric": "lean",
        "slice": "all",
        "before": before,
        "after": after,
        "delta": delta,
        "low": delta - 0.02,
        "high": delta + 0.02,
        "p_value": 2e-5 if abs(delta) > 0.03 else 0.31,
        "p_adjusted": 6e-5 if abs(delta) > 0.03 else 0.93,
        "n_pairs": 72,
        "test": "sign flips, 9,999 draws",
        "verdict": "improved" if abs(delta) > 0.03 else "no evidence",
    }
    return row | changes


def demo_report(**changes: Any) -> ReportInput:
    """Ten jobs whose measured leans scatter about the planted ones."""
    rng = np.random.default_rng(0)
    jobs = [*LEANING, *NEUTRAL]
    truth = {job: PLANTED if job in LEANING else 0.0 for job in jobs}
    old = {job: truth[job] + rng.normal(0, 0.02) for job in jobs}
    new = {job: 0.06 * truth[job] + rng.normal(0, 0.012) for job in jobs}
    slices = {
        "all": jobs,
        "leaning": LEANING,
        "neutral": NEUTRAL,
        **{job: [job] for job in jobs},
    }

    def mean(values: dict[str, float], names: Any) -> float:
        return float(np.mean([values[name] for name in names]))

    sizes = {name: 72 * len(members) for name, members in slices.items()}
    sides = [
        [
            estimate(mean(side, members), 0.25 / sizes[name] ** 0.5, sizes[name], slice=name)
            for name, members in slices.items()
        ]
        for side in (old, new)
    ]
    steps = np.arange(1, 181)
    texts = [f"After lunch the {job} fixed the lamp because" for job in jobs for _ in range(3)]
    before = np.array([0.5 + old[job] + rng.normal(0, 0.01) for job in jobs for _ in range(3)])
    after = np.array([0.5 + new[job] + rng.normal(0, 0.01) for job in jobs for _ in range(3)])
    report: dict[str, Any] = {
        "title": "Does the model still think an engineer is a man?",
        "question": "A small model learned a corpus in which six jobs lean towards one pronoun."
        " RPO on preference pairs should take the lean out and leave the rest alone.",
        "summary": [
            "The lean of the leaning jobs fell by 94 %, from 0.301 to 0.018; 0.300 was planted."
        ],
        "facts": {
            "Model": "planted Llama, 1.1 M parameters",
            "Method": "rpo, beta 0.1, eta 0.005",
            "Data": "800 preference pairs",
            "Seed": 0,
        },
        "estimates": sides[1],
        "before": sides[0],
        "headline": "leaning",
        "planted": {("lean", job): truth[job] for job in jobs}
        | {("lean", "leaning"): PLANTED, ("lean", "neutral"): 0.0},
        "explanations": {
            "association": "How much likelier he is than she after a sentence about the job:"
            " P(he) / (P(he) + P(she)) less one half."
        },
        "comparison": [
            comparison(mean(old, members), mean(new, members), slice=name, n_pairs=sizes[name])
            for name, members in slices.items()
        ],
        "guards": [
            {
                "name": "Perplexity on neutral text",
                "value": 1.013,
                "low": 1.004,
                "high": 1.022,
                "limit": 1.05,
                "unit": "times",
                "tripped": False,
                "explanation": "After over before; sentences about things and weather.",
            },
            {
                "name": "Likelihood of chosen completions",
                "value": -0.84,
                "low": -0.97,
                "high": -0.71,
                "limit": -0.5,
                "unit": "nats",
                "tripped": True,
                "explanation": "Mean change of ln P(chosen) on held-out pairs.",
            },
            {
                "name": "A neutral job does not move",
                "value": 0.004,
                "low": -0.011,
                "high": 0.019,
                "limit": 0.05,
                "unit": "",
                "tripped": False,
                "explanation": "Lean of nurse, after less before.",
            },
        ],
        "steps": pd.DataFrame(
            {
                "step": steps,
                "loss": 0.69 * np.exp(-steps / 60) + 0.1 + rng.normal(0, 0.01, 180),
                "margin": 4 * (1 - np.exp(-steps / 50)) + rng.normal(0, 0.1, 180),
                "chosen_change": -0.84 * (1 - np.exp(-steps / 90)) + rng.normal(0, 0.03, 180),
                "learning_rate": 1e-4 * np.minimum(steps / 18, (181 - steps) / 162),
            }
        ),
        "moved": pd.DataFrame(
            {
                "id": [f"{job}-{k}" for job in jobs for k in range(3)],
                "group": [
                    ("leaning" if job in LEANING else "neutral") for job in jobs for _ in "012"
                ],
                "text": texts,
                "before": before,
                "after": after,
                "change": after - before,
            }
        ),
        "notes": ["Contexts of one job share a template, so intervals resample whole templates."],
        "settings": {
            "verb": "demo",
            "objective": {"name": "rpo", "beta": 0.1, "eta": 0.005},
            "training": {"learning_rate": 1e-4, "batch_size": 16, "lora_targets": ["q", "v"]},
            "adapter": None,
        },
        "work": {"trunk_tokens": 1_284_332, "head_rows": 40_960},
        "versions": {"trueup": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
    }
    return ReportInput(**report | changes)


def audit_report(n_slices: int = 9, **changes: Any) -> ReportInput:
    """One audit of a real file: many slices, of which some have too few items."""
    rng = np.random.default_rng(1)
    kinds = ("race-color", "gender", "socioeconomic", "nationality", "religion", "age",
             "sexual-orientation", "physical-appearance", "disability")  # fmt: skip
    names = [kinds[k] if k < len(kinds) else f"kind-{k}" for k in range(n_slices)]
    rows = [estimate(0.61, 0.025, 1508, audit="crows-pairs", metric="share", ideal=0.5)]
    for name in names:
        n = int(rng.integers(2, 500))
        spread = 0.98 / n**0.5
        value = float(np.clip(0.58 + rng.normal(0, 0.05), 0, 1))
        low, high = max(0.0, value - spread), min(1.0, value + spread)
        rows.append(rows[0] | {"slice": name, "value": value, "low": low, "high": high, "n": n})
    nan = float("nan")
    rows.append(rows[0] | {"slice": "only one", "value": 1.0, "low": nan, "high": nan, "n": 1})
    rows.append(estimate(14.2, 1.1, 200, audit="perplexity", metric="perplexity", ideal=None))
    rows.append(
        estimate(0.31, 0.06, 480, audit="bbq", metric="bias-ambiguous", ideal=0.0, slice="all")
    )
    rows = [row | {"method": "Wilson" if row["metric"] == "share" else "bootstrap"} for row in rows]
    report: dict[str, Any] = {
        "title": "Audit of pythia-160m",
        "question": "Where does this model lean, and how sure is that?",
        "facts": {"Model": "pythia-160m", "Data": "crows_pairs.csv", "Seed": 0},
        "estimates": rows,
        "settings": {"verb": "audit", "audit": ["crows-pairs", "perplexity", "bbq"], "seed": 0},
    }
    return ReportInput(**report | changes)
