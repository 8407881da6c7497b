import pytest

from trueup.training import TrainingConfig
from trueup.training.batches import Plan, dependent_batches


@pytest.mark.parametrize(("n", "size"), [(10, 4), (8, 4), (3, 8), (1, 1)])
def test_an_epoch_sees_every_example_once(n: int, size: int) -> None:
    plan = Plan.of(n, TrainingConfig(epochs=3, batch_size=size))
    assert plan.steps == 3 * plan.steps_per_epoch
    for epoch in range(3):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        seen = [index for step in steps for index in plan.batch(step)]
        assert sorted(seen) == list(range(n))
        assert {plan.epoch(step) for step in steps} == {epoch}


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, size: int, epoch: int) -> list[int]:
        plan = Plan.of(20, TrainingConfig(epochs=2, batch_size=size, seed=seed))
        first = epoch * plan.steps_per_epoch
        steps = range(first, first + plan.steps_per_epoch)
        return [index for step in steps for index in plan.batch(step)]

    assert order(0, 4, 0) == order(0, 7, 0)
    assert order(0, 4, 0) != order(1, 4, 0)
    assert order(0, 4, 0) != order(0, 4, 1)


def test_without_shuffle_rows_come_as_they_stand() -> None:
    plan = Plan.of(5, TrainingConfig(batch_size=2, shuffle=False))
    assert [plan.batch(step) for step in range(3)] == [[0, 1], [2, 3], [4]]


def test_steps_end_training_whatever_the_epochs_say() -> None:
    assert Plan.of(100, TrainingConfig(steps=3, epochs=9)).steps == 3
    assert Plan.of(4, TrainingConfig(steps=30, batch_size=4)).steps == 30


def test_dependent_batches_are_a_partition_in_order() -> None:
    assert dependent_batches(5, 2) == [[0, 1], [2, 3], [4]]
