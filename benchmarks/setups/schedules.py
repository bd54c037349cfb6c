"""Which schedule moves the learning rate: given to the Rejuvenator, which sets it back at an event, or beside it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as schedules

from benchmarks.setups.setup import setup
from benchmarks.setups.training import EVENT, STEPS, Training, expect

GROUP = "schedules"

Make = Callable[[Optimizer], Any]
SCHEDULES: dict[str, Make] = {
    "ConstantLR": lambda o: schedules.ConstantLR(o, factor=0.5, total_iters=3),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, T_max=STEPS),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, T_0=5, eta_min=0.01),
    "CyclicLR": lambda o: schedules.CyclicLR(o, base_lr=0.02, max_lr=0.1, step_size_up=4),
    "ExponentialLR": lambda o: schedules.ExponentialLR(o, gamma=0.95),
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda epoch: 1 / (1 + 0.1 * epoch)),
    "LinearLR": lambda o: schedules.LinearLR(o, start_factor=0.2, total_iters=5),
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, lambda epoch: 0.97),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, milestones=[3, 8], gamma=0.7),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, max_lr=0.1, total_steps=4 * STEPS),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, total_iters=2 * STEPS),
    "StepLR": lambda o: schedules.StepLR(o, step_size=3, gamma=0.8),
    "SequentialLR (warm-up, then cosine)": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.2, total_iters=3), schedules.CosineAnnealingLR(o, T_max=STEPS)], milestones=[3]
    ),
    "ChainedScheduler": lambda o: schedules.ChainedScheduler(
        [schedules.LinearLR(o, 0.2, total_iters=3), schedules.ExponentialLR(o, 0.95)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.05, anneal_epochs=5),
    "ReduceLROnPlateau": lambda o: schedules.ReduceLROnPlateau(o, patience=3),
}


def _fresh() -> Optimizer:
    return SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)


def _rates(make: Make, count: int) -> list[float]:
    """The learning rates of the first steps of a schedule without an event."""
    optimizer = _fresh()
    schedule, rates = make(optimizer), []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step(*([0.0] if isinstance(schedule, schedules.ReduceLROnPlateau) else []))
    return rates


def _trained(make: Make, restarted: bool) -> tuple[Training, list[float]]:
    one = Training(attach=not restarted)
    schedule = make(one.optimizer)
    rates: list[float] = []
    if restarted:
        one.nr = type(one.nr)(one.gm, one.optimizer, one.nr.budget, **_SAME, scheduler=schedule).attach()

    def step() -> Tensor:
        rates.append(one.optimizer.param_groups[0]["lr"])
        loss = one.step()
        schedule.step(*([0.0] if isinstance(schedule, schedules.ReduceLROnPlateau) else []))
        return loss

    return one.train(step), rates


_SAME: dict[str, Any] = {"interval": 1, "trigger": 0.8, "threshold": 0.2}

for _name, _make in SCHEDULES.items():

    @setup(GROUP, f"{_name}, goes on across the event")
    def _beside(make: Make = _make) -> str:
        one, rates = _trained(make, restarted=False)
        expect(rates == _rates(make, STEPS), f"the learning rates are {rates}")
        return f"{one.checked()}; learning rates as without an event"

    @setup(GROUP, f"{_name}, scheduler= sets it back at the event")
    def _restarted(make: Make = _make) -> str:
        one, rates = _trained(make, restarted=True)
        behind = [*_rates(make, EVENT + 1), *_rates(make, STEPS + 1)[1 : STEPS - EVENT]]
        expect(
            torch.allclose(torch.tensor(rates), torch.tensor(behind), rtol=1e-4), f"rates {rates}; expected {behind}"
        )
        return f"{one.checked()}; learning rates from the start again"
