"""`trueup.select`: the name is kept; the selectors themselves are not there yet."""

from typing import Any, NoReturn

from trueup.errors import UserError


def select(pool: Any, selector: Any, **settings: Any) -> NoReturn:
    """Score a pool of training data and keep the best part; no selector is implemented yet.

    Raises: UserError always.
    """
    raise UserError(
        f"select: no selector is there yet, got {selector!r}; this version of trueup measures and "
        "aligns, data selection comes with a later one"
    )
