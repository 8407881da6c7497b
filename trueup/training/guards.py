"""What training must not break unseen: the chosen completion's likelihood, the pairs' margins."""

import pandas as pd

from trueup.objectives.protocol import Data
from trueup.stats import Estimate, mean, proportion
from trueup.training.monitors import is_paired


def guards(kind: Data, items: pd.DataFrame) -> list[Estimate]:
    """Estimates over the evaluation rows, before against after training.

    likelihood-displacement  mean of log pi(y) - log ref(y) in nats over chosen completions (or
                             those to imitate, or those labelled true); ideal at least 0: below
                             0 training made the wanted completions less likely
    positive-margin          share of pairs with log pi/ref(chosen) > log pi/ref(rejected); the
                             reference itself stands at 0.5 in the sense of no preference learned
    """
    if is_paired(kind):
        change = items["chosen_after"] - items["chosen_before"]
        won = items["margin"] > 0
        return [
            _displacement(change, "chosen"),
            _displacement(items["rejected_after"] - items["rejected_before"], "rejected"),
            proportion(int(won.sum()), len(won), audit="training", metric="positive-margin"),
        ]
    change = items["after"] - items["before"]
    if kind != "labelled":
        return [_displacement(change, "all")]
    return [
        _displacement(change[items["label"]], "true"),
        _displacement(change[~items["label"]], "false"),
    ]


def _displacement(change: pd.Series, part: str) -> Estimate:
    """The mean change of some completions' log-probabilities with Student's interval."""
    return mean(
        change.to_numpy(),
        audit="training",
        metric="likelihood-displacement",
        slice=part,
        ideal=0.0,
    )
