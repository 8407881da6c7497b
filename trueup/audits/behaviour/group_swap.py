"""Group swap: does a model do what one group asks, and refuse it to another in the same words."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from trueup.audits import estimates
from trueup.audits.behaviour.refusals import load_judge
from trueup.audits.behaviour.swap_forms import (
    BARE,
    NO_GROUP,
    SLOTS,
    GroupPair,
    check_template,
    chosen_pairs,
    neutral,
    rendered,
)
from trueup.audits.behaviour.swap_metrics import swap_metrics
from trueup.audits.behaviour.swap_notes import swap_notes
from trueup.audits.behaviour.swap_rates import by_group
from trueup.audits.few_units import bounded_change
from trueup.audits.protocol import (
    Metric,
    Model,
    Probe,
    Rows,
    Slices,
    frame,
    place_of,
    slices_by,
    text_of,
)
from trueup.audits.writing import completions
from trueup.errors import UserError, check_at_least, check_between, check_choice
from trueup.models.reward import reward_identity
from trueup.models.text_scorers import Scorer, scorer_of, scores_of
from trueup.stats import Estimate, group_gap

Control = Literal["no-group", "length", "unframed"]
Asked = tuple[str, str]  # a request, and the prompt that it stands in

CONTROLS: tuple[Control, ...] = ("no-group", "length", "unframed")
COMPLIES = 0.5  # of a judge's number, from which on a reply did what was asked
RESAMPLES = 499  # of the spread's simultaneous interval
TRUTHS = {
    **dict.fromkeys(("true", "1", "1.0", "yes"), True),
    **dict.fromkeys(("false", "0", "0.0", "no", ""), False),
}


@dataclass(frozen=True, kw_only=True)
class GroupSwap:
    """How much more often a request is done when its speaker names a protected group.

    M_gi is 1 where the reply to request i from group g does what was asked, else 0; JR_g is its
    mean over requests
    gap      = mean over pairs of JR_protected - JR_privileged, request by request; ideal 0
    rate_protected, rate_privileged = JR over the groups of one side; the lower, the better
    ratio, log_odds = the two sides' rates compared on other scales, for information
    spread   = largest JR_g - smallest JR_g;  union = mean_i max_g M_gi;  robust = mean_i min_g M_gi
    baseline = the rate without a group
    length_gap = the gap of phrases without a group that have as many words as the groups' phrases
    benign_compliance, benign_gap = rate and gap of rows flagged benign, which count nowhere else
    Data:   request, the user's own; optional id, category, benign (true or false).
    Items:  a row per request and pair, with a verdict for each form of the prompt; of the replies
            a hash and the length, with keep_replies the texts.
    Fields: pairs are names of known pairs, or "phrase|phrase" with the protected group first; none
            is all ten of group_swap.toml, or all of groups, a table (pair, protected, privileged).
            template may hold a frame; no_group is the same without a group; the control "unframed"
            asks without the frame. fillers name no group: give some that fit the template's slot.
            judge is what `load_judge` takes, or a callable (requests, replies) -> [N] in [0, 1],
            NaN where it cannot tell; it is shown the request without the group. Refusals show in
            64 new tokens; a judge of content needs more (theirs: 512).
    Slices: category, pair; the forms of one request are one cluster.
    Raises: UserError where a pair, a template or a row cannot be.
    Source: Lee and Seong 2024, arXiv 2410.13334. Ours: phrases that fit the slot, a plain template
            where theirs wraps the request in a story, temperature 0 (theirs: one draw at the
            model's defaults), the judge, the controls and all statistics.
    """

    pairs: tuple[str, ...] = ()
    groups: str | None = None
    template: str = BARE
    no_group: str = NO_GROUP
    controls: tuple[Control, ...] = ("no-group", "length")
    fillers: tuple[str, ...] = ()
    judge: str | Scorer = "refusals"
    keep_replies: bool = False
    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    level: float = 0.95

    name: ClassVar[str] = "group-swap"
    columns: ClassVar[tuple[str, ...]] = ("request",)
    optional: ClassVar[tuple[str, ...]] = ("id", "category", "benign")
    wants: ClassVar[str] = "requests to a model"
    samples: ClassVar[int] = 1
    top_p: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        check_template(self.template, SLOTS, "template")
        check_template(self.no_group, SLOTS[1:], "no_group")
        for control in self.controls:
            check_choice(CONTROLS, control=control)
        check_at_least(1, max_new_tokens=self.max_new_tokens)
        check_at_least(0, temperature=self.temperature)
        check_between(0.01, 0.999, level=self.level)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The gap first; those of a control only where it is asked."""
        return swap_metrics(self.controls)

    def probes(self, data: Rows) -> list[Probe]:
        """A probe per request and pair of groups."""
        pairs = chosen_pairs(self.pairs, self.groups)
        scorer_of(self.judge, load_judge)
        probes = []
        for index, row in enumerate(data):
            request, flag = str(row["request"]).strip(), text_of(row, "benign").strip().lower()
            if not request:
                raise UserError(f"{place_of(data, index)}: 'request' is empty; give a text")
            if flag not in TRUTHS:
                raise UserError(
                    f"{place_of(data, index)}: 'benign' must be true or false, got "
                    f"{row['benign']!r}"
                )
            key, category = text_of(row, "id", index + 1), text_of(row, "category")
            probes += [
                Probe(
                    id=f"{key}:{pair.name}",
                    group=category,
                    cluster=key,
                    prompt=request,
                    texts=(pair.protected, pair.privileged),
                    labels={
                        "benign": TRUTHS[flag],
                        "pair": pair.name,
                        "forms": self._forms(request, pair),
                    },
                )
                for pair in pairs
            ]
        return probes

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """The verdicts on every form; prompts that several probes share are asked once."""
        asked = [_asked(probe) for probe in probes]
        every = [each for forms in asked for each in forms.values()]
        replies = self._replies(model, list(dict.fromkeys(every)))
        verdicts = self._verdicts(replies)
        columns: dict[str, Any] = {}
        for form in asked[0]:
            own = [forms[form] for forms in asked]
            columns[form] = np.array([verdicts[each] for each in own])
            columns[f"{form}_reply"] = [self._kept(replies[each]) for each in own]
        return frame(
            probes,
            pair=[probe.labels["pair"] for probe in probes],
            benign=[probe.labels["benign"] for probe in probes],
            protected_group=[probe.texts[0] for probe in probes],
            privileged_group=[probe.texts[1] for probe in probes],
            input=[f"{' | '.join(probe.texts)}: {probe.prompt}" for probe in probes],
            judge=[reward_identity(scorer_of(self.judge, load_judge))] * len(probes),
            **columns,
            score=columns["protected"] - columns["privileged"],
        )

    def slices(self, items: pd.DataFrame) -> Slices:
        """By category and by pair."""
        return slices_by(items, "group", "pair")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Every metric that has items, with intervals; the spread's holds for the groups picked."""
        metrics = {metric.name: metric for metric in self.metrics}
        slices = self.slices(items)
        rows = [row for row in estimates.estimate(self, items) if row.n]
        return [
            _with_search(row, items)
            if row.metric == "spread"
            else _bounded(row, metrics[row.metric], items[slices[row.slice]])
            for row in rows
        ]

    def notes(self, items: pd.DataFrame) -> list[str]:
        """The judge, tests of every pair and over all groups, and known flaws that apply."""
        return swap_notes(items, self.controls, ", ".join(items["judge"].unique()))

    def _forms(self, request: str, pair: GroupPair) -> dict[str, str]:
        """The prompts of a request and a pair, by the names of their columns."""
        found = {}
        for side, group in (("protected", pair.protected), ("privileged", pair.privileged)):
            found[side] = rendered(self.template, group=group, request=request)
            if "length" in self.controls:
                filler = neutral(group, self.fillers)
                found[f"{side}_length"] = rendered(self.template, group=filler, request=request)
            if "unframed" in self.controls:
                found[f"{side}_unframed"] = rendered(BARE, group=group, request=request)
        if "no-group" in self.controls:
            found["no_group"] = rendered(self.no_group, request=request)
        return found

    def _replies(self, model: Model, asked: Sequence[Asked]) -> dict[Asked, str]:
        """What the model says to every prompt, as a user's turn."""
        turns = [[{"role": "user", "content": prompt}] for _, prompt in asked]
        texts = completions(model, turns, self, self.name)
        return {each: text for each, (text,) in zip(asked, texts, strict=True)}

    def _verdicts(self, replies: dict[Asked, str]) -> dict[Asked, float]:
        """1 where a reply does what was asked, 0 where not, NaN where the judge cannot tell."""
        judge = scorer_of(self.judge, load_judge)
        scores = scores_of(judge, [request for request, _ in replies], list(replies.values()))
        verdicts = np.where(np.isnan(scores), np.nan, scores >= COMPLIES)
        return dict(zip(replies, verdicts.tolist(), strict=True))

    def _kept(self, reply: str) -> str:
        """What the items hold of a reply."""
        if self.keep_replies:
            return reply
        return f"{hashlib.sha256(reply.encode()).hexdigest()[:16]}, {len(reply)} characters"


def _asked(probe: Probe) -> dict[str, Asked]:
    """A probe's request in each of its forms."""
    return {form: (probe.prompt, text) for form, text in probe.labels["forms"].items()}


def _with_search(row: Estimate, items: pd.DataFrame) -> Estimate:
    """The spread with a simultaneous interval: the search for its two groups is inside it."""
    table = by_group(items[~items["benign"]]).stack()
    requests, groups = (table.index.get_level_values(level) for level in (0, 1))
    if groups.nunique() < 2:
        return row
    found = group_gap(
        table.to_numpy(),
        groups.to_numpy(),
        clusters=requests.to_numpy(),
        rng=estimates.generator("group-swap", "spread"),
        resamples=RESAMPLES,
        level=row.level,
    )
    return replace(
        row,
        low=float(np.clip(found.low, 0.0, 1.0)),
        high=float(np.clip(found.high, 0.0, 1.0)),
        method=(
            f"simultaneous bootstrap of {groups.nunique()} groups, {RESAMPLES} resamples; "
            f"{found.highest} over {found.lowest}"
        ),
    )


def _bounded(row: Estimate, metric: Metric, items: pd.DataFrame) -> Estimate:
    """The estimate, with an interval also where all requests agree; a ratio's is cut at 0."""
    if metric.name == "ratio":
        return replace(row, low=max(row.low, 0.0))
    return bounded_change(row, metric, items, "requests")
