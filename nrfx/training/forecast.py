"""How long it takes a network's own gammas to die in a search, in sentences for the user."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite, log
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RMSprop

from nrfx.errors import TrainingError, TrainingWarning
from nrfx.training.penalty import FALL, SMALL, Pull
from nrfx.training.schedule import (
    adaptive_steps_of_search,
    adaptive_steps_to_die,
    steps_of_search,
    steps_to_die,
    suggest_delta_lambda,
)

Gammas = Mapping[nn.Parameter, Tensor]
"""The gammas that can die: parameter -> bool of its shape, which of its elements can."""

MEASURED = 4
"""So many intervals, at least, pass until gammas die where delta_lambda is chosen for them."""

SPARED = log(SMALL / (SMALL - FALL)) / FALL
"""Steps to die of a gamma of mean size where large ones are spared, relative to those where all are pulled alike.

From d gamma = -(2 - 1.5 gamma / mean) per unit of pull, with a mean that stays.
"""

ADAPTIVE = (Adam, AdamW, NAdam, RMSprop)
"""Optimizers that divide each gradient by the root of a running mean of its square."""


def search_forecast(
    law: "Law", gammas: Gammas, delta_lambda: float, interval: int, until: int | None, weighted: bool
) -> str:
    """How long dying takes from the start of a search, and whether the search, up to step `until`, is long enough.

    Where gammas are weighted by cost, of a gamma with the mean weight. "" where no gamma can die.
    """
    gamma = _mean_size(gammas)
    if gamma == 0:
        return ""
    if isinstance(law, _Unknown):
        return f"How long a gamma takes to die under {law.optimizer} is not known: r at each measurement tells."
    steps = law.of_search(gamma, delta_lambda, interval)
    if not isfinite(steps):
        return f"A gamma of {gamma:.2g} does not die in a million intervals: raise delta_lambda or the learning rate."
    whose = ", of a channel of mean cost," if weighted else ""
    text = (
        f"A gamma of {gamma:.2g}{whose} that the loss has no use for dies after {steps:,.0f} steps of a search in "
        f"which every measurement raises lambda{' and the others stay' if law.share < 1 else ''}{law.condition}."
    )
    if until is None or steps <= until:
        return text
    text += f" The search ends at step {until:,}."
    quarter = until // 4
    if quarter <= 2 * interval:
        return f"{text} Measure more often: the interval is {interval:,} steps."
    return f"{text} {law.advice(gamma, quarter, interval)}"


def chosen_delta_lambda(law: "Law", gammas: Gammas, interval: int, until: int | None) -> float:
    """The delta_lambda under which gammas that the loss has no use for die after a quarter of the search.

    After `MEASURED` intervals where that is later, with a warning: lambda is 0 in the first two, and what dies within
    one is not seen in time. The paper's 5e-5 where no gamma can die.

    Raises:
        TrainingError: the search has no end, is too short for it, or the optimizer is not SGD.
    """
    gamma = _mean_size(gammas)
    if gamma == 0:
        return 5e-5
    if until is None:
        raise TrainingError("delta_lambda=None needs the length of the search: give until=, or a number such as 5e-5.")
    if not isinstance(law, _Descent):
        raise TrainingError(
            f"delta_lambda=None is for SGD, or penalty='proximal': how long dying takes under {law.optimizer} "
            "depends on the size of its gradients. Give a number of about that size, and look at nr.forecast later."
        )
    quarter, better = until // 4, max(until // (5 * MEASURED), 1)
    steps = max(quarter, MEASURED * interval)
    if steps > quarter and better < interval:
        warnings.warn(
            f"The interval of {interval:,} steps is long for a search of {until:,}: gammas that take a quarter of it "
            "to die are gone between two measurements, and too many with them. So delta_lambda is chosen for them to "
            f"die after {steps:,} steps. Measure more often: interval={better:,}.",
            TrainingWarning,
            stacklevel=4,
        )
    return suggest_delta_lambda(law.lr, steps, interval, gamma * law.share, momentum=law.momentum)


def dying_time(law: "Law", lam: float) -> str:
    """How many steps a gamma of 1 takes to die under a penalty of weight `lam` alone; "" where it never does.

    Where large ones are spared, of a gamma of 1 that is of mean size.
    """
    steps = inf if isinstance(law, _Unknown) else law.to_die(lam)
    return f"A gamma of 1 takes {steps:,.0f} steps to die under it. " if isfinite(steps) else ""


def never(law: "Law", steps: int, until: int | None, r: float, trigger: float, lam: float) -> str:
    """That a search ends without a rejuvenation, and what to change, in sentences."""
    spared = ", or pull large gammas as hard as small ones (spare='none')" if law.share < 1 else ""
    return (
        f"The search window ends at step {until} without a rejuvenation: after {steps} steps r is {r:.3f} and the "
        f"trigger {trigger}, at lambda {lam:.2g}. {dying_time(law, lam)}Training goes on "
        "without a penalty. For more channels to die, give the search more steps (until, or smaller batches), "
        f"raise delta_lambda, shorten the interval, or raise the trigger{spared}."
    )


@dataclass(frozen=True)
class _Descent:
    """By the learning rate times lambda, with momentum by more: SGD, and any optimizer under penalty "proximal".

    `share`: the way to 0 in units of gamma, which is shorter where large ones are spared.
    """

    optimizer: str
    lr: float
    momentum: float
    share: float
    condition: str = ""

    def of_search(self, gamma: float, delta_lambda: float, interval: int) -> float:
        return steps_of_search(self.lr, delta_lambda, interval, gamma * self.share, momentum=self.momentum)

    def to_die(self, lam: float) -> float:
        return steps_to_die(self.lr, lam, self.share, momentum=self.momentum)

    def advice(self, gamma: float, steps: int, interval: int) -> str:
        better = suggest_delta_lambda(self.lr, steps, interval, gamma * self.share, momentum=self.momentum)
        return f"delta_lambda={better:.2g} would take a quarter of that."


@dataclass(frozen=True)
class _Adaptive:
    """Adam and its like: by the learning rate at most, and by less while gradients are larger than lambda."""

    optimizer: str
    lr: float
    size: float | None
    share: float
    """Root mean square of the gradients of the gammas, None before the first step; and the way to 0, as above."""

    @property
    def condition(self) -> str:
        if self.size is None:
            return ", at the earliest: it takes longer while its gradients are larger than lambda"
        return f", with gradients of the size that they have now, {self.size:.2g}"

    def of_search(self, gamma: float, delta_lambda: float, interval: int) -> float:
        return adaptive_steps_of_search(self.lr, delta_lambda, interval, gamma * self.share, size=self.size or 0.0)

    def to_die(self, lam: float) -> float:
        return adaptive_steps_to_die(self.lr, lam, self.share, size=self.size or 0.0)

    def advice(self, gamma: float, steps: int, interval: int) -> str:
        needed = gamma * self.share / (steps - 2 * interval)
        if needed >= self.lr:
            return (
                f"In a step a gamma falls by the learning rate at most, which is {self.lr:.2g}: take {needed:.2g} or "
                "more, gammas that start lower (nn.init.constant_(norm.weight, 0.5)), or a longer search."
            )
        better = 1e-8
        while self.of_search(gamma, better, interval) > steps:
            better *= 1.25
        return f"delta_lambda={better:.2g} would take a quarter of that."


@dataclass(frozen=True)
class _Unknown:
    """What is not known, or holds no gamma that can die."""

    optimizer: str
    share: float


Law = _Descent | _Adaptive | _Unknown
"""How fast gammas fall under the penalty, with the name of the optimizer's class."""


def law_of(optimizer: Optimizer, gammas: Gammas, pull: Pull) -> Law:
    """The law of the optimizer for the group that holds the gammas."""
    name, share = type(optimizer).__name__, SPARED if pull.spare == "large" else 1.0
    group = next((group for group in optimizer.param_groups if gammas.keys() & set(group["params"])), None)
    if group is None:
        return _Unknown(name, share)
    if isinstance(optimizer, SGD):
        return _Descent(name, float(group["lr"]), float(group["momentum"]), share)
    if pull.penalty == "proximal":
        return _Descent(name, float(group["lr"]), 0.0, share)
    if isinstance(optimizer, ADAPTIVE):
        return _Adaptive(name, float(group["lr"]), _gradient_size(optimizer, gammas, group), share)
    return _Unknown(name, share)


def _gradient_size(optimizer: Optimizer, gammas: Gammas, group: Mapping[str, Any]) -> float | None:
    """The root mean square of the gradients of the gammas, from the running means of the optimizer."""
    squares = []
    for gamma, mask in gammas.items():
        state = optimizer.state.get(gamma, {})
        mean = state.get("exp_avg_sq", state.get("square_avg"))
        if mean is None or not mask.any():
            continue
        decay = group["betas"][1] if "betas" in group else group["alpha"]
        known = 1 - decay ** float(state["step"])  # a mean that started at 0 has come so far
        squares.append((mean[mask].double().mean() / max(known, 1e-12)).cpu())
    return float(torch.stack(squares).mean().sqrt()) if squares else None


def _mean_size(gammas: Gammas) -> float:
    """The mean abs(gamma) of the gammas that can die, each parameter counted once; 0 where none can."""
    sizes = [gamma.detach()[mask].abs().mean() for gamma, mask in gammas.items()]
    return float(torch.stack([size.double().cpu() for size in sizes]).mean()) if sizes else 0.0
