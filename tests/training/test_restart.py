"""A restarted schedule is a new schedule."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as schedules
from torch.optim.lr_scheduler import LRScheduler

from nrfx.errors import TrainingError
from nrfx.training.restart import RESTARTABLE, restart

BUILD: dict[str, Callable[[Optimizer], LRScheduler]] = {
    "ConstantLR": lambda o: schedules.ConstantLR(o, 0.5, 3),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 6, 0.01),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 2, 2),
    "CyclicLR": lambda o: schedules.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "ExponentialLR": lambda o: schedules.ExponentialLR(o, 0.8),
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "LinearLR": lambda o: schedules.LinearLR(o, 0.1, total_iters=4),
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, lambda epoch: 0.9),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, [2, 4]),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, 0.2, total_steps=20),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, 6, 2.0),
    "SequentialLR": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, total_iters=3), schedules.CosineAnnealingLR(o, 6)], [3]
    ),
    "StepLR": lambda o: schedules.StepLR(o, 3),
}


def two_groups() -> SGD:
    groups = [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.3}]
    return SGD(groups, lr=0.1, momentum=0.9)


def epochs(optimizer: Optimizer, scheduler: LRScheduler, count: int) -> list[tuple[float | None, ...]]:
    rates = []
    for _ in range(count):
        rates.append(tuple(group.get(key) for group in optimizer.param_groups for key in ("lr", "momentum")))
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("build", [
    schedules.ReduceLROnPlateau,
    lambda o: schedules.ChainedScheduler([schedules.StepLR(o, 2), schedules.ExponentialLR(o, 0.9)]),
])  # fmt: skip
def test_a_schedule_that_is_more_than_its_epoch_is_refused(build: Callable[[Optimizer], LRScheduler]) -> None:
    optimizer = two_groups()
    scheduler = build(optimizer)
    optimizer.param_groups[0]["lr"] = 0.07
    with pytest.raises(TrainingError, match=rf"{type(scheduler).__name__} cannot be set back.*build a new scheduler"):
        restart(scheduler)
    assert optimizer.param_groups[0]["lr"] == 0.07


def test_every_restartable_schedule_is_tested() -> None:
    assert {kind.__name__ for kind in RESTARTABLE} == BUILD.keys()


@pytest.mark.parametrize("kind", BUILD)
@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_restarted_schedule_goes_through_the_same_rates_again(kind: str, after: int) -> None:
    optimizer = two_groups()
    scheduler = BUILD[kind](optimizer)
    first = epochs(optimizer, scheduler, after)
    restart(scheduler)
    assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
    again = epochs(optimizer, scheduler, 8)
    fresh_optimizer = two_groups()
    assert again == epochs(fresh_optimizer, BUILD[kind](fresh_optimizer), 8)
    assert again[:after] == first


def test_a_learning_rate_held_in_a_tensor_stays_in_that_tensor() -> None:
    lr = torch.tensor(0.4)
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = schedules.StepLR(optimizer, 1)
    epochs(optimizer, scheduler, 1)
    restart(scheduler)
    assert optimizer.param_groups[0]["lr"] is lr
    assert float(lr) == pytest.approx(0.4)
