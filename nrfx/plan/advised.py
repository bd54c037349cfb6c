"""The advice of one search, from the gammas as they are: planned as `nrfx.rejuvenate` plans, and nothing is built.

Where r is not below the trigger yet, the channels that would be dead there are taken from the order of the gammas:
those that are smallest relative to the largest of their layer, as many as it takes.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Space
from nrfx.analysis.cost import Cost, total_cost
from nrfx.analysis.criterion import judge_of
from nrfx.analysis.gammas import gammas_of
from nrfx.analysis.liveness import liveness_of, prunable_gammas
from nrfx.analysis.names import named_tensors
from nrfx.analysis.spaces import channels_of
from nrfx.choices import Measure
from nrfx.errors import AnalysisError, BudgetError
from nrfx.plan.advice import MEASURES, Advice, BudgetName, Prospect
from nrfx.plan.budget import Budget
from nrfx.plan.decision import Idle, decided
from nrfx.plan.options import Options
from nrfx.tracing import TracedModule


def advised(
    traced: TracedModule,
    steps: int,
    trigger: float,
    options: Options,
    budgets: Mapping[BudgetName, Budget],
    asked: BudgetName = "params",
) -> Advice:
    """The advice of one seed, from the gammas as they are.

    Args:
        steps: of the search so far.
        trigger: r of an event.
        options: of the event.
        budgets: what the network may cost, by name; see `budgets_of`.
        asked: the name of the budget that is asked for.

    Raises:
        AnalysisError: no gamma can die, or a gamma is not finite.
    """
    channels = channels_of(traced)
    note = gammas_of(traced, channels, options.residual, in_training=True).note
    if note:
        raise AnalysisError(note)
    whole = total_cost(traced, channels)
    now = liveness_of(traced, channels, options.threshold, options.residual).live
    alive = total_cost(traced, channels, now)
    movable = [space for space in channels.spaces if space.free and space.normed and not space.frozen]
    prospects, notes = [], []
    for name, budget in budgets.items():
        try:
            prospects.append(_prospect(traced, channels, movable, name, budget, steps, trigger, options))
        except BudgetError as error:
            notes.append(f"Within {budget} nothing can be planned. {error}")
    return Advice(
        steps=(steps,),
        trigger=trigger,
        threshold=options.threshold,
        params=whole.params,
        flops=whole.flops,
        r_params=(_ratio(alive, whole, "params"),),
        r_flops=(_ratio(alive, whole, "flops"),),
        layers={space.name: _width(space, space.width) for space in movable},
        together={space.name: tuple(space.births)[1:] for space in movable},
        live=_widths(channels, movable, now),
        prospects=tuple(prospects),
        asked=asked,
        trial=None,
        notes=tuple(notes),
    )


def budgets_of(traced: TracedModule, budget: Budget | None = None) -> dict[BudgetName, Budget]:
    """The budgets that are looked at: params, flops, both; as in `budget`, and what it leaves free as it is now."""
    whole = total_cost(traced, channels_of(traced))
    bounds: dict[Measure, int] = {}
    for measure in MEASURES["both"]:
        given = None if budget is None else getattr(budget, measure)
        bounds[measure] = getattr(whole, measure) if given is None else given
    return {
        name: Budget(**{measure: bounds[measure] for measure in measures})
        for name, measures in MEASURES.items()
        if all(bounds[measure] for measure in measures)
    }


def asked_name(budget: Budget | None) -> BudgetName:
    """The name of a budget, by what it bounds; that of None is "params".

    >>> asked_name(Budget(flops=1000)), asked_name(None)
    ('flops', 'params')
    """
    if budget is None or budget.flops is None:
        return "params"
    return "flops" if budget.params is None else "both"


def _prospect(
    traced: TracedModule,
    channels: Channels,
    movable: Sequence[Space],
    name: BudgetName,
    budget: Budget,
    steps: int,
    trigger: float,
    options: Options,
) -> Prospect:
    threshold = _at_trigger(traced, channels, MEASURES[name], trigger, options)
    decision = decided(traced, budget, options, judge_of(traced, None, threshold, options.residual))
    live = decision.survivors.liveness.live
    whole, alive = total_cost(traced, channels), total_cost(traced, channels, live)
    if isinstance(decision, Idle):
        alpha, cost = 1.0, whole
        widths = {space.name: (_width(space, space.width),) for space in movable}
    else:
        alpha, cost = decision.allocation.alpha, decision.allocation.cost
        widths = {space.name: (_width(space, int(decision.allocation.width[space.index])),) for space in movable}
    return Prospect(
        budget=name,
        most_params=budget.params,
        most_flops=budget.flops,
        steps=(steps,),
        threshold=(threshold,),
        r=(max(_ratio(alive, whole, measure) for measure in MEASURES[name]),),
        alpha=(alpha,),
        params=(cost.params,),
        flops=(cost.flops,),
        live=_widths(channels, movable, live),
        widths=widths,
    )


def _at_trigger(
    traced: TracedModule, channels: Channels, measures: Sequence[Measure], trigger: float, options: Options
) -> float:
    """The lowest threshold, from that of the options on, with which r is below the trigger; else the highest of all."""
    whole = total_cost(traced, channels)

    def below(threshold: float) -> bool:
        live = liveness_of(traced, channels, threshold, options.residual).live
        alive = total_cost(traced, channels, live)
        return max(_ratio(alive, whole, measure) for measure in measures) < trigger

    if below(options.threshold):
        return options.threshold
    # with a threshold right above the relative size of a gamma, this one is the last that is dead
    sizes = [size for size in _relative_sizes(traced, options) if options.threshold <= size < 1]
    steps = [min(size * (1 + 1e-9), 1 - 1e-9) for size in sizes] or [options.threshold]
    return steps[min(bisect_left(steps, True, key=below), len(steps) - 1)]


def _relative_sizes(traced: TracedModule, options: Options) -> list[float]:
    """abs(gamma) / the largest of its layer, of all gammas that can die, rising."""
    tensors = named_tensors(traced)
    parts = []
    for name, mask in prunable_gammas(traced, options.residual).items():
        size = tensors[name].detach().double().abs().cpu().reshape(-1)
        parts.append((size / size.max().clamp(min=torch.finfo(size.dtype).tiny))[mask.cpu().reshape(-1)])
    return sorted(torch.cat(parts).tolist())


def _ratio(alive: Cost, whole: Cost, measure: Measure) -> float:
    total: int = getattr(whole, measure)
    return float(getattr(alive, measure) / total) if total else 1.0


def _width(space: Space, channels: int) -> int:
    """Channels of the space's first layer: those of a group count each."""
    return channels * space.births[space.name]


def _widths(channels: Channels, movable: Sequence[Space], live: Tensor) -> dict[str, tuple[int, ...]]:
    """Layer -> its live channels."""
    counts = torch.bincount(channels.space_of[live], minlength=len(channels.spaces)).tolist()
    return {space.name: (_width(space, counts[space.index]),) for space in movable}
