"""Who stays and how wide each space becomes: what is decided about a rewrite before anything is built."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Space
from nrfx.analysis.liveness import Liveness, liveness
from nrfx.nn import Cross
from nrfx.plan.absorb import Settlement, nothing, settle
from nrfx.plan.blocks import crossable
from nrfx.plan.budget import Budget
from nrfx.plan.constraints import Limits
from nrfx.plan.options import Options
from nrfx.plan.reallocate import Allocation, Demand, Price, reallocate, restore, units
from nrfx.rules import Reading
from nrfx.tracing import TracedModule


@dataclass(frozen=True)
class Decision:
    """What is known once constants are settled: who stays, and which layers may take a cross form."""

    found: Channels
    alive: Liveness
    settled: Settlement
    forms: Mapping[str, Reading]
    form_notes: tuple[str, ...]
    grows: Tensor  # bool [spaces]: who may be widened
    narrow: Mapping[str, str]  # births that may only shrink, with the reason

    @property
    def kept(self) -> Tensor:
        """bool [channels]: live ones and carriers."""
        return self.alive.live | self.settled.carriers


def decide(traced: TracedModule, found: Channels, options: Options, limits: Limits) -> Decision:
    """Liveness and constants; channels whose constant has no place are held, and the question asked again."""
    forms, notes = crossable(traced, found)
    attention = _attending(traced, forms)
    if options.scheme == "attention":
        grows = _growing(found, options, limits)
        attention |= {key for key, reading in forms.items() if _widens_both(found, reading, grows)}
    hold: dict[int, str] = {}
    while True:
        alive = liveness(traced, found, options.threshold, options.residual, hold)
        settled = settle(traced, found, alive, attention) if options.settles else nothing(found)
        if not settled.hold:
            return Decision(found, alive, settled, forms, notes, _growing(found, options, limits), dict(limits.narrow))
        assert settled.hold.keys() - hold.keys(), "channels that are held already cannot be held again"
        hold |= settled.hold


def _attending(traced: TracedModule, forms: Mapping[str, Reading]) -> set[str]:
    """Keys of the layers that are cross-attention layers already, and stay so under any scheme."""
    layers = {key: traced.get_submodule(reading.path) for key, reading in forms.items()}
    return {key for key, layer in layers.items() if isinstance(layer, Cross) and layer.scheme == "attention"}


def _widens_both(found: Channels, reading: Reading, grows: Tensor) -> bool:
    """Whether the layer may get new channels on both sides, and so take a cross form."""
    sides = [found.spaces_along(layout) for layout in (reading.rows, reading.cols)]
    return all(bool(grows[spaces[spaces >= 0]].any()) for spaces in sides)


def _growing(found: Channels, options: Options, limits: Limits) -> Tensor:
    """bool [spaces]: who may be widened."""

    def grows(space: Space) -> bool:
        mobile = space.free and space.normed and not space.frozen and not space.births.keys() & limits.narrow.keys()
        return mobile and not (space.stream and options.residual == "fixed")

    return torch.tensor([grows(space) for space in found.spaces], dtype=torch.bool)


def allocate(traced: TracedModule, decision: Decision, budget: Budget | None, options: Options) -> Allocation:
    """The widths within the budget; without one, those of what stays.

    Raises:
        BudgetError: what stays costs more than the budget.
    """
    found = decision.found
    count = len(found.spaces)
    demand = Demand(
        live=torch.bincount(found.space_of[decision.alive.live], minlength=count),
        kept=torch.bincount(found.space_of[decision.kept], minlength=count),
        grows=decision.grows,
        unit=units(found, options.round_to),
    )
    price = Price(traced, found, decision.kept, _crossing(traced, decision, options))
    if budget is None:
        return Allocation(demand.kept, 1.0, price(demand.kept))
    if options.reallocate:
        return reallocate(price, demand, budget)
    return restore(price, demand, torch.bincount(found.space_of, minlength=count), budget)


def _crossing(traced: TracedModule, decision: Decision, options: Options) -> dict[str, Reading]:
    """By path, the layers whose cross connections are, or may become, absent."""
    layers = {reading.path: (reading, traced.get_submodule(reading.path)) for reading in decision.forms.values()}
    return {
        path: reading
        for path, (reading, layer) in layers.items()
        if (layer.scheme == "removed" if isinstance(layer, Cross) else options.scheme == "removed")
    }


def idle_reason(decision: Decision, allocation: Allocation, budget: Budget | None, options: Options) -> str:
    """Why these widths leave nothing to do, "" where there is something."""
    found = decision.found
    if not any(space.free and space.normed for space in found.spaces):
        return "Nothing may change width: every space with a gamma is pinned. `pins` of the utilization says by what."
    old = torch.bincount(found.space_of, minlength=len(found.spaces))
    if options.scratch or not bool(decision.kept.all()) or not torch.equal(allocation.width, old):
        return ""
    what = "Nothing is dead" if not decision.alive.held else "No dead channel may go"
    return f"{what}{'' if budget is None else f' and {budget} leave no room for another channel'}: nothing was changed."
