"""A tree of rewrites of one instruction: what each is worth, where to go on, and it as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from trueup.errors import UserError
from trueup.files import write_json
from trueup.stats.estimate import Array

Backup = Literal["nested_mean", "flat_mean", "max"]
BACKUPS = get_args(Backup)
SCHEMA = 1


@dataclass(kw_only=True)
class RewriteNode:
    """One rewrite.

    Fields: text; parent is the place of what it rewrites and principle by what, None at the root;
            rewards of its answers, judged against the root's text, [] where there are none yet;
            fresh are rewards of answers drawn after the search; failed marks a rewrite that could
            not be had, whose text is its parent's; visits (N) counts the rewrites in its subtree,
            its own among them; best (m) is the largest value there.
    """

    text: str
    parent: int | None = None
    principle: str | None = None
    rewards: list[float] = field(default_factory=list)
    fresh: list[float] = field(default_factory=list)
    failed: bool = False
    visits: int = 0
    best: float | None = None
    children: list[int] = field(default_factory=list)
    nested: float = math.nan  # nested mean of the subtree, kept up along the path of each rewrite
    total: float = 0.0  # sum of the subtree's values, for the flat mean

    @property
    def value(self) -> float | None:
        """The mean reward of its answers (u)."""
        return mean(self.rewards) if self.rewards else None

    @property
    def reward(self) -> float:
        """The mean reward that exports tell: of the fresh answers where there are any."""
        return mean(self.fresh or self.rewards)


class RewriteTree:
    """The rewrites of one instruction; nodes[0] is the instruction itself.

    Fields: principles hold the phrase of every principle of the instruction's pool, in order;
            record is what else is known of how the tree came about.
    """

    def __init__(
        self,
        instruction: str,
        principles: Mapping[str, str],
        record: Mapping[str, Any] | None = None,
    ) -> None:
        if not principles:
            raise UserError(
                f"a tree needs at least one principle, got none for {instruction!r:.60}"
            )
        self.principles = dict(principles)
        self.record = dict(record or {})
        self.nodes = [RewriteNode(text=instruction)]

    def __repr__(self) -> str:
        return f"RewriteTree({self.instruction!r:.40}, {len(self.nodes)} nodes)"

    @property
    def instruction(self) -> str:
        """The raw instruction."""
        return self.nodes[0].text

    @property
    def iterations(self) -> int:
        """How many rewrites there are."""
        return len(self.nodes) - 1

    def unused(self, place: int) -> list[str]:
        """The principles that no child of this node was made by."""
        used = {self.nodes[child].principle for child in self.nodes[place].children}
        return [name for name in self.principles if name not in used]

    def chosen(
        self, *, w: float = 0.1, backup: Backup = "nested_mean", normalise: bool = False
    ) -> int:
        """The node to rewrite next: from the root on to the best child, while none is missing.

        Fields: normalise scales values to 0..1 over all that are known; equal ones are 0.
        """
        scale = self._scale() if normalise else (0.0, 1.0)
        place = 0
        while len(self.nodes[place].children) == len(self.principles):
            children = self.nodes[place].children
            scores = uct_scores(
                np.array([(self.worth(child, backup) - scale[0]) / scale[1] for child in children]),
                np.array([self.nodes[child].visits for child in children]),
                self.nodes[place].visits,
                w,
            )
            place = children[int(scores.argmax())]  # of equal ones the earlier
        return place

    def worth(self, place: int, backup: Backup) -> float:
        """What selection takes a node for (Q)."""
        node = self.nodes[place]
        if backup == "nested_mean":
            return node.nested
        if backup == "flat_mean":
            return node.total / (node.visits or 1)
        return math.nan if node.best is None else node.best

    def add(
        self,
        parent: int,
        principle: str,
        text: str,
        rewards: Sequence[float],
        *,
        failed: bool = False,
    ) -> int:
        """Put a rewrite with its rewards under a node, tell its ancestors, and give its place."""
        place = len(self.nodes)
        node = RewriteNode(
            text=text, parent=parent, principle=principle, rewards=list(rewards), failed=failed
        )
        self.nodes.append(node)
        self.nodes[parent].children.append(place)
        value = mean(node.rewards)
        at: int | None = place
        while at is not None:
            self.nodes[at].visits += 1
            self.nodes[at].total += value
            self._refresh(at)
            at = self.nodes[at].parent
        return place

    def close(self, rewards: Sequence[float]) -> None:
        """Give the raw instruction its own rewards, once the search is over."""
        self.nodes[0].rewards = list(rewards)
        self._refresh(0)

    def reopen(self) -> None:
        """Take back what is known only at the end of a search, so that it can go on."""
        for node in self.nodes:
            node.fresh = []
        self.nodes[0].rewards = []
        self._refresh(0)

    def ranked(self) -> list[int]:
        """The places of all nodes that were rewarded, the best first; of equal ones the earlier."""
        known = [place for place, node in enumerate(self.nodes) if node.rewards]
        return sorted(known, key=lambda place: -mean(self.nodes[place].rewards))

    def best(self) -> RewriteNode:
        """The node of the highest value."""
        return self.nodes[self.ranked()[0]]

    def worst(self) -> RewriteNode:
        """The node of the lowest value; of equal ones the earlier."""
        known = [place for place, node in enumerate(self.nodes) if node.rewards]
        return self.nodes[min(known, key=lambda place: mean(self.nodes[place].rewards))]

    def path(self, place: int) -> list[str]:
        """The principles on the way from the root to a node."""
        steps: list[str] = []
        node = self.nodes[place]
        while node.parent is not None:
            steps.append(str(node.principle))
            node = self.nodes[node.parent]
        return steps[::-1]

    def summary(self) -> dict[str, Any]:
        """What came of the search, for a report: values, gain, path, and how the length grew."""
        top = self.ranked()[0]
        root, best = self.nodes[0], self.nodes[top]
        return {
            "nodes": len(self.nodes),
            "raw": root.reward if root.rewards else None,
            "best": best.reward,
            "gain": best.reward - root.reward if root.rewards else None,
            "principles": self.path(top),
            "raw_words": len(root.text.split()),
            "best_words": len(best.text.split()),
            "failed": sum(node.failed for node in self.nodes),
        }

    def as_dict(self) -> dict[str, Any]:
        """The tree as plain data."""
        return {
            "instruction": self.instruction,
            "principles": self.principles,
            "record": self.record,
            "nodes": [
                {
                    "text": node.text,
                    "parent": node.parent,
                    "principle": node.principle,
                    "rewards": node.rewards,
                    "fresh": node.fresh,
                    "failed": node.failed,
                    "visits": node.visits,
                    "value": node.value,
                    "best": node.best,
                }
                for node in self.nodes
            ],
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "RewriteTree":
        """The tree that `as_dict` told.

        Raises: ValueError, KeyError or TypeError where it is none.
        """
        root, *others = told["nodes"]
        tree = cls(root["text"], told["principles"], told["record"])
        for place, node in enumerate(others, start=1):
            if not 0 <= node["parent"] < place:
                raise ValueError(f"node {place} has the parent {node['parent']!r}")
            tree.add(
                node["parent"],
                node["principle"],
                node["text"],
                [float(reward) for reward in node["rewards"]],
                failed=bool(node["failed"]),
            )
        if root["rewards"]:
            tree.close([float(reward) for reward in root["rewards"]])
        for place, node in enumerate(told["nodes"]):
            tree.nodes[place].fresh = [float(reward) for reward in node["fresh"]]
            if (node["visits"], node["best"]) != (
                tree.nodes[place].visits,
                tree.nodes[place].best,
            ):
                raise ValueError(f"visits and best of node {place} do not follow from the others")
        return tree

    def _scale(self) -> tuple[float, float]:
        """The lowest value known and the width up to the highest, 1 where there is none."""
        values = [mean(node.rewards) for node in self.nodes if node.rewards]
        return (min(values), (max(values) - min(values)) or 1.0) if values else (0.0, 1.0)

    def _refresh(self, place: int) -> None:
        """Nested mean and best of a node, from its own value and its children's."""
        node = self.nodes[place]
        children = [self.nodes[child] for child in node.children]
        node.nested = nested_value(node.value, [child.nested for child in children])
        known = [child.best for child in children if child.best is not None]
        own = [] if node.value is None else [node.value]
        node.best = max([*own, *known], default=None)


def nested_value(own: float | None, children: Sequence[float]) -> float:
    """The mean of a node's own value and its children's nested values (Q).

    A child counts as much as the node itself, however many rewrites stand under it: it is not the
    mean over the subtree.
    Edges:  own None, as at the root while it is searched, leaves the children's mean; NaN for none.
    Source: arXiv 2508.04626, and its code.
    """
    known = [*([] if own is None else [own]), *children]
    return mean(known) if known else math.nan


def uct_scores(values: Array, visits: Array, parent_visits: int, w: float) -> Array:
    """Q(c) + w sqrt(ln N(parent) / N(c)) of every child, [K]; natural logarithm, no factor 2."""
    found: Array = values + w * np.sqrt(math.log(parent_visits) / visits)
    return found


def mean(values: Sequence[float]) -> float:
    """The mean, rounded once."""
    return math.fsum(values) / len(values)


def write_trees(path: Path, trees: Sequence[RewriteTree]) -> None:
    """Write trees as JSON: the file is the old one or the new one, never half."""
    write_json(path, {"schema": SCHEMA, "trees": [tree.as_dict() for tree in trees]})


def read_trees(path: Path) -> list[RewriteTree]:
    """The trees of a file that `write_trees` wrote.

    Raises: UserError where it is none.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["schema"] != SCHEMA:
            raise UserError(f"{path}: has schema {told['schema']!r}, and {SCHEMA} is what is read")
        return [RewriteTree.from_dict(tree) for tree in told["trees"]]
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, AttributeError) as error:
        raise UserError(f"{path}: holds no trees of rewrites ({error}); move it away") from error
