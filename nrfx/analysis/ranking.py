"""Which channels a network gives up to come within a budget: those with the least score for what they cost.

worth(channel) = score / share          share: what the channel costs, as a part of the network's cost
give up        the channels of least worth, as few as bring the cost within the budget
give back      the last of them first, each that the budget has room for without the others
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels
from nrfx.analysis.cost import Cost, total_cost
from nrfx.errors import BudgetError
from nrfx.tracing import TracedModule

CostWithout = Callable[[Tensor], Cost]
"""The cost of the network without the channels of a mask, bool [channels]."""


class Bound(Protocol):
    """An `nrfx.Budget`, which stands further down."""

    @property
    def params(self) -> int | None: ...
    @property
    def flops(self) -> int | None: ...
    def admits(self, cost: Cost) -> bool: ...


def ranked(traced: TracedModule, channels: Channels, scores: Tensor, may_go: Tensor, budget: Bound) -> Tensor:
    """bool [channels]: those that are given up. None of them alone could come back within the budget.

    Args:
        scores: float64 [channels].
        may_go: bool [channels], those that may be given up, all of them at once.

    Raises:
        BudgetError: the network costs more without all channels that may go.
    """

    def cost_without(gone: Tensor) -> Cost:
        return total_cost(traced, channels, ~gone)

    nothing = torch.zeros_like(may_go)
    if budget.admits(cost_without(nothing)):
        return nothing
    least = cost_without(may_go)
    if not budget.admits(least):
        raise BudgetError(
            f"Without all {int(may_go.sum())} channels that the criterion may give up the network costs "
            f"{least.params:,} params and {least.flops:,} flops; the budget of the criterion is {budget}. Ask for a "
            "larger one, or allow more by keep=, min_width= and most=."
        )
    order = _by_worth(cost_without, channels, scores, may_go, budget)
    gone = nothing.clone()
    gone[order[: _fewest(cost_without, nothing, order, budget)]] = True
    return _given_back(cost_without, channels, gone, order, budget)


def _by_worth(
    cost_without: CostWithout, channels: Channels, scores: Tensor, may_go: Tensor, budget: Bound
) -> list[int]:
    """The channels that may go, those of least worth first."""
    whole = cost_without(torch.zeros_like(may_go))
    measures = [name for name in ("params", "flops") if getattr(budget, name) is not None]
    share = torch.zeros(len(channels.spaces)).double()
    for space in channels.space_of[may_go].unique().tolist():
        one = torch.zeros_like(may_go)
        one[(channels.space_of == space).nonzero()[0]] = True
        less = cost_without(one)
        share[space] = sum(1 - getattr(less, name) / getattr(whole, name) for name in measures)
    worth = scores / share[channels.space_of].clamp(min=torch.finfo(torch.float64).tiny)
    candidates = may_go.nonzero().flatten()
    order: list[int] = candidates[torch.argsort(worth[candidates], stable=True)].tolist()
    return order


def _fewest(cost_without: CostWithout, nothing: Tensor, order: Sequence[int], budget: Bound) -> int:
    """How many of the first must go at least: fewer cost more, so that bisection finds it."""
    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        gone = nothing.clone()
        gone[order[:middle]] = True
        low, high = (low, middle) if budget.admits(cost_without(gone)) else (middle, high)
    return high


def _given_back(
    cost_without: CostWithout, channels: Channels, gone: Tensor, order: Sequence[int], budget: Bound
) -> Tensor:
    """`gone` without those that the budget has room for. All channels of a space cost the same: after one that does not
    fit, none of its space is tried.
    """
    full = set[int]()
    for channel in reversed([each for each in order if bool(gone[each])]):
        space = int(channels.space_of[channel])
        if space in full:
            continue
        gone[channel] = False
        if not budget.admits(cost_without(gone)):
            gone[channel] = True
            full.add(space)
    return gone
