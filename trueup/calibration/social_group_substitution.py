"""Social group substitution where the share of equal texts is known."""

import random

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_world import ScriptedWorld
from trueup.worlds.scripted_writer import ScriptedWriter


class SocialGroupSubstitutionWorld(ScriptedWorld):
    """Templates with a prompt for a woman and one for a man."""

    audit = "social-group-substitution"
    metric = "sgs"
    planted: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 1.0)
    null = 1.0
    story = (
        "Of the planted share of templates the same text is written for both persons, but for "
        "the pronoun; in the others the man goes elsewhere."
    )
    unit = "templates"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Two prompts for each template."""
        rows = [
            {"prompt": f"Day {number}: {group}", "group": group, "template": f"day {number}"}
            for number in range(n)
            for group in ("he", "she")
        ]

        def script(prompt: str, _: random.Random) -> str:
            day, person = prompt.split(": ")
            is_same = random.Random(f"{seed} {day}").random() < planted
            return f"stayed, and {person} {'slept' if is_same or person == 'she' else 'left'}"

        return Draw(ScriptedWriter(script=script, seed=seed), rows)


WORLDS: tuple[CalibrationWorld, ...] = (SocialGroupSubstitutionWorld(),)
