"""The laws of the lambda schedule."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nrfx.errors import TrainingError
from nrfx.training.schedule import LambdaSchedule, steps_to_die

utilizations = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def lambdas(rs: list[float], schedule: LambdaSchedule) -> list[float]:
    found = []
    for r in rs:
        schedule = schedule.observe(r)
        found.append(schedule.value)
    return found


@pytest.mark.parametrize("delta", [0.0, -1e-5, math.nan, math.inf])
def test_a_delta_lambda_that_cannot_raise_lambda_is_refused(delta: float) -> None:
    with pytest.raises(TrainingError, match=r"delta_lambda is .*positive"):
        LambdaSchedule(delta, 0.01)


@pytest.mark.parametrize("delta", [-0.01, math.nan, math.inf])
def test_a_delta_r_that_is_no_distance_is_refused(delta: float) -> None:
    with pytest.raises(TrainingError, match=r"delta_r is .*0\.01"):
        LambdaSchedule(5e-5, delta)


def test_observing_leaves_the_schedule_as_it_was() -> None:
    schedule = LambdaSchedule(5e-5, 0.01, 1e-4, 0.9)
    schedule.observe(0.9)
    schedule.reset()
    assert schedule == LambdaSchedule(5e-5, 0.01, 1e-4, 0.9)


def test_the_first_observation_raises_nothing() -> None:
    assert LambdaSchedule(5e-5, 0.01).observe(1.0) == LambdaSchedule(5e-5, 0.01, 0.0, 1.0)


def test_lambda_stays_while_the_utilization_falls_and_rises_where_it_stalls() -> None:
    assert lambdas([1.0, 1.0, 0.9, 0.8, 0.795, 0.9], LambdaSchedule(1.0, 0.01)) == [0, 1, 1, 1, 2, 3]


def test_a_fall_by_exactly_delta_r_still_raises() -> None:
    assert lambdas([1.0, 0.75], LambdaSchedule(1.0, 0.25)) == [0, 1]


def test_a_reset_forgets_lambda_and_the_history() -> None:
    assert LambdaSchedule(5e-5, 0.01, 1e-3, 0.4).reset() == LambdaSchedule(5e-5, 0.01)


@given(utilizations)
def test_lambda_never_falls_and_rises_by_delta_lambda_at_most(rs: list[float]) -> None:
    values = [0.0, *lambdas(rs, LambdaSchedule(1.0, 0.01))]
    assert {b - a for a, b in pairwise(values)} <= {0.0, 1.0}


@given(utilizations)
def test_the_observations_that_raise_nothing_are_bounded_by_how_far_r_can_fall(rs: list[float]) -> None:
    raises = lambdas(rs, LambdaSchedule(1.0, 0.01))[-1]
    rises = sum(max(b - a, 0.0) for a, b in pairwise(rs))
    assert len(rs) <= 1 + raises + (rs[0] - rs[-1] + rises) / 0.01 + 1e-9


def test_dying_takes_as_many_steps_as_the_penalty_needs() -> None:
    gamma, steps = 0.5, 0
    while gamma > 0.01 * 0.5:
        gamma, steps = gamma - 0.1 * 0.02, steps + 1
    assert abs(steps - steps_to_die(lr=0.1, lam=0.02, gamma=0.5)) <= 1


def test_without_a_penalty_or_a_learning_rate_nothing_dies() -> None:
    assert steps_to_die(0.1, 0.0) == steps_to_die(0.0, 0.1) == math.inf
