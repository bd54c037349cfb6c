"""Ops that move elements and change none: they need no rule of their own, the op itself runs on the labels.

Views become reshapes, for label tensors repeat by stride 0. Padding has a form of its own, for the zero that it writes
carries no channel.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.labels import (
    NONE,
    all_channels,
    along,
    collapse,
    holes_of,
    layout,
    lies_along,
    moves_alone,
    noted_as,
    repeated,
    repeats_along,
    with_holes,
)
from nrfx.nests import with_tensors
from nrfx.rules.effect import Call, Effect, Family, attempt, only, tensors, unknown
from nrfx.rules.pointwise import detached
from nrfx.rules.positions import at_every_size, by_places, rearranged
from nrfx.rules.registry import named, register, rule
from nrfx.rules.sizes import of_padding, of_roll
from nrfx.rules.ties import ties_along

FUNCTIONS = (
    *(
        torch.squeeze,
        torch.unsqueeze,
        torch.movedim,
        torch.rot90,
        torch.swapdims,
        torch.moveaxis,
        torch.ravel,
        torch.hstack,
        torch.vstack,
    ),
    *(
        torch.flip,
        torch.unbind,
    ),
    *(torch.tile, torch.unflatten, torch.broadcast_to, torch.repeat_interleave, F.pixel_shuffle, F.pixel_unshuffle),
)
METHODS = (
    *("unflatten", "movedim", "squeeze", "unsqueeze"),
    *("unbind", "flip"),
    *("rot90", "swapdims", "moveaxis", "ravel"),
    *("expand", "expand_as", "broadcast_to", "tile", "repeat_interleave"),
    *named("fliplr flipud"),
)
MODULES = (nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle)


def moved(call: Call, apply: Callable[..., Any], rearranges: bool = False) -> Effect:
    """The effect of a movement: the op applied to the labels.

    rearranges: whether each element goes to one place, and dims are reordered, cut and joined: a view by sizes.

    >>> import nrfx
    >>> class Swap(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x.transpose(2, 3)
    >>> @rule(Swap, workless=True)
    ... def swap(call):
    ...     return moved(call, lambda x: x.transpose(2, 3))
    >>> nrfx.check_rule(Swap(), torch.randn(2, 4, 3, 5))
    ('channels stay apart', 'it scales with its input', 'constants are what its apply gives')
    """
    moved_labels = attempt(apply, *call.args, **call.kwargs)
    if rearranges and (out := rearranged(call, apply, moved_labels)) is not None:
        return Effect(Family.MOVEMENT, out=out, apply=apply, homogeneous=True)
    labels = call.args[0] if call.args else None
    if isinstance(labels, Tensor) and moves_alone(labels, tensors(moved_labels)):  # nearly always
        out = with_tensors(moved_labels, partial(noted_as, labels))
        return Effect(Family.MOVEMENT, out=out, apply=apply, homogeneous=True)
    out, pins = at_every_size(call, apply, with_tensors(moved_labels, repeated))
    if isinstance(out, Tensor) and isinstance(labels, Tensor):
        out = noted_as(labels, out)
    return Effect(Family.MOVEMENT, out=out, pins=pins, apply=apply, homogeneous=True)


def itself(call: Call) -> Effect:
    """The effect of an op that moves what it is given, whatever it is."""
    return moved(call, call.function)


@rule("squeeze_", "unsqueeze_", workless=True)
def other_dims(call: Call) -> Effect:
    """A view with one dim more or less, in the place of the tensor itself: the labels of the nodes before stay."""
    name = str(call.node.target).removesuffix("_")
    return moved(call, lambda x, *rest, **named: getattr(x, name)(*rest, **named))


def reordered(call: Call) -> Effect:
    """The effect of an op that reorders, cuts or joins dims."""
    return moved(call, call.function, rearranges=True)


@rule(torch.select, "select", "unfold", workless=True)
def numbered(call: Call) -> Effect:
    """Places, or windows of them, by their numbers along a dim."""
    return by_places(call, itself(call), call.argument(1, "dim", call.kwargs.get("dimension", 0)))


@rule(torch.roll, "roll", gives=of_roll, workless=True)
def rolled(call: Call) -> Effect:
    """By a number of places. Where that is stated, channels that stand on the axis twice would change their order."""
    dims = call.argument(2, "dims", ())
    along_dims = dims if isinstance(dims, tuple | list) else (dims,)
    known = _beside(call, along_dims)
    if known is not None:
        return Effect(Family.MOVEMENT, out=known, apply=call.function, homogeneous=True)
    effect = by_places(call, itself(call), *along_dims)
    labels: Tensor = call.args[0]
    if call.is_computed(1, "shifts") or not any(_twice(layout(labels, dim % labels.dim())) for dim in along_dims):
        return effect
    pin = call.pin(labels, "it moves channels by a number of places, and they stand on the axis more than once")
    return replace(effect, pins=(*effect.pins, pin))


def _beside(call: Call, dims: Sequence[Any]) -> Tensor | None:
    """What a roll makes of labels that repeat one layout of channels along none of its dims, perhaps but for padded
    zeros; None of others.
    """
    labels = call.args[0]
    if not isinstance(labels, Tensor) or not dims or not all(type(at) is int and 0 <= at < labels.dim() for at in dims):
        return None
    holes = holes_of(labels)
    if holes is not None and holes[0] not in dims:
        return with_holes(attempt(call.function, *call.args, **call.kwargs), *holes)
    dim = repeats_along(labels)
    return labels if dim is not None and dim not in dims and all_channels(labels) else None


def _twice(labels: Tensor) -> bool:
    """Whether one of several channels stands twice on an axis; along positions all are one."""
    channels = labels[labels >= 0]
    return bool(1 < channels.unique().numel() < channels.numel())


@rule(getattr, workless=True)
def attribute(call: Call) -> Effect:
    """x.mT and the like, and the fields of named tuples; sizes are no concern of a rule."""
    name = call.args[1]
    if isinstance(call.args[0], tuple):
        return part_of(getattr(call.args[0], name), getattr)
    if name not in ("T", "mT", "H", "mH", "data"):
        return unknown(call, f"nrfx has no rule for the attribute {name}")
    if name == "data":
        return detached(call)
    return moved(call, lambda x, *_: getattr(x, name))


@rule(*named("tril triu"), workless=True)
def triangle(call: Call) -> Effect:
    """Zeros on one side of the diagonal of each matrix, whose rows and columns must be positions."""
    labels: Tensor = call.args[0]
    if any(size > 1 for size in collapse(labels).shape[-2:]):
        return unknown(call, "it puts channels to 0 by their places")
    return Effect(Family.MIXED, out=labels, apply=lambda x, *_, **__: only(0.0, x))  # where an element stands decides


@rule(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, workless=True)
def constant_pad(call: Call) -> Effect:
    module: Any = call.module
    return _padded(call, module.padding, float(module.value))


@rule(
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d, workless=True
)
def border_pad(call: Call) -> Effect:
    module: Any = call.module
    return moved(call, lambda x, *_: module(x.double()).to(x.dtype))


register(itself, *FUNCTIONS, tuple, workless=True)  # tuple: named tuples hold what they are given
register(reordered, torch.permute, "permute", workless=True)
register(reordered, torch.transpose, torch.swapaxes, torch.t, transposes=True, workless=True)
register(itself, *METHODS, workless=True)
register(reordered, torch.flatten, "flatten", flattens=True, workless=True)
register(itself, "repeat", copies=True, workless=True)
register(reordered, "transpose", "swapaxes", "t", transposes=True, workless=True)
register(itself, *MODULES, workless=True)


@rule(F.channel_shuffle, torch.channel_shuffle, workless=True)
def channel_shuffle(call: Call) -> Effect:
    groups = call.argument(1, "groups")
    return moved(call, lambda x, *_, **__: x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2))


def part_of(part: Any, apply: Callable[..., Any]) -> Effect:
    """A part of a nest of tensors and Python values."""
    family = Family.MOVEMENT if tensors(part) else Family.VALUE
    return Effect(family, out=part, apply=apply, homogeneous=True)


@rule(F.pad, torch.constant_pad_nd, gives=of_padding, workless=True)
def pad(call: Call) -> Effect:
    sizes = call.argument(1, "pad")
    if call.argument(2, "mode", "constant") != "constant":
        return moved(call, lambda x, *rest, **named: F.pad(x.double(), *rest, **named).to(x.dtype))
    value = call.argument(3, "value") or 0.0
    # where the trace has no border another size may have one, which shows on constants other than the padded value
    known = value if call.is_computed(1, "pad") and not any(sizes) else None
    return _padded(call, sizes, value, float("nan") if call.is_computed(3, "value") else known)


def _padded(call: Call, sizes: Sequence[int], value: float, known: float | None = None) -> Effect:
    def apply(x: Tensor, *_: Any, **__: Any) -> Tensor:
        if not x.is_floating_point():
            return F.pad(x, sizes, value=NONE)
        return F.pad(x if known is None else only(known, x), sizes, value=value)

    labels, pins = at_every_size(call, apply, _beside_zeros(call.args[0], sizes))
    return Effect(Family.MOVEMENT, out=labels, pins=pins, apply=apply, homogeneous=value == 0, keeps_constants=False)


def _beside_zeros(labels: Tensor, sizes: Any) -> Tensor:
    """The labels with NONE at their borders."""
    if not any(sizes):
        return labels
    padded = F.pad(labels, sizes, value=NONE)
    dim = repeats_along(labels)
    if dim is None or min(sizes, default=0) < 0 or padded.shape[dim] != labels.shape[dim] or not all_channels(labels):
        return repeated(padded)
    channels = layout(labels, dim)
    several = channels.numel() == labels.shape[dim] > 1 and int(channels[0]) != int(channels[-1])
    return with_holes(padded, dim, channels) if several and labels.numel() else repeated(padded)


@rule(F.unfold, nn.Unfold, workless=True)
def unfold(call: Call) -> Effect:
    """[N, C, H, W] to [N, C * taps, positions]: a channel fills `taps` rows, one for each place of the kernel."""
    window = _window(call, first=1)
    columns = partial(_columns, window)
    labels: Tensor = call.args[0]
    axis = labels.dim() - 3
    if not lies_along(labels, axis) or any(_pair(window["padding"])):
        return replace(moved(call, columns), keeps_constants=not any(_pair(window["padding"])))
    rows = layout(labels, axis).repeat_interleave(_taps(window))
    out = along(rows, axis, [*call.val.shape[:axis], rows.numel(), call.val.shape[-1]])  # the same, without copying
    return Effect(Family.MOVEMENT, out=out, apply=columns, homogeneous=True)


def _columns(window: dict[str, Any], x: Tensor, *_: Any, **__: Any) -> Tensor:
    """F.unfold of labels, ids of gammas (a padded zero is NONE of both) and constants, of one example for all."""
    small = collapse(x)
    one = small.expand(*small.shape[:-3], *x.shape[-3:])
    down, across = _pair(window["padding"])
    padded = F.pad(one, (across, across, down, down), value=0.0 if x.is_floating_point() else NONE)
    columns: Tensor = attempt(F.unfold, padded.double(), **{**window, "padding": 0}).to(x.dtype)
    return columns.expand(*x.shape[:-3], *columns.shape[-2:])


@rule(F.fold, nn.Fold, workless=True)
def fold(call: Call) -> Effect:
    """[N, C * taps, positions] to [N, C, H, W]: the `taps` rows of a channel are added up, and are one channel."""
    window = _window(call, first=2)
    size: Any = call.argument(1, "output_size") if call.module is None else call.module.output_size
    labels: Tensor = call.args[0]
    axis = labels.dim() - 2
    groups = attempt(layout(labels, axis).view, -1, _taps(window))
    lead = groups.amax(1)
    return Effect(
        Family.MIXED,
        out=along(lead, axis, [*call.val.shape[:axis], lead.numel(), *call.val.shape[-2:]]),
        ties=(*ties_along(labels, axis), (lead[:, None].expand_as(groups), groups)),
        apply=lambda x, *_, **__: F.fold(only(0.0, x), size, **window),  # a border may be added up less often, or never
    )


def _window(call: Call, first: int) -> dict[str, Any]:
    """The arguments that unfold and fold share, of a call of the function or of its module."""
    names = {"kernel_size": None, "dilation": 1, "padding": 0, "stride": 1}
    if call.module is not None:
        return {name: getattr(call.module, name) for name in names}
    return {name: call.argument(index, name, value) for index, (name, value) in enumerate(names.items(), start=first)}


def _taps(window: dict[str, Any]) -> int:
    return prod(_pair(window["kernel_size"]))


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
