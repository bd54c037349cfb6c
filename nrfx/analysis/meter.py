"""Utilization again and again, while a network trains: what gammas cannot change is computed once.

A reading takes the parameters and statistics of all norms as one vector, one comparison with the thresholds, and a few
operations on integers: the conditions of conditions.py say which channels are dead, and the cost is a sum of products
of the widths of spaces. Where a condition is unsure (a dead channel in front of a gate or of a padded depthwise
convolution, whose constant decides), liveness_of is asked.

Source: Neural Rejuvenation, Sec. 3.1.2, which measures in every iteration.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Self

import numpy as np
import torch

from nrfx.analysis.channels import Channels
from nrfx.analysis.conditions import Array, conditions_of
from nrfx.analysis.cost import eval_steps, total_cost
from nrfx.analysis.liveness import ALL_DEAD, check_residual, liveness_of, prunable_spaces
from nrfx.analysis.names import named_tensors
from nrfx.analysis.spaces import channels_of
from nrfx.analysis.utilization import Share
from nrfx.choices import Residual
from nrfx.labels import joined
from nrfx.rules import Family
from nrfx.tracing import TracedModule


@dataclass(frozen=True)
class MeterReading:
    """The live and the total cost of a network, as in `nrfx.Utilization`."""

    params: Share
    flops: Share


class Meter:
    """Reads the utilization of a network: the numbers of `nrfx.utilization`, without the report.

    Args:
        threshold, residual: as for `nrfx.rejuvenate`.

    Raises:
        AnalysisError: an option is out of range; in `read`, a number of a norm is NaN or infinite.

    >>> import nrfx
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> meter = Meter(nrfx.trace(net, torch.zeros(1, 3, 4, 4)))
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> meter.read().params
    Share(live=44, total=84)
    """

    def __init__(self, traced: TracedModule, threshold: float = 0.01, residual: Residual = "live") -> None:
        check_residual(threshold, residual)
        self.traced, self.threshold, self.residual = traced, threshold, residual
        self._known: _Known | None = None

    @torch.no_grad()
    def read(self) -> MeterReading:
        """The utilization now. What was exchanged, added, removed or frozen in the network since is noticed."""
        if self._known is None or not self._known.structure.holds():
            self._known = _Known(self.traced, self.threshold, self.residual)
        return self._known.read()


class _Known:
    """What is known of a network as it is, its gammas apart."""

    def __init__(self, traced: TracedModule, threshold: float, residual: Residual) -> None:
        self.traced, self.threshold, self.residual = traced, threshold, residual
        self.structure = _Structure(traced)
        self.channels = channels = channels_of(traced)
        names, lengths = self._tensors()
        self.count = sum(lengths)
        self.starts = np.cumsum([0, *lengths])[:-1]
        self.lengths = np.array(lengths, dtype=np.int64)
        position = dict(zip(names, self.starts.tolist(), strict=False))
        may_go = prunable_spaces(channels, residual)[channels.space_of]
        labels, _ = joined([channels.norms[name] for name in position])
        self.conditions = conditions_of(channels, position, self.count, may_go)
        self.marks = _Runs.of(channels.channels_along(labels).numpy(), may_go.numpy())
        self.reads = _Runs.of(self.conditions.channel, may_go.numpy())
        self.space_of = channels.space_of.numpy()
        self.least = self._least()
        self.widths = _Widths(channels)
        self.params, self.flops = _params(traced, channels, self.widths.index), _flops(channels, self.widths.index)
        whole = self.widths(np.ones_like(self.space_of, dtype=bool), np.array([s.width for s in channels.spaces], int))
        self.total = self.params(whole), self.flops(whole)

    def _tensors(self) -> tuple[list[str], list[int]]:
        """Sets `tensors`, those of all norms, the gammas first; and returns the gammas' names and lengths."""
        norms = self.channels.first_norms.values()
        gammas = list(dict.fromkeys(norm.gamma for norm in norms if norm.gamma is not None))
        every = (name for norm in norms for name in (norm.beta, norm.mean, norm.var) if name is not None)
        named = named_tensors(self.traced)
        self.tensors = [named[name] for name in dict.fromkeys((*gammas, *every))]
        return gammas, [named[name].numel() for name in gammas]

    def _least(self) -> Array:
        """int64 [spaces], the live channels that each must have: with fewer, liveness_of brings some back."""
        least = np.ones(len(self.channels.spaces), dtype=np.int64)
        for step in self.channels.steps:
            if step.effect.family is Family.GROUPED and step.effect.reading is not None:
                spaces = self.channels.spaces_along(step.effect.reading.cols)
                least[spaces[spaces >= 0].numpy()] = 2
        return least

    def read(self) -> MeterReading:
        """The costs, from the values of the gammas."""
        values = torch.cat([tensor.reshape(-1) for tensor in self.tensors]).cpu() if self.tensors else torch.zeros(0)
        dead = self._dead(values[: self.count].double().abs().numpy())
        if dead is None or not bool(values.sum().isfinite()):
            return self._asked()
        holds = self.conditions.circuit(dead)
        if holds[self.conditions.unsure].any():
            return self._asked()
        gone = np.zeros(self.space_of.shape, dtype=bool)
        gone[self.marks.where_any(dead)] = True
        gone[self.reads.where_any(~holds[self.conditions.condition])] = False
        live = np.bincount(self.space_of[~gone], minlength=self.least.size)
        if (live < self.least).any():
            return self._asked()
        widths = self.widths(~gone, live)
        return MeterReading(Share(self.params(widths), self.total[0]), Share(self.flops(widths), self.total[1]))

    def _dead(self, size: Array) -> Array | None:
        """bool [gammas], which are dead; None where a layer has none to compare with."""
        if not size.size:
            return np.zeros(0, dtype=bool)
        strongest = np.maximum.reduceat(size, self.starts)
        if self.threshold > 0 and (strongest < ALL_DEAD).any():
            return None
        dead: Array = size < np.repeat(self.threshold * strongest, self.lengths)
        return dead

    def _asked(self) -> MeterReading:
        """The costs, by the liveness of each channel."""
        live = liveness_of(self.traced, self.channels, self.threshold, self.residual).live
        cost = total_cost(self.traced, self.channels, live)
        return MeterReading(Share(cost.params, self.total[0]), Share(cost.flops, self.total[1]))


@dataclass(frozen=True)
class _Runs:
    """Items of channels, in an order in which those of a channel stand together.

    Attributes:
        order: int64 [n], the items, by channel.
        starts: int64 [channels that have some], where the items of each begin.
        channels: int64, these channels.
    """

    order: Array
    starts: Array
    channels: Array

    @classmethod
    def of(cls, channel: Array, chosen: Array) -> Self:
        """The runs of items, of which each belongs to a channel (-1 for none), for the chosen channels, a bool mask."""
        order = np.argsort(channel, kind="stable")
        order = order[channel[order] >= 0]
        order = order[chosen[channel[order]]]
        channels, starts = np.unique(channel[order], return_index=True)
        return cls(order, starts, channels)

    def where_any(self, items: Array) -> Array:
        """The channels of which some item is True, of bool [n]."""
        if not self.starts.size:
            return self.channels
        found: Array = self.channels[np.logical_or.reduceat(items[self.order], self.starts)]
        return found


class _Structure:
    """What a network is made of: its modules, tensors and graphs, and which parameters are frozen or hooked."""

    def __init__(self, traced: TracedModule) -> None:
        self.traced = traced
        modules: list[Any] = list(traced.modules())
        kept = [vars(module)[field] for module in modules for field in ("_modules", "_parameters", "_buffers")]
        hooks = [vars(module)[field] for module in modules for field in ("_forward_hooks", "_forward_pre_hooks")]
        self.sized = [*kept, *hooks, *(graph.nodes for graph in dict.fromkeys(traced.graphs.values()))]
        self.sizes = list(map(len, self.sized))
        places = [(held, name) for held in kept for name in held]
        self.held, self.keys = [held for held, _ in places], [name for _, name in places]
        self.values = list(map(dict.get, self.held, self.keys))
        self.parameters = list(traced.parameters())
        self.frozen = [parameter.requires_grad for parameter in self.parameters]
        self.graphs = traced.graphs

    def holds(self) -> bool:
        """Whether the network is still made of the same."""
        return (
            self.traced.graphs == self.graphs
            and list(map(len, self.sized)) == self.sizes
            and all(map(operator.is_, map(dict.get, self.held, self.keys), self.values))
            and [parameter.requires_grad for parameter in self.parameters] == self.frozen
        )


class _Widths:
    """The live widths of all layouts, as sums over spaces."""

    def __init__(self, channels: Channels) -> None:
        axes = [axis for dims in channels.layouts.values() for axis in dims]
        axes += [axis for step in channels.steps for work in step.effect.work for axis in (work.rows, work.cols)]
        layouts = {id(axis): axis for axis in axes if axis is not None}
        self.index = {key: index for index, key in enumerate(layouts, 1)}
        labels, of = joined(list(layouts.values()))
        ids, layout_of = channels.channels_along(labels).numpy(), of.numpy() + 1
        # width 0 is that of no layout: 1
        self.fixed = np.bincount(layout_of[ids < 0], minlength=len(layouts) + 1)
        self.fixed[0] = 1
        space_of, count, spaces = channels.space_of.numpy(), max(channels.space_of.numel(), 1), len(channels.spaces)
        pairs, times = np.unique(layout_of[ids >= 0] * count + ids[ids >= 0], return_counts=True)
        layout, channel = np.divmod(pairs, count)
        group, place = np.unique(layout * spaces + space_of[channel], return_inverse=True)
        of_layout, space = np.divmod(group, max(spaces, 1))
        width, total = np.bincount(space_of, minlength=spaces), np.bincount(place, times).astype(np.int64)
        # even: all channels of the space are on the layout, each as often
        whole = np.bincount(place) == width[space]
        uneven = ~whole
        uneven[place[times * width[space][place] != total[place]]] = True
        self.layout, self.space = of_layout[~uneven], space[~uneven]
        self.times = total[~uneven] // width[self.space]
        odd = uneven[place]
        self.odd = layout[odd], channel[odd], times[odd]

    def __call__(self, keep: Array, live: Array) -> Array:
        """int64 [1 + layouts]: the live positions of each layout; 1 in the place of no layout.

        Args:
            keep: bool [channels], whether each is live.
            live: int64 [spaces], the number of live channels in each.
        """
        widths = self.fixed.copy()
        np.add.at(widths, self.layout, self.times * live[self.space])
        layout, channel, times = self.odd
        np.add.at(widths, layout, times * keep[channel])
        return widths


@dataclass(frozen=True)
class _Products:
    """A sum of products: `times` [n] int64 multiplied by the widths of `layouts` [n, factors]."""

    times: Array
    layouts: Array

    @classmethod
    def of(cls, terms: Sequence[tuple[int, list[int]]]) -> Self:
        most = max((len(layouts) for _, layouts in terms), default=0)
        padded = [[*layouts, *([0] * (most - len(layouts)))] for _, layouts in terms]
        return cls(np.array([times for times, _ in terms], int), np.array(padded, int).reshape(len(terms), most))

    def __call__(self, widths: Array) -> int:
        return int((self.times * widths[self.layouts].prod(1)).sum())


def _params(traced: TracedModule, channels: Channels, index: dict[int, int]) -> _Products:
    """The numbers in all parameters."""
    terms = []
    for name, parameter in traced.named_parameters():
        dims = channels.layouts.get(name) or (None,) * parameter.dim()
        fixed = prod(size for size, layout in zip(parameter.shape, dims, strict=True) if layout is None)
        terms.append((fixed, [index[id(layout)] for layout in dims if layout is not None]))
    return _Products.of(terms)


def _flops(channels: Channels, index: dict[int, int]) -> _Products:
    """The multiply-adds of one example."""
    work = [work for step in eval_steps(channels) for work in step.effect.work]
    axes = [(each.times, [axis for axis in (each.rows, each.cols) if axis is not None]) for each in work]
    return _Products.of([(times, [index[id(axis)] for axis in layouts]) for times, layouts in axes])
