"""How long it takes a network's own gammas to die in a search, in sentences for the user.

Only SGD is described: the steps of Adam hardly depend on lambda.
"""

from collections.abc import Mapping
from math import inf, isfinite

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from nrfx.training.schedule import steps_of_search, steps_to_die, suggest_delta_lambda

Gammas = Mapping[nn.Parameter, Tensor]
"""The gammas that can die: parameter -> bool of its shape, which of its elements can."""


def search_forecast(optimizer: Optimizer, gammas: Gammas, delta_lambda: float, interval: int, until: int | None) -> str:
    """How long dying takes from the start of a search, and whether the search, up to step `until`, is long enough.

    "" for optimizers other than SGD, and where no gamma can die.
    """
    sgd, gamma = _sgd(optimizer, gammas), _mean_size(gammas)
    if sgd is None or gamma == 0:
        return ""
    steps = steps_of_search(delta_lambda=delta_lambda, interval=interval, gamma=gamma, **sgd)
    text = (
        f"A gamma of {gamma:.2g} that the loss has no use for dies after {steps:,.0f} steps of a search in which "
        "every measurement raises lambda."
    )
    if until is None or steps <= until:
        return text
    text += f" The search ends at step {until:,}."
    quarter = until // 4
    if quarter <= 2 * interval:
        return f"{text} Measure more often: the interval is {interval:,} steps."
    better = suggest_delta_lambda(steps=quarter, interval=interval, gamma=gamma, **sgd)
    return f"{text} delta_lambda={better:.2g} would take a quarter of that."


def dying_time(optimizer: Optimizer, gammas: Gammas, lam: float) -> str:
    """How many steps a gamma of 1 takes to die under a penalty of weight `lam` alone.

    "" for optimizers other than SGD, and where no gamma can die or lam is 0.
    """
    sgd = _sgd(optimizer, gammas)
    steps = inf if sgd is None else steps_to_die(lam=lam, **sgd)
    return f"A gamma of 1 takes {steps:,.0f} steps to die under it. " if isfinite(steps) else ""


def _mean_size(gammas: Gammas) -> float:
    """The mean abs(gamma) of the gammas that can die, each parameter counted once; 0 where none can."""
    sizes = [gamma.detach()[mask].abs().mean() for gamma, mask in gammas.items()]
    return float(torch.stack([size.double().cpu() for size in sizes]).mean()) if sizes else 0.0


def _sgd(optimizer: Optimizer, gammas: Gammas) -> dict[str, float] | None:
    """Learning rate and momentum of the gammas that can die; None where none can, or for another optimizer."""
    if not isinstance(optimizer, SGD) or not gammas:
        return None
    group = next(group for group in optimizer.param_groups if gammas.keys() & set(group["params"]))
    return {"lr": float(group["lr"]), "momentum": float(group["momentum"])}
