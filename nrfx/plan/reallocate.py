"""How wide every space becomes: one factor alpha for all, on the exact cost of the network that will be built."""

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import gcd, lcm, prod
from typing import Any

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels
from nrfx.analysis.cost import Cost, eval_steps
from nrfx.errors import BudgetError
from nrfx.ids import among, joined, tally
from nrfx.labels import memory_of
from nrfx.plan.budget import Budget
from nrfx.rules import Reading
from nrfx.tracing import TracedModule

BISECTIONS = 52
WIDEST = 2.0**16
"""A factor that no budget stops: what grows costs nothing in the budgeted measure."""


@dataclass(frozen=True)
class Allocation:
    """`width`: int64 [spaces], the channels of each space in the new network. `cost`: its exact cost."""

    width: Tensor
    alpha: float
    cost: Cost


@dataclass(frozen=True)
class WidthBounds:
    """The bounds on the width of each space.

    Attributes:
        live: int64 [spaces], live channels, held ones included.
        kept: int64 [spaces], live channels and carriers: the least width.
        grows: bool [spaces], whether the space may get new channels.
        unit: int64 [spaces], the number of channels of which a new width is a multiple.
    """

    live: Tensor
    kept: Tensor
    grows: Tensor
    unit: Tensor


def reallocate(cost_of: "CostModel", bounds: WidthBounds, budget: Budget) -> Allocation:
    """The widest allocation within budget that scales every space by one factor alpha.

        width[s] = max(kept[s], floor(alpha * live[s]))      rounded down to units
        then one more unit each, smallest (width + unit) / live first, while the budget holds

    Spaces whose unit costs nothing in the budgeted measure stay at the first line.

    Raises:
        BudgetError: the live channels (and carriers) alone cost more than the budget.

    Source: Neural Rejuvenation, Sec. 3.2, "Resource reallocation". There alpha comes from a ratio of costs and
    misses the budgets of Table 2 by 3 % on average; here it is found on the exact cost.
    """
    least = cost_of(bounds.kept)
    if not budget.admits(least):
        carriers = int((bounds.kept - bounds.live).sum())
        raise BudgetError(
            f"The live channels alone cost {least.params:,} params and {least.flops:,} flops"
            + (f" (with {carriers} carriers of constants)" if carriers else "")
            + f"; the budget is {budget}. Ask for a larger budget, or let more channels die first."
        )
    alpha = _largest_alpha(cost_of, bounds, budget)
    width = _fill(cost_of, bounds, budget, _scaled(bounds, alpha))
    return Allocation(width, alpha, cost_of(width))


def restore(cost_of: "CostModel", bounds: WidthBounds, old: Tensor, budget: Budget) -> Allocation:
    """Every space back to its own old width (NR-IP): no reallocation between layers.

    Raises:
        BudgetError: that costs more than the budget.
    """
    width = torch.where(bounds.grows, torch.maximum(bounds.kept, old), bounds.kept)
    cost = cost_of(width)
    if not budget.admits(cost):
        raise BudgetError(
            f"With all layers back at their old widths the network costs {cost.params:,} params, {cost.flops:,} flops; "
            f"the budget is {budget}. Use reallocate=True, which fits any budget above the live part."
        )
    return Allocation(width, 1.0, cost)


def units(channels: Channels, round_to: int) -> Tensor:
    """[spaces] int64: by how many channels a width grows so that every birth is a multiple of round_to."""
    return torch.tensor(
        [lcm(*(round_to // gcd(round_to, each) for each in space.births.values())) for space in channels.spaces],
        dtype=torch.int64,
    )


def _scaled(bounds: WidthBounds, alpha: float) -> Tensor:
    """int64 [spaces]: the first line of `reallocate`. No width falls when alpha rises."""
    target = (alpha * bounds.live.double()).floor().long()
    target = target // bounds.unit * bounds.unit
    return torch.where(bounds.grows, torch.maximum(bounds.kept, target), bounds.kept)


def _largest_alpha(cost_of: "CostModel", bounds: WidthBounds, budget: Budget) -> float:
    """The largest float64 whose allocation fits the budget; 1 where no factor up to WIDEST exceeds it."""
    low, high = 1.0, 2.0  # at 1.0 every width is `kept`, which fits: the caller has checked it
    while budget.admits(cost_of(_scaled(bounds, high))):
        low, high = high, 2 * high
        if high > WIDEST:
            return 1.0
    # high is 2 * low, both powers of two. A float64 has 52 bits behind the leading one, so that 52 halvings end at two
    # neighbours: low fits, high does not, and there is no factor between them. The cost rises with alpha, as every
    # width does, so that no larger factor fits either.
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if budget.admits(cost_of(_scaled(bounds, middle))):
            low = middle
        else:
            high = middle
    return low


def _fill(cost_of: "CostModel", bounds: WidthBounds, budget: Budget, width: Tensor) -> Tensor:
    """One more unit at a time for the space that is then narrowest relative to its live width, while the budget holds.

    A space whose next unit does not fit gets none later either: the cost only rises while others grow. One whose unit
    costs nothing would grow for ever, and gets none.
    """
    width = width.clone()
    live, unit = bounds.live.tolist(), bounds.unit.tolist()

    def entry(space: int) -> tuple[float, int, int]:
        wider = (int(width[space]) // unit[space] + 1) * unit[space]
        return wider / max(live[space], 1), space, wider

    cost = cost_of(width)
    queue = [entry(space) for space in bounds.grows.nonzero().flatten().tolist()]
    heapify(queue)
    while queue:
        # a space has one entry, which depends on its own width alone: those of the others stay valid when it grows
        _, space, wider = heappop(queue)
        trial = width.clone()
        trial[space] = wider
        cost_of_trial = cost_of(trial)
        if budget.admits(cost_of_trial) and _costs_more(cost_of_trial, cost, budget):
            width, cost = trial, cost_of_trial
            heappush(queue, entry(space))
    return width


def _costs_more(trial: Cost, cost: Cost, budget: Budget) -> bool:
    """Whether the trial costs more than `cost` in a measure that the budget bounds."""
    by_params = budget.params is not None and trial.params > cost.params
    by_flops = budget.flops is not None and trial.flops > cost.flops
    return by_params or by_flops


class CostModel:
    """The exact cost of a network as a function of the widths of its spaces.

    Every parameter and every piece of work is times * rows * cols, and the width of an axis is affine in the widths of
    the spaces: constant + sum of slope[s] * width[s]. So a cost is a few products of int64 vectors: 30
    microseconds on ResNet-50, about a hundred times in a rewrite.

    A layer whose cross connections will be absent has the blocks that exist now and, where both rows and columns are
    new, one block of new rows times new columns. Where only one side has new channels they meet all of the other side.
    """

    def __init__(self, traced: TracedModule, channels: Channels, kept: Tensor, crossing: Mapping[str, Reading]) -> None:
        """Reads the layouts once.

        Args:
            kept: bool [channels], live channels and carriers.
            crossing: module path -> the weights whose cross connections will be absent.
        """
        self.channels, self.kept = channels, kept
        self.spaces = len(channels.spaces)
        self.width = torch.bincount(channels.space_of, minlength=self.spaces)
        self.free = torch.tensor([space.free for space in channels.spaces], dtype=torch.bool)
        self.kept_width = torch.bincount(channels.space_of[kept], minlength=self.spaces)
        # axis k has the width constant[k] + the sum of slope * width[space] over its terms; axis 0 is 1 wide, for
        # products with fewer than two axes. An axis has few terms: a table of all axes and spaces would be as large as
        # the square of the network
        self.known: dict[tuple[Any, ...], int] = {}  # memory of a layout, which `channels` holds -> k
        self.layouts: list[Tensor] = []  # that of axis k + 1
        params = self._parameters(traced, set(crossing))
        flops = [
            (work.times, self._axis(work.rows), self._axis(work.cols))
            for step in eval_steps(channels)
            if step.path not in crossing
            for work in step.effect.work
        ]
        self.crosses = [
            self._cross(traced, reading, step_times)
            for path, reading in crossing.items()
            for step_times in [_times(channels, path)]
        ]
        self.constant, self.term_of, self.space, self.slope = self._axes()
        self.params, self.flops = _columns(params), _columns(flops)
        self.cross = [torch.tensor(column, dtype=torch.int64) for column in zip(*self.crosses, strict=True)]
        self.old = self._widths(self.kept_width)

    def __call__(self, width: Tensor) -> Cost:
        """The cost with `width[s]` channels in space s (at least those kept)."""
        axes = self._widths(width)
        params = int((self.params[0] * axes[self.params[1]] * axes[self.params[2]]).sum())
        flops = int((self.flops[0] * axes[self.flops[1]] * axes[self.flops[2]]).sum())
        if self.cross:
            for_params, for_flops, blocks, rows, cols = self.cross
            numbers = blocks + self._growth(axes, rows, cols)
            params += int((for_params * numbers).sum())
            flops += int((for_flops * numbers).sum())
        return Cost(params, flops)

    def _widths(self, width: Tensor) -> Tensor:
        """int64 [axes]: the width of each axis with `width[s]` channels in space s."""
        return self.constant.index_add(0, self.term_of, self.slope * width[self.space])

    def _growth(self, axes: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        """int64 [crossing]: how many (row, column) pairs the new rows and columns of each crossing layer add."""
        new_rows, new_cols = axes[rows] - self.old[rows], axes[cols] - self.old[cols]
        both = (new_rows > 0) & (new_cols > 0)
        return torch.where(both, new_rows * new_cols, self.old[rows] * new_cols + new_rows * self.old[cols])

    def _parameters(self, traced: TracedModule, crossing: set[str]) -> list[tuple[int, int, int]]:
        rows = []
        for name, parameter in traced.named_parameters():
            owner, _, attribute = name.rpartition(".")
            if attribute != "bias" and owner.removesuffix(".weights") in crossing:
                continue
            dims = self.channels.layouts.get(name, (None,) * parameter.dim())
            axes = [self._axis(layout) for layout in dims if layout is not None] + [0, 0]
            times = prod(size for size, layout in zip(parameter.shape, dims, strict=True) if layout is None)
            rows.append((times, axes[0], axes[1]))
        return rows

    def _cross(self, traced: TracedModule, reading: Reading, flops: int) -> tuple[int, int, int, int, int]:
        module = traced.get_submodule(reading.path)
        kernel = prod(getattr(module, "kernel_size", ()))
        return kernel, flops, self._blocks(reading, module), self._axis(reading.rows), self._axis(reading.cols)

    def _blocks(self, reading: Reading, module: torch.nn.Module) -> int:
        """How many (row, column) pairs of channels that stay a crossing layer connects."""
        rows, cols = self._stays(reading.rows), self._stays(reading.cols)
        if reading.generation is None or reading.out_generation is None:
            return int(rows.sum()) * int(cols.sum())
        blocks = 0
        present: tuple[tuple[int, ...], ...] = module.present  # type: ignore[assignment]
        for index, reads in enumerate(present):
            read = torch.isin(reading.generation, torch.tensor(reads, dtype=torch.int64))
            blocks += int(rows[reading.out_generation == index].sum()) * int(cols[read].sum())
        return blocks

    def _stays(self, layout: Tensor) -> Tensor:
        ids = self.channels.channels_along(layout)
        return (ids < 0) | among(ids, self.kept)

    def _axis(self, layout: Tensor | None) -> int:
        """The index of the layout's width among the affine functions; 0 is the constant 1."""
        if layout is None:
            return 0
        memory = memory_of(layout)
        if memory not in self.known:
            self.layouts.append(layout)
            self.known[memory] = len(self.layouts)
        return self.known[memory]

    def _axes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """int64 [axes], the constants of all axes; int64 [terms], the axis, the space and the slope of each term."""
        labels, layout_of = joined(self.layouts)
        spaces, count = self.channels.spaces_along(labels), len(self.layouts)
        inside = spaces >= 0
        pairs = layout_of[inside] * self.spaces + spaces[inside]
        pair, times = tally(pairs)
        axis, space = pair // max(self.spaces, 1), pair % max(self.spaces, 1)
        free = self.free[space]
        outside = torch.bincount(layout_of[~inside], minlength=count)
        # a pinned space keeps its width, and an axis may read only a part of it; of a free space an axis reads each
        # channel equally often (analysis/spaces.py pins the others), so that counts // width is exact
        constant = outside.index_add(0, axis[~free], times[~free])
        slope = times[free] // self.width[space[free]]
        return torch.cat([torch.ones(1, dtype=torch.int64), constant]), axis[free] + 1, space[free], slope


def _times(channels: Channels, path: str) -> int:
    """Multiply-adds of one (row, column) pair of the module at `path`, over all its visits."""
    visits = channels.visits.get(path, ())
    return sum(step.effect.work[0].times for step in visits if step.mode == "eval" and step.effect.work)


def _columns(rows: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    table = torch.tensor(rows or [(0, 0, 0)], dtype=torch.int64)
    return table[:, 0], table[:, 1], table[:, 2]
