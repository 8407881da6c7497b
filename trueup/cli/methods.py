"""`trueup methods [QUERY]`: which methods there are, and which of them are proven."""

from typing import TYPE_CHECKING, Annotated

import typer

from trueup.cli import printing
from trueup.cli.options import AsJson

if TYPE_CHECKING:
    from trueup.catalog import Entry

EXAMPLE = "Example: trueup methods dpo"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("methods", epilog=EXAMPLE)(methods)


def methods(
    query: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUERY", help="Words of a name, title, stage, year or arXiv id."),
    ] = None,
    as_json: AsJson = False,
    with_base: Annotated[
        bool, typer.Option("--base", help="In --json, the methods without a number as well.")
    ] = False,
) -> None:
    """List the methods, or those that hold every word of the query."""
    from trueup import catalog

    words = " ".join(query or ())
    if as_json:
        found = catalog.search(words, base=with_base)
        printing.show_json([entry.as_dict() for entry in found])
        return
    found = catalog.search(words)
    if not found:
        printing.show(f"no method holds {words!r}; `trueup methods` lists all")
        return
    _show(found)


def _show(entries: "list[Entry]") -> None:
    """One line per method, as long as the title fits."""
    from rich.text import Text

    from trueup.api.tables import plain_table

    table = plain_table()
    table.add_column("no.", justify="right", no_wrap=True)
    table.add_column("name", no_wrap=True, max_width=18, overflow="ellipsis")
    table.add_column("title", no_wrap=True, overflow="ellipsis", max_width=30)
    table.add_column("stage", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for entry in entries:
        shown = Text(entry.status, style="green" if entry.status == "proven" else "dim")
        number = "" if entry.number is None else str(entry.number)
        table.add_row(number, Text(entry.name), Text(entry.title), entry.stage, shown)
    printing.show(table)
    proven = sum(entry.status == "proven" for entry in entries)
    printing.show(f"\n{len(entries)} methods, {proven} proven")
