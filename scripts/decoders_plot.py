"""Decoders that aim at something, on one world: mean reward against cost, as docs/reward-cost.png.

Policy and reward are those of occupation_reward.py. Every decoder runs at several budgets or
strengths; what it costs is counted: tokens that go through any model, prompts among them, for each
token of the completions. Rewards have 95 % intervals over prompts that nothing was tuned on.
The baseline of transfer-q, the amateur of contrast and the pairs of activation-steering are made
of the policy's own samples for other prompts.

    python scripts/decoders_plot.py               # all, some minutes on two cores
    python scripts/decoders_plot.py --only deal   # prints its rows, draws nothing
    python scripts/decoders_plot.py --draw        # the picture again from the table
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

from trueup.decoding.activation_steering import ActivationSteering
from trueup.decoding.args import ARGS
from trueup.decoding.best_of_n import BestOfN
from trueup.decoding.compose import Chain, compose
from trueup.decoding.contrast import Contrast
from trueup.decoding.deal import DeAL
from trueup.decoding.plain import PlainSearch
from trueup.decoding.protocol import Request
from trueup.decoding.rps import RPS
from trueup.decoding.transfer_q import TransferQ
from trueup.models import LanguageModel
from trueup.models.sampling import Sampling
from trueup.objectives import objective
from trueup.training import TrainingConfig, train

REPEATS = 4  # completions of every prompt
COLOURS = ("#222222", "#1f5fa8", "#b3541e", "#5b8c2a", "#8a3f8f", "#0f8a8a", "#b02a4c", "#7a6a1f")


@dataclass(frozen=True)
class Helpers:
    """What some decoders need beside the policy."""

    baseline: LanguageModel
    amateur: LanguageModel
    pairs: Path


def main() -> None:
    """Decode, measure, write the table and draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draw", action="store_true", help="draw docs/reward-cost.csv again")
    parser.add_argument("--only", nargs="*", help="decoders; nothing is written then")
    arguments = parser.parse_args()
    if not arguments.draw:
        torch.set_num_threads(1)
        table = measured(arguments.only)
        if arguments.only:
            return
        write_table(table, DOCS / "reward-cost.csv")
    drawn(read_table(DOCS / "reward-cost.csv", ["decoder", "setting"]), DOCS / "reward-cost.png")


def measured(only: Sequence[str] | None) -> list[dict[str, Any]]:
    """A row for every decoder and setting."""
    lm, prompts, held_out = policy_and_prompts()
    table = []
    with tempfile.TemporaryDirectory() as folder:
        helpers = made_helpers(lm, prompts, Path(folder))
        for name, settings in runs(helpers).items():
            if only and name not in only:
                continue
            for setting, decoder in settings.items():
                row = {"decoder": name, "setting": setting, **point(lm, decoder, held_out, helpers)}
                table.append(row)
                print(row, flush=True)
    return table


def runs(helpers: Helpers) -> dict[str, dict[str, Any]]:
    """Every decoder, from the cheapest to the dearest, or from the weakest to the strongest."""
    widths = (2, 4, 8, 16, 32)
    return {
        "sample": {"temperature=1": PlainSearch()},
        "best-of-n": {f"candidates={n}": BestOfN(candidates=n) for n in widths},
        "rps": {
            f"k={k}": RPS(target=(1.0, 0.2), k=k, condition=lambda prompt, _: prompt)
            for k in widths[:4]
        },
        "args": {f"top_k={k}": ARGS(top_k=k, weight=2.0) for k in widths},
        "deal": {f"top_k={k}": DeAL(top_k=k, lam=2.0, lookahead=TOKENS) for k in widths},
        "transfer-q": {
            f"top_k={k}": TransferQ(top_k=k, alpha=0.5, lookahead=TOKENS, baseline=helpers.baseline)
            for k in widths
        },
        "contrast": {
            f"alpha={alpha}": Contrast(amateur=helpers.amateur, alpha=alpha)
            for alpha in (0.25, 0.5, 1.0, 2.0)
        },
        "activation-steering": {
            f"strength={strength}": ActivationSteering(pairs=str(helpers.pairs), strength=strength)
            for strength in (4.0, 8.0, 16.0, 32.0)
        },
    }


def made_helpers(lm: LanguageModel, prompts: Sequence[str], folder: Path) -> Helpers:
    """A model tuned towards the reward, one tuned away from it, and pairs of samples."""
    import json

    samples = lm.sample(prompts, n=8, max_new_tokens=TOKENS, seed=7)
    pairs = folder / "pairs.jsonl"
    lines = []
    for prompt, several in zip(prompts, samples, strict=True):
        values = reward([], [one.text for one in several])
        best, worst = (several[int(find(values))].text for find in (np.argmax, np.argmin))
        if max(values) > min(values):
            lines.append(json.dumps({"prompt": prompt, "chosen": best, "rejected": worst}))
    pairs.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def against(texts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [-value for value in reward(texts, completions)]

    return Helpers(
        baseline=tuned(lm, prompts, reward, folder / "baseline"),
        amateur=tuned(lm, prompts, against, folder / "amateur"),
        pairs=pairs,
    )


def tuned(lm: LanguageModel, prompts: Sequence[str], aim: Any, out: Path) -> LanguageModel:
    """The policy after 40 steps of REINFORCE."""
    config = TrainingConfig(
        steps=40,
        batch_size=16,
        learning_rate=1e-4,
        schedule="constant",
        warmup=0.0,
        save_every=0,
        max_new_tokens=TOKENS,
    )
    chosen: Any = objective("reinforce", {"samples": 8, "beta": 0.1})
    rows = [{"prompt": prompt} for prompt in prompts]
    return train(lm, chosen, rows, config=config, out=out, reward=aim).model


def point(
    lm: LanguageModel, decoder: Any, prompts: Sequence[str], helpers: Helpers
) -> dict[str, float]:
    """Mean reward with half the width of its interval, and cost."""
    chain: Chain = compose(decoder)
    rewards: dict[str, Any] = {"reward": reward} if chain.needs.rewards else {}
    if chain.name == "rps":
        rewards["short"] = lambda _, texts: [-float(len(text.split())) for text in texts]
    models = (lm, helpers.baseline, helpers.amateur)
    asked = [prompt for prompt in prompts for _ in range(REPEATS)]
    request = Request(sampling=Sampling(max_new_tokens=TOKENS, seed=99), rewards=rewards)
    with chain.applied(lm):
        for model in models:
            model.work.reset()
        found = [several[0] for several in chain.decode(chain.writer(lm), asked, request)]
    spent = sum(model.work.trunk_tokens for model in models)
    means = np.array(reward([], [one.text for one in found])).reshape(-1, REPEATS).mean(axis=1)
    return {
        "cost": round(spent / sum(len(one.token_ids) for one in found), 3),
        "reward": round(float(means.mean()), 4),
        "reward_half_width": half_width(means),
    }


def drawn(table: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One line per decoder, from its cheapest setting to its dearest."""
    figure, axis = plt.subplots(figsize=(8, 5.2))
    names = list(dict.fromkeys(row["decoder"] for row in table))
    for name, colour in zip(names, COLOURS, strict=False):
        points = [row for row in table if row["decoder"] == name]
        cost, value, error = (
            [row[key] for row in points] for key in ("cost", "reward", "reward_half_width")
        )
        axis.errorbar(
            cost, value, error, fmt="-o", ms=4, lw=1.3, elinewidth=0.7, color=colour, label=name
        )
    axis.set_xscale("log")
    axis.set_xticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
    axis.minorticks_off()
    axis.set_xlabel("tokens through a model for each token written")
    axis.set_ylabel("mean reward")
    axis.grid(alpha=0.25, lw=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
