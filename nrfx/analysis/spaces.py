"""From the effects of all nodes to channels, spaces and pins.

channel   labels that are tied, directly or through others
space     channels that have equally many labels at each birth, and that each weight reads equally often: nothing but
          their position tells them apart
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.analysis.births import Births
from nrfx.analysis.channels import Channels, Space, Step, first_readings, read_directly
from nrfx.analysis.interpret import LabelInterpreter
from nrfx.analysis.residual import on_streams
from nrfx.analysis.taught import taught
from nrfx.ids import components, joined, tally
from nrfx.labels import NONE, OPAQUE, ascends, channels_part, collapse, memory_of, repeated
from nrfx.rules import Pin
from nrfx.tracing import TracedModule


def channels_of(
    traced: TracedModule, fixed: Mapping[str, str] | None = None, axes: Mapping[str, int | None] | None = None
) -> Channels:
    """Interprets every graph of `traced` on label tensors. Mutates nothing, reads no parameter's value.

    Args:
        fixed: births that must keep their width, with the reason.
        axes: the axis that holds the channels of each bare parameter, where it is known: a width of 1 does not show it.
    """
    return labels_of(traced, axes).channels(traced, fixed or {})


def labels_of(traced: TracedModule, axes: Mapping[str, int | None] | None = None) -> "Labels":
    """The labels of a network, without what follows from them: half of `channels_of`, and all that a check needs."""
    interpreter = LabelInterpreter(traced, axes or {})
    return Labels(interpreter, interpreter.interpreted())


class Labels:
    """What the interpretation of all graphs gave: the steps, the births and the layouts (see Channels)."""

    def __init__(self, interpreter: LabelInterpreter, steps: tuple[Step, ...]) -> None:
        self._interpreter, self.steps = interpreter, steps
        self.births: Mapping[str, Tensor] = dict(interpreter.born)
        self.count = interpreter.count
        dims = {name: tensor.dim() for name, tensor in interpreter.tensors.items()}
        self.layouts, self._twice = _layouts(dims, steps)

    def first_name(self, name: str) -> str:
        """The first name of a parameter or buffer."""
        return self._interpreter.aliases.get(name, name)

    def channels(self, traced: TracedModule, fixed: Mapping[str, str]) -> Channels:
        """The channels and spaces of the network that these are the labels of."""
        return _Solver(traced, self._interpreter, self.steps, self.layouts, self._twice).channels(fixed)


class _Solver:
    """The ties and pins of all steps, and what follows from them."""

    def __init__(
        self,
        traced: TracedModule,
        interpreter: LabelInterpreter,
        steps: tuple[Step, ...],
        layouts: dict[str, tuple[Tensor | None, ...]],
        twice: list[tuple[Step, Tensor, Tensor]],
    ) -> None:
        """twice: ties of every other visit of a tensor to its first."""
        self.traced, self.interpreter, self.steps, self.layouts = traced, interpreter, steps, layouts
        self.births = Births(interpreter.born.values())
        self.ties = [(step, left, right) for step in steps for left, right in step.effect.ties]
        self.ties += [(step, left, right) for step, left, right in twice]
        self.apart = [tie for tie in self.ties if not self.births.tied(*tie[1:])]
        self.pins: list[tuple[Tensor, str, str]] = [
            (pin.labels, pin.node, pin.reason) for step in steps for pin in step.effect.pins
        ]
        self.pins += _zero_pins(twice)
        self.pins += [
            (layout, node, f"{name} is also read by node {node}")
            for name, node in read_directly(steps, interpreter.aliases)
            for layout in self.layouts.get(name, ())
            if layout is not None
        ]

    def channels(self, fixed: Mapping[str, str]) -> Channels:
        """The channels, spaces and pins."""
        channel_of, count, whole = self._tie()
        mixed = self._mixed()
        by_birth = whole.spaces(list(self.interpreter.born)) if whole is not None and not mixed else None
        space_of, spaces = by_birth or _group(self.interpreter.born, channel_of, count, mixed)
        # the reason of a space is its first pin: what rules say comes first, what follows from it later
        self.pins += self._opaque_pins() + [(self.interpreter.born[key], key, why) for key, why in fixed.items()]
        self.pins += self._alone(channel_of, space_of, mixed, whole)
        part = channels_part if by_birth is None else self._told_by  # of the labels, that tells the spaces of all
        pinned = _pin_spaces(self.pins, part, channel_of, space_of)
        norms = {
            step.effect.norm.gamma: step.effect.norm.layout
            for step in self.steps
            if step.effect.norm is not None and step.effect.norm.gamma is not None
        }
        streams = self._streams(part, channel_of, space_of)
        normed = _touched(map(part, norms.values()), channel_of, space_of)
        frozen = _touched(map(part, self._frozen_layouts()), channel_of, space_of)
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
            *(self.steps, dict(self.interpreter.born), self.layouts, channel_of, space_of, made, norms),
            reasons=tuple(self.interpreter.reasons),
            aliases=self.interpreter.aliases,
            axes=self.interpreter.axes,
            ties=tuple(self.ties),
            pins=tuple(Pin(*pin) for pin in self.pins),
        )

    def _tie(self) -> "tuple[Tensor, int, Births | None]":
        """[labels] int64, the channel of each label; the number of channels; and the births, where all ties are between
        whole births."""
        births = self.births
        pairs = [
            (left, right) if left.shape == right.shape else torch.broadcast_tensors(left, right)
            for _, left, right in self.apart
        ]
        left = torch.cat([torch.zeros(0, dtype=torch.int64), *(a.reshape(-1) for a, _ in pairs)])
        right = torch.cat([torch.zeros(0, dtype=torch.int64), *(b.reshape(-1) for _, b in pairs)])
        both = (left >= 0) & (right >= 0) & (left != right)
        if not bool(both.any()):
            return *births.channels(), births
        root = births.roots(self.interpreter.count)
        root = components(self.interpreter.count, root[left[both]], root[right[both]])[root]
        # a channel is numbered by the rank of its smallest label, so that channels come in the order of their births
        smallest = root == torch.arange(self.interpreter.count)
        return (smallest.cumsum(0) - 1)[root], int(smallest.sum()), None

    def _opaque_pins(self) -> list[tuple[Tensor, str, str]]:
        """A pin for the channels that a step ties to an opaque value."""
        pins = []
        for step, left, right in self.apart:  # births hold channels alone
            if ascends(left) and ascends(right):
                continue
            for labels, other in ((left, right), (right, left)):
                met = (labels >= 0) & (other <= OPAQUE)
                if bool(met.any()):
                    index = OPAQUE - int(other.expand(met.shape)[met][0])
                    pins.append(
                        (labels.expand(met.shape)[met], step.node.name, f"meets {self.interpreter.reasons[index]}")
                    )
        return pins

    def _mixed(self) -> list[tuple[str, Tensor]]:
        """(name, layout) of every axis that must read the channels of a space alike, and is not that of a birth."""
        whole = {id(layout): (name, layout) for name, layout in self._read_whole()}  # most layouts are there often
        apart = [(name, layout) for name, layout in whole.values() if not self._is_one_birth(layout)]
        read = [(name, layout) for name, layout in apart if bool((layout >= 0).any())]
        # where each holds the labels of a birth equally often, none tells channels of a birth apart
        return [] if all(self.births.repeated(layout) for _, layout in read) else read

    def _alone(
        self, channel_of: Tensor, space_of: Tensor, mixed: list[tuple[str, Tensor]], whole: Births | None
    ) -> list[tuple[Tensor, str, str]]:
        """Pins for the single channels that some axis reads apart from others of their births: they could only stay,
        and there may be as many of them as channels.
        """
        alone = torch.bincount(space_of)[space_of] == 1
        if not mixed or not bool(alone.any()):
            return []
        born = self.interpreter.born
        of_births, births = (
            whole.spaces(list(born)) if whole is not None else _group(born, channel_of, space_of.numel(), ())
        )
        company = torch.tensor([width for _, width in births], dtype=torch.int64)[of_births]
        lonely = alone & (company > 1)
        if not bool(lonely.any()):
            return []
        pins = []
        for name, layout in mixed:
            channels = channel_of[layout[layout >= 0]].unique()
            if bool(lonely[channels].any()):
                members = torch.isin(channel_of, channels[lonely[channels]]).nonzero().flatten()
                pins.append((members, name, f"{name} reads it apart from the other channels of its layer"))
        return pins

    def _is_one_birth(self, layout: Tensor) -> bool:
        """Whether the layout is that of a birth: by the definition of a space it holds its channels equally often."""
        return self.births.whole(layout) is not None

    def _read_whole(self) -> Iterator[tuple[str, Tensor]]:
        """(name, layout) of every axis that must read the channels of a space alike.

        The blocks of a cross layer hold some generations each, and need not.
        """
        readings = first_readings(self.steps)
        crossed = {reading.path for reading in readings.values() if reading.generation is not None}
        for key, reading in readings.items():
            yield from ((key, reading.rows), (key, reading.cols))
        for name, dims in self.layouts.items():
            if name.rpartition(".")[0].removesuffix(".weights") not in crossed:
                yield from ((name, layout) for layout in dims if layout is not None)

    def _told_by(self, labels: Tensor) -> Tensor:
        """The label of a whole birth that tells its space, where births are each in one; else the labels."""
        layout = channels_part(labels)
        return layout if self.births.whole(layout) is None else layout.reshape(-1)[:1]

    def _streams(self, part: Callable[[Tensor], Tensor], channel_of: Tensor, space_of: Tensor) -> dict[int, str]:
        """Space -> the first addition that makes it part of a stream."""
        values = list(on_streams(self.traced, self.steps))
        first = _first_touched([part(labels) for _, labels in values], channel_of, space_of)
        return {space: values[index][0] for space, index in first.items()}

    def _frozen_layouts(self) -> list[Tensor]:
        learnt = taught(self.traced)
        return [
            layout
            for name, tensor in self.interpreter.tensors.items()
            if name not in learnt and isinstance(tensor, nn.Parameter)
            for layout in self.layouts.get(name, ())
            if layout is not None
        ]


def _zero_pins(visits: list[tuple[Step, Tensor, Tensor]]) -> list[tuple[Tensor, str, str]]:
    """Pins for the channels in whose place another visit of the same weights reads padded zeros: the number of zeros is
    a number of the model's code."""
    pins = []
    for step, left, right in visits:
        for labels, other in ((left, right), (right, left)):
            met = labels[(labels >= 0) & (other == NONE)]
            if met.numel():
                pins.append(
                    (met, step.node.name, f"in the place of its channels {step.path} reads zeros at another call")
                )
    return pins


def _layouts(
    dims_of: Mapping[str, int], steps: tuple[Step, ...]
) -> tuple[dict[str, tuple[Tensor | None, ...]], list[tuple[Step, Tensor, Tensor]]]:
    """The layout on each dim of each tensor, by its first visit; and ties of every other visit to the first."""
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
    born: Mapping[str, Tensor], channel_of: Tensor, count: int, mixed: Sequence[tuple[str, Tensor]]
) -> tuple[Tensor, list[tuple[dict[str, int], int]]]:
    """The space of each channel, and (births with labels a channel, width) of each space.

    Two channels share a space when they have equally many labels at each birth, and on each of the `mixed` axes.
    """
    keys = list(born)
    # Each birth and each axis gets a random mark of 62 bits, and each channel the sum of the marks of its labels,
    # modulo 2**64. Equal counts give equal sums. Counts that differ by d at some birth give equal sums with probability
    # max(4, d) / 2**64 at most: whatever the other marks are, only so many values of this one make the sums equal. Over
    # all pairs of 1,000 spaces that is 1e-13. The seed is fixed, so that a network has the same spaces in each process.
    generator = torch.Generator().manual_seed(0)
    marks = torch.randint(1 << 62, (max(len(keys) + len(mixed), 1),), generator=generator)
    labels, birth_of = joined(list(born.values()))
    read, axis_of = joined([layout for _, layout in mixed])
    known = read >= 0
    signature = torch.zeros(count, dtype=torch.int64).index_add_(0, channel_of[labels], marks[birth_of])
    signature.index_add_(0, channel_of[read[known]], marks[len(keys) + axis_of[known]])
    runs, run_of = torch.unique_consecutive(signature, return_inverse=True)  # equal ones are neighbours, nearly always
    _, inverse = torch.unique(runs, return_inverse=True)
    inverse = inverse[run_of]
    # torch.unique sorted the spaces by their random sums: they are numbered anew, by their first channel
    first = torch.full((int(inverse.max()) + 1 if count else 0,), count).scatter_reduce(
        0, inverse, torch.arange(count), "amin"
    )
    order = torch.argsort(first)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.numel())
    space_of = rank[inverse]
    widths = torch.bincount(space_of).tolist()
    members: list[dict[str, int]] = [{} for _ in widths]
    pairs, times = tally(birth_of * len(widths) + space_of[channel_of[labels]])  # (birth, space)
    for pair, size in zip(pairs.tolist(), times.tolist(), strict=True):
        birth, space = divmod(pair, len(widths))
        members[space][keys[birth]] = size // widths[space]
    return space_of, list(zip(members, widths, strict=True))


def _pin_spaces(
    pins: list[tuple[Tensor, str, str]], part: Callable[[Tensor], Tensor], channel_of: Tensor, space_of: Tensor
) -> dict[int, tuple[str, str]]:
    """Space -> (reason, node) of the first pin that touches it."""
    first = _first_touched([part(labels) for labels, _, _ in pins], channel_of, space_of)
    return {space: (pins[index][2], pins[index][1]) for space, index in first.items()}


def _first_touched(parts: Sequence[Tensor], channel_of: Tensor, space_of: Tensor) -> dict[int, int]:
    """Space -> the index of the first of the label tensors that holds one of its channels."""
    first_of: dict[Any, int] = {}  # values on a stream, and pins, repeat the same layouts
    for index, part in enumerate(parts):
        first_of.setdefault(memory_of(part), index)
    small = [_few(parts[index], channel_of.numel()) for index in first_of.values()]
    labels, position = joined([part.reshape(-1) for part in small])
    index_of = torch.tensor([*first_of.values()], dtype=torch.int64)[position]
    known = labels >= 0
    spaces = space_of[channel_of[labels[known]]]
    first = torch.full((int(spaces.max()) + 1 if spaces.numel() else 0,), len(parts))
    first.scatter_reduce_(0, spaces, index_of[known], "amin")
    return {space: index for space, index in enumerate(first.tolist()) if index < len(parts)}


def _few(labels: Tensor, count: int) -> Tensor:
    """The labels, without those that repeat along a dim where there are more of them than of a network's."""
    return collapse(repeated(labels)) if labels.numel() > count else labels


def _touched(layouts: Any, channel_of: Tensor, space_of: Tensor) -> set[int]:
    """The spaces that have a channel on one of the layouts."""
    ids = torch.cat([torch.zeros(0, dtype=torch.int64), *layouts])
    spaces = space_of[channel_of[ids[ids >= 0]]]
    return set(torch.unique_consecutive(spaces).tolist())  # those of a layout are neighbours, and mostly one
