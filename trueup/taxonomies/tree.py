"""What a taxonomy is: a tree of named places, the methods that stand at each, and its gaps."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What must be known to read a metric's number; all in the survey's words.

    Fields: neutral - the value without bias; sign - whether the direction can be read from it;
            item - what one item of n is; needs - what of the model is read.
    """

    neutral: str
    range: str
    sign: str
    item: str
    needs: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A public dataset; trueup ships none of them.

    Fields: structure - what one item is, the branch on which it stands; harms - names in the
            taxonomy of definitions; size_source - how we know the size.
    """

    structure: str
    harms: tuple[str, ...]
    groups: tuple[str, ...]
    licence: str
    size: int
    unit: str
    size_source: Literal["counted", "readme", "recalled"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One place of a taxonomy.

    Fields: methods - registered or planned names that stand here; is_added - not in the survey,
            ours; also_under - further parents, beside the one that holds it.
    """

    name: str
    title: str
    note: str = ""
    is_added: bool = False
    also_under: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    metric: Metric | None = None
    dataset: Dataset | None = None
    children: tuple["Node", ...] = ()

    def walk(self) -> Iterator["Node"]:
        """This node, then all below it, in their order."""
        yield self
        for child in self.children:
            yield from child.walk()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Node":
        """The node that `dataclasses.asdict`, or a file's row with its children, describes."""
        metric, dataset = values.get("metric"), values.get("dataset")
        built = {
            "metric": metric and Metric(**metric),
            "dataset": dataset and Dataset(**_with_tuples(dataset)),
            "children": tuple(cls.from_dict(child) for child in values.get("children", ())),
        }
        return cls(**{**_with_tuples(values), **built})


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """A survey's tree, with what we added to it.

    Fields: source - author, year and arXiv id; paper - its number in the catalogue; note - how
            sure its names are.
    """

    name: str
    title: str
    source: str
    paper: int
    note: str
    children: tuple[Node, ...]

    def walk(self) -> Iterator[Node]:
        """All nodes, each before those below it."""
        for child in self.children:
            yield from child.walk()

    def node(self, name: str) -> Node:
        """The node of that name.

        Raises: KeyError where there is none.
        """
        return {node.name: node for node in self.walk()}[name]

    @property
    def leaves(self) -> list[Node]:
        """The nodes that hold no other."""
        return [node for node in self.walk() if not node.children]

    @property
    def methods(self) -> set[str]:
        """All methods that stand anywhere in the tree."""
        return {method for node in self.walk() for method in node.methods}

    def gaps(self, installed: Collection[str] | None = None) -> list[Node]:
        """The leaves at which none of the installed methods stands.

        Edges:  nothing installed: all leaves; None: all that we have or plan counts as installed.
        """
        known = self.methods if installed is None else set(installed)
        return [leaf for leaf in self.leaves if known.isdisjoint(leaf.methods)]

    def as_dict(self) -> dict[str, Any]:
        """The tree as JSON has it, children inside their parents."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Taxonomy":
        """The inverse of `as_dict`, also after a way through JSON."""
        children = tuple(Node.from_dict(child) for child in values["children"])
        return cls(**{**values, "children": children})


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with every list as a tuple."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
