"""Discretion where the share of preferences against the principles' consensus is known."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from trueup.audits.behaviour.discretion_measures import consensus
from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_likelihoods import Named, ScriptedModel
from trueup.calibration.scripted_world import ScriptedWorld

PRINCIPLES = ("clear", "kind", "brief")


class DiscretionWorld(ScriptedWorld):
    """Pairs whose principles are in the data, and a model that says which response is better."""

    audit = "discretion"
    metric = "arbitrariness"
    planted: tuple[float, ...] = (0.0, 0.1, 0.2, 0.35, 0.5)
    null = 0.0
    settings: Mapping[str, Any] = MappingProxyType({"given": PRINCIPLES, "both_orders": False})
    story = (
        "Each of three principles prefers either response or none by chance; where those that "
        "speak agree, the model goes against them with the planted probability, else it tosses a "
        "coin."
    )
    unit = "comparisons"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Pairs with their principles, and the responses that the model prefers."""
        rng = np.random.default_rng(seed)
        table = rng.choice([-1.0, np.nan, 1.0], size=(n, len(PRINCIPLES)))
        agreed = consensus(table)
        coin = rng.choice([-1.0, 1.0], size=n)
        against = rng.random(n) < planted
        preferred = np.where(np.isnan(agreed), coin, np.where(against, -agreed, agreed)).tolist()
        rows = [
            {"prompt": f"q{i}", "chosen": f"c{i}", "rejected": f"r{i}"}
            | {
                name: None if np.isnan(each) else int(each)
                for name, each in zip(PRINCIPLES, table[i].tolist(), strict=True)
            }
            for i in range(n)
        ]

        def following(words: Sequence[str]) -> Named:
            first = next((w for w in words if w[0] in "cr" and w[1:].isdigit()), "")
            if not first:
                return {}
            is_first = (first[0] == "c") == (preferred[int(first[1:])] > 0)
            return {"A": 0.8, "B": 0.1} if is_first else {"A": 0.1, "B": 0.8}

        texts = [f"c{i} r{i}" for i in range(n)]
        return Draw(ScriptedModel([*texts, "A B C"], following), rows)


WORLDS: tuple[CalibrationWorld, ...] = (DiscretionWorld(),)
