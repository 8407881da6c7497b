"""Intervals, paired tests, agreement, ranking and power: every number with its uncertainty.

Arrays in, numbers out; an undefined bound is NaN, never a point; randomness is passed in.
"""

from trueup.stats.agreement import (
    agreement,
    cohen_kappa,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
)
from trueup.stats.effects import (
    cliff_delta,
    cohen_d,
    cohen_dz,
    cohen_h,
    hedges_g,
    odds_ratio,
    risk_ratio,
)
from trueup.stats.estimate import Estimate, Labels
from trueup.stats.groups import GroupGap, group_gap
from trueup.stats.multiplicity import adjust, format_p
from trueup.stats.paired import (
    PairedResult,
    equivalence,
    mcnemar_p,
    paired_binary,
    paired_mean,
    paired_ranks,
    paired_statistic,
)
from trueup.stats.power import design_effect, required_n
from trueup.stats.proportions import proportion, proportion_difference
from trueup.stats.ranking import BradleyTerry, bradley_terry
from trueup.stats.resampling import bootstrap, mean
from trueup.stats.win_rates import LengthControlled, lc_winrate, swapped_winrate

__all__ = [
    "BradleyTerry",
    "Estimate",
    "GroupGap",
    "Labels",
    "LengthControlled",
    "PairedResult",
    "adjust",
    "agreement",
    "bootstrap",
    "bradley_terry",
    "cliff_delta",
    "cohen_d",
    "cohen_dz",
    "cohen_h",
    "cohen_kappa",
    "design_effect",
    "equivalence",
    "fleiss_kappa",
    "format_p",
    "group_gap",
    "gwet_ac1",
    "hedges_g",
    "krippendorff_alpha",
    "lc_winrate",
    "mcnemar_p",
    "mean",
    "odds_ratio",
    "paired_binary",
    "paired_mean",
    "paired_ranks",
    "paired_statistic",
    "proportion",
    "proportion_difference",
    "required_n",
    "risk_ratio",
    "swapped_winrate",
]
