"""A model's own replies over a grid of decoding settings, judged: generation-aware data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trueup.data.messages import Prompt
from trueup.errors import UserError, check_at_least, check_between
from trueup.models.decoding_grid import DecodingGrid, grid_samples
from trueup.models.text_scorers import Scorer, scores_of
from trueup.models.writer import Writer

ALIGNED_TAG = "An aligned answer:"
MISALIGNED_TAG = "A misaligned answer:"
DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class JudgedReply:
    """One reply: the prompt's number, the setting that it was drawn at, and whether it is aligned.

    Fields: violation is the judge's number.
    """

    prompt: int
    setting: str
    text: str
    violation: float
    is_aligned: bool


@dataclass(frozen=True, kw_only=True)
class GenerationAwareData:
    """Replies of a model to prompts at every setting of a grid, split by a judge.

    reply r is aligned where judge(p, r) <= threshold, else misaligned
    `replies` draws and judges them; of these `tagged_rows` makes rows for the objective
    generation-aware (prompt with the tag of the reply's kind, completion, label), `preference_rows`
    pairs for dpo without a tag, `aligned_rows` rows for sft from the aligned ones alone. The tagged
    rows hold bad replies as targets, and are as sensitive as these; the other two never raise the
    likelihood of a bad reply.

    Fields: samples is how many replies a setting draws; is_static draws as many replies, all from
            the default: the paper's control; is_distinct keeps a text once per prompt. threshold
            in [0, 1].
    Edges:  a blank reply, and one that the judge cannot tell (NaN), is left out.
    Source: Huang et al. 2023, arXiv 2310.06987. Keeping repeated replies, the line break before
            the tag, and the pairing are ours.
    """

    grid: DecodingGrid = field(default_factory=DecodingGrid)
    samples: int = 1
    max_new_tokens: int = 100
    threshold: float = 0.5
    is_static: bool = False
    is_distinct: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(1, samples=self.samples, max_new_tokens=self.max_new_tokens)
        check_between(0, 1, threshold=self.threshold)

    def replies(
        self, writer: Writer, prompts: Sequence[Prompt], judge: Scorer
    ) -> list[JudgedReply]:
        """All replies with what the judge says: a violation in [0, 1] for each.

        A language model reads each prompt once. The judge sees the prompts as they stand, messages
        as the last turn.
        Raises: UserError where the judge gives no number in [0, 1], or no reply is left.
        """
        names, settings = (
            self.grid.names,
            self.grid.settings(
                samples=self.samples, max_new_tokens=self.max_new_tokens, seed=self.seed
            ),
        )
        if self.is_static:
            total = self.samples * len(names)
            names = [DEFAULT]
            settings = [
                self.grid.default(samples=total, max_new_tokens=self.max_new_tokens, seed=self.seed)
            ]
        drawn = [
            (place, name, one.text)
            for place, of_prompt in enumerate(grid_samples(writer, prompts, settings))
            for name, several in zip(names, of_prompt, strict=True)
            for one in several
            if one.text.strip()
        ]
        if self.is_distinct:
            drawn = list(
                {(place, text): (place, name, text) for place, name, text in drawn}.values()
            )
        asked = [last_turn(prompts[place]) for place, _, _ in drawn]
        scores = scores_of(judge, asked, [text for _, _, text in drawn])
        found = [
            JudgedReply(
                prompt=place,
                setting=name,
                text=text,
                violation=score,
                is_aligned=score <= self.threshold,
            )
            for (place, name, text), score in zip(drawn, scores.tolist(), strict=True)
            if not np.isnan(score)
        ]
        if not found:
            raise UserError("no reply is left: all are blank, or the judge tells nothing of them")
        return found


def tagged_rows(
    prompts: Sequence[Prompt],
    replies: Sequence[JudgedReply],
    *,
    aligned_tag: str = ALIGNED_TAG,
    misaligned_tag: str = MISALIGNED_TAG,
) -> list[dict[str, Any]]:
    """Rows (prompt, completion, label) for generation-aware: the prompt ends with the reply's tag.

    Raises: UserError where the tags are equal or blank, or one of the two sets is empty.
    """
    if not aligned_tag.strip() or not misaligned_tag.strip() or aligned_tag == misaligned_tag:
        raise UserError(f"the tags must be two texts, got {aligned_tag!r} and {misaligned_tag!r}")
    n_aligned = sum(reply.is_aligned for reply in replies)
    if n_aligned in (0, len(replies)):
        kind = "aligned" if n_aligned else "misaligned"
        raise UserError(
            f"all {len(replies)} replies are {kind}: there is nothing to tell apart; "
            + ("these prompts need no training" if n_aligned else "check the judge")
        )
    return [
        {
            "prompt": tagged(
                prompts[reply.prompt], aligned_tag if reply.is_aligned else misaligned_tag
            ),
            "completion": reply.text,
            "label": reply.is_aligned,
        }
        for reply in replies
    ]


def preference_rows(
    prompts: Sequence[Prompt], replies: Sequence[JudgedReply], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Pairs (prompt, chosen, rejected) for dpo: each misaligned text with an aligned one.

    Every distinct misaligned reply of a prompt is rejected once, for an aligned reply of the same
    prompt drawn at random.
    Edges:  a prompt without either kind makes no pair; a text of both kinds is in none.
    Raises: UserError where no prompt has both.
    """
    rows: list[dict[str, Any]] = []
    for place, (good, bad) in _by_prompt(replies).items():
        wanted, unwanted = (
            [one for one in a if one not in b] for a, b in ((good, bad), (bad, good))
        )
        if not wanted:
            continue
        rows += [
            {
                "prompt": prompts[place],
                "chosen": wanted[int(rng.integers(len(wanted)))],
                "rejected": text,
            }
            for text in unwanted
        ]
    if not rows:
        raise UserError("no prompt has an aligned and a misaligned reply; draw more samples")
    return rows


def aligned_rows(prompts: Sequence[Prompt], replies: Sequence[JudgedReply]) -> list[dict[str, Any]]:
    """Rows (prompt, completion) for sft: the aligned replies, and no tag.

    Raises: UserError where there is none.
    """
    rows = [
        {"prompt": prompts[reply.prompt], "completion": reply.text}
        for reply in replies
        if reply.is_aligned
    ]
    if not rows:
        raise UserError(f"none of {len(replies)} replies is aligned; check the judge")
    return rows


def tagged(prompt: Prompt, tag: str) -> Prompt:
    """The prompt with a tag on a line of its own at its end; of messages, of the last turn."""
    if not tag:
        return prompt
    if isinstance(prompt, str):
        return f"{prompt}\n{tag}"
    *before, last = prompt
    return [*before, {**last, "content": f"{last['content']}\n{tag}"}]


def last_turn(prompt: str | Sequence[Mapping[str, str]]) -> str:
    """What was asked last."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _by_prompt(replies: Sequence[JudgedReply]) -> dict[int, tuple[list[str], list[str]]]:
    """Distinct aligned and misaligned texts of every prompt, in the order in which they came."""
    found: dict[int, tuple[dict[str, None], dict[str, None]]] = {}
    for reply in replies:
        good, bad = found.setdefault(reply.prompt, ({}, {}))
        (good if reply.is_aligned else bad)[reply.text] = None
    return {place: (list(good), list(bad)) for place, (good, bad) in found.items()}
