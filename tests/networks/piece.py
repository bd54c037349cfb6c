"""What a plan of a network is made of: values whose repr is short, reads like a model and evaluates to itself."""

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor, nn

IMAGE = (2, 3, 8, 8)
SHAPE = torch.Size(IMAGE)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "none": nn.Identity,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "prelu": nn.PReLU,
}


class Apply(nn.Module):
    """function(x, *parts)."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


class Piece:
    """A part of a network: build(shape) gives a module for inputs of shape [N, C, H, W]."""

    def __repr__(self) -> str:
        given = [f for f in fields(self) if getattr(self, f.name) != f.default]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in given)})"

    def build(self, shape: torch.Size) -> nn.Module:
        raise NotImplementedError


def chain(pieces: tuple[Piece, ...], shape: torch.Size) -> nn.Sequential:
    """The pieces' modules in a row, each built for the output shape of the module before it."""
    layers: list[nn.Module] = []
    for piece in pieces:
        layers.append(piece.build(shape).eval())
        shape = after(layers[-1], shape)
    return nn.Sequential(*layers)


@torch.no_grad()
def after(module: nn.Module, shape: torch.Size) -> torch.Size:
    """The shape of the output of a module."""
    return module.eval()(torch.zeros(shape)).shape
