"""Ties, pins and spaces from the effects of a walk."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.analysis.channels import Channels, Space, Step, first_readings, read_directly
from nrfx.analysis.interpret import LabelInterpreter
from nrfx.analysis.residual import on_streams
from nrfx.labels import OPAQUE, collapse, components, joined, tally
from nrfx.rules import Pin
from nrfx.tracing import TracedModule


def channels_of(
    traced: TracedModule, fixed: Mapping[str, str] | None = None, axes: Mapping[str, int | None] | None = None
) -> Channels:
    """Interprets every graph of `traced` on label tensors. Mutates nothing, reads no parameter's value.

    Args:
        fixed: births that shall keep their width, with the reason.
        axes: the axis of the channels of bare parameters, where it is known; a width of 1 does not show it.
    """
    walk = LabelInterpreter(traced, axes=axes)
    steps = walk.interpreted()
    return _Solved(traced, walk, steps).channels(fixed or {})


class _Solved:
    """Ties, pins and spaces from the effects of a walk."""

    def __init__(self, traced: TracedModule, walk: LabelInterpreter, steps: tuple[Step, ...]) -> None:
        self.traced, self.walk, self.steps = traced, walk, steps
        self.birth_at = {int(labels[0]): labels for labels in walk.born.values() if labels.numel()}
        self.layouts, twice = _layouts({name: tensor.dim() for name, tensor in walk.tensors.items()}, steps)
        self.ties = [(step, left, right) for step in steps for left, right in step.effect.ties]
        self.ties += [(step, left, right) for step, left, right in twice]
        self.pins: list[tuple[Tensor, str, str]] = [
            (pin.labels, pin.node, pin.reason) for step in steps for pin in step.effect.pins
        ]
        self.pins += [
            (layout, node, f"{name} is also read by node {node}")
            for name, node in read_directly(steps, walk.aliases)
            for layout in self.layouts.get(name, ())
            if layout is not None
        ]

    def channels(self, fixed: Mapping[str, str]) -> Channels:
        channel_of, count = self._tie()
        space_of, spaces = _group(self.walk.born, channel_of, count)
        self.pins += self._opaque_pins() + [(self.walk.born[key], key, why) for key, why in fixed.items()]
        self.pins += self._uneven(channel_of, space_of, len(spaces))
        pinned = _pin_spaces(self.pins, channel_of, space_of)
        norms = {
            step.effect.norm.gamma: step.effect.norm.layout
            for step in self.steps
            if step.effect.norm is not None and step.effect.norm.gamma is not None
        }
        streams = self._streams(channel_of, space_of)
        normed = _touched(norms.values(), channel_of, space_of)
        frozen = _touched(self._frozen_layouts(), channel_of, space_of)
        made = tuple(
            Space(
                index=index,
                name=next(iter(births)),
                births=births,
                width=width,
                pinned=pinned.get(index, (None, None))[0],
                pinned_by=pinned.get(index, (None, None))[1],
                joined_by=streams.get(index),
                normed=index in normed,
                frozen=index in frozen,
            )
            for index, (births, width) in enumerate(spaces)
        )
        return Channels(
            *(self.steps, dict(self.walk.born), self.layouts, channel_of, space_of, made, norms),
            reasons=tuple(self.walk.reasons),
            aliases=self.walk.aliases,
            axes=self.walk.axes,
            ties=tuple(self.ties),
            pins=tuple(Pin(*pin) for pin in self.pins),
        )

    def _tie(self) -> tuple[Tensor, int]:
        pairs = [torch.broadcast_tensors(left, right) for _, left, right in self.ties]
        left = torch.cat([torch.zeros(0, dtype=torch.int64), *(a.reshape(-1) for a, _ in pairs)])
        right = torch.cat([torch.zeros(0, dtype=torch.int64), *(b.reshape(-1) for _, b in pairs)])
        both = (left >= 0) & (right >= 0) & (left != right)
        root = components(self.walk.count, left[both], right[both])
        smallest = root == torch.arange(self.walk.count)
        return (smallest.cumsum(0) - 1)[root], int(smallest.sum())

    def _opaque_pins(self) -> list[tuple[Tensor, str, str]]:
        """A channel tied to an opaque value is pinned by it."""
        pins = []
        for step, left, right in self.ties:
            for labels, other in ((left, right), (right, left)):
                met = (labels >= 0) & (other <= OPAQUE)
                if bool(met.any()):
                    code = int(other.expand(met.shape)[met][0])
                    pins.append(
                        (labels.expand(met.shape)[met], step.node.name, f"meets {self.walk.reasons[OPAQUE - code]}")
                    )
        return pins

    def _uneven(self, channel_of: Tensor, space_of: Tensor, spaces: int) -> list[tuple[Tensor, str, str]]:
        """Spaces of which some axis reads one channel more often than another cannot change width."""
        width, count = torch.bincount(space_of, minlength=spaces), max(channel_of.numel(), 1)
        whole = {id(layout): (name, layout) for name, layout in self._read_whole()}
        mixed = [(name, layout) for name, layout in whole.values() if not self._is_one_birth(layout)]
        labels, layout_of = joined([layout for _, layout in mixed])
        known = labels >= 0
        pairs = layout_of[known] * count + channel_of[labels[known]]  # (layout, channel) as one number
        pairs, reads = tally(pairs)
        here = space_of[pairs % count]
        _, at = torch.unique(pairs // count * spaces + here, return_inverse=True)
        total = torch.zeros_like(at).index_add_(0, at, reads)[at]
        uneven = (reads * width[here] != total) | (torch.bincount(at)[at] != width[here])
        pins = []
        for index in (pairs[uneven] // max(channel_of.numel(), 1)).unique().tolist():
            name = mixed[index][0]
            bad = here[uneven & (pairs // count == index)]
            members = torch.isin(space_of[channel_of], bad).nonzero().flatten()
            pins.append((members, name, f"{name} reads only some of its channels"))
        return pins

    def _is_one_birth(self, layout: Tensor) -> bool:
        """Whether the layout is just what some place brings into being, which by the definition of a space reads the
        channels of each alike."""
        born = self.birth_at.get(int(layout[0])) if layout.numel() else None
        return born is not None and (born is layout or torch.equal(born, layout))

    def _read_whole(self) -> Iterator[tuple[str, Tensor]]:
        """(name, layout) of every axis that should read a space's channels alike: not the blocks of cross layers."""
        readings = first_readings(self.steps)
        crossed = {reading.path for reading in readings.values() if reading.generation is not None}
        for key, reading in readings.items():
            yield from ((key, reading.rows), (key, reading.cols))
        for name, dims in self.layouts.items():
            if name.rpartition(".")[0].removesuffix(".weights") not in crossed:
                yield from ((name, layout) for layout in dims if layout is not None)

    def _streams(self, channel_of: Tensor, space_of: Tensor) -> dict[int, str]:
        """Space -> the first addition that makes it part of a stream."""
        values = list(on_streams(self.traced, self.steps))
        first = _first_touched([labels for _, labels in values], channel_of, space_of)
        return {space: values[index][0] for space, index in first.items()}

    def _frozen_layouts(self) -> list[Tensor]:
        return [
            layout
            for name, tensor in self.walk.tensors.items()
            if isinstance(tensor, nn.Parameter) and not tensor.requires_grad
            for layout in self.layouts.get(name, ())
            if layout is not None
        ]


def _layouts(
    dims_of: Mapping[str, int], steps: tuple[Step, ...]
) -> tuple[dict[str, tuple[Tensor | None, ...]], list[tuple[Step, Tensor, Tensor]]]:
    """The layout on each dim of each visited tensor; a second visit ties to the first."""
    layouts: dict[str, list[Tensor | None]] = {}
    ties = []
    for step in steps:
        for site in step.effect.sites:
            dims = layouts.setdefault(site.parameter, [None] * dims_of[site.parameter])
            first = dims[site.dim]
            if first is None:
                dims[site.dim] = site.layout
            elif first is not site.layout and not torch.equal(first, site.layout):
                ties.append((step, first, site.layout))
    return {name: tuple(dims) for name, dims in layouts.items()}, ties


def _group(
    born: Mapping[str, Tensor], channel_of: Tensor, count: int
) -> tuple[Tensor, list[tuple[dict[str, int], int]]]:
    """The space of each channel, and (births with labels a channel, width) of each space.

    Two channels share a space when they have equally many labels at each birth.
    """
    keys = list(born)
    generator = torch.Generator().manual_seed(0)
    marks = torch.randint(1 << 62, (max(len(keys), 1),), generator=generator)
    labels, birth_of = joined(list(born.values()))
    signature = torch.zeros(count, dtype=torch.int64).index_add_(0, channel_of[labels], marks[birth_of])
    _, inverse = torch.unique(signature, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1 if count else 0,), count).scatter_reduce(
        0, inverse, torch.arange(count), "amin"
    )
    order = torch.argsort(first)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.numel())
    space_of = rank[inverse]
    widths = torch.bincount(space_of).tolist()
    members: list[dict[str, int]] = [{} for _ in widths]
    pairs, times = tally(birth_of * len(widths) + space_of[channel_of[labels]])  # (birth, space) as one number
    for pair, size in zip(pairs.tolist(), times.tolist(), strict=True):
        birth, space = divmod(pair, len(widths))
        members[space][keys[birth]] = size // widths[space]
    return space_of, list(zip(members, widths, strict=True))


def _pin_spaces(
    pins: list[tuple[Tensor, str, str]], channel_of: Tensor, space_of: Tensor
) -> dict[int, tuple[str, str]]:
    """Space -> (reason, node) of the first pin that touches it."""
    first = _first_touched([labels for labels, _, _ in pins], channel_of, space_of)
    return {space: (pins[index][2], pins[index][1]) for space, index in first.items()}


def _first_touched(values: Sequence[Tensor], channel_of: Tensor, space_of: Tensor) -> dict[int, int]:
    """Space -> the index of the first of the label tensors that holds one of its channels."""
    labels, index_of = joined([collapse(each).reshape(-1) for each in values])
    known = labels >= 0
    spaces = space_of[channel_of[labels[known]]]
    first = torch.full((int(spaces.max()) + 1 if spaces.numel() else 0,), len(values))
    first.scatter_reduce_(0, spaces, index_of[known], "amin")
    return {space: index for space, index in enumerate(first.tolist()) if index < len(values)}


def _touched(layouts: Any, channel_of: Tensor, space_of: Tensor) -> set[int]:
    ids = torch.cat([torch.zeros(0, dtype=torch.int64), *layouts])
    return set(space_of[channel_of[ids[ids >= 0]]].tolist())
