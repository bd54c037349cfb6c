"""Ops that move channels, and element-wise arithmetic with sizes, masks and changes in place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks.blocks import Unit, steady
from tests.networks.piece import Apply, Piece, chain


def overwritten(x: Tensor) -> Tensor:
    """relu(x), through a change in place that nobody reads."""
    x = 1 * x
    x.relu_()
    return x


def overwritten_twice(x: Tensor) -> Tensor:
    """2 sigmoid(x), where x is read after it was changed in place."""
    x = 1 * x
    return x.sigmoid_() + x


def overwritten_half(x: Tensor) -> Tensor:
    """x with its first channels changed through a view."""
    x = 1 * x
    x[:, : x.shape[1] // 2].mul_(0.5).add_(1.0)
    return x


@dataclass(frozen=True, repr=False)
class Split(Piece):
    """The channels in two halves, an odd one first: one goes through the body, then they meet again."""

    how: str = "chunk"
    join: str = "cat"
    body: tuple[Any, ...] = (Unit(),)

    def build(self, shape: torch.Size) -> nn.Module:
        half = shape[1] // 2
        if not half:
            return nn.Identity()
        stem = Unit(2 * half).build(shape) if shape[1] % 2 else nn.Identity()
        parts = {
            "chunk": lambda x: x.chunk(2, 1),
            "split": lambda x: x.split(half, 1),
            "slice": lambda x: (x[:, :half], x[:, half:]),
            "stripes": lambda x: (x[:, ::2], x[:, 1::2]),
            "size": lambda x: torch.split(x, x.size(1) // 2, dim=1),
            "list": lambda x: x.split([half, half], 1),
            "tensor_split": lambda x: torch.tensor_split(x, 2, 1),
            "view": lambda x: x.view(x.size(0), 2, x.size(1) // 2, *x.shape[2:]).unbind(1),
            "narrow": lambda x: (x.narrow(1, 0, half), x.narrow(1, half, half)),
        }[self.how]
        joins: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "cat": lambda a, b: torch.cat([a, b], 1),
            "swapped": lambda a, b: torch.cat([b, a], 1),
            "add": lambda a, b: a + b,
            "glu": lambda a, b: a * b.sigmoid(),
            "first": lambda a, b: a.contiguous(),
            "mul": lambda a, b: a * b,
            "stack": lambda a, b: torch.stack([a, b], 2).flatten(1, 2),
            "max": torch.maximum,
        }

        def run(x: Tensor, body: nn.Module) -> Tensor:
            a, b = parts(x)
            return joins[self.join](a, body(b))

        inside = torch.Size((shape[0], half, *shape[2:]))
        body = chain(steady(self.body, half), inside) if self.body else nn.Sequential()
        return nn.Sequential(stem, Apply(run, body))


@dataclass(frozen=True, repr=False)
class Move(Piece):
    """An op that reorders channels, repeats them, or takes a part of them."""

    how: str = "shuffle"

    def build(self, shape: torch.Size) -> nn.Module:
        groups = 2 if shape[1] % 2 == 0 else 1
        wide, even = shape[1], not any(size % 2 for size in shape[2:])

        def shuffled(x: Tensor) -> Tensor:
            n, c, h, w = x.shape
            return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)

        def literal(x: Tensor) -> Tensor:
            return x.view(-1, groups, wide // groups, *shape[2:]).transpose(1, 2).reshape(-1, wide, *shape[2:])

        moves: dict[str, Callable[[Tensor], Tensor]] = {
            "shuffle": shuffled,
            "shuffle literal": literal,
            "shuffle module": nn.ChannelShuffle(groups).forward,
            "flip": lambda x: x.flip(1),
            "flip positions": lambda x: x.flip((2, 3)),
            "roll": lambda x: torch.roll(x, 1, 1),
            "roll positions": lambda x: torch.roll(x, (1, 1), (2, 3)),
            "twice": lambda x: torch.cat([x, x], 1),
            "transpose": lambda x: x.transpose(2, 3).contiguous(),
            "repeat": lambda x: x.repeat_interleave(2, 1),
            "pixels": lambda x: F.pixel_unshuffle(x, 2) if even else x,
            "pad": lambda x: F.pad(x, (1, 1, 1, 1)),
            "pad one": lambda x: F.pad(x, (1, 0, 0, 1), value=1.0),
            "pad reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect" if min(shape[2:]) > 1 else "replicate"),
            "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)),
            "upsample": lambda x: F.interpolate(x, scale_factor=2) if max(shape[2:]) < 6 else x,
            "bilinear": lambda x: F.interpolate(x, size=5, mode="bilinear", align_corners=False),
            "half literal": lambda x: x.view(-1, groups, x.size(1) // groups, *shape[2:]).transpose(1, 2).flatten(1, 2),
            "permute": lambda x: x.reshape(x.size(0), -1, groups, *x.shape[2:]).permute(0, 2, 1, 3, 4).flatten(1, 2),
            "shuffle function": lambda x: F.channel_shuffle(x, groups),
            "x + flip": lambda x: x + x.flip(1),
            "x + roll": lambda x: x + x.roll(1, 1),
            "stack": lambda x: torch.stack([x, -x], 2).flatten(1, 2),
            "stack sum": lambda x: torch.stack([x, x.flip(2)], 1).sum(1),
            "pixel shuffle": lambda x: F.pixel_shuffle(x, 2) if wide % 4 == 0 and max(shape[2:]) < 6 else x,
            "space to depth": lambda x: torch.cat([x[:, :, ::2], x[:, :, 1::2]], 1) if shape[2] % 2 == 0 else x,
            "glu": lambda x: F.glu(x, 1) if wide % 2 == 0 else x,
            "maxout": lambda x: x.view(x.size(0), -1, groups, *x.shape[2:]).amax(2),
            "maxout of halves": lambda x: torch.maximum(*x.chunk(2, 1)) if wide % 2 == 0 else x,
            "index": lambda x: x[:, list(range(wide - 1, -1, -2))],
            "pad shortcut": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, wide)),
            "tokens": lambda x: (
                x.permute(0, 2, 3, 1).reshape(x.size(0), -1, x.size(1)).mT.reshape(x.shape).contiguous()
            ),
            "flatten": lambda x: x.flatten(2).unsqueeze(3).transpose(2, 3).reshape(x.shape),
        }
        return nn.ChannelShuffle(groups) if self.how == "shuffle module" else Apply(moves[self.how])


MOVES = (
    *("shuffle", "shuffle literal", "shuffle module", "flip", "flip positions", "roll", "roll positions", "twice"),
    *("transpose", "repeat", "pixels", "pad", "pad one", "pad reflect", "pad channels", "upsample", "bilinear"),
    *("flatten", "half literal", "permute", "shuffle function", "x + flip", "x + roll", "stack", "stack sum"),
    *("pixel shuffle", "space to depth", "glu", "maxout", "maxout of halves", "index", "pad shortcut", "tokens"),
)
HOWS = ("chunk", "split", "slice", "stripes", "size", "list", "tensor_split", "view", "narrow")
JOINS = ("cat", "swapped", "add", "glu", "first", "mul", "stack", "max")


ARITHMETIC: dict[str, Callable[[Tensor], Tensor]] = {
    "2 * x": lambda x: 2 * x,
    "x + 1": lambda x: x + 1,
    "1 - x": lambda x: 1 - x,
    "-x": lambda x: -x,
    "x * x": lambda x: x * x,
    "x + x": lambda x: x + x,
    "x - mean": lambda x: x - x.mean((2, 3), keepdim=True),
    "x / 3": lambda x: x / 3,
    "1 / (x * x + 1)": lambda x: 1 / (x * x + 1),
    "clamp": lambda x: x.clamp(-1, 1),
    "max(x, -x)": lambda x: torch.maximum(x, -x),
    "x + relu(x)": lambda x: x + torch.relu(x),
    "softmax": lambda x: x.softmax(1),
    "x - max": lambda x: x - x.amax(1, keepdim=True),
    "x * channel mean": lambda x: x * x.mean(1, keepdim=True),
    "x + top": lambda x: x + x.amax((2, 3), keepdim=True),
    "x / width": lambda x: x / x.shape[1],
    "x * width ** -0.5": lambda x: x * x.size(1) ** -0.5,
    "x + height": lambda x: x + x.shape[2],
    "sum / size": lambda x: x + x.sum((2, 3), keepdim=True) / (x.size(2) * x.size(3)),
    "channel sum / width": lambda x: x - x.sum(1, keepdim=True) / x.size(1),
    "where": lambda x: torch.where(x > 0.1, x, 0.5 * x),
    "masked_fill": lambda x: x.masked_fill(x < 0.1, 1.0),
    "normalize": lambda x: F.normalize(x, dim=1),
    "x * position mean": lambda x: x * x.mean((2, 3), keepdim=True),
    "softmax of positions": lambda x: x * x.flatten(2).softmax(-1).reshape(x.shape),
    "lerp": lambda x: torch.lerp(x, x.relu(), 0.3),
    "overwritten": overwritten,
    "overwritten twice": overwritten_twice,
    "overwritten half": overwritten_half,
}


@dataclass(frozen=True, repr=False)
class Arithmetic(Piece):
    """Element-wise ops and reductions, some of which no rule knows."""

    op: str = "2 * x"

    def build(self, shape: torch.Size) -> nn.Module:
        return Apply(ARITHMETIC[self.op])
