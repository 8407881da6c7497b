"""`trueup methods [QUERY]`: which methods there are, which are proven, where surveys put them."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from trueup.cli import printing
from trueup.cli.options import AsJson
from trueup.errors import UserError, check_choice

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from trueup.catalog import Entry
    from trueup.taxonomies import Node, Taxonomy

EXAMPLE = "Example: trueup methods dpo"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("methods", epilog=EXAMPLE)(methods)


def methods(
    query: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUERY", help="Words of a name, title, stage, year or arXiv id."),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage",
            metavar="STAGE",
            help="data, training, decoding, prompt/output, audit or red-team.",
        ),
    ] = None,
    taxonomy: Annotated[
        str | None,
        typer.Option(
            "--taxonomy",
            metavar="NAME",
            help="Show a survey's tree, what stands where and the gaps; `help` lists the trees.",
        ),
    ] = None,
    as_json: AsJson = False,
    with_base: Annotated[
        bool,
        typer.Option(
            "--base", help="In --json without --stage, the methods without a number as well."
        ),
    ] = False,
) -> None:
    """List the methods, or those that hold every word of the query."""
    from trueup import catalog

    if taxonomy is not None:
        if query or stage or with_base:
            raise UserError("--taxonomy shows a whole tree; leave out QUERY, --stage and --base")
        _show_taxonomy(taxonomy, as_json)
        return
    if stage is not None:
        check_choice(get_args(catalog.Stage), stage=stage)
    words = " ".join(query or ())
    entries = catalog.search(words, base=with_base or stage is not None or not as_json)
    found = [entry for entry in entries if stage in (None, entry.stage)]
    if as_json:
        printing.show_json([entry.as_dict() for entry in found])
        return
    if not found:
        where = f" at stage {stage}" if stage else ""
        printing.show(f"no method{where} holds {words!r}; `trueup methods` lists all")
        return
    _show(found)
    if stage == "training":
        printing.show("which one for your data: trueup align --objective help")


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


def _show_taxonomy(name: str, as_json: bool) -> None:
    """One tree with its gaps, or for `help` what trees there are."""
    from trueup import catalog, taxonomies

    if name == "help":
        _show_names([taxonomies.load(each) for each in taxonomies.NAMES], as_json)
        return
    tree = taxonomies.load(name)
    entries = [entry for entry in catalog.load(base=True) if entry.status == "proven"]
    proven = tree.methods & {name for entry in entries for name in entry.names}
    gaps = [leaf.name for leaf in tree.gaps()]
    if as_json:
        planned = sorted(tree.methods - proven)
        found = {"proven": sorted(proven), "planned": planned, "gaps": gaps}
        printing.show_json(tree.as_dict() | found)
        return
    printing.show(_drawn(tree, proven))
    planned_only = len(tree.gaps(proven)) - len(gaps)
    served = len(tree.leaves) - len(gaps) - planned_only
    printing.show(
        f"\n{len(tree.leaves)} leaves: proven method {served}, planned only {planned_only}, "
        f"gap (-) {len(gaps)}"
    )
    notes = [f"{tree.source}. {tree.note}"]
    if any(node.is_added for node in tree.walk()):
        notes.append("+ is not in the survey")
    printing.show_notes(notes)


def _show_names(trees: "list[Taxonomy]", as_json: bool) -> None:
    """One line per tree."""
    from rich.text import Text

    from trueup.api.tables import plain_table

    sizes = [(len(tree.leaves), len(tree.gaps())) for tree in trees]
    if as_json:
        keys = ("name", "title", "source", "leaves", "gaps")
        rows = [
            (tree.name, tree.title, tree.source, *size)
            for tree, size in zip(trees, sizes, strict=True)
        ]
        printing.show_json([dict(zip(keys, row, strict=True)) for row in rows])
        return
    table = plain_table("name", "title", right=("leaves", "gaps"))
    for tree, (leaves, gaps) in zip(trees, sizes, strict=True):
        table.add_row(Text(tree.name), Text(tree.title), str(leaves), str(gaps))
    printing.show(table)


def _drawn(tree: "Taxonomy", proven: Collection[str]) -> "Tree":
    """The tree for a terminal: each place with its methods, a gap as `-`."""
    from rich.text import Text
    from rich.tree import Tree

    def add(parent: Tree, node: "Node") -> None:
        branch = parent.add(_label(node, proven))
        for child in node.children:
            add(branch, child)

    root = Tree(Text(tree.title, style="bold"), guide_style="dim")
    for node in tree.children:
        add(root, node)
    return root


def _label(node: "Node", proven: Collection[str]) -> "Text":
    """A place's line: its title, a dataset's size and licence, the methods that stand there."""
    from rich.text import Text

    label = Text(f"+ {node.title}" if node.is_added else node.title)
    if node.dataset is not None:
        label.append(f" ({node.dataset.size:,} {node.dataset.unit}, {node.dataset.licence})")
    done = [name for name in node.methods if name in proven]
    planned = [name for name in node.methods if name not in proven]
    parts = [Text(", ".join(done), style="green")] if done else []
    parts += [Text(f"{', '.join(planned)} (planned)", style="dim")] if planned else []
    if parts:
        label.append(": ").append(Text("; ").join(parts))
    elif not node.children:
        label.append(": -")
    return label
