"""Measure where a language model leans, correct it, and prove the correction."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trueup.api import align as align
    from trueup.api import audit as audit
    from trueup.api import compare as compare
    from trueup.api import generate as generate
    from trueup.api import select as select
    from trueup.models import load as load
    from trueup.models.endpoint import connect as connect

__all__ = ["align", "audit", "compare", "connect", "generate", "load", "select"]
__version__: str

_HOMES = {"load": "trueup.models", "connect": "trueup.models.endpoint"}


def __getattr__(name: str) -> Any:
    """Import a top-level name when it is first used, so that `import trueup` is quick."""
    if name == "__version__":
        from importlib.metadata import version

        return version("trueup")
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "trueup.api")), name)
    raise AttributeError(f"module 'trueup' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
