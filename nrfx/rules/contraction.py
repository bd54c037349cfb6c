"""Convolutions and linear layers: they read one layout and give birth to new channels.

A grouped convolution keeps its groups apart: the channels of a group, in and out, live and die together, so the unit is
the group. With one channel in and out of each group (depthwise) the channel simply passes.
"""

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.labels import along, layout
from nrfx.nn import CrossConv1d, CrossConv2d, CrossConv3d, CrossLinear
from nrfx.rules.effect import Call, Effect, Family, Reading, Site, Work, unknown
from nrfx.rules.registry import rule
from nrfx.rules.ties import ties_along


@rule(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def convolution(call: Call) -> Effect:
    conv: Any = call.module
    if conv.groups == 1:
        return _contraction(call, axis=_axis(call))
    if conv.padding_mode != "zeros":
        return unknown(call, f"a grouped convolution with padding_mode {conv.padding_mode!r}")
    return _grouped(call, axis=_axis(call))


@rule(nn.Linear)
def linear(call: Call) -> Effect:
    return _contraction(call, axis=call.args[0].dim() - 1)


@rule(CrossConv1d, CrossConv2d, CrossConv3d)
def cross_convolution(call: Call) -> Effect:
    return _cross(call, axis=_axis(call))


@rule(CrossLinear)
def cross_linear(call: Call) -> Effect:
    return _cross(call, axis=call.args[0].dim() - 1)


def _axis(call: Call) -> int:
    kernel: Any = call.module.kernel_size  # type: ignore[union-attr]
    return int(call.args[0].dim()) - len(kernel) - 1


def _positions(call: Call, axis: int) -> int:
    """At how many positions of one example the weights are applied."""
    return int(prod(size for dim, size in enumerate(call.val.shape) if dim != axis)) // call.batch


def _kernel(call: Call) -> int:
    return int(prod(getattr(call.module, "kernel_size", ())))


def is_padded(module: Any) -> bool:
    """Whether zeros are read at the border of the input."""
    padding = getattr(module, "padding", 0)
    if getattr(module, "padding_mode", "zeros") != "zeros" or padding == "valid":
        return False
    if padding == "same":
        return any(size > 1 for size in module.kernel_size)
    return any(padding) if isinstance(padding, tuple | list) else bool(padding)


def _shape(call: Call, axis: int, width: int) -> list[int]:
    shape = list(call.val.shape)
    shape[axis] = width
    return shape


def _key(call: Call) -> str:
    """What the births of a module are known by: its path, or that of the module that its weight is tied to."""
    return call.name(f"{call.path}.weight").removesuffix(".weight")


def _reading(call: Call, rows: Tensor, cols: Tensor, axis: int) -> Reading:
    return Reading(call.path, _key(call), call.own("bias"), rows, cols, axis, is_padded(call.module))


def _contraction(call: Call, axis: int) -> Effect:
    labels: Tensor = call.args[0]
    module: Any = call.module
    cols = layout(labels, axis)
    rows = call.birth(_key(call), module.weight.shape[0])
    reading = _reading(call, rows, cols, axis)
    weight = call.name(f"{call.path}.weight")
    sites = [Site(weight, 0, rows), Site(weight, 1, cols)]
    return Effect(
        Family.CONTRACTION,
        out=along(rows, axis, _shape(call, axis, rows.numel())),
        sites=(*sites, *([Site(reading.bias, 0, rows)] if reading.bias else [])),
        ties=ties_along(labels, axis),
        work=(Work(_positions(call, axis) * _kernel(call), rows, cols),),
        reading=reading,
    )


def _grouped(call: Call, axis: int) -> Effect:
    labels: Tensor = call.args[0]
    conv: Any = call.module
    each_in, each_out = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    cols = layout(labels, axis)
    groups = cols.numel() // each_in
    ties = list(ties_along(labels, axis))
    if each_in == each_out == 1:
        rows = cols
    else:
        rows = call.birth(_key(call), groups * each_out)
        lead = cols.view(groups, each_in).amax(1, keepdim=True)
        ties += [
            (lead.expand(-1, each_in), cols.view(groups, each_in)),
            (lead.expand(-1, each_out), rows.view(groups, each_out)),
        ]
    reading = _reading(call, rows, cols, axis)
    return Effect(
        Family.GROUPED,
        out=along(rows, axis, _shape(call, axis, rows.numel())),
        sites=(
            Site(call.name(f"{call.path}.weight"), 0, rows),
            *([Site(reading.bias, 0, rows)] if reading.bias else []),
        ),
        ties=tuple(ties),
        work=(Work(_positions(call, axis) * _kernel(call) * each_in, rows, None),),
        reading=reading,
    )


def _cross(call: Call, axis: int) -> Effect:
    """A cross convolution: one weight over all blocks ("attention"), or one a generation of outputs ("removed")."""
    labels: Tensor = call.args[0]
    module: Any = call.module
    cols = layout(labels, axis)
    rows = call.birth(call.path, sum(module.out_generations))
    out = along(rows, axis, _shape(call, axis, rows.numel()))
    ties = ties_along(labels, axis)
    reading = Reading(call.path, call.path, call.own("bias"), rows, cols, axis, is_padded(module))
    if call.resized:  # the blocks of the new widths are the rewrite's to lay out
        return Effect(Family.CONTRACTION, out=out, ties=ties, reading=reading)
    generations = column_generations(module), row_generations(module)
    times = _positions(call, axis) * _kernel(call)
    sites = [Site(reading.bias, 0, rows)] if reading.bias else []
    work = []
    for weight, own_rows, positions in _blocks(call, rows):
        own_cols = cols if positions is None else cols[positions]
        sites += [Site(weight, 0, own_rows), Site(weight, 1, own_cols)]
        work.append(Work(times, own_rows, own_cols))
    return Effect(
        Family.CONTRACTION,
        out=out,
        sites=tuple(sites),
        ties=ties,
        work=tuple(work),
        reading=replace(reading, generation=generations[0], out_generation=generations[1]),
    )


def _blocks(call: Call, rows: Tensor) -> list[tuple[str, Tensor, Tensor | None]]:
    """(weight, the rows it gives, the input positions it reads) of each weight of a cross convolution."""
    module: Any = call.module
    if module.scheme == "attention":
        return [(call.name(f"{call.path}.weight"), rows, None)]
    blocks: list[tuple[str, Tensor, Tensor | None]] = []
    for index, own_rows in enumerate(rows.split(module.out_generations)):
        if str(index) in module.weights:
            positions = torch.tensor(module.columns(index))
            blocks.append((call.name(f"{call.path}.weights.{index}"), own_rows, positions))
    return blocks


def column_generations(module: Any) -> Tensor:
    """[in channels] int64: the generation of each input channel of a cross layer, in the input's order."""
    generations, widths = zip(*module.in_runs, strict=True)
    return torch.repeat_interleave(torch.tensor(generations), torch.tensor(widths))


def row_generations(module: Any) -> Tensor:
    """[out channels] int64: the generation of each output channel of a cross layer."""
    widths = torch.tensor(module.out_generations)
    return torch.repeat_interleave(torch.arange(widths.numel()), widths)
