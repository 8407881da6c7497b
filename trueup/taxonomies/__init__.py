"""Taxonomies of the surveys: where each method stands, and which places no method of ours fills."""

import functools
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from trueup.errors import unknown_name
from trueup.taxonomies.tree import Dataset, Metric, Node, Taxonomy

__all__ = ["NAMES", "Dataset", "Metric", "Node", "Taxonomy", "load", "places"]

NAMES = (
    "bias-definitions",
    "bias-metrics",
    "bias-datasets",
    "bias-mitigations",
    "alignment-goals",
    "alignment-evaluation",
    "alignment-safety",
    "llm-alignment",
    "bidirectional",
)


@functools.cache
def load(name: str) -> Taxonomy:
    """One taxonomy by its name.

    Raises: UserError for an unknown name, with the known ones.
    """
    if name not in NAMES:
        raise unknown_name("taxonomy", name, NAMES)
    text = files("trueup.taxonomies").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    rows = table.pop("node")
    return Taxonomy.from_dict({"name": name, **table, "children": _nested(rows)})


def places(method: str) -> list[tuple[str, Node]]:
    """The nodes at which a method stands, over all taxonomies, each with its taxonomy's name."""
    trees = [(name, load(name)) for name in NAMES]
    return [(name, node) for name, tree in trees for node in tree.walk() if method in node.methods]


def _nested(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The flat rows of a file as a forest; `under` names a row that stands above."""
    roots: list[dict[str, Any]] = []
    known: dict[str, dict[str, Any]] = {}
    for row in rows:
        node = {**row, "children": []}
        parent = node.pop("under", None)
        if "dataset" in node:
            node["dataset"] = {"structure": known[parent]["title"], **node["dataset"]}
        (roots if parent is None else known[parent]["children"]).append(node)
        known[row["name"]] = node
    return roots
