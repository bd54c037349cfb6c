"""Whole small networks, drawn as plans: values whose repr is short, reads like a model and evaluates to itself.

A plan says which pieces follow each other, how the network ends and which gammas are dead. A repr leaves out what is as
by default. `Plan.build()` makes the module, `Plan.prepared()` calibrates it in float64 and kills its gammas.

A pattern such as ".x" says along the channels of a norm which gammas are dead (x); it is repeated to the norm's width,
and the patterns of a plan are repeated over its norms. So one pattern means the same channels everywhere, "xxxx...."
whole groups, and a long row of x with one dot a layer that is all dead but one.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.zoo import calibrated, norms

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


class Dropout(nn.Module):
    """The functional form, which reads train/eval mode in the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.25, training=self.training)


class Scaled(nn.Module):
    """x times a bare parameter: of one number, or one a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class TrainOnly(nn.Module):
    """inner(x) + x in train mode, x in eval mode: two graphs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x if self.training else x


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


class Piece:
    """A part of a network: build(shape) gives a module for inputs of shape [N, C, H, W]."""

    def __repr__(self) -> str:
        given = [f for f in fields(self) if getattr(self, f.name) != f.default]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in given)})"

    def build(self, shape: torch.Size) -> nn.Module:
        raise NotImplementedError


def chain(pieces: tuple[Piece, ...], shape: torch.Size) -> nn.Sequential:
    """The pieces' modules one after the other, each built for what the one before gives."""
    layers: list[nn.Module] = []
    for piece in pieces:
        layers.append(piece.build(shape).eval())
        shape = after(layers[-1], shape)
    return nn.Sequential(*layers)


@torch.no_grad()
def after(module: nn.Module, shape: torch.Size) -> torch.Size:
    """The shape that a module gives."""
    return module.eval()(torch.zeros(shape)).shape


@dataclass(frozen=True, repr=False)
class Unit(Piece):
    """Convolution, batch norm, activation. groups: 0 for depthwise; else what divides both widths of it is taken.

    A map smaller than the kernel is padded whatever `padded` says.
    """

    width: int = 4
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    bias: bool = False
    padded: bool = True
    act: str = "relu"

    def conv(self, shape: torch.Size) -> nn.Conv2d:
        i, size = shape[1], shape[2]
        width = self.width if self.groups else i
        groups = gcd(self.groups, i, width) if self.groups else i
        padding = self.kernel // 2 if self.padded or size < self.kernel else 0
        return nn.Conv2d(i, width, self.kernel, self.stride, padding, groups=groups, bias=self.bias)

    def build(self, shape: torch.Size) -> nn.Module:
        conv = self.conv(shape)
        return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), ACTIVATIONS[self.act]())

    def same(self, width: int) -> "Unit":
        """The unit that gives `width` channels on maps of the same size."""
        return Unit(width, self.kernel, 1, self.groups, self.bias, True, self.act)


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
        kernel = 3 if self.padded else min(2, shape[2])
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
        }[self.how]
        joins: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "cat": lambda a, b: torch.cat([a, b], 1),
            "swapped": lambda a, b: torch.cat([b, a], 1),
            "add": lambda a, b: a + b,
            "glu": lambda a, b: a * b.sigmoid(),
            "first": lambda a, b: a.contiguous(),
        }

        def run(x: Tensor, body: nn.Module) -> Tensor:
            a, b = parts(x)
            return joins[self.join](a, body(b))

        inside = torch.Size((shape[0], half, *shape[2:]))
        body = chain(steady(self.body, half), inside) if self.body else nn.Sequential()
        return nn.Sequential(stem, Apply(run, body))


@dataclass(frozen=True, repr=False)
class Move(Piece):
    """Channels in another order, or more than once, or fewer at a time."""

    how: str = "shuffle"

    def build(self, shape: torch.Size) -> nn.Module:
        groups = 2 if shape[1] % 2 == 0 else 1
        wide = shape[1]

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
            "pixels": lambda x: F.pixel_unshuffle(x, 2) if shape[2] % 2 == 0 else x,
            "pad": lambda x: F.pad(x, (1, 1, 1, 1)),
            "pad one": lambda x: F.pad(x, (1, 0, 0, 1), value=1.0),
            "pad reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect" if shape[2] > 1 else "replicate"),
            "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)),
            "upsample": lambda x: F.interpolate(x, scale_factor=2) if shape[2] < 6 else x,
            "bilinear": lambda x: F.interpolate(x, size=5, mode="bilinear", align_corners=False),
            "flatten": lambda x: x.flatten(2).unsqueeze(3).transpose(2, 3).reshape(x.shape),
        }
        return nn.ChannelShuffle(groups) if self.how == "shuffle module" else Apply(moves[self.how])


MOVES = (
    *("shuffle", "shuffle literal", "shuffle module", "flip", "flip positions", "roll", "roll positions", "twice"),
    *("transpose", "repeat", "pixels", "pad", "pad one", "pad reflect", "pad channels", "upsample", "bilinear"),
    "flatten",
)

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
class Single(Piece):
    """A layer alone."""

    kind: str = "norm"

    def build(self, shape: torch.Size) -> nn.Module:
        wide = shape[1]
        kinds: dict[str, Callable[[], nn.Module]] = {
            "norm": lambda: nn.BatchNorm2d(wide),
            "plain norm": lambda: nn.BatchNorm2d(wide, affine=False),
            "conv": lambda: nn.Conv2d(wide, 4, 1),
            "conv without bias": lambda: nn.Conv2d(wide, 4, 3, padding=1, bias=False),
            "depthwise": lambda: nn.Conv2d(wide, wide, 1, groups=wide),
            "circular": lambda: nn.Conv2d(wide, 4, 3, padding=1, padding_mode="circular"),
            "transposed": lambda: nn.ConvTranspose2d(wide, 4, 2),
            "group norm": lambda: nn.GroupNorm(1, wide),
            "dropout": Dropout,
            "dropout module": lambda: nn.Dropout2d(0.25),
            "scale": lambda: Scaled(1),
            "channel scale": lambda: Scaled(wide),
            "relu": nn.ReLU,
            "rrelu": nn.RReLU,
            "train only": lambda: TrainOnly(wide),
        }
        return kinds[self.kind]()


SINGLES = (
    *("norm", "plain norm", "conv", "conv without bias", "depthwise", "circular", "transposed", "group norm"),
    *("dropout", "dropout module", "scale", "channel scale", "relu", "rrelu", "train only"),
)


def ended(tail: str, shape: torch.Size) -> nn.Module:
    """What stands at the end: 3 logits in all cases but "maps", which ends in a convolution, and "none"."""
    wide, positions = shape[1], shape[1:].numel()
    pool: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    tails: dict[str, Callable[[], nn.Module]] = {
        "pool": lambda: nn.Sequential(*pool, nn.Linear(wide, 3)),
        "flatten": lambda: nn.Sequential(nn.Flatten(), nn.Linear(positions, 3)),
        "view": lambda: Apply(lambda x, last: last(x.view(x.size(0), -1)), nn.Linear(positions, 3)),
        "four": lambda: nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(4 * wide, 3)),
        "mean": lambda: Apply(lambda x, last: last(x.mean((2, 3))), nn.Linear(wide, 3)),
        "tokens": lambda: Apply(lambda x, last: last(x.flatten(2).transpose(1, 2)).mean(1), nn.Linear(wide, 3)),
        "norm": lambda: nn.Sequential(
            *pool, nn.Linear(wide, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
        ),
        "hidden": lambda: nn.Sequential(nn.Flatten(), nn.Linear(positions, 5), nn.ReLU(), nn.Linear(5, 3)),
        "last norm": lambda: nn.Sequential(*pool, nn.Linear(wide, 3), nn.BatchNorm1d(3)),
        "maps": lambda: nn.Conv2d(wide, 3, 3, padding=1),
        "none": nn.Identity,
    }
    return tails[tail]()


TAILS = ("pool", "flatten", "view", "four", "mean", "tokens", "norm", "hidden", "last norm", "maps", "none")


@dataclass(frozen=True, repr=False)
class Plan(Piece):
    """A network of 3-channel images, and which of its gammas are dead.

    beta: of the dead ones "zero", "random", or "negative" (which a ReLU makes zero). seed: of weights and statistics.
    frozen: how many parameters at the start do not learn. training: the mode that it is left in.
    """

    pieces: tuple[Any, ...] = (Unit(),)
    tail: str = "pool"
    dead: tuple[str, ...] = (".",)
    beta: str = "zero"
    seed: int = 0
    frozen: int = 0
    training: bool = False

    def build(self, shape: torch.Size = SHAPE) -> nn.Module:
        """The network with random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            body = chain(self.pieces, shape)
            return nn.Sequential(*body, ended(self.tail, after(body, shape)).eval())

    def prepared(self) -> nn.Module:
        """In float64 and eval mode, calibrated, its dead gammas exactly 0."""
        model = calibrated(self.build(), IMAGE, self.seed)
        for norm in model.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_var is not None:
                norm.running_var.clamp_(min=0.05)  # a silent channel would amplify rounding 300-fold
        for parameter in list(model.parameters())[: self.frozen]:
            parameter.requires_grad_(False)
        return self.killed(model).train(self.training)

    @torch.no_grad()
    def killed(self, model: nn.Module) -> nn.Module:
        """The model, in place, with the gammas that the patterns name at 0 and their betas as `beta` says."""
        generator = torch.Generator().manual_seed(self.seed)
        for number, norm in enumerate(norms(model)):
            pattern = self.dead[number % len(self.dead)]
            dead = torch.tensor([pattern[i % len(pattern)] == "x" for i in range(norm.num_features)])
            values = torch.randn(norm.num_features, generator=generator, dtype=norm.bias.dtype) * 0.5
            values = {"zero": 0 * values, "random": values, "negative": -values.abs()}[self.beta]
            norm.weight[dead], norm.bias[dead] = 0.0, values[dead]
        return model


def one_of(values: Any) -> Any:
    """One of the values, or of the keys of a mapping."""
    return st.sampled_from(list(values))


def units(**fixed: Any) -> st.SearchStrategy[Unit]:
    drawn: dict[str, Any] = {
        "width": one_of((4, 6, 8, 3)),
        "kernel": one_of((1, 3)),
        "stride": one_of((1, 1, 2)),
        "groups": one_of((1, 1, 1, 0, 2)),
        "bias": st.booleans(),
        "padded": one_of((True, False)),
        "act": one_of(ACTIVATIONS),
    }
    return st.builds(Unit, **(drawn | fixed))


def preacts() -> st.SearchStrategy[Preact]:
    return st.builds(Preact, one_of((4, 6, 8)), one_of((1, 3)), st.booleans(), one_of(ACTIVATIONS))


def pools() -> st.SearchStrategy[Pool]:
    return st.builds(Pool, one_of(("max", "avg", "avg", "sum")), one_of((1, 2)), st.booleans(), st.booleans())


def tuples(elements: Any, least: int, most: int) -> Any:
    return st.lists(elements, min_size=least, max_size=most).map(tuple)


def pieces() -> st.SearchStrategy[Any]:
    inner = st.one_of(units(), units(), preacts())
    body = tuples(inner, 1, 2)
    branch = tuples(st.one_of(units(), units(), preacts(), pools()), 0, 2)
    joins = one_of(("add", "add", "add", "sub", "mul", "max"))
    kinds: dict[type[Piece], Any] = {
        Unit: units(),
        Residual: st.builds(Residual, body, st.booleans(), one_of(ACTIVATIONS), joins),
        Branches: st.builds(Branches, tuples(branch, 1, 3)),
        Gate: st.builds(Gate, one_of((2, 4)), one_of(("sigmoid", "relu6", "none")), st.booleans(), st.booleans()),
        Pool: pools(),
        Split: st.builds(
            Split,
            one_of(("chunk", "split", "slice", "stripes", "size")),
            one_of(("cat", "swapped", "add", "glu", "first")),
            tuples(inner, 0, 1),
        ),
        Move: st.builds(Move, one_of(MOVES)),
        Arithmetic: st.builds(Arithmetic, one_of(ARITHMETIC)),
        Twice: st.builds(Twice, units(), st.booleans(), st.booleans(), st.booleans()),
        TwoNorms: st.builds(TwoNorms, units(), one_of(("cat", "add", "mul"))),
        Single: st.builds(Single, one_of(SINGLES)),
        Preact: preacts(),
    }
    return st.one_of(*kinds.values())


PATTERNS = (".", "x.", ".xx", "xxxx....", ".xxxxxxxxxxxxxxxxxxx", "..x", "x", "xx..")


def plans() -> st.SearchStrategy[Plan]:
    """Plans of a stem and up to 4 pieces."""
    patterns = tuples(st.one_of(one_of(PATTERNS), st.text(".x", min_size=1, max_size=6)), 1, 4)
    body = st.builds(lambda stem, rest: (stem, *rest), units(), tuples(pieces(), 0, 4))
    drawn = st.builds(
        Plan,
        *(body, one_of(TAILS), patterns, one_of(("zero", "random", "negative")), one_of((0, 1))),
        *(one_of((0, 0, 0, 2, 5)), one_of((False, False, True))),
    )
    return drawn.filter(has_channels)


def has_channels(plan: Plan) -> bool:
    """Whether some convolution or linear layer sums over channels: without any there is nothing to analyse."""
    return plan.tail != "none" or bool(plan.pieces[0].groups)
