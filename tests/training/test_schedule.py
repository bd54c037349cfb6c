"""The laws of the lambda schedule."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.optim import SGD

from nrfx.errors import TrainingError
from nrfx.training.schedule import LambdaSchedule, steps_of_search, steps_to_die, suggest_delta_lambda

utilizations = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def lambdas(rs: list[float], schedule: LambdaSchedule) -> list[float]:
    values = []
    for r in rs:
        schedule = schedule.observe(r)
        values.append(schedule.value)
    return values


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


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.floats(0.05, 0.95), st.floats(0.001, 0.2))
def test_while_r_never_rises_few_intervals_of_a_search_leave_lambda_as_it_is(
    rs: list[float], trigger: float, delta_r: float
) -> None:
    """Sec. 3.1.3: the intervals that do not raise lambda are at most (1 - T_r) / delta_r."""
    search = [r for r in sorted(rs, reverse=True) if r >= trigger]  # below it the search is over
    assume(len(search) > 1)
    values = lambdas(search, LambdaSchedule(1.0, delta_r))
    kept = sum(after == before for before, after in pairwise(values))
    assert kept <= (1 - trigger) / delta_r


def test_the_bound_is_reached_where_r_falls_by_a_little_more_than_delta_r_each_time() -> None:
    values = lambdas([1 - 0.0101 * k for k in range(50)], LambdaSchedule(1.0, 0.01))
    assert values == [0.0] * 50  # 49 intervals of at most (1 - 0.5) / 0.01


def test_dying_takes_as_many_steps_as_the_penalty_needs() -> None:
    gamma, steps = 0.5, 0
    while gamma > 0.01 * 0.5:
        gamma, steps = gamma - 0.1 * 0.02, steps + 1
    assert abs(steps - steps_to_die(lr=0.1, lam=0.02, gamma=0.5)) <= 1


def test_without_a_penalty_or_a_learning_rate_nothing_dies() -> None:
    assert steps_to_die(0.1, 0.0) == steps_to_die(0.0, 0.1) == math.inf


# How long a search takes


def dead_after(delta_lambda: float, interval: int, lr: float, momentum: float, gamma: float) -> int:
    """Steps of a search, by SGD itself, until a gamma that no loss holds is below a hundredth of where it began."""
    parameter = torch.nn.Parameter(torch.tensor([gamma], dtype=torch.float64))
    optimizer, schedule, steps = SGD([parameter], lr=lr, momentum=momentum), LambdaSchedule(delta_lambda, 0.01), 0
    while float(parameter.detach()) >= 0.01 * gamma:
        parameter.grad = schedule.value * parameter.detach().sign()
        optimizer.step()
        steps += 1
        schedule = schedule if steps % interval else schedule.observe(1.0)
    return steps


@pytest.mark.parametrize(("delta_lambda", "interval", "lr", "momentum", "gamma", "lag"), [
    (0.01, 10, 0.1, 0.0, 1.0, 1), (0.01, 7, 0.1, 0.0, 0.5, 1), (1e-3, 20, 0.05, 0.9, 0.5, 10),
    (0.5, 1, 0.1, 0.0, 1.0, 1), (3.0, 5, 0.1, 0.0, 1.0, 1),
])  # fmt: skip
def test_a_search_takes_as_long_as_it_takes_sgd(
    delta_lambda: float, interval: int, lr: float, momentum: float, gamma: float, lag: int
) -> None:
    """Momentum needs some 1 / (1 - momentum) steps until it has the full pull."""
    told = steps_of_search(lr, delta_lambda, interval, gamma, momentum=momentum)
    assert told - 1 <= dead_after(delta_lambda, interval, lr, momentum, gamma) <= told + lag


@given(st.integers(1, 50), st.integers(3, 2000), st.floats(1e-3, 1.0), st.floats(0.0, 0.95), st.floats(0.1, 2.0))
def test_the_suggestion_is_the_inverse_of_how_long_it_takes(
    interval: int, more: int, lr: float, momentum: float, gamma: float
) -> None:
    steps = 2 * interval + more
    suggested = suggest_delta_lambda(lr, steps, interval, gamma, momentum=momentum)
    assert abs(steps_of_search(lr, suggested, interval, gamma, momentum=momentum) - steps) <= 1


def test_without_a_penalty_a_search_never_ends() -> None:
    assert steps_of_search(0.1, 0.0, 10) == steps_of_search(0.0, 0.1, 10) == math.inf


@pytest.mark.parametrize(("arguments", "message"), [
    ({"steps": 40}, r"first time at the second measurement, after 40 steps, and there are 40: measure more often"),
    ({"interval": 0}, "interval is 0"),
    ({"lr": 0.0}, r"lr is 0\.0; expected a positive number"),
    ({"gamma": math.nan}, "gamma is nan"),
    ({"momentum": 1.0}, r"momentum is 1\.0; expected a number in \[0, 1\)"),
    ({"threshold": -0.1}, r"threshold is -0\.1"),
])  # fmt: skip
def test_a_suggestion_out_of_range_is_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        suggest_delta_lambda(**{"lr": 0.1, "steps": 400, "interval": 20, **arguments})  # type: ignore[arg-type]
