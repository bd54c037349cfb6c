"""Windows that are laid out as rows, and rows that are added up to maps again: F.unfold and F.fold."""

from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.labels import NONE, along, collapse, layout, lies_along
from nrfx.rules.effect import Call, Effect, Family, attempt, only
from nrfx.rules.movement import moved
from nrfx.rules.registry import rule
from nrfx.rules.ties import ties_along


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
