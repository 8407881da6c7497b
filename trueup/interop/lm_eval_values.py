"""What lm-evaluation-harness logs of one sample and metric, as the numbers that a rule sums."""

import functools
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Literal

import numpy as np

CONFUSION = {(1, 1): 0, (0, 1): 1, (1, 0): 2, (0, 0): 3}  # (gold, predicted): tp, fp, fn, tn
Numbers = tuple[float, ...]


def rule_of(metric: str, value: Any) -> str:
    """How the metric is read, from its name and the form of one value."""
    known = known_metrics()
    if isinstance(value, list):
        is_pair = len(value) == 2 and metric in known["of_pair"]
        form = "of_pair" if is_pair else "of_list"
        return str(known[form].get(metric, "unreadable"))
    return str(known["of_number"].get(metric, "mean"))


def numbers_of(rule: str, value: Any) -> Numbers | None:
    """The numbers that the rule sums, None where the value has another form."""
    try:
        if rule in ("mean", "perplexity"):
            return (float(value),) if isinstance(value, (int, float)) else None
        if rule == "pooled":
            return float(sum(value)), float(len(value))
        first, second = value
        if rule == "brier":
            return (_brier(first, second),)
        if rule in ("f1", "mcc"):
            return _one_hot(CONFUSION[first, second])
        if rule in ("weighted-perplexity", "bits"):
            return float(first), float(second)
    except (TypeError, ValueError, KeyError, IndexError):
        return None
    return None


def goal_of(
    metric: str, declared: Mapping[str, bool]
) -> tuple[Literal["ideal", "lower", "higher"], float | None] | None:
    """What is better, with the ideal value; None where neither the log nor we know."""
    known = known_metrics()
    if metric in known["ideal"]:
        return "ideal", float(known["ideal"][metric])
    if metric in declared:
        return ("higher" if declared[metric] else "lower"), None
    if metric in known["higher"]:
        return "higher", None
    return ("lower", None) if metric in known["lower"] else None


@functools.cache
def known_metrics() -> Mapping[str, Any]:
    """The tables of lm_eval_metrics.toml."""
    source = files("trueup.interop").joinpath("lm_eval_metrics.toml")
    return tomllib.loads(source.read_text(encoding="utf-8"))


def _brier(gold: int, predicted: Any) -> float:
    """sum_k (p_k - [k is gold])^2; numpy arrays are logged as text, to eight digits."""
    if isinstance(predicted, str):
        predicted = [float(word) for word in predicted.strip("[]").split()]
    chances = np.array(predicted, dtype=np.float64)
    if not 0 <= gold < len(chances):
        raise IndexError(gold)
    chances[gold] -= 1
    return float(np.square(chances).sum())


def _one_hot(place: int) -> Numbers:
    """A 1 at the place among four."""
    return tuple(float(k == place) for k in range(4))
