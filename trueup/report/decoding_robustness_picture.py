"""The pictures of decoding robustness: rates along one number, and unions by number of draws."""

from typing import TYPE_CHECKING

from trueup.report.pictures import curves
from trueup.report.wording import number, plural

if TYPE_CHECKING:
    import pandas as pd

UNIONS = {"grid": "settings, one draw each", "baseline": "draws at the default setting"}


def rate_curve(table: "pd.DataFrame", family: str, width: int) -> str:
    """The rate of `by_setting` along the numbers of one family, as inline SVG."""
    part = table.query("family == @family and not system").sort_values("number")
    worst = part.iloc[int(part["rate"].argmax())]
    label = (
        f"Share of broken prompts by {family}, {plural(len(part), 'setting')}: largest at "
        f"{number(worst['number'])} with {number(worst['rate'])}. All numbers follow."
    )
    return curves(part.rename(columns={"number": "step"}), "rate", label, width)


def union_curve(table: "pd.DataFrame", column: str, width: int) -> str:
    """One column of `by_draws`, "grid" or "baseline", as inline SVG."""
    last = table.iloc[-1]
    label = (
        f"Share of prompts broken by at least one of k {UNIONS[column]}: "
        f"{number(last[column])} at k = {int(last['draws'])}. All numbers follow."
    )
    return curves(table.rename(columns={"draws": "step"}), column, label, width)
