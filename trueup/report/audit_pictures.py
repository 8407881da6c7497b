"""Pictures that an audit has beside its estimates: what its items show along a number."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from trueup.report.decoding_robustness_picture import UNIONS, rate_curve, union_curve
from trueup.report.pictures import NARROW
from trueup.report.token_shift_picture import NAMES, token_shift_curve
from trueup.report.wording import is_number, number
from trueup.runs import Run

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 200  # of one table; the run folder holds the items themselves

Row = dict[str, Any]


def audit_pictures(run: Run) -> list[Row]:
    """Per audit that has any: its name, its pictures with titles, and the tables behind them."""
    found = []
    for audit in dict.fromkeys(str(row["audit"]) for row in run.estimates()):
        if audit in PICTURES and (drawn := PICTURES[audit](run.items(audit))):
            pictures, tables = drawn
            found.append({"name": audit, "pictures": pictures, "tables": tables})
    return found


def _token_shift(items: "pd.DataFrame") -> tuple[list[Row], list[Row]] | None:
    """Shifted tokens, divergence and rank by position in the answer."""
    from trueup.audits.behaviour.token_shift_tables import by_position

    table = by_position(items)
    if len(table) < 2:
        return None
    pictures = [
        _picture(
            f"{name[0].upper()}{name[1:]}, by position in the answer",
            token_shift_curve(table, column, NARROW),
        )
        for column, name in NAMES.items()
    ]
    return pictures, [_table("By position in the answer", table)]


def _decoding_robustness(items: "pd.DataFrame") -> tuple[list[Row], list[Row]] | None:
    """Broken prompts along temperature, top-k and top-p, and by the number of draws."""
    from trueup.audits.behaviour.decoding_robustness_tables import by_draws, by_setting

    settings, draws = by_setting(items), by_draws(items)
    counts = settings.query("not system").groupby("family", sort=False)["number"].nunique()
    pictures = [
        _picture(f"Share of broken prompts by {family}", rate_curve(settings, str(family), NARROW))
        for family in counts.index[counts > 1]
    ]
    if len(draws) > 1:
        pictures += [
            _picture(
                f"Share of prompts broken by any of k {words}", union_curve(draws, column, NARROW)
            )
            for column, words in UNIONS.items()
        ]
    tables = [_table("By setting", settings), _table("By number of draws", draws)]
    return (pictures, tables) if pictures else None


def _picture(title: str, svg: str) -> Row:
    """A picture with its title."""
    return {"title": title, "picture": Markup(svg)}


def _table(title: str, table: "pd.DataFrame") -> Row:
    """A table with its title, its first rows where it is long."""
    shown = table.head(MOST_ROWS).itertuples(index=False)
    rows = [[_cell(value) for value in row] for row in shown]
    return {"title": title, "columns": list(table.columns), "rows": rows}


def _cell(value: Any) -> str:
    """A value in words; counts stay whole."""
    return number(value) if isinstance(value, float) and is_number(value) else str(value)


PICTURES: Mapping[str, Callable[["pd.DataFrame"], tuple[list[Row], list[Row]] | None]] = {
    "decoding-robustness": _decoding_robustness,
    "token-shift": _token_shift,
}
