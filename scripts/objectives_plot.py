"""All objectives on one world: mean reward against KL from the reference, as docs/reward-kl.png.

Policy and reward are those of occupation_reward.py. Every objective gets what the policy's own
samples and this reward give: pairs of best and worst sample, labels, the best sample to imitate,
the worst to avoid, or the reward itself.
Each is trained three times as long in turn, at one learning rate; reward and KL, with 95 %
intervals, are measured on fresh samples for prompts that no training saw.

    python scripts/objectives_plot.py                 # all, some minutes on two cores
    python scripts/objectives_plot.py --only dpo rpo  # prints their rows, draws nothing
    python scripts/objectives_plot.py --draw          # the picture again from the table
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from occupation_reward import (
    DOCS,
    TOKENS,
    half_width,
    policy_and_prompts,
    read_table,
    reward,
    write_table,
)

matplotlib.use("svg")
import matplotlib.pyplot as plt

from trueup.models import LanguageModel
from trueup.objectives import objective
from trueup.training import TrainingConfig, train

CANDIDATES = 8
STEPS = (12, 40, 120)
RATE = 1e-4
SETTINGS: dict[str, dict[str, Any]] = {  # where a default does not suit answers of six tokens
    "rpo": {"eta": 0.5},
    "ipo": {"tau": 0.1},
    "simpo": {"beta": 2.0, "gamma": 0.5},
    "d2o": {"samples": 4, "beta": 0.4},
    "f-dpg": {"samples": 8, "beta": 1.0},
    "grpo": {"samples": 8},
    "reinforce": {"samples": 8, "beta": 0.1},
    "ctrl": {"samples": 8, "calibration_samples": 50},
    "raft": {"samples": 8},
    "cyclealign": {"samples": 4},
}
FAMILIES = {
    "pairs": ("asft", "daa-hinge", "dpo", "f-dpo", "hinge", "ipo", "orpo", "rpo", "simpo", "slic"),
    "single answers": ("bco", "d2o", "kto", "poft", "sft"),
    "a teacher": ("adpa", "dckd"),
    "a reward or ranker": ("cyclealign", "ctrl", "f-dpg", "grpo", "raft", "reinforce"),
}
POINTS_PER_REWARD = 160  # in the figure as it is drawn
APART, NEAR = 0.062, 1.2  # reward between two names, and how near in log KL they can collide
COLOURS = dict(zip(FAMILIES, ("#1f5fa8", "#b3541e", "#5b8c2a", "#8a3f8f"), strict=True))


def main() -> None:
    """Train, measure, write the table and draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draw", action="store_true", help="draw docs/reward-kl.csv again")
    parser.add_argument("--only", nargs="*", help="objectives; nothing is written then")
    arguments = parser.parse_args()
    if arguments.draw:
        known = read_table(DOCS / "reward-kl.csv", ["objective"])
        drawn(known, DOCS / "reward-kl.png")
        return
    torch.set_num_threads(1)
    lm, prompts, held_out = policy_and_prompts()
    rows = made_rows(lm, prompts)
    names = arguments.only or [name for several in FAMILIES.values() for name in several]
    table = [{"objective": "reference", "steps": 0, **measured(lm, lm, held_out)}]
    print(table[0])
    teacher = trained(lm, "reinforce", rows, STEPS[-1], None)
    for name in names:
        for steps in STEPS:
            policy = trained(lm, name, rows, steps, teacher)
            table.append({"objective": name, "steps": steps, **measured(policy, lm, held_out)})
            print(table[-1], flush=True)
    if arguments.only:
        return
    write_table(table, DOCS / "reward-kl.csv")
    drawn(table, DOCS / "reward-kl.png")


def made_rows(lm: LanguageModel, prompts: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What the policy's own samples and the reward give, by kind of data."""
    samples = lm.sample(prompts, n=CANDIDATES, max_new_tokens=TOKENS, seed=7)
    rows: dict[str, list[dict[str, Any]]] = {
        "prompts": [{"prompt": prompt} for prompt in prompts],
        "pairs": [],
        "labelled": [],
        "completions": [],
        "scored": [],
        "dispreferred": [],
    }
    for prompt, several in zip(prompts, samples, strict=True):
        texts = [f" {sample.text.strip()}" for sample in several if sample.text.strip()]
        values = reward([], texts)
        best, worst = texts[int(np.argmax(values))], texts[int(np.argmin(values))]
        rows["completions"].append({"prompt": prompt, "completion": best})
        logps = lm.score([prompt], [texts], add_eos=True)
        rows["scored"] += [
            # an aligned model's score: the reference's own, tilted by the reward
            {"prompt": prompt, "completion": text, "mean_ref_logp": min(0.0, mean + value)}
            for text, value, mean in zip(
                texts, values, (float(part.mean()) for part in logps.token_logps[0]), strict=True
            )
        ]
        rows["labelled"] += [
            {"prompt": prompt, "completion": text, "label": value > 0}
            for text, value in zip(texts, values, strict=True)
        ]
        if max(values) > min(values):
            rows["pairs"].append({"prompt": prompt, "chosen": best, "rejected": worst})
            rows["dispreferred"].append({"prompt": prompt, "rejected": worst})
    return rows


def trained(
    lm: LanguageModel,
    name: str,
    rows: Mapping[str, list[dict[str, Any]]],
    steps: int,
    teacher: LanguageModel | None,
) -> LanguageModel:
    """The policy after so many steps of one objective."""
    chosen: Any = objective(name, SETTINGS.get(name, {}))
    config = TrainingConfig(
        steps=steps,
        batch_size=16,
        learning_rate=RATE,
        schedule="constant",
        warmup=0.0,
        save_every=0,
        max_new_tokens=TOKENS,
    )
    needs = chosen.needs
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            lm,
            chosen,
            rows[getattr(chosen, "source", chosen.data)],
            config=config,
            out=Path(folder) / "out",
            reward=reward if needs.rewards else None,
            ranker=ranked if needs.ranking else None,
            teacher=teacher if needs.teacher or needs.advantage else None,
            ref_teacher=lm if needs.advantage else None,
        )
    return result.model


def ranked(prompt: Any, responses: Sequence[str], demonstrations: Any) -> list[int]:
    """The reward's order, as a ranker gives it."""
    values = reward([], responses)
    return sorted(range(len(responses)), key=lambda place: -values[place])


def measured(
    policy: LanguageModel, reference: LanguageModel, prompts: Sequence[str]
) -> dict[str, float]:
    """Mean reward and KL(policy || reference) with half-widths of their 95 % intervals."""
    samples = policy.sample(prompts, n=16, max_new_tokens=TOKENS, seed=99)
    values = np.array([reward([], [one.text for one in several]) for several in samples])
    group = [reference.encoder.prompt(prompt) for prompt in prompts]
    from trueup.models import Group

    known = reference.score_groups(
        [
            Group(prompt, [one.token_ids for one in several])
            for prompt, several in zip(group, samples, strict=True)
        ]
    )
    drift = np.array(
        [
            [sum(one.logps) - float(part.sum()) for one, part in zip(several, parts, strict=True)]
            for several, parts in zip(samples, known, strict=True)
        ]
    )
    found = {}
    for name, table in (("reward", values), ("kl", drift)):
        means = table.mean(axis=1)
        found[name] = round(float(means.mean()), 4)
        found[f"{name}_half_width"] = half_width(means)
    return found


def drawn(table: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One line per objective from the reference outwards, a panel per family."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 7), sharex=True, sharey=True)
    start = table[0]
    for axis, (family, names) in zip(axes.flat, FAMILIES.items(), strict=True):
        ends = {}
        for name in names:
            points = [start, *(row for row in table if row["objective"] == name)]
            x = [max(0.0, row["kl"]) for row in points]
            y = [row["reward"] for row in points]
            axis.plot(x, y, "-o", ms=3, lw=1.2, color=COLOURS[family], alpha=0.8)
            ends[name] = (x[-1], y[-1])
        for name, height in label_heights(ends).items():
            axis.annotate(
                name,
                ends[name],
                xytext=(5, (height - ends[name][1]) * POINTS_PER_REWARD),
                textcoords="offset points",
                fontsize=8,
                va="center",
            )
        axis.set_title(family, fontsize=10, loc="left")
        axis.set_xscale("symlog", linthresh=0.1)
        axis.grid(alpha=0.25, lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(0, 400)
    for axis in axes[1]:
        axis.set_xlabel("KL from the reference, nats")
    for axis in axes[:, 0]:
        axis.set_ylabel("mean reward")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def label_heights(ends: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Where each line's name stands: at its end, or above the name below it."""
    heights: dict[str, float] = {}
    for name in sorted(ends, key=lambda name: ends[name][1]):
        kl, height = ends[name]
        for other, taken in heights.items():
            is_near = abs(np.log1p(10 * ends[other][0]) - np.log1p(10 * kl)) < NEAR
            if is_near and height - taken < APART:
                height = taken + APART
        heights[name] = height
    return heights


if __name__ == "__main__":
    main()
