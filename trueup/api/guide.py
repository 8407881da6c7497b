"""Which method for what: the tables behind `--objective help` and `--decoder help`."""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

MODELS = {  # what a need asks of the user, in the order of the command line
    "rewards": "reward",
    "ranking": "ranker",
    "teacher": "teacher",
    "advantage": "teacher, reference teacher",
    "reference": "reference",
}


@dataclass(frozen=True, kw_only=True)
class Guide:
    """What one objective asks for and is good for, in the words of its docstring."""

    name: str
    columns: tuple[str, ...]
    models: tuple[str, ...]
    summary: str
    use: str
    avoid: str

    def as_dict(self) -> dict[str, Any]:
        """The object of `--objective help --json`."""
        return {
            "name": self.name,
            "columns": list(self.columns),
            "models": list(self.models),
            "summary": self.summary,
            "use": self.use,
            "not": self.avoid,
        }


def guides() -> list[Guide]:
    """One guide per registered objective, by the data that it reads."""
    from trueup.data.contracts import CONTRACTS
    from trueup.objectives import OBJECTIVES

    order = list(CONTRACTS)
    found = []
    for name, cls in OBJECTIVES.items():
        kind: Any = cls
        source = getattr(kind, "source", kind.data)
        text = inspect.cleandoc(kind.__doc__ or "")
        models = [word for need, word in MODELS.items() if getattr(kind.needs, need)]
        models += [word for word in getattr(kind, "asks", ()) if word not in models]
        guide = Guide(
            name=name,
            columns=CONTRACTS[source],
            models=tuple(models),
            summary=" ".join(text.partition("\n\n")[0].split()),
            use=_part(text, "Use"),
            avoid=_part(text, "Not"),
        )
        found.append((order.index(source), guide))
    return [guide for _, guide in sorted(found, key=lambda pair: (pair[0], pair[1].name))]


def guide_table() -> "RenderableType":
    """The guides in 80 columns, grouped by the columns of the data that they read."""
    from itertools import groupby

    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    for columns, several in groupby(guides(), key=lambda guide: guide.columns):
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
        for width in (18, 15, 41):
            table.add_column(width=width, overflow="fold")
        for guide in several:
            use = guide.summary.partition(": ")[2] or guide.summary
            table.add_row(f"  {guide.name}", ", ".join(guide.models) or "-", use)
        parts += [Text(", ".join(columns), style="bold"), table, Text("")]
    parts.append(Text("first the columns of the data; then name, what else it needs, what it does"))
    return Group(*parts)


@dataclass(frozen=True, kw_only=True)
class DecoderGuide:
    """What one decoder is, needs and costs, in the words of its class."""

    name: str
    role: str
    needs: tuple[str, ...]
    summary: str
    cost: str
    fields: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The object of `--decoder help --json`."""
        return {
            "name": self.name,
            "role": self.role,
            "needs": list(self.needs),
            "summary": self.summary,
            "cost": self.cost,
            "fields": dict(self.fields),
        }


def decoder_guides() -> list[DecoderGuide]:
    """One guide per registered decoder, in the order of a chain."""
    from trueup.decoding import DECODERS
    from trueup.decoding.compose import ROLES

    found = []
    for name, cls in DECODERS.items():
        kind: Any = cls
        text = inspect.cleandoc(kind.__doc__ or "")
        needs = ["reward"] * bool(kind.needs.rewards) + [
            f"({model})" if _default(kind, model) is None else model for model in kind.needs.models
        ]
        needs += ["white box"] * bool(kind.needs.white_box or kind.role == "edit")
        found.append(
            DecoderGuide(
                name=name,
                role=kind.role,
                needs=tuple(needs),
                summary=" ".join(text.partition("\n\n")[0].split()),
                cost=_part(text, "Cost"),
                fields={
                    field.name: None if field.default is dataclasses.MISSING else field.default
                    for field in dataclasses.fields(kind)
                    if field.init
                },
            )
        )
    order = list(ROLES)
    return sorted(found, key=lambda guide: (order.index(guide.role), guide.name))


def _default(kind: Any, name: str) -> Any:
    """The default of a field."""
    return next(field.default for field in dataclasses.fields(kind) if field.name == name)


def decoder_table() -> "RenderableType":
    """The decoders in 80 columns, grouped by where they stand in a chain."""
    from itertools import groupby

    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    titles = {
        "prompt": "before the model: any number, any model",
        "edit": "in the model: any number",
        "search": "the search for the text: one",
    }
    parts: list[RenderableType] = []
    for role, several in groupby(decoder_guides(), key=lambda guide: guide.role):
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
        for width in (21, 15, 40):
            table.add_column(width=width, overflow="fold")
        for guide in several:
            told = f"{guide.summary} Cost: {guide.cost}"
            table.add_row(f"  {guide.name}", ", ".join(guide.needs) or "-", told)
        parts += [Text(titles[role], style="bold"), table, Text("")]
    parts.append(
        Text(
            "first its name, then what it needs (in brackets: if you like), what it does, and its "
            "cost; chain them in this order, as in urial+best-of-n"
        )
    )
    return Group(*parts)


def _part(text: str, name: str) -> str:
    """A labelled part of a docstring, as one line."""
    match = re.search(rf"^{name}: +(.*?)(?=^\S|\Z)", text, re.M | re.S)
    return " ".join(match[1].split()) if match else ""
