"""From widths to layouts: what every axis of every parameter will look like.

Each birth keeps its surviving labels in order and gets new ones at its end; the graph is interpreted once more on
those. Where labels then no longer meet as they did (a view with a constant width, blocks that must stay equal), that
is a Mismatch, and the caller pins the spaces concerned.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nrfx.channels import Channels, Mismatch, Step, first_readings, relabel
from nrfx.rules import Family, Reading
from nrfx.trace import TracedModule


@dataclass(frozen=True)
class Resized:
    """`layouts`: parameter or buffer -> its new layout on each dim. `readings`: key -> the new rows and columns.

    `channel_of` extends the old one to the new labels and their new channels.
    """

    births: Mapping[str, Tensor]
    layouts: Mapping[str, tuple[Tensor | None, ...]]
    readings: Mapping[str, Reading]
    channel_of: Tensor


def resize(traced: TracedModule, found: Channels, kept: Tensor, width: Tensor) -> Resized:
    """The layouts of a network in which the channels `kept` (bool [channels]) stay and space s has width[s] channels.

    Raises:
        Mismatch: an op does not take these widths.
    """
    births, channel_of = _births(found, kept, width)
    steps = relabel(traced, found, births)
    resized = Resized(
        births,
        _layouts(found, steps),
        first_readings(steps),
        channel_of,
    )
    _check_visits(steps, channel_of)
    expected = _Expected(found, kept, width)
    for old, new in zip(found.steps, steps, strict=True):
        _check_ties(new, channel_of)
        _check_broadcast(old, new)
        expected.check(old, new, channel_of)
    return resized


def _births(found: Channels, kept: Tensor, width: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The labels of each birth, and the channel of each label, new ones appended."""
    kept_width = torch.bincount(found.space_of[kept], minlength=len(found.spaces))
    more = width - kept_width
    first_new = found.space_of.numel() + torch.cumsum(more, 0) - more
    labels = found.channel_of.numel()
    channel_of = [found.channel_of]
    births = {}
    for key, old in found.births.items():
        parts = [old[kept[found.channel_of[old]]]]
        for space in torch.unique(found.space_of[found.channel_of[old]]).tolist():
            each = found.spaces[space].births[key]
            new_channels = torch.arange(int(more[space])) + first_new[space]
            parts.append(torch.arange(labels, labels + int(more[space]) * each))
            channel_of.append(new_channels.repeat_interleave(each))
            labels += int(more[space]) * each
        births[key] = torch.cat(parts)
    return births, torch.cat(channel_of)


def _layouts(found: Channels, steps: tuple[Step, ...]) -> dict[str, tuple[Tensor | None, ...]]:
    new: dict[str, list[Tensor | None]] = {}
    for step in steps:
        for site in step.effect.sites:
            dims = new.setdefault(site.parameter, [None] * len(found.layouts[site.parameter]))
            if dims[site.dim] is None:
                dims[site.dim] = site.layout
    return {name: tuple(dims) for name, dims in new.items()}


def _check_ties(step: Step, channel_of: Tensor) -> None:
    for left, right in step.effect.ties:
        first, second = torch.broadcast_tensors(left, right)
        both = (first >= 0) & (second >= 0)
        if bool((channel_of[first[both]] != channel_of[second[both]]).any()):
            raise Mismatch(step.node.name, "its operands no longer meet channel by channel", (left, right))


def _check_broadcast(old: Step, new: Step) -> None:
    """An operand left with one channel must not be broadcast over those that it met one by one."""
    if old.effect.family is Family.POINTWISE and len(old.effect.ties) != len(new.effect.ties):
        labels = tuple(pin.labels for pin in new.effect.pins)
        raise Mismatch(new.node.name, "an operand is now broadcast over the channels that it met", labels)


def _check_visits(steps: tuple[Step, ...], channel_of: Tensor) -> None:
    """A tensor that is read more than once must find its channels in the same order each time."""
    first: dict[tuple[str, int], Tensor] = {}
    for step in steps:
        axes = [((site.parameter, site.dim), site.layout) for site in step.effect.sites]
        reading = step.effect.reading
        if reading is not None:
            axes += [((reading.key, 0), reading.rows), ((reading.key, 1), reading.cols)]
        for axis, layout in axes:
            known = first.setdefault(axis, layout)
            if not _meet(known, layout, channel_of):
                reason = "it is called again and no longer finds its channels in the same order"
                raise Mismatch(step.node.name, reason, (known, layout))


def _meet(left: Tensor, right: Tensor, channel_of: Tensor) -> bool:
    if left.numel() != right.numel():
        return False
    both = (left >= 0) & (right >= 0)
    return torch.equal(channel_of[left[both]], channel_of[right[both]])


class _Expected:
    """How often each channel must stand along each axis that weights follow."""

    def __init__(self, found: Channels, kept: Tensor, width: Tensor) -> None:
        self.found, self.kept = found, kept
        more = width - torch.bincount(found.space_of[kept], minlength=len(found.spaces))
        self.space_of_new = torch.repeat_interleave(torch.arange(len(found.spaces)), more)
        self.total = torch.bincount(found.space_of, minlength=len(found.spaces))

    def check(self, old: Step, new: Step, channel_of: Tensor) -> None:
        pairs = [(a.layout, b.layout) for a, b in zip(old.effect.sites, new.effect.sites, strict=False)]
        reading, resized = old.effect.reading, new.effect.reading
        if reading is not None and resized is not None:
            pairs = [(reading.rows, resized.rows), (reading.cols, resized.cols)]
        for before, after in pairs:
            if not self.matches(before, after, channel_of):
                raise Mismatch(old.node.name, "it no longer reads the same channels", (before, after))

    def matches(self, before: Tensor, after: Tensor, channel_of: Tensor) -> bool:
        if not torch.equal(before[before < 0], after[after < 0]):
            return False
        channels = self.found.space_of.numel()
        counts = torch.bincount(self.found.channel_of[before[before >= 0]], minlength=channels)
        spread = torch.zeros_like(self.total).index_add(0, self.found.space_of, counts) // self.total.clamp(min=1)
        expected = torch.cat([counts * self.kept, spread[self.space_of_new]])
        return torch.equal(torch.bincount(channel_of[after[after >= 0]], minlength=expected.numel()), expected)
