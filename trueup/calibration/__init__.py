"""Calibration: what an audit reports where the truth is known."""

import importlib
from typing import Any

from trueup.errors import unknown_name

WORLD_MODULES: dict[str, str] = {  # audit -> the module whose WORLDS calibrate it
    "corpus-co-occurrence": "trueup.calibration.corpus_cooccurrence",
} | {
    name: f"trueup.calibration.{name.replace('-', '_')}"
    for name in (
        "association",
        "aul",
        "aula",
        "bbq",
        "bead",
        "biaslens",
        "cbs",
        "ceat",
        "co-occurrence",
        "counterfactual-sentiment",
        "crows-pairs",
        "cweat",
        "decoding-robustness",
        "demographic-representation",
        "disco",
        "discretion",
        "full-generation-bias",
        "gender-polarity",
        "group-swap",
        "honest",
        "honesty",
        "judge-bias",
        "lmb",
        "lpbs",
        "perplexity",
        "portia",
        "psycholinguistic-norms",
        "regard",
        "score-parity",
        "seat",
        "sentence-bias-score",
        "social-group-substitution",
        "stereoset",
        "stereotypical-associations",
        "token-shift",
        "toxicity",
        "values",
        "weat",
        "winogender",
    )
}


def worlds_of(audit: str) -> tuple[Any, ...]:
    """The worlds that calibrate an audit, by its registered name; each a `CalibrationWorld`.

    Raises: UserError where the audit has none.
    """
    if audit not in WORLD_MODULES:
        raise unknown_name("calibration world for audit", audit, WORLD_MODULES)
    worlds: tuple[Any, ...] = importlib.import_module(WORLD_MODULES[audit]).WORLDS
    return worlds
