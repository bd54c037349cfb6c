"""How long dying takes: against a simulation of the rule, and in words."""

import pytest

from nrfx.training.config import RunConfig
from nrfx.training.outlook import outlook, steps_to_first_death
from nrfx.training.schedule import LambdaSchedule


def simulated(lr: float, delta: float, interval: int, gamma: float) -> int:
    """The rule step by step, with a gamma that only the penalty moves."""
    schedule, value, step = LambdaSchedule(delta, delta_r=0.01), gamma, 0
    while value > 0.01 * gamma + 1e-12:
        step += 1
        value -= lr * schedule.value
        if step % interval == 0:
            schedule = schedule.observe(1.0)
    return step


@pytest.mark.parametrize(("lr", "delta", "interval", "gamma"), [
    (0.1, 1e-3, 7, 1.0),
    (0.05, 2e-3, 20, 0.5),
    (0.02, 5e-4, 67, 0.5),
    (0.1, 0.5, 10, 0.5),
    (1.0, 1.0, 5, 0.5),
])  # fmt: skip
def test_the_prediction_is_that_of_the_rule_step_by_step(lr: float, delta: float, interval: int, gamma: float) -> None:
    assert abs(steps_to_first_death(lr, delta, interval, gamma) - simulated(lr, delta, interval, gamma)) <= 1


def test_a_search_that_is_too_short_is_told_with_what_to_do() -> None:
    said = outlook(RunConfig(epochs=2, interval=20), per_epoch=67, gamma=1.0)
    assert "The search ends with step 67: too early for an event" in said and "raise delta_lambda" in said


def test_nothing_is_predicted_for_adam() -> None:
    assert outlook(RunConfig(optimizer="adamw"), per_epoch=67, gamma=1.0) == ""
