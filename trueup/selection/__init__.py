"""Data selection: which rows are worth training on, and what each of them weighs."""

from collections.abc import Mapping
from typing import Any

from trueup.errors import build, unknown_name
from trueup.selection.ches import Ches
from trueup.selection.protocol import Selector

__all__ = ["SELECTORS", "Selector", "selector"]

SELECTORS: dict[str, type[Selector]] = {"ches": Ches}


def selector(
    name_or_instance: str | Selector, settings: Mapping[str, Any] | None = None
) -> Selector:
    """A selector by its registered name, or an instance with some of its fields changed.

    Raises: UserError for an unknown name, with the known ones, and for an unknown field.
    """
    if not isinstance(name_or_instance, str):
        return build(
            name_or_instance.name,
            type(name_or_instance),
            {**vars(name_or_instance), **(settings or {})},
        )
    if name_or_instance not in SELECTORS:
        raise unknown_name("selector", name_or_instance, SELECTORS)
    return build(name_or_instance, SELECTORS[name_or_instance], settings or {})
