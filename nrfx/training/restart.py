"""Setting a learning rate schedule back to its start, as the paper does after a rejuvenation."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.optim import lr_scheduler as schedules
from torch.optim.lr_scheduler import LRScheduler, SequentialLR

from nrfx.errors import TrainingError

RESTARTABLE: tuple[type[LRScheduler], ...] = (
    schedules.ConstantLR,
    schedules.CosineAnnealingLR,
    schedules.CosineAnnealingWarmRestarts,
    schedules.CyclicLR,
    schedules.ExponentialLR,
    schedules.LambdaLR,
    schedules.LinearLR,
    schedules.MultiplicativeLR,
    schedules.MultiStepLR,
    schedules.OneCycleLR,
    schedules.PolynomialLR,
    schedules.SequentialLR,
    schedules.StepLR,
)
"""Schedules whose learning rates depend on the epoch and the initial learning rates alone."""


def restart(scheduler: LRScheduler) -> None:
    """Sets a torch scheduler, and the learning rates of its optimizer, back to its epoch 0.

    The paper does so after an event ("reset the epoch counter to 0").

    Raises:
        TrainingError: the schedule depends on more than its epoch, or is not one of torch's. Nothing was changed.

    Source: Neural Rejuvenation, Sec. 4.1.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    >>> scheduler = schedules.StepLR(optimizer, step_size=1, gamma=0.5)
    >>> optimizer.step(); scheduler.step(); optimizer.param_groups[0]["lr"]
    0.4
    >>> restart(scheduler); optimizer.param_groups[0]["lr"]
    0.8
    """
    check_restartable(scheduler)
    parts = tuple(_leaves(scheduler))
    for part in parts:
        part.last_epoch = -1  # as before a scheduler's first step, which _initial_step takes
    for group, lr in zip(scheduler.optimizer.param_groups, parts[0].base_lrs, strict=True):
        _set_lr(group, lr)
    parts[0]._initial_step()
    if isinstance(scheduler, SequentialLR):
        scheduler.last_epoch = 0
        scheduler._last_lr = parts[0].get_last_lr()


def check_restartable(scheduler: LRScheduler) -> None:
    """Raises the TrainingError that `restart` would raise, and changes nothing."""
    if not isinstance(scheduler, LRScheduler):
        raise TrainingError(f"The scheduler is {scheduler!r}; expected one of torch.optim.lr_scheduler.")
    for part in (scheduler, *_leaves(scheduler)):
        if type(part) not in RESTARTABLE:
            raise TrainingError(
                f"{type(part).__name__} cannot be set back to its epoch 0, since its state is more than an epoch. Set "
                "the learning rates of optimizer.param_groups to their first values and build a new scheduler over it. "
                f"restart knows {', '.join(kind.__name__ for kind in RESTARTABLE)}."
            )


def _leaves(scheduler: LRScheduler) -> Iterator[LRScheduler]:
    """The schedulers in it that are no sequences of others, in order."""
    if isinstance(scheduler, SequentialLR):
        for part in scheduler._schedulers:
            yield from _leaves(part)
    else:
        yield scheduler


def _set_lr(group: dict[str, Any], lr: float | Tensor) -> None:
    """Sets the learning rate of a group, in place where it is a tensor (as under capturable or compiled optimizers)."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
