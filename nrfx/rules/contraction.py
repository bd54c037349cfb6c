"""Convolutions and linear layers: they read one layout and give birth to new channels.

A grouped convolution keeps its groups apart: the channels of a group, in and out, live and die together, so the unit is
the group. With one channel in and out of each group (depthwise) the channel simply passes.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.labels import along, layout
from nrfx.nn import CrossConv1d, CrossConv2d, CrossConv3d, CrossLinear
from nrfx.rules.effect import Call, Effect, Family, Reading, Site, Work, unknown
from nrfx.rules.registry import rule
from nrfx.rules.ties import ties_along


@dataclass(frozen=True)
class Layer:
    """The weights of one call, as a module holds them or as a function is given them.

    `kernel` and `groups` as in nn.Conv2d, () and 1 for a linear layer. `path`: the module that owns the weight.
    """

    path: str
    weight: str
    bias: str | None
    shape: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    groups: int = 1
    padded: bool = False
    functional: bool = False

    @property
    def key(self) -> str:
        """What its births are known by: the path of the module, or of the one that its weight is tied to."""
        return self.weight.removesuffix(".weight")

    def axis(self, labels: Tensor) -> int:
        """The axis of the input's channels."""
        return labels.dim() - len(self.kernel) - 1

    def reading(self, rows: Tensor, cols: Tensor, axis: int, groups: int = 1) -> Reading:
        return Reading(
            *(self.path, self.key, self.weight, self.bias, rows, cols, axis),
            padded=self.padded,
            functional=self.functional,
            groups=groups,
        )


@rule(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def convolution(call: Call) -> Effect:
    conv: Any = call.module
    layer = replace(_held(call), kernel=conv.kernel_size, groups=conv.groups, padded=is_padded(conv))
    if conv.groups == 1:
        return _contraction(call, layer)
    if conv.padding_mode != "zeros":
        return unknown(call, f"a grouped convolution with padding_mode {conv.padding_mode!r}")
    return _grouped(call, layer)


@rule(nn.Linear)
def linear(call: Call) -> Effect:
    return _contraction(call, _held(call))


@rule(F.conv1d, F.conv2d, F.conv3d)
def functional_convolution(call: Call) -> Effect:
    layer = _given(call)
    if layer is None:
        return unknown(call, "a convolution with a computed weight")
    if call.argument(6, "groups", 1) != 1:
        return unknown(call, "a grouped convolution called as a function, which states its groups as a constant")
    kernel = layer.shape[2:]
    padding = call.argument(4, "padding", 0)
    return _contraction(call, replace(layer, kernel=kernel, padded=pads(padding, kernel)))


@rule(F.linear)
def functional_linear(call: Call) -> Effect:
    layer = _given(call)
    return unknown(call, "a linear map with a computed weight") if layer is None else _contraction(call, layer)


@rule(CrossConv1d, CrossConv2d, CrossConv3d, CrossLinear)
def cross_layer(call: Call) -> Effect:
    return _cross(call, axis=call.args[0].dim() - len(getattr(call.module, "kernel_size", ())) - 1)


def _held(call: Call) -> Layer:
    """The weights that the called module holds."""
    weight: Any = call.module.weight  # type: ignore[union-attr]
    return Layer(call.path, call.name(f"{call.path}.weight"), call.own("bias"), tuple(weight.shape))


def _given(call: Call) -> Layer | None:
    """The weights that the function is given; None where one of them is computed."""
    weight = call.attribute(1, "weight")
    bias = call.attribute(2, "bias")
    if weight is None or (bias is None and call.argument(2, "bias") is not None):
        return None
    shape = tuple(call.argument(1, "weight").shape)
    return Layer(weight.rpartition(".")[0], weight, bias, shape, functional=True)


def _positions(call: Call, axis: int) -> int:
    """At how many positions of one example the weights are applied; an input without a batch dim is one example."""
    positions = int(prod(size for dim, size in enumerate(call.val.shape) if dim != axis))
    return positions if axis == 0 or positions % call.batch else positions // call.batch


def is_padded(module: Any) -> bool:
    """Whether zeros are read at the border of a module's input."""
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return False
    return pads(getattr(module, "padding", 0), getattr(module, "kernel_size", ()))


def pads(padding: Any, kernel: tuple[int, ...]) -> bool:
    """Whether `padding`, in any of the forms that convolutions take, adds anything."""
    if isinstance(padding, str):
        return padding == "same" and any(size > 1 for size in kernel)
    return any(padding) if isinstance(padding, tuple | list) else bool(padding)


def _shape(call: Call, axis: int, width: int) -> list[int]:
    shape = list(call.val.shape)
    shape[axis] = width
    return shape


def _contraction(call: Call, layer: Layer) -> Effect:
    labels: Tensor = call.args[0]
    axis = layer.axis(labels)
    cols = layout(labels, axis)
    rows = call.birth(layer.key, layer.shape[0])
    return Effect(
        Family.CONTRACTION,
        out=along(rows, axis, _shape(call, axis, rows.numel())),
        sites=(Site(layer.weight, 0, rows), Site(layer.weight, 1, cols), *_bias_site(layer.bias, rows)),
        ties=ties_along(labels, axis),
        work=(Work(_positions(call, axis) * prod(layer.kernel), rows, cols),),
        reading=layer.reading(rows, cols, axis),
    )


def _bias_site(bias: str | None, rows: Tensor) -> tuple[Site, ...]:
    return () if bias is None else (Site(bias, 0, rows),)


def _grouped(call: Call, layer: Layer) -> Effect:
    labels: Tensor = call.args[0]
    each_in, each_out = layer.shape[1], layer.shape[0] // layer.groups
    axis = layer.axis(labels)
    cols = layout(labels, axis)
    groups = cols.numel() // each_in
    ties = list(ties_along(labels, axis))
    if each_in == each_out == 1:
        rows = cols
    else:
        rows = call.birth(layer.key, groups * each_out)
        lead = cols.view(groups, each_in).amax(1, keepdim=True)
        ties += [
            (lead.expand(-1, each_in), cols.view(groups, each_in)),
            (lead.expand(-1, each_out), rows.view(groups, each_out)),
        ]
    return Effect(
        Family.GROUPED,
        out=along(rows, axis, _shape(call, axis, rows.numel())),
        sites=(Site(layer.weight, 0, rows), *_bias_site(layer.bias, rows)),
        ties=tuple(ties),
        work=(Work(_positions(call, axis) * prod(layer.kernel) * each_in, rows, None),),
        reading=layer.reading(rows, cols, axis, groups),
    )


def _cross(call: Call, axis: int) -> Effect:
    """A cross convolution: one weight over all blocks ("attention"), or one a generation of outputs ("removed")."""
    labels: Tensor = call.args[0]
    module: Any = call.module
    cols = layout(labels, axis)
    rows = call.birth(call.path, sum(module.out_generations))
    out = along(rows, axis, _shape(call, axis, rows.numel()))
    ties = ties_along(labels, axis)
    padded = is_padded(module)
    reading = Reading(call.path, call.path, None, call.own("bias"), rows, cols, axis, padded)
    if call.resized:  # the blocks of the new widths are the rewrite's to lay out
        return Effect(Family.CONTRACTION, out=out, ties=ties, reading=reading)
    generations = column_generations(module), row_generations(module)
    times = _positions(call, axis) * prod(getattr(module, "kernel_size", ()))
    sites = list(_bias_site(reading.bias, rows))
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
