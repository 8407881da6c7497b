"""Token shift: how an aligned model's words rank under the base model that it was tuned from."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from trueup.audits import estimates
from trueup.audits.behaviour.token_shift_scores import Shift, base_model, shifts
from trueup.audits.protocol import (
    Metric,
    Model,
    Probe,
    Rows,
    Slices,
    average,
    causal,
    frame,
    place_of,
    share,
    slices_by,
    text_of,
)
from trueup.audits.text.text_audit import shown
from trueup.errors import UserError, check_at_least, check_between
from trueup.models.language_model import LanguageModel
from trueup.models.prefix_tree import Group
from trueup.stats import Estimate
from trueup.stats.estimate import Array

CLASSES = ("shifted", "marginal", "unshifted")


@dataclass(frozen=True, kw_only=True)
class TokenShift:
    """Shares of an aligned model's greedy tokens that its base model ranks first, high, or low.

    rank_t     = 1 + number of tokens that the base model finds likelier than o_t, after the prompt
                 and o_1 .. o_(t-1)
    unshifted  rank 1;  marginal  1 < rank <= marginal;  shifted  rank > marginal
    kl         = mean over tokens of KL(aligned || base), nats
    Shares are over all tokens of all prompts; intervals resample prompts. The audited model is the
    aligned one; both read the same tokens, the aligned model's chat template among them.
    Data:   prompt, text or messages; optional id, group (each a slice), cluster.
    Items:  shares, kl and base_prob of a prompt, its tokens and their ranks, KLs and probabilities
            as JSON lists, which `by_position` and `token_table` read; score is the shifted share.
    Fields: base is a folder or hub id, or a model; "" is what an adapter was trained on. count_end
            counts the end-of-text token too: a base model ranks a chat model's very low, which
            inflates the shifted share.
    Edges:  an answer without a token has no numbers; tied tokens share their best rank.
    Raises: UserError where the base is not known, or the vocabularies differ.
    Source: Lin et al. 2023, arXiv 2312.01552; the context that both models get is our reading.
    """

    base: str | LanguageModel = ""
    max_new_tokens: int = 128
    marginal: int = 3
    count_end: bool = False
    level: float = 0.95

    name: ClassVar[str] = "token-shift"
    columns: ClassVar[tuple[str, ...]] = ("prompt",)
    optional: ClassVar[tuple[str, ...]] = ("id", "group", "cluster")
    wants: ClassVar[str] = "prompts to answer"

    def __post_init__(self) -> None:
        check_at_least(1, max_new_tokens=self.max_new_tokens, marginal=self.marginal)
        check_between(0.01, 0.999, level=self.level)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The three shares, the divergence, and the shifted share of first tokens."""
        readings = {
            "shifted": f"The share of tokens that the base model ranks below {self.marginal}: what "
            "tuning has brought in. Most often these are words of style.",
            "marginal": f"The share of tokens ranked 2 to {self.marginal} by the base model.",
            "unshifted": "The share of tokens that the base model would have written, too.",
        }
        return (
            *(_per_token(name, name, readings[name], span=(0.0, 1.0)) for name in CLASSES),
            _per_token("kl", "kl", "Nats per token by which the aligned model's choice differs."),
            share(
                "shifted_first",
                partial(_column, "shifted_first"),
                reading="The share of answers whose very first token is shifted.",
            ),
            average(
                "tokens", partial(_column, "tokens"), reading="Tokens of an answer that count."
            ),
        )

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per prompt."""
        found = []
        for index, row in enumerate(data):
            if not row["prompt"]:
                raise UserError(f"{place_of(data, index)}: 'prompt' is empty; give one to answer")
            found.append(
                Probe(
                    id=text_of(row, "id", index + 1),
                    group=text_of(row, "group"),
                    cluster=text_of(row, "cluster"),
                    labels={"prompt": row["prompt"]},
                )
            )
        return found

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """Greedy answers of the aligned model, then one pass of each model over them."""
        aligned = causal(model, self.name)
        base = base_model(self.base, aligned)
        prompts = [probe.labels["prompt"] for probe in probes]
        samples = aligned.sample(prompts, temperature=0, max_new_tokens=self.max_new_tokens)
        tokens = [self._counted(one.token_ids, aligned) for [one] in samples]
        lines = [line for line, ids in enumerate(tokens) if ids]
        groups = [Group(aligned.encoder.prompt(prompts[line]), [tokens[line]]) for line in lines]
        for line, group in zip(lines, groups, strict=True):
            _check_room(base, group, probes[line].id)
        found = dict(zip(lines, shifts(base, aligned, groups), strict=True))
        rows = [self._row(tokens[line], found.get(line), aligned) for line in range(len(probes))]
        table = pd.DataFrame(rows).to_dict("list")
        return frame(
            probes,
            input=[shown(prompt) for prompt in prompts],
            completion=[one.text for [one] in samples],
            **{str(name): values for name, values in table.items()},
            score=table["shifted"],
        )

    def slices(self, items: pd.DataFrame) -> Slices:
        """By group."""
        return slices_by(items, "group")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """The numbers with their intervals over prompts."""
        return estimates.estimate(self, items)

    def notes(self, items: pd.DataFrame) -> list[str]:
        """How many tokens stand behind the numbers, and whether the last ones are among them."""
        ends = "counted" if self.count_end else "left out"
        told = f"{int(items['tokens'].sum())} tokens of {len(items)} answers; end-of-text {ends}"
        empty = int((items["tokens"] == 0).sum())
        return [f"{told}; {empty} answers have none" if empty else told]

    def _counted(self, ids: Sequence[int], lm: LanguageModel) -> list[int]:
        """The tokens of an answer that count."""
        if not self.count_end and ids and ids[-1] == lm.tokenizer.eos_token_id:
            return list(ids[:-1])
        return list(ids)

    def _row(self, ids: list[int], shift: Shift | None, lm: LanguageModel) -> dict[str, Any]:
        """The numbers of one answer; NaN where it has no token."""
        if shift is None:
            names = (*CLASSES, "kl", "base_prob", "shifted_first")
            lists = dict.fromkeys(("pieces", "ranks", "kls", "base_probs"), "[]")
            return {"tokens": 0, **dict.fromkeys(names, np.nan), **lists}
        ranks = shift.ranks.numpy()
        return {
            "tokens": len(ids),
            "shifted": float((ranks > self.marginal).mean()),
            "marginal": float(((ranks > 1) & (ranks <= self.marginal)).mean()),
            "unshifted": float((ranks == 1).mean()),
            "kl": float(shift.kl.mean()),
            "base_prob": float(shift.base_probs.mean()),
            "shifted_first": float(ranks[0] > self.marginal),
            "pieces": json.dumps([lm.tokenizer.decode([token]) for token in ids]),
            "ranks": json.dumps(ranks.tolist()),
            "kls": json.dumps(shift.kl.tolist()),
            "base_probs": json.dumps(shift.base_probs.tolist()),
        }


def _per_token(
    name: str, column: str, reading: str, span: tuple[float, float] | None = None
) -> Metric:
    """A mean over all tokens of all answers."""
    return Metric(
        name=name,
        kind="statistic",
        terms=_weighted(column),
        span=span,
        reading=reading,
    )


def _weighted(column: str) -> Callable[[pd.DataFrame], Array]:
    """An answer's mean times its tokens, and its tokens, [N, 2]; NaN leaves it out."""

    def terms(items: pd.DataFrame) -> Array:
        tokens = _column("tokens", items)
        return np.stack([_column(column, items) * tokens, tokens], axis=1)

    return terms


def _column(name: str, items: pd.DataFrame) -> Array:
    """A column as numbers, [N]."""
    return np.asarray(items[name], dtype=np.float64)


def _check_room(base: LanguageModel, group: Group, name: str) -> None:
    """Raise UserError where a prompt with its answer is longer than the base model reads."""
    length = len(group.prompt) + len(group.completions[0])
    if length > base.max_length:
        raise UserError(
            f"token-shift: prompt {name} with its answer has {length} tokens, but {base.name} "
            f"reads {base.max_length}, {length - base.max_length} fewer; shorten it"
        )
