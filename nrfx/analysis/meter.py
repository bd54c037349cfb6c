"""Utilization again and again, while a network trains: what gammas cannot change is computed once.

A reading takes the parameters and statistics of all norms as one vector, one comparison with the thresholds, and a few
operations on integers: the conditions of conditions.py say which channels are dead, and the cost is a sum of products
of the widths of spaces. Where a condition is unsure (a dead channel in front of a gate or of a padded depthwise
convolution, whose constant decides), liveness_of is asked.

Source: Neural Rejuvenation, Sec. 3.1.2, which measures in every iteration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any, Self

import numpy as np
import torch

from nrfx.analysis.channels import Channels
from nrfx.analysis.conditions import FIRST, Array, conditions_of
from nrfx.analysis.cost import eval_steps
from nrfx.analysis.liveness import ALL_DEAD, check_residual, liveness_of, prunable_spaces
from nrfx.analysis.names import named_tensors
from nrfx.analysis.spaces import channels_of
from nrfx.analysis.structure import Structure
from nrfx.analysis.utilization import Share
from nrfx.choices import Residual
from nrfx.ids import joined
from nrfx.rules import Family
from nrfx.tracing import TracedModule, as_traced

_OF_NUMPY = (torch.float32, torch.float64)


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
        """The utilization now. What was exchanged, added, removed or changed in the network since is noticed."""
        if self._known is None or not self._known.structure.holds():
            self._known = _Known(self.traced, self.threshold, self.residual)
        return self._known.read()

    def forget(self) -> None:
        """Lets go of the tensors of the network; the next reading looks at it anew."""
        self._known = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets: it looks at its own network anew."""
        return {**vars(self), "_known": None}


class _Known:
    """What is known of a network as it is, its gammas apart."""

    def __init__(self, traced: TracedModule, threshold: float, residual: Residual) -> None:
        self.structure = Structure(traced)
        self.traced, self.threshold, self.residual = as_traced(traced), threshold, residual
        self.channels = channels = channels_of(traced)
        norms = channels.first_norms.values()
        gammas = list(dict.fromkeys(norm.gamma for norm in norms if norm.gamma is not None))
        others = (name for norm in norms for name in (norm.beta, norm.mean, norm.var) if name is not None)
        named = named_tensors(traced)
        self.tensors = [named[name] for name in dict.fromkeys((*gammas, *others))]  # the gammas first
        self.flat = all(tensor.dim() == 1 for tensor in self.tensors)
        self.on_one_device = len({tensor.device for tensor in self.tensors}) < 2
        self.lengths = np.array([named[name].numel() for name in gammas], dtype=np.int64)
        self.count = int(self.lengths.sum())
        self.starts = np.cumsum(self.lengths) - self.lengths
        position = dict(zip(gammas, self.starts.tolist(), strict=True))
        labels, _ = joined([channels.norms[name] for name in gammas])
        marked = channels.channels_along(labels)
        self.may_go = prunable_spaces(channels, residual)[channels.space_of].numpy()
        self.may_go &= np.isin(np.arange(self.may_go.size), marked)  # a channel without a gamma stays
        self.conditions = conditions_of(channels, position, self.count, torch.from_numpy(self.may_go))
        self.reads = _Runs.of(self.conditions.channel, self.conditions.condition, self.may_go)
        self.marks = self._marks(marked.numpy())
        self.space_of = channels.space_of.numpy()
        self.width = np.array([space.width for space in channels.spaces], dtype=np.int64)
        self.least = self._least()
        self.widths = _Widths(channels)
        self.params, self.flops = _params(traced, channels, self.widths.index), _flops(channels, self.widths.index)
        whole = self.widths(np.ones_like(self.space_of, dtype=bool), self.width)
        self.total = self.params(whole), self.flops(whole)

    def _marks(self, marked: Array) -> "_Runs":
        """The gammas of each channel, but for those of which one is dead as soon as all reads are constant."""
        gamma = self.reads.conditions - FIRST
        reader = np.repeat(self.reads.channels, np.diff(self.reads.starts, append=gamma.size))
        plain = (gamma >= 0) & (gamma < self.count)
        own = reader[plain][marked[gamma[plain]] == reader[plain]]
        return _Runs.of(marked, FIRST + np.arange(self.count), self.may_go & ~np.isin(np.arange(self.may_go.size), own))

    def _least(self) -> Array:
        """int64 [spaces], the live channels that each must have: with fewer, liveness_of brings some back."""
        least = np.ones(len(self.channels.spaces), dtype=np.int64)
        for step in self.channels.steps:
            if step.effect.family is Family.GROUPED and step.effect.reading is not None:
                spaces = self.channels.spaces_along(step.effect.reading.cols)
                least[spaces[spaces >= 0].numpy()] = 2
        return np.minimum(least, self.width)

    def read(self) -> MeterReading:
        """The costs, from the values of the gammas."""
        values = self._fetched()
        dead = None if values is None else self._dead(values)
        if dead is None:
            return self._asked()
        holds = self.conditions.circuit(dead)
        if holds[self.conditions.unsure].any():
            return self._asked()
        gone = self.may_go.copy()
        gone[self.reads.channels] &= self.reads.joined(holds, np.logical_and)
        gone[self.marks.channels] &= self.marks.joined(holds, np.logical_or)
        live = self.width - np.bincount(self.space_of[gone], minlength=self.width.size)
        return self._asked() if (live < self.least).any() else self._costs(~gone, live)

    def _asked(self) -> MeterReading:
        """The costs, by the liveness of each channel."""
        keep = liveness_of(self.traced, self.channels, self.threshold, self.residual).live.numpy()
        return self._costs(keep, np.bincount(self.space_of[keep], minlength=self.width.size))

    def _costs(self, keep: Array, live: Array) -> MeterReading:
        """The costs of the channels that are kept, of which there are so many in each space."""
        widths = self.widths(keep, live)
        return MeterReading(Share(self.params(widths), self.total[0]), Share(self.flops(widths), self.total[1]))

    def _fetched(self) -> Array | None:
        """All numbers of norms, in one transfer; None where they are not finite, on meta or on several devices."""
        if not self.tensors:
            return np.zeros(0)
        if self.tensors[0].is_meta or not self.on_one_device:
            return None
        # a view of each would take longer than all the rest of a reading
        values = torch.cat(self.tensors if self.flat else [tensor.reshape(-1) for tensor in self.tensors]).cpu()
        values = values if values.dtype in _OF_NUMPY else values.float()
        fetched: Array = values.numpy()
        return fetched if isfinite(values.sum().item()) else None

    def _dead(self, values: Array) -> Array | None:
        """bool [gammas], which are dead; None where a layer has none to compare with."""
        if not self.count:
            return np.zeros(0, dtype=bool)
        size = np.abs(values[: self.count], dtype=np.float64)
        strongest = np.maximum.reduceat(size, self.starts)
        if self.threshold > 0 and strongest.min() < ALL_DEAD:
            return None
        dead: Array = size < np.repeat(self.threshold * strongest, self.lengths)
        return dead


@dataclass(frozen=True)
class _Runs:
    """Conditions of channels, in an order in which those of a channel stand together.

    Attributes:
        conditions: int64 [n], by channel.
        starts: int64 [channels that have some], where the conditions of each begin.
        channels: int64, these channels.
    """

    conditions: Array
    starts: Array
    channels: Array

    @classmethod
    def of(cls, channel: Array, condition: Array, chosen: Array) -> Self:
        """The runs of conditions, of which each belongs to a channel (-1 for none), for the chosen channels, a mask."""
        order = np.argsort(channel, kind="stable")
        order = order[channel[order] >= 0]
        order = order[chosen[channel[order]]]
        channels, starts = np.unique(channel[order], return_index=True)
        return cls(condition[order], starts, channels)

    def joined(self, holds: Array, how: np.ufunc) -> Array:
        """bool, for each of the channels: its conditions joined by `how`."""
        each = holds[self.conditions]
        runs: Array = how.reduceat(each, self.starts) if self.starts.size else each
        return runs


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
