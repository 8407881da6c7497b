"""What the engine's tests share: a fresh tiny model, rows of each kind, a short run."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from trueup.models import LanguageModel, load
from trueup.training import TrainingConfig, TrainingResult, train

Run = Callable[..., TrainingResult]


@pytest.fixture
def lm(tiny_model_folder: Path) -> LanguageModel:
    """A model that the test may change."""
    return load(tiny_model_folder, device="cpu")


@pytest.fixture
def pairs() -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"Question {number}: " + "why " * (number % 4),
            "chosen": "because " * (1 + number % 3) + f"of {number}",
            "rejected": "no " * (1 + number % 5),
        }
        for number in range(12)
    ]


@pytest.fixture
def routed(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "objective": ("helpful", "brief")[n % 2]} for n, row in enumerate(pairs)]


@pytest.fixture
def anchored(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "baseline": f"perhaps {n}"} for n, row in enumerate(pairs)]


@pytest.fixture
def traces(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every third row has no pair without a trace."""
    return [
        {
            "prompt": row["prompt"],
            "chosen": f"<t>hm {n}</t>{row['chosen']}",
            "rejected": f"<t>oh</t>{row['rejected']}",
            "chosen_no_think": None if n % 3 == 0 else row["chosen"],
            "rejected_no_think": None if n % 3 == 0 else row["rejected"],
        }
        for n, row in enumerate(pairs)
    ]


@pytest.fixture
def scored(completions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "mean_ref_logp": -2.0 - n % 3} for n, row in enumerate(completions)]


@pytest.fixture
def completions(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]


@pytest.fixture
def labelled(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": row["prompt"],
            "completion": row["chosen" if number % 2 else "rejected"],
            "label": bool(number % 2),
        }
        for number, row in enumerate(pairs)
    ]


@pytest.fixture
def run(lm: LanguageModel, tmp_path: Path) -> Run:
    """`train` with small settings; settings by keyword, the engine's own arguments in `options`."""

    def short(
        objective: Any,
        rows: Iterable[Mapping[str, Any]],
        *,
        out: str = "out",
        model: LanguageModel | None = None,
        options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> TrainingResult:
        config = TrainingConfig(**{"batch_size": 4, "learning_rate": 1e-3, **settings})
        return train(
            lm if model is None else model,
            objective,
            rows,
            config=config,
            out=tmp_path / out,
            **(options or {}),
        )

    return short
