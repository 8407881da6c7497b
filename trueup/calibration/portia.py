"""PORTIA where the share of pairs that keep their verdict under swapped answers is known."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_world import ScriptedWorld
from trueup.worlds.judges import PlantedJudge, Prompt, Said

PARTS = 3  # the audit's k
STEPS = 1000  # gaps between the answers: 1 to 1000 thousandths, each as likely as the others
SAID = {"first": "A", "second": "B", "tie": "C", None: ""}

_PART = re.compile(r'^Answer ([AB])(?:, part \d+ of \d+)?: (".*")$', re.MULTILINE)


@dataclass(frozen=True)
class AlignedJudge:
    """A planted judge who reads parts, and whose liking for the first place they divide."""

    judge: PlantedJudge

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> list[list[Said]]:
        """Its verdict on each prompt, `n` times the same."""
        return [[Said(self._verdict(prompt))] * n for prompt in prompts]

    def _verdict(self, prompt: Prompt) -> str:
        """The letter of the better answer."""
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        parts: dict[str, list[str]] = {"A": [], "B": []}
        for letter, part in _PART.findall(text):
            parts[letter].append(json.loads(part))
        judge = replace(self.judge, position=self.judge.position / len(parts["A"]))
        [verdict] = judge([""], ["".join(parts["A"])], ["".join(parts["B"])])
        return SAID[verdict]


class PortiaWorld(ScriptedWorld):
    """Pairs of answers of three sentences, the one better than the other by a drawn gap."""

    audit = "portia"
    metric = "consistency_after"
    planted: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9, 1.0)
    null = 1.0
    story = (
        "A judge adds a bonus to the answer shown first, a third of it where the answers are cut "
        "in three; the planted share of pairs is further apart than that third."
    )
    unit = "pairs"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """The pairs, and the judge with the bonus."""
        rng = np.random.default_rng(seed)
        gaps = rng.choice((-1, 1), size=n) * rng.integers(1, STEPS + 1, size=n) / STEPS
        rows = [
            {
                "question": f"Which answer does question {number} want?",
                "answer_1": f"The one is worth {gap:+.3f} here. Some words follow. An end.",
                "answer_2": "The other is worth +0.000 here. Other words follow. An end too.",
            }
            for number, gap in enumerate(gaps)
        ]
        bonus = PARTS * (1 - planted + 0.5 / STEPS)  # half a step: no gap is as large as its third
        return Draw(AlignedJudge(PlantedJudge(position=bonus)), rows)  # type: ignore[arg-type]


WORLDS: tuple[CalibrationWorld, ...] = (PortiaWorld(),)
