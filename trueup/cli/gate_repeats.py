"""`--repeat K`: a gate over several audits of other seeds, for models and judges that are noisy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from trueup.cli.gate import Gate, Outcome, Row, Verdict
from trueup.errors import check_at_least, check_choice

POLICIES = ("majority", "all", "any")

Repeat = Annotated[
    int,
    typer.Option(
        "--repeat", metavar="K", help="Audit up to K times for --fail-if, each with the next seed."
    ),
]
RepeatPolicy = Annotated[
    str,
    typer.Option(
        "--repeat-policy",
        metavar="NAME",
        help="The gate trips if it does in the majority of the repeats, in all, or in any.",
    ),
]


@dataclass(frozen=True)
class Repeats:
    """How often an audit is made, and how many tripped gates it takes to fail.

    majority: more than half of them;  all: every one;  any: a single one
    With a gate that trips by chance in a share q of independent repeats, the command fails in a
    share P(X > times / 2), q^times or 1 - (1 - q)^times, X ~ Bin(times, q): of q = 0.1 and five
    repeats 0.009, 0.00001 and 0.41.
    Edges:  repeats differ in what is sampled, not in the probes: a lean of the probes themselves
            stays in all of them, and more probes are what helps there.
    Raises: UserError where times is below 1, or the policy has another name.
    """

    times: int = 1
    policy: str = "majority"

    def __post_init__(self) -> None:
        check_at_least(1, repeat=self.times)
        check_choice(POLICIES, repeat_policy=self.policy)

    @property
    def needed(self) -> int:
        """How many tripped gates make the command fail."""
        return {"majority": self.times // 2 + 1, "all": self.times, "any": 1}[self.policy]

    def run(self, check: Callable[[int], Outcome]) -> "RepeatedOutcome":
        """Ask for the outcome of repeat 0, 1, ..., until no further one could change the end."""
        outcomes: list[Outcome] = []
        for number in range(self.times):
            outcomes.append(check(number))
            tripped = sum(outcome.is_tripped for outcome in outcomes)
            passed = len(outcomes) - tripped
            if tripped >= self.needed or passed > self.times - self.needed:
                break
        return RepeatedOutcome(self, tuple(outcomes))


@dataclass(frozen=True)
class RepeatedOutcome:
    """What the repeats decided; those that could change nothing were not made."""

    repeats: Repeats
    outcomes: tuple[Outcome, ...]

    @property
    def tripped(self) -> int:
        """How many gates tripped."""
        return sum(outcome.is_tripped for outcome in self.outcomes)

    @property
    def is_tripped(self) -> bool:
        """Whether enough of them did."""
        return self.tripped >= self.repeats.needed

    def __str__(self) -> str:
        state = "tripped" if self.is_tripped else "passed"
        told = (str(outcome).partition(self.outcomes[0].text)[2] for outcome in self.outcomes)
        return (
            f"gate {state} ({self.repeats.policy} of {self.repeats.times}): it tripped in "
            f"{self.tripped} of {len(self.outcomes)} repeats: {self.outcomes[0].text}"
            + "".join(told)
        )

    def as_dict(self) -> dict[str, Any]:
        """The outcome as `--json` holds it: that of one run, and the repeats."""
        return {
            "expression": self.outcomes[0].text,
            "tripped": self.is_tripped,
            "policy": self.repeats.policy,
            "repeat": self.repeats.times,
            "repeats": [outcome.is_tripped for outcome in self.outcomes],
        }


def decide(
    gate: Gate | None, repeats: Repeats, rows_of: Callable[[int], Sequence[Row]]
) -> Verdict | None:
    """What the gate says of the rows of repeat 0, 1, ...; None where there is no gate."""
    if gate is None:
        return None
    if repeats.times == 1:
        return gate.check(rows_of(0))
    return repeats.run(lambda number: gate.check(rows_of(number)))
