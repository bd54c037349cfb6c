"""Convolutions, transposed ones too, and linear layers: they read one layout and give birth to new channels.

A grouped convolution keeps its groups apart: the channels of a group, in and out, live and die together, so the unit is
the group. With one channel in and out of each group (depthwise) the channel simply passes.
"""

from dataclasses import replace
from math import prod
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nrfx.labels import NONE, along, ascends, collapse, layout, lies_along, spread
from nrfx.nn import CrossConv1d, CrossConv2d, CrossConv3d, CrossLinear
from nrfx.records import record
from nrfx.rules.effect import Call, Effect, Family, Reading, Site, Work, attempt, unknown
from nrfx.rules.registry import rule
from nrfx.rules.sizes import of_convolution, of_cross, of_linear
from nrfx.rules.ties import ties_along


@record
class Layer:
    """The weights of one call, as a module holds them or as a function is given them.

    `kernel` and `groups` as in nn.Conv2d, () and 1 for a linear layer. `path`: the module that owns the weight.
    `shape` is [rows, columns of a group, *kernel] also where the weight is stored `transposed`.

    >>> layer = Layer("0", "0.weight", "0.bias", shape=(8, 3, 5, 5), kernel=(5, 5))
    >>> layer.key, layer.axis(torch.zeros(2, 3, 9, 9))
    ('0', 1)
    """

    path: str
    weight: str
    bias: str | None
    shape: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    groups: int = 1
    padded: bool = False
    functional: bool = False
    transposed: bool = False
    operand: int = 0
    flat: bool = False  # read as a matrix: a channel fills one place of the axis for each place of the kernel

    @classmethod
    def held(cls, call: Call, **more: Any) -> Self:
        """The `weight` and `bias` of the module that is called; `more` are further fields."""
        weight: Any = call.module.weight  # type: ignore[union-attr]
        return cls(call.path, call.name(f"{call.path}.weight"), call.own("bias"), tuple(weight.shape), **more)

    @classmethod
    def given(cls, call: Call, weight: int = 1, bias: int | None = 2) -> Self | None:
        """The parameters that a function is given, at these places or as `weight` and `bias`; None where one of them
        is no parameter of the network but computed.
        """
        name = call.attribute(weight, "weight")
        own_bias = None if bias is None else call.attribute(bias, "bias")
        if name is None or (bias is not None and own_bias is None and call.argument(bias, "bias") is not None):
            return None
        return cls(name.rpartition(".")[0], name, own_bias, tuple(call.parameter(name).shape), functional=True)

    @property
    def key(self) -> str:
        """What its births are known by: the path of the module, or of the one that its weight is tied to."""
        return self.weight.removesuffix(".weight")

    def axis(self, labels: Tensor) -> int:
        """The axis of the input's channels."""
        return labels.dim() - len(self.kernel) - 1

    def reading(self, rows: Tensor, cols: Tensor, axis: int, groups: int = 1, padded: bool = False) -> Reading:
        """`padded`: whether an op before has padded what they read."""
        return Reading(
            *(self.path, self.key, self.weight, self.bias, rows, cols, axis),
            padded=self.padded or padded,
            functional=self.functional,
            groups=groups,
            transposed=self.transposed,
            operand=self.operand,
        )

    def sites(self, rows: Tensor, cols: Tensor) -> tuple[Site, ...]:
        """The axes of the weight and the bias."""
        if self.groups > 1:  # the other axis lies within a group and keeps its width
            weight: tuple[Site, ...] = (Site(self.weight, 0, cols if self.transposed else rows),)
        else:
            first, second = (cols, rows) if self.transposed else (rows, cols)
            weight = (Site(self.weight, 0, first), Site(self.weight, 1, second))
        return weight if self.bias is None else (*weight, Site(self.bias, 0, rows))


def _convolution_widths(conv: Any, _: int | None) -> dict[str, int]:
    out, each_in = conv.weight.shape[:2]
    groups = 1 if conv.groups == 1 else out // (conv.out_channels // conv.groups)
    return {"out_channels": out, "in_channels": each_in * groups, "groups": groups}


def _transposed_widths(conv: Any, _: int | None) -> dict[str, int]:
    into, each_out = conv.weight.shape[:2]
    groups = 1 if conv.groups == 1 else into // (conv.in_channels // conv.groups)
    return {"in_channels": into, "out_channels": each_out * groups, "groups": groups}


def _linear_widths(linear: Any, _: int | None) -> dict[str, int]:
    return {"out_features": linear.weight.shape[0], "in_features": linear.weight.shape[1]}


@rule(nn.Conv1d, widths=_convolution_widths, gives=of_convolution, cross_form=CrossConv1d)
@rule(nn.Conv2d, widths=_convolution_widths, gives=of_convolution, cross_form=CrossConv2d)
@rule(nn.Conv3d, widths=_convolution_widths, gives=of_convolution, cross_form=CrossConv3d)
def convolution(call: Call) -> Effect:
    conv: Any = call.module
    layer = Layer.held(call, kernel=conv.kernel_size, groups=conv.groups, padded=is_padded(conv))
    if conv.groups == 1:
        return weighted(call, layer, call.args[0], layer.axis(call.args[0]))
    return _grouped(call, layer)


@rule(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, widths=_transposed_widths)
def transposed_convolution(call: Call) -> Effect:
    """Its border positions sum over fewer taps than its inner ones: a constant varies there, as behind padding."""
    conv: Any = call.module
    return _transposed(call, Layer.held(call, kernel=conv.kernel_size, groups=conv.groups))


@rule(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, weights=(1, 2, "weight", "bias"))
def functional_transposed_convolution(call: Call) -> Effect:
    layer = Layer.given(call)
    if layer is None:
        times = prod(call.args[0].shape) * prod(call.argument(1, "weight").shape[1:])
        return computed(call, times)
    effect = _transposed(call, replace(layer, kernel=layer.shape[2:], groups=_groups(call)))
    return _with_groups(call, effect, 6)


def _transposed(call: Call, layer: Layer) -> Effect:
    into, each_out, *kernel = layer.shape
    shape = (each_out * layer.groups, into // layer.groups, *kernel)
    layer = replace(layer, shape=shape, padded=True, transposed=True)
    if layer.groups == 1:
        return weighted(call, layer, call.args[0], layer.axis(call.args[0]))
    return _grouped(call, layer)


@rule(nn.Linear, widths=_linear_widths, gives=of_linear, cross_form=CrossLinear)
def linear(call: Call) -> Effect:
    return weighted(call, Layer.held(call), call.args[0], call.args[0].dim() - 1)


@rule(F.conv1d, F.conv2d, F.conv3d, weights=(1, 2, "weight", "bias"))
def functional_convolution(call: Call) -> Effect:
    layer = Layer.given(call)
    if layer is None:
        return computed(call, prod(call.val.shape) * prod(call.argument(1, "weight").shape[1:]))
    kernel = layer.shape[2:]
    # a padding that is computed may be 0 in the trace alone
    padded = call.is_computed(4, "padding") or pads(call.argument(4, "padding", 0), kernel)
    layer = replace(layer, kernel=kernel, padded=padded, groups=_groups(call))
    if layer.groups == 1:
        return weighted(call, layer, call.args[0], layer.axis(call.args[0]))
    return _with_groups(call, _grouped(call, layer), 6)


def _groups(call: Call) -> int:
    """The number of groups at the width that the weight has, also where it follows from a width that is resized."""
    nodes = call.node.args
    given: Any = nodes[6] if len(nodes) > 6 else call.node.kwargs.get("groups", 1)
    return int(given.meta["val"] if isinstance(given, fx.Node) else given)


def _with_groups(call: Call, effect: Effect, index: int) -> Effect:
    """The effect, with the number of groups that the call states as a literal written anew where it changes."""
    groups = effect.reading.groups if effect.reading is not None else 1
    if not call.resized or groups == call.argument(index, "groups", 1):
        return effect
    name: int | str = index if len(call.args) > index else "groups"
    return replace(effect, literals={name: groups})


@rule(CrossConv1d, CrossConv2d, CrossConv3d, CrossLinear, gives=of_cross)
def cross_layer(call: Call) -> Effect:
    return _cross(call, axis=call.args[0].dim() - len(getattr(call.module, "kernel_size", ())) - 1)


def computed(call: Call, times: int) -> Effect:
    """What reads a weight or a bias that the network computes: its widths stay, its work is known."""
    parametrized = any(".parametrizations." in f".{source.target}" for source in call.node.all_input_nodes)
    reason = (
        "its weight is computed by a parametrization: torch.nn.utils.parametrize.remove_parametrizations makes it a "
        "parameter"
        if parametrized
        else "its weight or bias is computed by the network, and is no parameter"
    )
    return replace(
        unknown(call, reason), work=(Work(per_example(int(times), call.batch), None, None),), uncounted=False
    )


def _positions(call: Call, axis: int) -> int:
    """At how many positions of one example the weights are applied; an input without a batch dim is one example."""
    positions = int(prod(size for dim, size in enumerate(call.val.shape) if dim != axis))
    return positions if axis == 0 else per_example(positions, call.batch)


def per_example(times: int, batch: int) -> int:
    """How often something is done for one example, of `times` for a batch."""
    return times if times % batch else times // batch


def _taps(call: Call, layer: Layer, axis: int) -> int:
    """How often each number of the weight is used for one example: a transposed one is laid at each input position."""
    if not layer.transposed or not layer.kernel:
        return _positions(call, axis) * prod(layer.kernel)
    places = call.args[0].shape[axis + 1 :]
    examples = int(prod(call.args[0].shape[:axis]))
    return per_example(examples, call.batch) * int(prod(places)) * prod(layer.kernel)


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


def reads_zeros(labels: Tensor, axis: int) -> bool:
    """Whether an op before padded the positions of channels with zeros, which the weights then read."""
    if ascends(labels) or lies_along(labels, axis) or not bool((collapse(labels) == NONE).any()):
        return False
    rows = spread(labels, axis)
    return bool(((rows >= 0).any(1, keepdim=True) & (rows == NONE)).any())


def _shape(call: Call, axis: int, width: int) -> list[int]:
    shape = list(call.val.shape)
    shape[axis] = width
    return shape


def weighted(call: Call, layer: Layer, labels: Tensor, axis: int) -> Effect:
    """The effect of ungrouped weights that read `axis` of their input, and give their channels on the same axis.

    >>> import nrfx
    >>> from torch import nn
    >>> from torch.nn import functional as F
    >>> class Plain(nn.Module):
    ...     def __init__(self, into, out):
    ...         super().__init__()
    ...         self.weight, self.bias = nn.Parameter(torch.randn(out, into)), nn.Parameter(torch.zeros(out))
    ...
    ...     def forward(self, x):
    ...         return F.linear(x, self.weight, self.bias)
    >>> @nrfx.rules.rule(Plain)
    ... def plain(call):
    ...     return weighted(call, Layer.held(call), call.args[0], axis=1)
    >>> gm = nrfx.trace(nn.Sequential(Plain(3, 8), nn.BatchNorm1d(8), Plain(8, 2)), torch.zeros(4, 3))
    >>> nrfx.utilization(gm).flops.total, nrfx.utilization(gm).gammas.total
    (40, 8)
    """
    cols = layout(labels, axis)
    if layer.flat:
        cols = attempt(cols.view, -1, prod(layer.kernel))[:, 0]
    rows = call.birth(layer.key, layer.shape[0])
    return Effect(
        Family.CONTRACTION,
        out=along(rows, axis, _shape(call, axis, rows.numel())),
        sites=layer.sites(rows, cols),
        ties=ties_along(labels, axis),
        work=(Work(_taps(call, layer, axis), rows, cols),),
        reading=layer.reading(rows, cols, axis, padded=reads_zeros(labels, axis)),
    )


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
        into, out = attempt(cols.view, groups, each_in), attempt(rows.view, groups, each_out)
        lead = into.amax(1, keepdim=True)
        ties += [(lead.expand(-1, each_in), into), (lead.expand(-1, each_out), out)]
    return Effect(
        Family.GROUPED,
        out=along(rows, axis, _shape(call, axis, rows.numel())),
        sites=layer.sites(rows, cols),
        ties=tuple(ties),
        work=(Work(_taps(call, layer, axis) * each_in, rows, None),),
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
    padded = is_padded(module) or reads_zeros(labels, axis)
    reading = Reading(call.path, call.path, None, call.own("bias"), rows, cols, axis, padded)
    if call.resized:  # the blocks of the new widths are the rewrite's to lay out
        return Effect(Family.CONTRACTION, out=out, ties=ties, reading=reading)
    generations = column_generations(module), row_generations(module)
    times = _positions(call, axis) * prod(getattr(module, "kernel_size", ()))
    sites = [Site(reading.bias, 0, rows)] if reading.bias is not None else []
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
