"""All that is decided about a rewrite within a budget: which channels stay, how wide each space becomes, the labels.

Where an op does not take the new widths, the spaces that it touches become no wider than they are, or keep their width,
and all is decided again. No tensor is touched: widths of several budgets can be looked at without a network for each.

Source: Neural Rejuvenation, Sec. 3.2.
"""

from dataclasses import dataclass, replace

from nrfx.analysis.channels import Mismatch
from nrfx.analysis.cost import total_cost
from nrfx.analysis.criterion import Judge
from nrfx.analysis.domain import not_to_grow
from nrfx.analysis.gammas import gammas_of
from nrfx.analysis.spaces import channels_of
from nrfx.errors import BudgetError
from nrfx.plan.budget import Budget
from nrfx.plan.constraints import WidthConstraints
from nrfx.plan.options import Options
from nrfx.plan.reallocate import Allocation
from nrfx.plan.resize import Resized, resize
from nrfx.plan.survivors import Survivors, allocate, decide, idle_reason
from nrfx.tracing import TracedModule


@dataclass(frozen=True)
class Decision:
    """The survivors and the widths within a budget.

    Attributes:
        survivors: the channels that stay.
        allocation: the width of each space.
        resized: the labels of the new network.
        options: as they were given, or with the scheme "dense" where the budget has no room for carriers.
    """

    survivors: Survivors
    allocation: Allocation
    resized: Resized
    options: Options


@dataclass(frozen=True)
class Idle:
    """That a rewrite would change nothing, and why."""

    survivors: Survivors
    reason: str
    options: Options


def decided(traced: TracedModule, budget: Budget | None, options: Options, judge: Judge) -> Decision | Idle:
    """What `nrfx.rejuvenate` would do; without a budget no new channels come.

    Args:
        judge: tells which channels are live, whenever the channels are known.

    Raises:
        BudgetError: the live part alone exceeds the budget, or the network does and cannot change.
        RewriteError: an op takes no widths but those that it has, and its spaces keep them already.
    """
    constraints = WidthConstraints()
    # each round but the last adds a constraint, at most two for each birth, or makes the scheme dense, once
    while True:
        channels = channels_of(traced, constraints.no_change)
        if budget is not None:
            constraints.no_growth.update(not_to_grow(channels))
        survivors = decide(traced, channels, judge, options, constraints)
        if options.criterion is None and not survivors.channels.norms:
            _check_admitted(traced, survivors, budget)
            return Idle(survivors, _no_gamma_may_die(traced, survivors), options)
        try:
            allocation = allocate(traced, survivors, budget, options)
        except BudgetError:
            # attention absorbs no constant and needs a carrier for each; dense layers may fit without
            if options.scheme != "attention" or not bool(survivors.absorption.carriers.any()):
                raise
            options, constraints = replace(options, scheme="dense", cramped=True), WidthConstraints()
            continue
        idle = idle_reason(survivors, allocation, budget, options)
        if options.criterion is None and not any(space.free and space.normed for space in survivors.channels.spaces):
            idle = _no_gamma_may_die(traced, survivors)
        if idle:
            return Idle(survivors, idle, options)
        try:
            resized = resize(traced, survivors.channels, survivors.kept, allocation.width)
        except Mismatch as mismatch:
            constraints.add(survivors.channels, survivors.kept, allocation.width, mismatch)
            continue
        return Decision(survivors, allocation, resized, options)


def _check_admitted(traced: TracedModule, survivors: Survivors, budget: Budget | None) -> None:
    """Raises BudgetError for a network that cannot change and costs more than the budget."""
    cost = total_cost(traced, survivors.channels)
    if budget is not None and not budget.admits(cost):
        raise BudgetError(
            f"The network costs {cost.params:,} params and {cost.flops:,} flops; the budget is {budget}. "
            f"{gammas_of(traced, survivors.channels, 'coupled').note}"
        )


def _no_gamma_may_die(traced: TracedModule, survivors: Survivors) -> str:
    return f"{gammas_of(traced, survivors.channels, 'coupled').note} Nothing was changed."
