"""Where a movement takes elements to: the same places at the new widths as at the old ones.

Labels do not tell: a roll by a number of channels moves positions, and each still carries its channel. So an op that is
given a number which changes with a width is run on the elements themselves, each known by its channel and its rank
among those of the channel.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Mismatch, Step
from nrfx.analysis.reinterpret import like, operands
from nrfx.ids import occurrence
from nrfx.labels import NONE, collapse
from nrfx.rules import Family, op_of, tensors


class Places:
    """The labels of all steps at the old and at the new widths."""

    def __init__(self, channels: Channels, steps: Sequence[Step], channel_of: Tensor) -> None:
        """channel_of: the channel of each label, old or new; `steps` are those at the new widths."""
        self.channel_of, self.kept = channel_of, channels.space_of.numel()
        self.old, self.new = (
            {(step.mode, step.node.name): step.effect.out for step in each} for each in (channels.steps, steps)
        )

    def check(self, old: Step, new: Step, changed: Mapping[tuple[str, str], str]) -> None:
        """Raises Mismatch where the movement `new` would take elements of a channel to other places than `old`.

        changed: (mode, node) -> how the Python value of a node changes.
        """
        if new.effect.family is not Family.MOVEMENT:
            return
        for was, now in zip(tensors(old.effect.out), tensors(new.effect.out), strict=True):
            self._check_shape(new, was, now)
        changes = [changed[key] for node in new.node.all_input_nodes if (key := (new.mode, node.name)) in changed]
        if not changes or _keeps_order(new):
            return
        parts = [self._elements(step, labels) for step, labels in ((old, self.old), (new, self.new))]
        labels = [tensors(step.effect.out) for step in (old, new)]
        for was, now, before, after in zip(*labels, *parts, strict=True):
            if not self._alike(was, now, before, after):
                reason = f"it would move elements by another number ({changes[0]})"
                raise Mismatch(new.node.name, reason, (was, now))

    def _check_shape(self, new: Step, was: Tensor, now: Tensor) -> None:
        """Raises Mismatch where a channel has its elements in another arrangement than before.

        A view may cut the axis of unshuffled pixels between two channels at one width, and through the pixels of one at
        another. What moves the parts then brings these into another order, and the labels are the same.
        """
        if max(sum(size > 1 for size in collapse(labels).shape) for labels in (was, now)) < 2:
            return
        channels = [self._channel(collapse(labels)) for labels in (was, now)]
        both = [(own >= 0) & torch.isin(own, other.reshape(-1)) for own, other in (channels, channels[::-1])]
        before, after = (_arranged(own, here) for own, here in zip(channels, both, strict=True))
        if not torch.equal(before, after):
            raise Mismatch(new.node.name, "it would cut through the elements of a channel", (was, now))

    def _elements(self, step: Step, labels: Mapping[tuple[str, str], Any]) -> list[Tensor]:
        """What the op makes of its operands when each element is the rank among those of its channel."""
        args, kwargs = operands(step, labels)
        assert step.effect.apply is not None
        return tensors(step.effect.apply(*like(args, self._ranked), **like(kwargs, self._ranked)))

    def _ranked(self, labels: Tensor) -> Tensor:
        channel = self._channel(labels).reshape(-1)
        return torch.where(channel >= 0, occurrence(channel), NONE).view(labels.shape)

    def _channel(self, labels: Tensor) -> Tensor:
        """int64 of the shape of the labels: the channel, -1 for none and for new ones."""
        channel = torch.where(labels >= 0, self.channel_of[labels.clamp(min=0)], NONE)
        return torch.where(channel < self.kept, channel, NONE)

    def _alike(self, was: Tensor, now: Tensor, before: Tensor, after: Tensor) -> bool:
        """Whether the channels that are in both have the same elements at the same positions, in the same order."""
        varies = [any(either) for either in zip(_varies(was), _varies(now), strict=True)]
        sizes = zip(was.shape, now.shape, varies, strict=True)
        if any(first != second and not channels for first, second, channels in sizes):
            return False
        first, second = self._channel(was), self._channel(now)
        left = self._rows(first, before, torch.isin(first, second), varies)
        return torch.equal(left, self._rows(second, after, torch.isin(second, first), varies))

    @staticmethod
    def _rows(channel: Tensor, elements: Tensor, both: Tensor, varies: Sequence[bool]) -> Tensor:
        """[elements, 2 + dims] of the channels in both: channel, element, and its index along each dim of positions."""
        at = (both & (channel >= 0)).nonzero()
        positions = [at[:, dim] for dim, channels in enumerate(varies) if not channels]
        rows = torch.stack([channel[tuple(at.t())], elements[tuple(at.t())], *positions], 1)
        return rows[torch.argsort(rows[:, 0], stable=True)]


def _arranged(channel: Tensor, here: Tensor) -> Tensor:
    """[elements, 1 + dims]: the channel of each element, in order, and its rank along each dim among those of the
    channel.

    >>> _arranged(torch.tensor([[0, 0], [1, 1]]), torch.ones(2, 2, dtype=torch.bool)).tolist()
    [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]
    """
    at = here.nonzero()
    own = channel[tuple(at.t())]
    order = torch.argsort(own, stable=True)
    own, at = own[order], at[order]
    columns = [own]
    for dim, size in enumerate(channel.shape):
        pairs, place = torch.unique(own * size + at[:, dim], return_inverse=True)
        columns.append(place - torch.searchsorted(pairs // size, own))
    return torch.stack(columns, 1)


def _varies(labels: Tensor) -> list[bool]:
    """For each dim, whether labels change along it, padded zeros aside."""
    small = collapse(labels)
    lowest = torch.where(small >= 0, small, torch.iinfo(small.dtype).max)
    return [size > 1 and bool((small.amax(dim) > lowest.amin(dim)).any()) for dim, size in enumerate(small.shape)]


def _keeps_order(step: Step) -> bool:
    """Whether the op is a view, whose elements stay in their order whatever its sizes are."""
    op = op_of(step.node.target) if step.node.op != "call_module" else None
    return op is not None and op.flattens
