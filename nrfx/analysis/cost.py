"""Params and flops, exactly, from the widths of layouts; no model is built and nothing is run.

    params    every learnable number, tied ones once: the product of the widths along the dims of each parameter
    flops     multiply-adds of one example in eval mode, each once: times * rows * cols of every piece of work

Source: Neural Rejuvenation, Sec. 3.1.2. There convolutions alone count; here every parameter does.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.inventory import Inventory
from nrfx.analysis.liveness import live_along
from nrfx.analysis.spaces import Labels
from nrfx.ids import joined
from nrfx.tracing import TracedModule


@dataclass(frozen=True)
class Cost:
    """A pair of exact integers.

    >>> Cost(params=10, flops=20) + Cost(1, 2)
    Cost(params=11, flops=22)
    """

    params: int
    flops: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.params + other.params, self.flops + other.flops)


def parameter_cost(shapes: Mapping[str, torch.Size], channels: Channels, width_of: "LayoutWidths") -> dict[str, int]:
    """Numbers in each parameter by its first name, at the widths that `width_of` gives, from their shapes."""
    return {name: _numbers(shape, channels.layouts.get(name, ()), width_of) for name, shape in shapes.items()}


def step_flops(channels: Channels, width_of: "LayoutWidths") -> dict[str, int]:
    """Multiply-adds of each node of the eval graph that does any, by node name."""
    return {
        step.node.name: sum(work.times * width_of(work.rows) * width_of(work.cols) for work in step.effect.work)
        for step in eval_steps(channels)
        if step.effect.work
    }


def eval_steps(channels: Channels) -> list[Step]:
    """The steps of the eval-mode graph."""
    return [step for step in channels.steps if step.mode == "eval"]


def whole_cost(traced: TracedModule, labels: Labels) -> Cost:
    """The cost of the whole network, from its labels alone."""
    params = (
        _numbers(parameter.shape, labels.layouts.get(name, ()), _length)
        for name, parameter in traced.named_parameters()
    )
    works = (work for step in labels.steps if step.mode == "eval" for work in step.effect.work)
    return Cost(sum(params), sum(work.times * _length(work.rows) * _length(work.cols) for work in works))


def _length(layout: Tensor | None) -> int:
    return 1 if layout is None else layout.numel()


def total_cost(traced: TracedModule, channels: Channels, live: Tensor | None = None) -> Cost:
    """The cost of the whole network, or of its live part.

    >>> import nrfx
    >>> from nrfx.analysis.spaces import channels_of
    >>> gm = nrfx.trace(torch.nn.Linear(3, 2), torch.zeros(1, 3))
    >>> total_cost(gm, channels_of(gm))
    Cost(params=8, flops=6)
    """
    width_of = LayoutWidths(channels, live)
    shapes = Inventory.of(traced).parameters
    return Cost(sum(parameter_cost(shapes, channels, width_of).values()), sum(step_flops(channels, width_of).values()))


class LayoutWidths:
    """The width of a layout: all of it, or its live positions.

    The live positions of all axes of parameters and work are counted in one operation, for a network has hundreds of
    small layouts.
    """

    def __init__(self, channels: Channels, live: Tensor | None) -> None:
        live = None if live is None or bool(live.all()) else live  # nothing is dead: each is as wide as it is
        self.channels, self.live = channels, live
        # by the identity of the layout: `channels` holds every layout, so that no id is used a second time
        self.known = {} if live is None else _live_widths(channels, live)

    def __call__(self, layout: Tensor | None) -> int:
        if layout is None:
            return 1
        if self.live is None:
            return layout.numel()
        known = self.known.get(id(layout))
        return int(live_along(self.channels, self.live, layout).sum()) if known is None else known

    def of(self, channels: Channels) -> "LayoutWidths":
        """The same widths, for channels that hold the same layouts."""
        twin = copy.copy(self)
        twin.channels = channels
        return twin


def _live_widths(channels: Channels, live: Tensor) -> dict[int, int]:
    """id(layout) -> its live positions, for every axis of a parameter and of a piece of work."""
    axes = [axis for dims in channels.layouts.values() for axis in dims]
    axes += [axis for step in channels.steps for work in step.effect.work for axis in (work.rows, work.cols)]
    layouts = {id(axis): axis for axis in axes if axis is not None}
    labels, layout_of = joined(list(layouts.values()))
    counts = torch.bincount(layout_of[live_along(channels, live, labels)], minlength=len(layouts))
    return dict(zip(layouts, counts.tolist(), strict=True))


def _numbers(shape: torch.Size, dims: tuple[Tensor | None, ...], width_of: Callable[[Tensor | None], int]) -> int:
    numbers = 1
    for size, layout in zip(shape, dims or (None,) * len(shape), strict=True):
        numbers *= size if layout is None else width_of(layout)
    return numbers


def by_owner(costs: Mapping[str, int]) -> dict[str, int]:
    """Sums by the module that owns the parameter."""
    owned: dict[str, int] = {}
    for name, numbers in costs.items():
        owner = name.rpartition(".")[0]
        owned[owner] = owned.get(owner, 0) + numbers
    return owned
