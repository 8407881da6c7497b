"""Runs of `generate` with searches whose every number is known."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trueup.runs import Run

ARGUMENTS: dict[str, Any] = {
    "decoder": "deal",
    "n": 1,
    "max_new_tokens": 12,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "stop": [],
    "seed": 7,
    "decoders": {"deal": {"lam": 0.5, "num_beams": 2, "unit": "token", "weights": None}},
    "rewards": {"words": "words 0123456789ab"},
}


def entry(text: str, c: float, *, kept: bool = False, **more: Any) -> dict[str, Any]:
    """One candidate of a trace; its log-probability falls by one with every letter."""
    own = {"text": text, "logp": -float(len(text)), "h": c, "c": c, "kept": kept}
    return own | {"rewards": {"words": float(len(text.split()))}, "ahead": [text]} | more


def steps(*several: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A trace of these candidates; each goes on from what it begins with, if nothing is said."""
    found: list[dict[str, Any]] = []
    before: list[Mapping[str, Any]] = []
    for number, each in enumerate(several):
        told = [{"parent": _beginning(before, one["text"]), **one} for one in each]
        found.append({"step": number, "candidates": told})
        before = list(each)
    return found


def _beginning(before: Sequence[Mapping[str, Any]], text: str) -> int | None:
    """The first kept candidate that the text begins with."""
    places = (n for n, one in enumerate(before) if one["kept"] and text.startswith(one["text"]))
    return next(places, None)


TWO_BEAMS = steps(
    [entry("a", 1.0, kept=True), entry("b", 0.5, kept=True), entry("c", -4.0)],
    [entry("ab", 0.75, kept=True), entry("ac", -1.0), entry("ba", 2.0, kept=True)],
    [entry("abc", 3.0, kept=True), entry("abd", 0.25), entry("baa", 1.5, kept=True)],
)
POOL = steps(
    [entry("one two", 2.0), entry("one two three", 3.0, kept=True), entry("four five", 2.0)],
)


def long_trace(n_steps: int = 200, n_candidates: int = 10, n_beams: int = 3) -> Any:
    """A search of many steps, whose beams all go on from the first of the step before."""
    rng = np.random.default_rng(0)
    texts, found, best = [""], [], 0.0
    for _ in range(n_steps):
        scores = np.sort(rng.normal(0, 3, n_candidates))[::-1] - len(found) * 0.2
        several = [
            entry(texts[0] + f" w{place}", float(score), kept=place < n_beams)
            for place, score in enumerate(scores)
        ]
        texts, best = [several[0]["text"]], several[0]["c"]
        found.append(several)
    return steps(*found), texts[0], best


def row(
    index: int,
    *,
    prompt: Any = "Say it",
    text: str = "abc",
    number: int = 1,
    score: float | None = 3.0,
    trace: Any = (),
    **more: Any,
) -> dict[str, Any]:
    """One row of items.parquet, as `generate` packs it."""
    own = {
        "id": f"{index}-{number}",
        "prompt": json.dumps(prompt),
        "text": text,
        "reason": "eos",
        "n_tokens": 3,
        "logp": -3.0,
        "score": score,
        "rewards": {} if score is None else {"words": 1.0},
        "trace": list(trace),
    }
    own |= more
    return own | {name: json.dumps(own[name]) for name in ("rewards", "trace")}


def generate_run(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    status: Any = "done",
    work: int = 30,
    **changes: Any,
) -> Run:
    """A run folder that holds these rows."""
    run = Run.create(
        path,
        verb="generate",
        arguments=ARGUMENTS | changes,
        seed=7,
        model="models/small",
        model_hash="ab",
        data="data/prompts.jsonl",
        data_hash="cd",
    )
    if rows:
        run.append_items(pd.DataFrame(list(rows)), work={"trunk_tokens": work, "head_rows": 5})
    run.finish(status)
    return run
