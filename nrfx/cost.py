"""Params and flops, exactly, from the widths of layouts; no model is built and nothing is run.

    params    every learnable number, tied ones once: the product of the widths along the dims of each parameter
    flops     multiply-adds of one example in eval mode, each once: times * rows * cols of every piece of work

Source: Neural Rejuvenation, Sec. 3.1.2. There convolutions alone count; here every parameter does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nrfx.channels import Channels, Step
from nrfx.liveness import live_along
from nrfx.trace import TracedModule


@dataclass(frozen=True)
class Cost:
    """A pair of exact integers."""

    params: int
    flops: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.params + other.params, self.flops + other.flops)


def parameter_cost(traced: TracedModule, found: Channels, live: Tensor | None = None) -> dict[str, int]:
    """Numbers in each parameter by its first name; with `live` (bool [channels]), those of the live channels alone."""
    extent = Extents(found, live)
    return {
        name: _numbers(parameter.shape, found.layouts.get(name, ()), extent)
        for name, parameter in traced.named_parameters()
    }


def step_flops(found: Channels, live: Tensor | None = None) -> dict[str, int]:
    """Multiply-adds of each node of the eval graph that does any, by node name."""
    extent = Extents(found, live)
    return {
        step.node.name: sum(work.times * extent(work.rows) * extent(work.cols) for work in step.effect.work)
        for step in eval_steps(found)
        if step.effect.work
    }


def eval_steps(found: Channels) -> list[Step]:
    """The steps of the eval-mode graph."""
    return [step for step in found.steps if step.mode == "eval"]


def total_cost(traced: TracedModule, found: Channels, live: Tensor | None = None) -> Cost:
    """The cost of the whole network, or of its live part."""
    return Cost(
        sum(parameter_cost(traced, found, live).values()),
        sum(step_flops(found, live).values()),
    )


class Extents:
    """The width of a layout: all of it, or its live positions. Asked often for the same layouts, so it remembers."""

    def __init__(self, found: Channels, live: Tensor | None) -> None:
        self.found, self.live = found, live
        self.known: dict[int, int] = {}

    def __call__(self, layout: Tensor | None) -> int:
        if layout is None:
            return 1
        if self.live is None:
            return layout.numel()
        if id(layout) not in self.known:
            self.known[id(layout)] = int(live_along(self.found, self.live, layout).sum())
        return self.known[id(layout)]


def _numbers(shape: torch.Size, dims: tuple[Tensor | None, ...], extent: Extents) -> int:
    numbers = 1
    for size, layout in zip(shape, dims or (None,) * len(shape), strict=True):
        numbers *= size if layout is None else extent(layout)
    return numbers


def by_owner(costs: Mapping[str, int]) -> dict[str, int]:
    """Sums by the module that owns the parameter."""
    owned: dict[str, int] = {}
    for name, numbers in costs.items():
        owner = name.rpartition(".")[0]
        owned[owner] = owned.get(owner, 0) + numbers
    return owned
