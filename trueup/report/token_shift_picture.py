"""The picture of a token shift: a number by position in the answer."""

from typing import TYPE_CHECKING

from trueup.report.pictures import curves
from trueup.report.wording import number, plural

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"shifted": "share of shifted tokens", "kl": "KL(aligned || base)", "rank": "mean rank"}


def token_shift_curve(table: "pd.DataFrame", column: str, width: int) -> str:
    """One column of `by_position` over the positions, as inline SVG."""
    first, last = table.iloc[0], table.iloc[-1]
    label = (
        f"{NAMES.get(column, column)} by position, {plural(len(table), 'position')}: "
        f"{number(first[column])} at the first, {number(last[column])} at the last. "
        "All numbers follow."
    )
    return curves(table.rename(columns={"position": "step"}), column, label, width)
