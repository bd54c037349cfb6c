"""Which channels stay and how wide each space becomes: what is decided about a rewrite before anything is built."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Space
from nrfx.analysis.criterion import Judge
from nrfx.analysis.liveness import Liveness
from nrfx.nn import Cross
from nrfx.plan.absorb import Absorption, absorb, drop_constants
from nrfx.plan.blocks import crossable
from nrfx.plan.budget import Budget
from nrfx.plan.constraints import WidthConstraints
from nrfx.plan.options import Options
from nrfx.plan.placed import place
from nrfx.plan.reallocate import Allocation, CostModel, WidthBounds, reallocate, restore, units
from nrfx.rules import Reading
from nrfx.tracing import TracedModule


@dataclass(frozen=True)
class Survivors:
    """The channels that stay once every constant has its place, and the layers that may take a cross form."""

    channels: Channels
    liveness: Liveness
    absorption: Absorption
    forms: Mapping[str, Reading]  # key -> the weights of each layer that has a cross form
    form_notes: tuple[str, ...]  # why the other layers have none
    grows: Tensor  # bool [spaces]: whether the space may get new channels
    no_growth: Mapping[str, str]  # birth -> why it must not grow, of births that an op keeps from growing

    @property
    def kept(self) -> Tensor:
        """bool [channels]: live channels and carriers."""
        return self.liveness.live | self.absorption.carriers


def decide(
    traced: TracedModule, channels: Channels, judge: Judge, options: Options, constraints: WidthConstraints
) -> Survivors:
    """The survivors: channels whose constant can be kept in no way are held, and liveness is computed again.

    Each round holds channels that were not held before, so that the loop ends.
    """
    # Attention absorbs no constants. So the layers that will attend must be known before constants get their places; a
    # layer that does not get new channels after all has carriers where it could have absorbed.
    forms, notes = crossable(traced, channels)
    attention = _attending(traced, forms)
    if options.scheme == "attention":
        grows = _growing(channels, options, constraints)
        attention |= {key for key, reading in forms.items() if _widens_both(channels, reading, grows)}
    hold: dict[int, str] = {}
    while True:
        liveness = judge(channels, hold)
        if liveness.given_up is not None:
            absorption = place(channels, liveness, liveness.given_up, attention, options.keeps_function)
        else:
            keeps = options.keeps_function
            absorption = absorb(traced, channels, liveness, attention) if keeps else drop_constants(channels)
        if not absorption.hold:
            grows = _growing(channels, options, constraints)
            return Survivors(channels, liveness, absorption, forms, notes, grows, dict(constraints.no_growth))
        assert absorption.hold.keys() - hold.keys(), "channels that are held already cannot be held again"
        hold |= absorption.hold


def _attending(traced: TracedModule, forms: Mapping[str, Reading]) -> set[str]:
    """Keys of the layers that are cross-attention layers already, and stay so under any scheme."""
    layers = {key: traced.get_submodule(reading.path) for key, reading in forms.items()}
    return {key for key, layer in layers.items() if isinstance(layer, Cross) and layer.scheme == "attention"}


def _widens_both(channels: Channels, reading: Reading, grows: Tensor) -> bool:
    """Whether the layer may get new channels on both sides, and so become a cross layer."""
    sides = [channels.spaces_along(layout) for layout in (reading.rows, reading.cols)]
    return all(bool(grows[spaces[spaces >= 0]].any()) for spaces in sides)


def _growing(channels: Channels, options: Options, constraints: WidthConstraints) -> Tensor:
    """bool [spaces]: whether the space may get new channels."""

    def grows(space: Space) -> bool:
        constrained = space.births.keys() & constraints.no_growth.keys()
        mobile = space.free and (space.normed or options.criterion is not None) and not space.frozen and not constrained
        return mobile and not (space.stream and options.residual == "fixed")

    return torch.tensor([grows(space) for space in channels.spaces], dtype=torch.bool)


def allocate(traced: TracedModule, survivors: Survivors, budget: Budget | None, options: Options) -> Allocation:
    """The widths within the budget; without a budget the survivors alone.

    Raises:
        BudgetError: the survivors cost more than the budget.
    """
    channels = survivors.channels
    count = len(channels.spaces)
    bounds = WidthBounds(
        live=torch.bincount(channels.space_of[survivors.liveness.live], minlength=count),
        kept=torch.bincount(channels.space_of[survivors.kept], minlength=count),
        grows=survivors.grows,
        unit=units(channels, options.round_to),
    )
    cost_of = CostModel(traced, channels, survivors.kept, _crossing(traced, survivors, options))
    if budget is None:
        return Allocation(bounds.kept, 1.0, cost_of(bounds.kept))
    if options.reallocate:
        return reallocate(cost_of, bounds, budget)
    return restore(cost_of, bounds, torch.bincount(channels.space_of, minlength=count), budget)


def _crossing(traced: TracedModule, survivors: Survivors, options: Options) -> dict[str, Reading]:
    """Module path -> the weights of each layer whose cross connections are absent, or will be once it is widened."""
    layers = {reading.path: (reading, traced.get_submodule(reading.path)) for reading in survivors.forms.values()}
    return {
        path: reading
        for path, (reading, layer) in layers.items()
        if (layer.scheme == "removed" if isinstance(layer, Cross) else options.scheme == "removed")
    }


def idle_reason(survivors: Survivors, allocation: Allocation, budget: Budget | None, options: Options) -> str:
    """Why a rewrite to these widths would change nothing; "" where it would change something."""
    channels = survivors.channels
    old = torch.bincount(channels.space_of, minlength=len(channels.spaces))
    if options.scratch or not bool(survivors.kept.all()) or not torch.equal(allocation.width, old):
        return ""
    what = "Nothing is dead" if not survivors.liveness.held else "No dead channel may go"
    return f"{what}{'' if budget is None else f' and {budget} leave no room for another channel'}: nothing was changed."
