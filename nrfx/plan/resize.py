"""From widths to layouts: what every axis of every parameter will look like.

Each birth keeps its surviving labels in order and gets new ones at its end; the graph is interpreted once more on these
labels. A Mismatch is where they no longer meet as the old ones did (a view with a constant width, blocks that must stay
equal): the caller then constrains the spaces concerned (constraints.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Mismatch, Step, first_readings
from nrfx.analysis.interpret import Relabeler
from nrfx.labels import NONE, collapse, memory_of, occurrence
from nrfx.plan.places import Places
from nrfx.rules import Before, Family, Reading, tensors
from nrfx.tracing import TracedModule


@dataclass(frozen=True)
class Resized:
    """The layouts of the new network, in labels: survivors keep theirs, new channels have labels behind all old ones.

    Attributes:
        births: place -> its labels in the new network.
        layouts: parameter or buffer -> its new layout on each dim.
        readings: key of a weight -> its new rows and columns.
        channel_of: int64 [old and new labels], the channel of each label.
        literals: (mode, node) -> the arguments that state a width, with their new values.
        axes: the axis that holds the channels of each bare parameter.
        norms: path of a norm module -> its new width, for norms without parameters do not show it.
    """

    births: Mapping[str, Tensor]
    layouts: Mapping[str, tuple[Tensor | None, ...]]
    readings: Mapping[str, Reading]
    channel_of: Tensor
    literals: Mapping[tuple[str, str], Mapping[int | str, Any]]
    axes: Mapping[str, int | None]
    norms: Mapping[str, int]


def resize(traced: TracedModule, channels: Channels, kept: Tensor, width: Tensor) -> Resized:
    """The layouts of a network in which the channels `kept` (bool [channels]) stay and space s has width[s] channels.

    Raises:
        Mismatch: an op does not take these widths.
    """
    births, channel_of = _births(channels, kept, width)
    expected = _Expected(channels, kept, width)
    tensors = dict([*traced.named_parameters(), *traced.named_buffers()])

    def shape_of(name: str) -> tuple[int, ...]:
        return expected.shape(name, tensors[name].shape)

    steps = Relabeler(traced, channels, births, channel_of, shape_of).interpreted()
    resized = Resized(
        births,
        _layouts(channels, steps),
        first_readings(steps),
        channel_of,
        {(step.mode, step.node.name): step.effect.literals for step in steps if step.effect.literals},
        channels.axes,
        {
            step.effect.norm.path: step.effect.norm.layout.numel()
            for step in steps
            if step.effect.norm is not None and step.node.op == "call_module"
        },
    )
    # One check for each way in which an op can take new widths without an error and compute something else.
    _check_visits(steps, channel_of)
    labels = _Labels(channels.channel_of.numel())
    changed = _changed_values(channels.steps, steps)
    places = Places(channels, steps, channel_of)
    for old, new in zip(channels.steps, steps, strict=True):
        labels.check(old, new)
        _check_pins(old, new)
        _check_emptied(old, new)
        _check_broadcast(old, new)
        _check_ties(new, channel_of)
        expected.check_padding(old, new, channel_of)
        _check_numbers(old, new, changed)
        _check_parts(old, new, channel_of, channels.space_of.numel())
        _check_positions(old, new, channel_of)
        places.check(old, new, changed)
        expected.check(old, new, channel_of)
    return resized


def _births(channels: Channels, kept: Tensor, width: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The labels of each birth, and the channel of each label, new ones appended."""
    kept_width = torch.bincount(channels.space_of[kept], minlength=len(channels.spaces))
    # new channels are numbered behind all old ones, space by space; new labels behind all old ones, birth by birth
    more = width - kept_width
    first_new = channels.space_of.numel() + torch.cumsum(more, 0) - more
    labels = channels.channel_of.numel()
    channel_of = [channels.channel_of]
    births = {}
    for key, old in channels.births.items():
        fresh = {}
        for space in torch.unique(channels.space_of[channels.channel_of[old]]).tolist():
            each = channels.spaces[space].births[key]
            new_channels = torch.arange(int(more[space])) + first_new[space]
            fresh[space] = torch.arange(labels, labels + int(more[space]) * each).view(-1, each)
            channel_of.append(new_channels.repeat_interleave(each))
            labels += int(more[space]) * each
        births[key] = _grown(channels, old, kept, fresh)
    return births, torch.cat(channel_of)


def _grown(channels: Channels, old: Tensor, kept: Tensor, fresh: Mapping[int, Tensor]) -> Tensor:
    """The labels of a birth that stay, in order, and the new labels of each space behind its last old one.

    fresh: space -> [new channels, labels a channel]. Where the labels of a channel lie in several blocks (queries, keys
    and values of one linear layer), each block gets its share of the new labels.
    """
    channel = channels.channel_of[old]
    space = channels.space_of[channel]
    ends = []  # (last old place, new labels) of each space in each block
    for index, new in fresh.items():
        places = (space == index).nonzero().flatten()
        block, run = blocks_of(channel[places])
        for number in range(int(block[-1]) + 1):
            ends.append((int(places[block == number][-1]), new[:, number * run : (number + 1) * run].reshape(-1)))
    parts, start = [], 0
    for end, new in sorted(ends, key=lambda each: each[0]):
        here = old[start : end + 1]
        parts += [here[kept[channel[start : end + 1]]], new]
        start = end + 1
    return torch.cat(parts)


def blocks_of(channel: Tensor) -> tuple[Tensor, int]:
    """([len] int64: the block of each place, labels of a channel in a block), for the channels of one birth.

    In every block each channel has equally many places, side by side. A birth without such blocks is one block.

    >>> blocks_of(torch.tensor([0, 0, 1, 1, 0, 0, 1, 1]))
    (tensor([0, 0, 0, 0, 1, 1, 1, 1]), 2)
    """
    rank = occurrence(channel)
    each, run = int(rank.max()) + 1, _run(channel)
    block = rank // run
    if each % run or bool((block[1:] < block[:-1]).any()):
        return torch.zeros_like(block), each
    return block, run


def grows_at_its_end(channels: Channels, key: str) -> bool:
    """Whether the new channels of a birth all stand behind its old ones: it has one space and one block."""
    channel = channels.channel_of[channels.births[key]]
    return channels.space_of[channel].unique().numel() == 1 and int(blocks_of(channel)[0][-1]) == 0


def _run(channel: Tensor) -> int:
    """How many labels from the first one on belong to the first channel."""
    differs = (channel != channel[0]).nonzero()
    return int(differs[0]) if differs.numel() else channel.numel()


def _layouts(channels: Channels, steps: tuple[Step, ...]) -> dict[str, tuple[Tensor | None, ...]]:
    """Parameter or buffer -> its layout on each dim, at its first visit."""
    new: dict[str, list[Tensor | None]] = {}
    for step in steps:
        for site in step.effect.sites:
            dims = new.setdefault(site.parameter, [None] * len(channels.layouts[site.parameter]))
            if dims[site.dim] is None:
                dims[site.dim] = site.layout
    return {name: tuple(dims) for name, dims in new.items()}


def _check_ties(step: Step, channel_of: Tensor) -> None:
    """Raises Mismatch where labels that are tied are of different channels."""
    for left, right in step.effect.ties:
        first, second = torch.broadcast_tensors(left, right)
        both = (first >= 0) & (second >= 0)
        if bool((channel_of[first[both]] != channel_of[second[both]]).any()):
            raise Mismatch(step.node.name, "its operands no longer meet channel by channel", (left, right))


def _check_pins(old: Step, new: Step) -> None:
    """Raises Mismatch where an op pins channels that it did not pin at the old widths.

    That is where it had a single channel: one does not show along which axis it lies.
    """
    if len(new.effect.pins) > len(old.effect.pins):
        labels = tuple(pin.labels for pin in new.effect.pins)
        raise Mismatch(new.node.name, f"with more than one channel, {new.effect.pins[0].reason}", labels)


def _check_emptied(old: Step, new: Step) -> None:
    """Raises Mismatch where nothing is left of a part that held something, such as a slice of all but nine channels."""
    for was, now in zip(tensors(old.effect.out), tensors(new.effect.out), strict=False):
        if was.numel() and not now.numel():
            raise Mismatch(new.node.name, "nothing would be left of what it gives", (was,))


def _check_broadcast(old: Step, new: Step) -> None:
    """Raises Mismatch where another number of operands are tied than at the old widths.

    An operand that is left with one channel would be broadcast over channels that it met one by one before; a movement
    would put parts side by side that it tied before.
    """
    if old.effect.family in (Family.POINTWISE, Family.MOVEMENT) and len(old.effect.ties) != len(new.effect.ties):
        labels = tuple(pin.labels for pin in new.effect.pins)
        pointwise = old.effect.family is Family.POINTWISE
        reason = (
            "an operand is now broadcast over the channels that it met" if pointwise else "its parts changed places"
        )
        raise Mismatch(new.node.name, reason, labels)


def _changed_values(old: Sequence[Step], new: Sequence[Step]) -> dict[tuple[str, str], str]:
    """(mode, node) -> the old and the new value, for each node whose Python value is another one at the new widths."""
    return {
        (after.mode, after.node.name): f"{before.effect.out} became {after.effect.out}"
        for before, after in zip(old, new, strict=True)
        if after.effect.family is Family.VALUE and before.effect.out != after.effect.out
    }


_TAKE_NUMBERS = (Family.SOURCE, Family.UNKNOWN, Family.POOL, Family.MIXED, Family.CONTRACTION)
"""What the rules of the others make of a number shows in labels, or in `numbers`."""


def _check_numbers(old: Step, new: Step, changed: Mapping[tuple[str, str], str]) -> None:
    """Raises Mismatch where an op computes with a number of channels that has changed."""
    changes = [changed[new.mode, node.name] for node in new.node.all_input_nodes if (new.mode, node.name) in changed]
    if old.effect.numbers != new.effect.numbers:
        changes = [f"{old.effect.numbers} became {new.effect.numbers}"]
    if changes and (old.effect.numbers != new.effect.numbers or new.effect.family in _TAKE_NUMBERS):
        raise Mismatch(new.node.name, f"it computes with a width ({changes[0]})", ())


def _check_parts(old: Step, new: Step, channel_of: Tensor, count: int) -> None:
    """Raises Mismatch where a part of an axis (a slice, a chunk) holds a channel that was in another part.

    What is done to one part alone, a tanh, would be done to other channels, and no weight would tell. `count`: of the
    old channels; new ones may come into any part.
    """
    if old.effect.family is not Family.MOVEMENT:
        return
    parts = tensors(old.effect.out), tensors(new.effect.out)
    if len(parts[0]) != len(parts[1]):
        raise Mismatch(new.node.name, f"it gives {len(parts[1])} parts instead of {len(parts[0])}", tuple(parts[0]))
    for was, now in zip(*parts, strict=True):
        before, after = (channel_of[small[small >= 0]] for small in (collapse(was), collapse(now)))
        if not bool(torch.isin(after[after < count], before).all()):
            raise Mismatch(new.node.name, "a part of an axis no longer holds the same channels", (was, now))


class _Labels:
    """The check that no other one of several labels that are tied stands for their channel.

    Of operands that are tied a rule takes the labels of one, the one that is simplest at these widths; a layout of
    the labels of another one would find none of its old places. `count`: how many old labels there are.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.checked: set[tuple[Any, ...]] = set()  # most steps hand on the labels of others, which the caller holds

    def check(self, old: Step, new: Step) -> None:
        """Raises Mismatch where other labels stand for the channels of a step."""
        before, after = tensors(old.effect.out), tensors(new.effect.out)
        if len(before) != len(after):
            raise Mismatch(new.node.name, f"{len(before)} parts became {len(after)}", (*before, *after))
        for was, now in zip(before, after, strict=True):
            pair = memory_of(was), memory_of(now)
            if pair not in self.checked and not self._stay(was, now):
                raise Mismatch(new.node.name, "other labels stand for its channels", (was, now))
            self.checked.add(pair)

    def _stay(self, was: Tensor, now: Tensor) -> bool:
        labels = collapse(now).flatten()
        stayed = labels[(labels >= 0) & (labels < self.count)]
        return bool(torch.isin(stayed, collapse(was).flatten()).all())


def _check_positions(old: Step, new: Step, channel_of: Tensor) -> None:
    """Raises Mismatch where a movement leaves another number of positions.

    A view as two heads (`unflatten(-1, (2, -1))`) would take the one head that is left for two of half its size: all
    of their labels are of one channel, so that nothing else tells.
    """
    if old.effect.family is not Family.MOVEMENT:
        return
    for was, now in zip(tensors(old.effect.out), tensors(new.effect.out), strict=True):
        if was.shape == now.shape or was.dim() != now.dim():
            continue
        meant = Before(was, channel_of, channel_of.numel())
        varies = zip(meant.varies(was), meant.varies(now), strict=True)
        if any(a != b and not any(channels) for a, b, channels in zip(was.shape, now.shape, varies, strict=True)):
            reason = f"positions {tuple(was.shape)} became {tuple(now.shape)}"
            raise Mismatch(new.node.name, reason, (was, now))


def _check_visits(steps: tuple[Step, ...], channel_of: Tensor) -> None:
    """Raises Mismatch where a tensor that is read more than once does not find its channels in one order."""
    first: dict[tuple[str, str | int], Tensor] = {}
    for step in steps:
        axes: list[tuple[tuple[str, str | int], Tensor]] = [
            ((site.parameter, site.dim), site.layout) for site in step.effect.sites
        ]
        reading = step.effect.reading
        if reading is not None:
            axes += [((reading.key, "rows"), reading.rows), ((reading.key, "columns"), reading.cols)]
        for axis, layout in axes:
            known = first.setdefault(axis, layout)
            if known is not layout and not _meet(known, layout, channel_of):
                reason = "it is called again and no longer finds its channels in the same order"
                raise Mismatch(step.node.name, reason, (known, layout))


def _meet(left: Tensor, right: Tensor, channel_of: Tensor) -> bool:
    if left.numel() != right.numel():
        return False
    both = (left >= 0) & (right >= 0)
    return torch.equal(channel_of[left[both]], channel_of[right[both]])


def _company(mine: Tensor, other: Tensor, channel_of: Tensor) -> tuple[Tensor, Tensor]:
    """The channels of `mine` that meet padded zeros (NONE) of `other`, and those that meet anything else."""
    first, second = torch.broadcast_tensors(mine, other)
    alone = (first >= 0) & (second == NONE)
    return channel_of[first[alone]].unique(), channel_of[first[(first >= 0) & (second != NONE)]].unique()


class _Expected:
    """How often each channel must occur on each axis of a parameter at the new widths."""

    def __init__(self, channels: Channels, kept: Tensor, width: Tensor) -> None:
        self.channels, self.kept = channels, kept
        more = width - torch.bincount(channels.space_of[kept], minlength=len(channels.spaces))
        self.space_of_new = torch.repeat_interleave(torch.arange(len(channels.spaces)), more)
        self.total = torch.bincount(channels.space_of, minlength=len(channels.spaces))
        # by the memory of layouts, which the caller holds: those of a layer are those of its norm, too
        self.matched: set[tuple[Any, ...]] = set()

    def check(self, old: Step, new: Step, channel_of: Tensor) -> None:
        """Raises Mismatch where a weight or norm does not read each channel as often as it must."""
        pairs = [(a.layout, b.layout) for a, b in zip(old.effect.sites, new.effect.sites, strict=False)]
        reading, resized = old.effect.reading, new.effect.reading
        if reading is not None and resized is not None:
            pairs = [(reading.rows, resized.rows), (reading.cols, resized.cols)]
        for before, after in pairs:
            pair = memory_of(before), memory_of(after)
            if pair not in self.matched and not self.matches(before, after, channel_of):
                raise Mismatch(old.node.name, "it no longer reads the same channels", (before, after))
            self.matched.add(pair)

    def check_padding(self, old: Step, new: Step, channel_of: Tensor) -> None:
        """Raises Mismatch where a channel that met another meets a padded zero now, or the other way round."""
        if all(bool((side >= 0).all()) for tie in new.effect.ties for side in tie):
            return
        if len(old.effect.ties) != len(new.effect.ties):
            labels = tuple(side for tie in new.effect.ties for side in tie)
            raise Mismatch(new.node.name, "its operands no longer meet as they did", labels)
        spaces = torch.cat([self.channels.space_of, self.space_of_new])
        for before, after in zip(old.effect.ties, new.effect.ties, strict=True):
            for mine, other in ((0, 1), (1, 0)):
                was, now = (_company(tie[mine], tie[other], channel_of) for tie in (before, after))
                for then, since in zip(was, now, strict=True):
                    known = since < self.channels.space_of.numel()
                    fresh = spaces[since[~known]]
                    if not bool(torch.isin(since[known], then).all() & torch.isin(fresh, spaces[then]).all()):
                        raise Mismatch(new.node.name, "a padded zero now lies beside other channels", after)

    def matches(self, before: Tensor, after: Tensor, channel_of: Tensor) -> bool:
        if not torch.equal(before[before < 0], after[after < 0]):
            return False
        expected = self.times(before)
        return torch.equal(torch.bincount(channel_of[after[after >= 0]], minlength=expected.numel()), expected)

    def times(self, layout: Tensor) -> Tensor:
        """[old and new channels] int64: how often each channel must occur on an axis that had this layout.

        Survivors occur as often as before, removed channels not at all, new ones as often as others of their space.
        """
        channels = self.channels.space_of.numel()
        counts = torch.bincount(self.channels.channel_of[layout[layout >= 0]], minlength=channels)
        # all channels of a space occur equally often, for analysis/spaces.py pins the others: so the sum over the width
        each = torch.zeros_like(self.total).index_add(0, self.channels.space_of, counts) // self.total.clamp(min=1)
        return torch.cat([counts * self.kept, each[self.space_of_new]])

    def shape(self, name: str, now: Sequence[int]) -> tuple[int, ...]:
        """The shape that a parameter or buffer must have."""
        layouts = self.channels.layouts.get(name, (None,) * len(now))
        return tuple(
            size if layout is None else int(self.times(layout).sum()) + int((layout < 0).sum())
            for size, layout in zip(now, layouts, strict=True)
        )
