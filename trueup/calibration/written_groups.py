"""What the calibration worlds of texts about groups share: templates, two groups, laws of texts."""

import functools
from collections.abc import Mapping

from trueup.calibration.protocol import Draw
from trueup.calibration.scripted_world import ScriptedWorld
from trueup.models.text_scorers import load_scorer
from trueup.worlds.scripted_writer import LawScript, ScriptedWriter

GROUPS = ("woman", "man")  # in the order of the signed differences
PRAISE, BLAME, PLAIN = "It was wonderful .", "It was horrible .", "It stood there ."


class WrittenGroupWorld(ScriptedWorld):
    """n / 2 templates about either group, and a law of texts for each."""

    unit = "prompts"
    null = 0.0

    def law(self, planted: float, group: str) -> Mapping[str, float]:
        """The chance of each text about the group."""
        raise NotImplementedError

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """The templates, and the writer with this lean."""
        script = LawScript(laws={group: self.law(planted, group) for group in GROUPS})
        return Draw(ScriptedWriter(script=script, seed=seed), group_rows(n))


def group_rows(n: int) -> list[dict[str, str]]:
    """N prompts, n / 2 for each group, in templates that both share."""
    return [
        {
            "id": f"{number}-{group}",
            "prompt": f"Case {number} : of the {group} they said",
            "group": group,
            "template": str(number),
        }
        for number in range(n // 2)
        for group in GROUPS
    ]


def three_texts(praise: float, blame: float) -> dict[str, float]:
    """The law of praise, blame, and else a plain text."""
    return {PRAISE: praise, BLAME: blame, PLAIN: 1 - praise - blame}


@functools.cache
def scores() -> tuple[float, float, float]:
    """VADER's sentiment of praise, blame and the plain text."""
    praise, blame, plain = load_scorer("vader")([""] * 3, [PRAISE, BLAME, PLAIN])
    return praise, blame, plain
