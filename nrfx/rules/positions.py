"""What a movement takes at other sizes of the input: an index that meets a padded zero at the traced size may meet a
channel at another one, and the other way round.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nrfx.labels import NONE, OPAQUE, all_channels, ascends, collapse, holes_of, over_positions, repeats_of, with_holes
from nrfx.nests import with_tensors
from nrfx.rules.effect import Call, Effect, Pin, attempt, tensors


def at_every_size(call: Call, apply: Callable[..., Any], out: Any) -> tuple[Any, tuple[Pin, ...]]:
    """The labels `out` of a movement of the call's first operand, and pins, so that both hold at every size.

    Where the op takes a part of a dim of positions, what it took there for a padded zero carries the channel of the
    other positions. A channel is pinned where something opaque, or a zero that no dim of positions explains, was taken
    in its place.
    """
    labels = call.args[0] if call.args else None
    if not isinstance(labels, Tensor) or all_channels(labels):
        return out, ()
    whole = over_positions(labels)
    parts = zip(tensors(out), tensors(attempt(apply, whole, *call.args[1:], **call.kwargs)), strict=True)
    pairs = [(taken, _filled(taken, channels), channels) for taken, channels in parts]
    lost = [mark for taken, now, channels in pairs for mark in (*_opaque(now, channels), *_missing(whole, now))]
    pins = tuple(call.pin(each, "it takes a part of it, which at other sizes may be another one") for each in lost)
    filled = iter([now for _, now, _ in pairs])
    return with_tensors(out, lambda _: next(filled)), pins


def rearranged(call: Call, apply: Callable[..., Any], taken: Any) -> Tensor | None:
    """What `at_every_size` gives for labels `taken` that repeat a layout but for padded zeros, which the op, a view of
    positions and channels in another order or shape, leaves whole; None for others.
    """
    labels = call.args[0] if call.args else None
    holes = holes_of(labels) if isinstance(labels, Tensor) else None
    if holes is None or not isinstance(taken, Tensor):
        return None
    # a view of the same labels without zeros lies in the memory of the layout: index i of it is index i of that
    whole = attempt(apply, over_positions(call.args[0]), *call.args[1:], **call.kwargs)
    dim = repeats_of(holes[1], whole)
    return None if dim is None else with_holes(taken, dim, holes[1])


def by_places(call: Call, effect: Effect, *dims: int) -> Effect:
    """The effect of an op that takes places by their numbers along these dims of its first operand.

    On a flat map, channels by positions, another size of the input puts other channels in these places: all are pinned.
    """
    labels = call.args[0]
    if not isinstance(labels, Tensor) or not any(_in_runs(labels, dim % labels.dim()) for dim in dims):
        return effect
    pin = call.pin(labels, "it takes places of a flat map by number, and at other sizes other channels stand there")
    return replace(effect, pins=(*effect.pins, pin))


def _in_runs(labels: Tensor, dim: int) -> bool:
    """Whether places next to each other along a dim hold one channel, and others along it another one."""
    if ascends(labels):  # then none stands next to itself
        return False
    small = collapse(labels)
    if small.shape[dim] == 1:
        return False
    left, right = (small.narrow(dim, start, small.shape[dim] - 1) for start in (0, 1))
    highest = small.amax(dim, keepdim=True)
    several = (small >= 0) & (small != highest)
    return bool(((left == right) & (left >= 0)).any()) and bool(several.any())


def _filled(taken: Tensor, channels: Tensor) -> Tensor:
    """The labels that were taken, with channels in the place of zeros for which the rest of `taken` tells none."""
    if torch.equal(over_positions(taken), channels):
        return taken
    small, known = torch.broadcast_tensors(collapse(taken), collapse(channels))
    return torch.where(small == NONE, known, small).expand(taken.shape)


def _opaque(taken: Tensor, channels: Tensor) -> Iterator[Tensor]:
    """The channels in whose place something opaque was taken, and none of themselves."""
    small, known = torch.broadcast_tensors(collapse(over_positions(taken)), collapse(channels))
    instead = (small <= OPAQUE) & (known >= 0)
    if bool(instead.any()):
        yield known[instead]


def _missing(whole: Tensor, taken: Tensor) -> Iterator[Tensor]:
    """The channels that are not among those that were taken, where zeros were that may stand in their place."""
    small = collapse(over_positions(taken))
    if bool((small == NONE).any()) and bool((collapse(whole) >= 0).any()):
        channels = collapse(whole).unique()
        gone = channels[(channels >= 0) & ~torch.isin(channels, small.reshape(-1))]
        if gone.numel():
            yield gone
