"""Convolutions with their norms, and how they are joined: in a row, in branches, with shortcuts and gates, again."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks.piece import ACTIVATIONS, Apply, Piece, after, chain


class ChannelsLast(nn.Module):
    """A norm over the last axis, on maps; contiguous, so that any piece may view what it gives."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "plain": lambda width: nn.BatchNorm2d(width, affine=False),
    "group": lambda width: nn.GroupNorm(1 if width % 2 or width == 2 else 2, width),  # two or more values each
    "group of all": lambda width: nn.GroupNorm(1, width),
    "instance": lambda width: nn.InstanceNorm2d(width, affine=True),
    "plain instance": nn.InstanceNorm2d,
    "layer": lambda width: ChannelsLast(nn.LayerNorm(width)),
    "rms": lambda width: ChannelsLast(nn.RMSNorm(width)),
    "none": lambda width: nn.Identity(),
}


@dataclass(frozen=True, repr=False)
class Unit(Piece):
    """Convolution, norm, activation. groups: 0 for depthwise, -2 for two outputs a channel; else what divides both
    widths of it is taken. tall: the kernel is kernel x 1.

    A map smaller than the kernel is padded whatever `padded` says.
    """

    width: int = 4
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    bias: bool = False
    padded: bool = True
    act: str = "relu"
    norm: str = "batch"
    tall: bool = False

    def conv(self, shape: torch.Size) -> nn.Conv2d:
        i, size = shape[1], min(shape[2:])
        width = self.width if self.groups > 0 else i * max(1, -self.groups)
        groups = gcd(self.groups, i, width) if self.groups > 0 else i
        padding = self.kernel // 2 if self.padded or size < self.kernel else 0
        kernel = (self.kernel, 1) if self.tall else (self.kernel, self.kernel)
        pads = (padding, 0) if self.tall else (padding, padding)
        return nn.Conv2d(i, width, kernel, self.stride, pads, groups=groups, bias=self.bias)

    def build(self, shape: torch.Size) -> nn.Module:
        conv = self.conv(shape)
        one = after(conv, shape)[2:].numel() == 1  # a single position has no statistics
        norm = NORMS["batch" if one and "instance" in self.norm else self.norm](conv.out_channels)
        return nn.Sequential(conv, norm, ACTIVATIONS[self.act]())

    def same(self, width: int) -> "Unit":
        """The unit that gives `width` channels on maps of the same size."""
        return replace(self, width=width, stride=1, padded=True, groups=max(self.groups, 0))


@dataclass(frozen=True, repr=False)
class Transposed(Piece):
    """Transposed convolution, batch norm, activation. groups as in Unit. Large maps stay as they are."""

    width: int = 4
    kernel: int = 2
    stride: int = 2
    groups: int = 1
    bias: bool = False
    normed: bool = True
    act: str = "relu"

    def build(self, shape: torch.Size) -> nn.Module:
        i = shape[1]
        width = self.width if self.groups else i
        groups = gcd(self.groups, i, width) if self.groups else i
        stride = self.stride if max(shape[2:]) < 6 else 1
        conv = nn.ConvTranspose2d(
            *(i, width, self.kernel, stride), padding=(self.kernel - 1) // 2, groups=groups, bias=self.bias
        )
        return nn.Sequential(conv, nn.BatchNorm2d(width) if self.normed else nn.Identity(), ACTIVATIONS[self.act]())


@dataclass(frozen=True, repr=False)
class Preact(Piece):
    """Batch norm, activation, convolution: reads a stream beside others."""

    width: int = 4
    kernel: int = 1
    bias: bool = False
    act: str = "relu"

    def build(self, shape: torch.Size) -> nn.Module:
        conv = nn.Conv2d(shape[1], self.width, self.kernel, padding=self.kernel // 2, bias=self.bias)
        return nn.Sequential(nn.BatchNorm2d(shape[1]), ACTIVATIONS[self.act](), conv)

    def same(self, width: int) -> "Preact":
        return Preact(width, self.kernel, self.bias, self.act)


def steady(body: tuple[Any, ...], width: int) -> tuple[Any, ...]:
    """The body with the map's size kept, and `width` channels at its end."""
    return (*(unit.same(unit.width) for unit in body[:-1]), body[-1].same(width))


@dataclass(frozen=True, repr=False)
class Residual(Piece):
    """body(x) + x, or + norm(conv(x)) where it projects."""

    body: tuple[Any, ...] = (Unit(),)
    project: bool = False
    act: str = "none"
    join: str = "add"

    def build(self, shape: torch.Size) -> nn.Module:
        width = self.body[-1].width if self.project else shape[1]
        body = chain(steady(self.body, width), shape)
        shortcut = Unit(after(body, shape)[1], act="none").build(shape) if self.project else nn.Identity()
        if after(shortcut, shape)[1] != after(body, shape)[1]:  # the body ends depthwise
            body.append(Unit(shape[1], act="none").build(after(body, shape)))
        join = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "max": torch.maximum}[self.join]
        return nn.Sequential(
            Apply(lambda x, inner, outer: join(inner(x), outer(x)), body, shortcut), ACTIVATIONS[self.act]()
        )


@dataclass(frozen=True, repr=False)
class Branches(Piece):
    """Branches side by side on the channel axis; an empty one passes its input."""

    branches: tuple[tuple[Any, ...], ...] = ((), (Unit(),))

    def build(self, shape: torch.Size) -> nn.Module:
        def joined(x: Tensor, *inner: nn.Module) -> Tensor:
            return torch.cat([branch(x) for branch in inner], 1)

        bodies = [tuple(unit.same(unit.width) for unit in body) for body in self.branches]
        return Apply(joined, *(chain(body, shape) for body in bodies))


@dataclass(frozen=True, repr=False)
class Gate(Piece):
    """Squeeze and excite, in the middle with a norm or without; spatial: one gate for all channels."""

    squeezed: int = 2
    act: str = "sigmoid"
    normed: bool = False
    spatial: bool = False

    def build(self, shape: torch.Size) -> nn.Module:
        wide, last = shape[1], ACTIVATIONS[self.act]()
        middle = nn.BatchNorm2d(self.squeezed) if self.normed else nn.Identity()
        if self.spatial:
            inner = nn.Sequential(nn.Conv2d(wide, self.squeezed, 1), middle, nn.ReLU(), nn.Conv2d(self.squeezed, 1, 1))
            return Apply(lambda x, gate: x * gate(x), nn.Sequential(inner, last))
        inner = nn.Sequential(nn.Conv2d(wide, self.squeezed, 1), middle, nn.ReLU(), nn.Conv2d(self.squeezed, wide, 1))
        return Apply(lambda x, gate: x * gate(F.adaptive_avg_pool2d(x, 1)), nn.Sequential(inner, last))


@dataclass(frozen=True, repr=False)
class Pool(Piece):
    """Pooling with a kernel of 3 where padded, else of 2; "sum" is an average that divides by 1."""

    kind: str = "max"
    stride: int = 1
    padded: bool = True
    count_include_pad: bool = True

    def build(self, shape: torch.Size) -> nn.Module:
        kernel = 3 if self.padded else min(2, *shape[2:])
        if self.kind == "max":
            return nn.MaxPool2d(kernel, self.stride, int(self.padded))
        divisor = 1 if self.kind == "sum" else None
        return nn.AvgPool2d(
            *(kernel, self.stride, int(self.padded)),
            count_include_pad=self.count_include_pad,
            divisor_override=divisor,
        )

    def same(self, width: int) -> "Pool":
        return Pool(self.kind, 1, True, self.count_include_pad)

    @property
    def width(self) -> int:
        return 0


@dataclass(frozen=True, repr=False)
class Twice(Piece):
    """One convolution called twice, in a row or side by side, with a norm of its own each or one for both.

    tied: two convolutions instead, with one weight.
    """

    unit: Unit = Unit()
    row: bool = True
    one_norm: bool = True
    tied: bool = False

    def build(self, shape: torch.Size) -> nn.Module:
        unit = self.unit.same(shape[1])
        conv, act = unit.conv(shape), ACTIVATIONS[unit.act]()
        first, again = nn.BatchNorm2d(shape[1]), unit.conv(shape) if self.tied else conv
        again.weight = conv.weight
        second = first if self.one_norm else nn.BatchNorm2d(shape[1])

        def in_a_row(x: Tensor, conv: nn.Module, again: nn.Module, *rest: nn.Module) -> Tensor:
            first, second, act = rest
            return act(second(again(act(first(conv(x))))))

        def beside(x: Tensor, conv: nn.Module, again: nn.Module, *rest: nn.Module) -> Tensor:
            first, second, act = rest
            return act(second(conv(x))) + act(first(again(torch.relu(x))))

        return Apply(in_a_row if self.row else beside, conv, again, first, second, act)


@dataclass(frozen=True, repr=False)
class TwoNorms(Piece):
    """Two batch norms read one convolution."""

    unit: Unit = Unit()
    join: str = "cat"

    def build(self, shape: torch.Size) -> nn.Module:
        conv = self.unit.conv(shape)
        act = ACTIVATIONS[self.unit.act]()
        joins: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "cat": lambda a, b: torch.cat([a, b], 1),
            "add": lambda a, b: a + b,
            "mul": lambda a, b: a * b,
        }

        def run(x: Tensor, conv: nn.Module, first: nn.Module, second: nn.Module, act: nn.Module) -> Tensor:
            x = conv(x)
            return joins[self.join](act(first(x)), second(x))

        return Apply(run, conv, nn.BatchNorm2d(conv.out_channels), nn.BatchNorm2d(conv.out_channels), act)


@dataclass(frozen=True, repr=False)
class Again(Piece):
    """One body run several times, each time added to its input, or not."""

    body: tuple[Any, ...] = (Unit(),)
    times: int = 2
    residual: bool = True

    def build(self, shape: torch.Size) -> nn.Module:
        body = chain(steady(self.body, shape[1]), shape)
        if after(body, shape)[1] != shape[1]:  # it ends depthwise
            body.append(Unit(shape[1], act="none").build(after(body, shape)))

        def run(x: Tensor, body: nn.Module) -> Tensor:
            for _ in range(self.times):
                x = body(x) + x if self.residual else body(x)
            return x

        return Apply(run, body)


@dataclass(frozen=True, repr=False)
class Selected(Piece):
    """Two branches, mixed by a softmax over the two for each channel (a selective kernel)."""

    kernel: int = 3

    def build(self, shape: torch.Size) -> nn.Module:
        wide = shape[1]

        def run(x: Tensor, a: nn.Module, b: nn.Module, fc: nn.Module) -> Tensor:
            both = torch.stack([a(x), b(x)], 1)
            weights = fc(both.sum(1).mean((2, 3))).view(x.size(0), 2, -1, 1, 1).softmax(1)
            return (both * weights).sum(1)

        return Apply(run, Unit(wide).build(shape), Unit(wide, self.kernel).build(shape), nn.Linear(wide, 2 * wide))
