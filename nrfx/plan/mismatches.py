"""A check for each way in which an op can take new widths without an error and compute something else."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Mismatch, Step
from nrfx.labels import collapse, memory_of, repeats_along, varying_part
from nrfx.plan.expected import Expected
from nrfx.plan.places import Places
from nrfx.rules import Before, Family, tensors


def check_steps(channels: Channels, steps: tuple[Step, ...], channel_of: Tensor, expected: Expected) -> None:
    """Raises Mismatch at the first step, of those at the new widths, that no longer does what it did at the old ones.

    channel_of: the channel of each label, old or new.
    """
    _check_visits(steps, channel_of)
    labels = _Labels(channels.channel_of.numel(), expected.grown)
    changed = _changed_values(channels.steps, steps)
    there = torch.zeros(channel_of.numel(), dtype=torch.bool)
    places = Places(channels, steps, channel_of)
    for old, new in zip(channels.steps, steps, strict=True):
        labels.check(old, new)
        _check_pins(old, new)
        _check_emptied(old, new)
        _check_broadcast(old, new)
        _check_ties(new, channel_of)
        expected.check_padding(old, new, channel_of)
        _check_numbers(old, new, changed)
        _check_parts(old, new, channel_of, channels.space_of.numel(), there)
        _check_positions(old, new, channel_of)
        places.check(old, new, changed)
        expected.check(old, new, channel_of)


def _check_ties(step: Step, channel_of: Tensor) -> None:
    """Raises Mismatch where labels that are tied are of different channels."""
    for left, right in step.effect.ties:
        first, second = (left, right) if left.shape == right.shape else torch.broadcast_tensors(left, right)
        if channel_of.numel() and torch.equal(channel_of[first.clamp(min=0)], channel_of[second.clamp(min=0)]):
            continue  # nearly always
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
    if not changed and old.effect.numbers == new.effect.numbers:  # nearly always
        return
    changes = [changed[new.mode, node.name] for node in new.node.all_input_nodes if (new.mode, node.name) in changed]
    if old.effect.numbers != new.effect.numbers:
        changes = [f"{old.effect.numbers} became {new.effect.numbers}"]
    if changes and (old.effect.numbers != new.effect.numbers or new.effect.family in _TAKE_NUMBERS):
        raise Mismatch(new.node.name, f"it computes with a width ({changes[0]})", ())


def _check_parts(old: Step, new: Step, channel_of: Tensor, count: int, there: Tensor) -> None:
    """Raises Mismatch where a part of an axis (a slice, a chunk) holds a channel that was in another part.

    What is done to one part alone, a tanh, would be done to other channels, and no weight would tell. `count`: of the
    old channels; new ones may come into any part. there: bool, all False, one for each channel: a table is several
    times as fast as torch.isin.
    """
    if old.effect.family is not Family.MOVEMENT:
        return
    parts = tensors(old.effect.out), tensors(new.effect.out)
    if len(parts[0]) != len(parts[1]):
        raise Mismatch(new.node.name, f"it gives {len(parts[1])} parts instead of {len(parts[0])}", tuple(parts[0]))
    for was, now in zip(*parts, strict=True):
        before, after = (channel_of[small[small >= 0]] for small in (collapse(was), collapse(now)))
        there[before] = True
        stay = bool(there[after[after < count]].all())
        there[before] = False
        if not stay:
            raise Mismatch(new.node.name, "a part of an axis no longer holds the same channels", (was, now))


class _Labels:
    """The check that no other one of several labels that are tied stands for their channel.

    Of operands that are tied a rule takes the labels of one, the one that is simplest at these widths; a layout of
    the labels of another one would find none of its old places.

    Args:
        count: how many old labels there are.
        known: pairs of layouts, by their memory, for which this holds. Most steps hand on the labels of others, which
            the caller holds.
    """

    def __init__(self, count: int, known: Iterable[tuple[Any, ...]]) -> None:
        self.count, self.checked = count, set(known)
        self.seen: set[tuple[int, int]] = set()  # ids of pairs that were checked
        self.there = torch.zeros(count, dtype=torch.bool)

    def check(self, old: Step, new: Step) -> None:
        """Raises Mismatch where other labels stand for the channels of a step."""
        before, after = tensors(old.effect.out), tensors(new.effect.out)
        if len(before) != len(after):
            raise Mismatch(new.node.name, f"{len(before)} parts became {len(after)}", (*before, *after))
        for was, now in zip(before, after, strict=True):
            small = varying_part(was), varying_part(now)
            ids = id(small[0]), id(small[1])
            if ids in self.seen:
                continue
            pair = memory_of(small[0]), memory_of(small[1])
            if pair not in self.checked and not self._stay(*small):
                raise Mismatch(new.node.name, "other labels stand for its channels", (was, now))
            self.checked.add(pair)
            if repeats_along(was) is not None and repeats_along(now) is not None:  # layouts that the steps hold
                self.seen.add(ids)

    def _stay(self, was: Tensor, now: Tensor) -> bool:
        # the table is all False again at the end
        old = was[was >= 0]
        self.there[old] = True
        stay = bool(self.there[now[(now >= 0) & (now < self.count)]].all())
        self.there[old] = False
        return stay


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
