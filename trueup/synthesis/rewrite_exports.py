"""Trees of rewrites as training data: for SFT, for DPO, and single steps."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trueup.errors import check_at_least, check_between
from trueup.files import write_lines
from trueup.models.embedder import Vectors
from trueup.synthesis.rewrite_forms import RewriteForm, read_form
from trueup.synthesis.rewrite_tree import RewriteNode, RewriteTree, mean

Keeps = Callable[[str, str], bool]  # raw instruction, rewrite: does it still ask for the same?

logger = logging.getLogger("trueup")


@dataclass(frozen=True, eq=False, kw_only=True)
class IntentFloor:
    """Whether a rewrite still asks for the same: the cosine of its vector and the raw one's.

    Fields: floor is the least cosine, which depends on the encoder.
    Edges:  a text without a vector does not count as the same.
    """

    encoder: Vectors
    floor: float = 0.5

    def __post_init__(self) -> None:
        check_between(-1, 1, floor=self.floor)

    def __call__(self, raw: str, rewrite: str) -> bool:
        """Whether the cosine reaches the floor."""
        one, other = np.asarray(self.encoder.text_vectors([raw, rewrite]), dtype=np.float64)
        length = np.linalg.norm(one) * np.linalg.norm(other)
        return bool(one @ other >= self.floor * length) and bool(length > 0)


def preference_pairs(
    trees: Sequence[RewriteTree],
    *,
    min_gap: float = 0.0,
    form: RewriteForm | None = None,
    keeps: Keeps | None = None,
) -> list[dict[str, Any]]:
    """The best rewrite of each instruction against the worst, for a rewriter to prefer.

    Rows:   prompt (the rewriter's, as messages), chosen, rejected (its whole answers),
            chosen_reward, rejected_reward, instruction, chosen_text, rejected_text.
    Best and worst are by the search's values, of equal ones the earlier; the rewards told are those
    of fresh answers where the search drew some. By these the best must also beat the raw
    instruction, else that is chosen: no rewrite is a rewrite, too.
    Fields: a pair whose rewards differ by min_gap or less is left out; keeps leaves out rewrites
            that ask for something else.
    Source: arXiv 2508.04626, where every tree makes a pair, by the search's own values.
    """
    check_at_least(0, min_gap=min_gap)
    texts = form or read_form()
    rows = []
    for tree in trees:
        best, worst = _ends(tree, keeps)
        if best.text != worst.text and best.reward - worst.reward > min_gap:
            rows.append(
                {
                    "prompt": texts.rewriter_prompt(tree.instruction),
                    "chosen": texts.response(best.text),
                    "rejected": texts.response(worst.text),
                    "chosen_reward": best.reward,
                    "rejected_reward": worst.reward,
                    "instruction": tree.instruction,
                    "chosen_text": best.text,
                    "rejected_text": worst.text,
                }
            )
    _tell(len(trees), len(rows), trees)
    return rows


def sft_rows(
    trees: Sequence[RewriteTree],
    *,
    min_gap: float = 0.0,
    form: RewriteForm | None = None,
    keeps: Keeps | None = None,
) -> list[dict[str, Any]]:
    """The chosen sides of `preference_pairs`: prompt, completion, instruction, reward."""
    return [
        {
            "prompt": row["prompt"],
            "completion": row["chosen"],
            "instruction": row["instruction"],
            "reward": row["chosen_reward"],
        }
        for row in preference_pairs(trees, min_gap=min_gap, form=form, keeps=keeps)
    ]


def step_rows(
    trees: Sequence[RewriteTree],
    *,
    form: RewriteForm | None = None,
    keeps: Keeps | None = None,
) -> list[dict[str, Any]]:
    """Every rewrite that is worth more than what it rewrites, to imitate one step by its principle.

    Rows:   prompt (with the principle's phrase), completion, principle, gain, instruction.
    Edges:  the raw instruction's own rewrites count once its value is known, at the search's end.
    Source: arXiv 2508.04626, the data of its step rewriter; by the search's own values.
    """
    texts = form or read_form()
    return [
        {
            "prompt": texts.rewriter_prompt(parent.text, tree.principles[str(child.principle)]),
            "completion": texts.response(child.text),
            "principle": child.principle,
            "gain": gain,
            "instruction": tree.instruction,
        }
        for tree in trees
        for parent, child, gain in _steps(tree)
        if gain > 0 and (keeps is None or keeps(tree.instruction, child.text))
    ]


def write_exports(
    folder: Path | str,
    trees: Sequence[RewriteTree],
    *,
    min_gap: float = 0.0,
    form: RewriteForm | None = None,
    keeps: Keeps | None = None,
) -> dict[str, Path]:
    """Write sft.jsonl, dpo.jsonl and step.jsonl into a folder, and say where they are."""
    how: dict[str, Any] = {"form": form or read_form(), "keeps": keeps}
    rows = {
        "sft": sft_rows(trees, min_gap=min_gap, **how),
        "dpo": preference_pairs(trees, min_gap=min_gap, **how),
        "step": step_rows(trees, **how),
    }
    paths = {name: Path(folder) / f"{name}.jsonl" for name in rows}
    for name, path in paths.items():
        write_lines(path, rows[name])
    return paths


def _ends(tree: RewriteTree, keeps: Keeps | None) -> tuple[RewriteNode, RewriteNode]:
    """The node to choose and the one to reject."""
    ranked = [
        tree.nodes[place]
        for place in tree.ranked()
        if not place or keeps is None or keeps(tree.instruction, tree.nodes[place].text)
    ]
    raw, best = tree.nodes[0], ranked[0]
    worst = min(ranked, key=lambda node: mean(node.rewards))
    return (raw if raw.rewards and best.reward <= raw.reward else best), worst


def _steps(tree: RewriteTree) -> Iterator[tuple[RewriteNode, RewriteNode, float]]:
    """Every edge whose ends both have a value: parent, child, gain."""
    for child in tree.nodes[1:]:
        parent = tree.nodes[child.parent or 0]
        if parent.value is not None and child.value is not None:
            yield parent, child, child.value - parent.value


def _tell(asked: int, made: int, trees: Sequence[RewriteTree]) -> None:
    """Log how many pairs there are, and how much longer the best rewrites are."""
    told = [tree.summary() for tree in trees]
    raw, best = (sum(each[name] for each in told) for name in ("raw_words", "best_words"))
    logger.info(
        "p-aligner: %d of %d trees make a pair; the best rewrites have %d words, the raw ones %d",
        made,
        asked,
        best,
        raw,
    )
