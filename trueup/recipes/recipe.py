"""What a checked recipe holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Verb = Literal["audit", "align", "compare", "generate", "report"]
VERBS: tuple[Verb, ...] = ("audit", "align", "compare", "generate", "report")


@dataclass(frozen=True)
class Source:
    """A model, a run or a data file: what an earlier step makes, or what is there already.

    Fields: step is the name of the earlier step, else None; text is the path, or the hub id; of a
            reward or ranker the command line's words are `before`, the text (empty where it is no
            file), and `after`.
    """

    text: str
    step: str | None = None
    before: str = ""
    after: str = ""

    @property
    def words(self) -> str:
        """What the command line would be given."""
        return self.before + self.text + self.after


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step, ready to run.

    Fields: methods are the names of audits or of the objective; helpers are what else an objective
            needs: reference, teacher, ref_teacher, reward, ranker; data has one source, or one for
            each audit; sides are the runs that are compared or reported.
    """

    name: str
    verb: Verb
    place: str
    methods: tuple[str, ...] = ()
    model: Source | None = None
    helpers: Mapping[str, Source] = field(default_factory=dict)
    data: Mapping[str, Source] = field(default_factory=dict)
    eval_data: Source | None = None
    sides: Sequence[Source] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def sources(self) -> list[Source]:
        """Everything that the step reads."""
        alone = [source for source in (self.model, self.eval_data) if source is not None]
        return [*alone, *self.helpers.values(), *self.data.values(), *self.sides]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A checked recipe: where it writes, and its steps in order."""

    path: Path
    out: Path
    device: str
    dtype: str
    steps: Sequence[Step]
