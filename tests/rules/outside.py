"""Ops of a user's own, with rules that are registered from outside of the package: what docs/extending.md tells of."""

from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.rules import (
    Call,
    Effect,
    Family,
    Layer,
    Norm,
    Site,
    along,
    channelwise,
    elementwise,
    layout,
    opaque,
    rule,
    weighted,
)


def doubled_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A function that reads a weight: twice a linear map."""
    return 2 * F.linear(x, weight.clone(), bias)


@rule(doubled_linear, weights=(1, 2))
def doubled_linear_rule(call: Call) -> Effect:
    layer = Layer.given(call)
    assert layer is not None
    return weighted(call, layer, call.args[0], call.args[0].dim() - 1)


def smooth(x: Tensor, strength: float = 1.0) -> Tensor:
    """A function without a weight; sin has no rule."""
    return x + strength * x.sin()


@rule(smooth, keeps_shape=True, workless=True)
def smooth_rule(call: Call) -> Effect:
    return elementwise(call)


def named(x: Tensor) -> Tensor:
    """A function whose rule knows it by name."""
    return x.sin()


rule("tests.rules.outside:named", keeps_shape=True)(smooth_rule)
rule("tests.rules.nowhere:named")(smooth_rule)


class Kept:
    """The same function in other places than under a global name."""

    static = staticmethod(smooth)
    table: ClassVar = {"smooth": smooth}
    partial = partial(smooth, strength=0.5)


class SignedRoot(torch.autograd.Function):
    """sign(x) sqrt(abs(x)), with a gradient that stays finite at 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign() * x.abs().sqrt()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad / (2 * x.abs().sqrt() + 1)


signed_root = SignedRoot.apply


@rule(SignedRoot)
def signed_root_rule(call: Call) -> Effect:
    return elementwise(call)


@torch.library.custom_op("nrfx_tests::wave", mutates_args=())
def wave(x: Tensor) -> Tensor:
    """sin(x), as an op that torch.fx knows nothing of."""
    return x.sin()


@wave.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@rule(torch.ops.nrfx_tests.wave)
def wave_rule(call: Call) -> Effect:
    return elementwise(call)


class Mirror(nn.Module):
    """A layer with a weight of its own: x W^T + b, the weight stored under another name."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.in_features, self.out_features = into, out
        self.matrix = nn.Parameter(torch.randn(out, into) / into**0.5)
        self.offset = nn.Parameter(torch.randn(out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.t() + self.offset


def _mirror_widths(layer: Any, _: int | None) -> dict[str, int]:
    return {"in_features": layer.matrix.shape[1], "out_features": layer.matrix.shape[0]}


@rule(Mirror, widths=_mirror_widths)
def mirror(call: Call) -> Effect:
    assert isinstance(call.module, Mirror)
    layer = Layer(
        call.path,
        weight=call.name(f"{call.path}.matrix"),
        bias=call.own("offset"),
        shape=tuple(call.module.matrix.shape),
        functional=True,
    )
    return weighted(call, layer, call.args[0], call.args[0].dim() - 1)


class Strongest(nn.Module):
    """The four largest values of each channel: what torch.fx sees of it has no rule."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).sort(2).values[..., -4:]


channelwise(Strongest)


class Router(nn.Module):
    """Control flow on values, which no graph holds."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1) if float(x.sum()) > 0 else x


opaque(Router, reason="it chooses by the values of its input", keeps_shape=True)


class Untaught(Strongest):
    """A class without a rule of its own: it changes the forward that the rule of its base describes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flip(1)


class Forgetful(nn.Module):
    """Two parameters a channel, of which its rule names one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.slope[:, None, None] + self.shift[:, None, None]


@rule(Forgetful)
def forgetful(call: Call) -> Effect:
    return Effect(Family.MIXED, out=call.args[0], sites=(Site(f"{call.path}.slope", 0, layout(call.args[0], 1)),))


class LastNorm(nn.Module):
    """A norm with its channels on the last axis: each is divided by its own root mean square."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean((1, 2), keepdim=True) + 1e-6) + self.bias


@rule(LastNorm, norm=True, keeps_shape=True, workless=True)
def last_norm(call: Call) -> Effect:
    channels = layout(call.args[0], 3)
    gamma, beta = call.own("weight"), call.own("bias")
    assert gamma is not None and beta is not None
    norm = Norm(call.path, call.path, channels, 3, gamma, beta, mean=None, var=None, eps=1e-6)
    sites = (Site(gamma, 0, channels), Site(beta, 0, channels))
    return Effect(Family.NORM, out=along(channels, 3, call.args[0].shape), sites=sites, norm=norm)
