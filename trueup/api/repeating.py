"""Audits with other seeds: what `trueup audit --repeat` measures again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from trueup.errors import UserError

if TYPE_CHECKING:
    from trueup.audits.protocol import Audit


def reseeded(audits: "Sequence[Audit]", number: int) -> "tuple[Audit, ...]":
    """The audits of repeat `number`: those that sample draw with their seed plus it.

    Edges:  repeat 0 is the audits themselves; an audit without a seed is the same in every repeat.
    Raises: UserError where a repeat is asked for and no audit has a seed.
    """
    from trueup.api.auditing import fields_of

    sampling = [each.name for each in audits if "seed" in fields_of(each)]
    if number and not sampling:
        names = ", ".join(each.name for each in audits)
        raise UserError(
            f"--repeat needs an audit that samples and has a seed, got {names}; the others give "
            "the same numbers every time"
        )
    return tuple(_moved(each, number) if each.name in sampling else each for each in audits)


def _moved(audit: Any, number: int) -> "Audit":
    """The audit with its seed that much further on."""
    return cast("Audit", replace(audit, seed=audit.seed + number))
