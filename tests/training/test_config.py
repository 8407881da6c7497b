import itertools
import math

import pytest

from trueup.errors import UserError, build
from trueup.training import TrainingConfig
from trueup.training.config import learning_rate


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("steps", 0),
        ("learning_rate", 0.0),
        ("warmup", 1.5),
        ("schedule", "cubic"),
        ("precision", "fp8"),
        ("truncate", "right"),
        ("betas", (0.9, 1.0)),
        ("betas", (0.9,)),
        ("max_length", 2),
        ("token_budget", 0),
        ("eval_fraction", 0.95),
        ("early_stopping", 2),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UserError, match=field):
        TrainingConfig(**{field: value})


def test_settings_come_as_text_from_the_command_line() -> None:
    config = build(
        "training", TrainingConfig, {"steps": "7", "betas": "0.8,0.95", "lora_targets": "q,v"}
    )
    assert (config.steps, config.betas, config.lora_targets) == (7, (0.8, 0.95), ("q", "v"))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_to_its_peak_and_never_above(schedule: str) -> None:
    config = TrainingConfig(learning_rate=2.0, warmup=0.2, schedule=schedule)
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[1:]))
    assert min(rates) > 0


def test_half_way_through_the_decay() -> None:
    def half(schedule: str) -> float:
        return learning_rate(TrainingConfig(warmup=0.0, schedule=schedule, learning_rate=1.0), 2, 8)

    assert half("constant") == 1.0
    assert half("linear") == pytest.approx(1 - 2 / 8, abs=1e-12)
    assert half("cosine") == pytest.approx((1 + math.cos(math.pi / 4)) / 2, abs=1e-12)
