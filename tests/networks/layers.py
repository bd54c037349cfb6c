"""Layers alone, parameters that a graph reads itself, and attention."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks.blocks import NORMS
from tests.networks.piece import ACTIVATIONS, Apply, Piece


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
            "prelu": lambda: nn.PReLU(wide),
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
    *("norm", "plain norm", "prelu", "conv", "conv without bias", "depthwise", "circular", "transposed", "group norm"),
    *("dropout", "dropout module", "scale", "channel scale", "relu", "rrelu", "train only"),
)


class Own(nn.Module):
    """function(x, weight, bias) with parameters of its own, of the given shapes."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weight, self.bias = (nn.Parameter(torch.randn(shape) / shape[0] ** 0.5) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight, self.bias).contiguous()


Product = Callable[[Tensor, Tensor, Tensor], Tensor]
PRODUCTS: dict[str, tuple[Product, Callable[[int, int], tuple[int, ...]]]] = {
    "F.conv2d": (F.conv2d, lambda i, o: (o, i, 1, 1)),
    "F.conv2d depthwise": (
        lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=x.size(1)),
        lambda i, o: (i, 1, 3, 3),
    ),
    "F.conv_transpose2d": (F.conv_transpose2d, lambda i, o: (i, o, 1, 1)),
    "F.linear": (lambda x, w, b: F.linear(x.permute(0, 2, 3, 1), w, b).permute(0, 3, 1, 2), lambda i, o: (o, i)),
    "x @ w": (lambda x, w, b: (x.permute(0, 2, 3, 1) @ w + b).permute(0, 3, 1, 2), lambda i, o: (i, o)),
    "w @ x": (
        lambda x, w, b: (w @ x.flatten(2)).view(x.size(0), -1, *x.shape[2:]) + b[:, None, None],
        lambda i, o: (o, i),
    ),
    "matmul": (
        lambda x, w, b: torch.matmul(x.flatten(2).transpose(1, 2), w).add(b).transpose(1, 2).unflatten(2, x.shape[2:]),
        lambda i, o: (i, o),
    ),
    "einsum": (lambda x, w, b: torch.einsum("nchw,cd->ndhw", x, w) + b.view(-1, 1, 1), lambda i, o: (i, o)),
    "einsum turned": (lambda x, w, b: torch.einsum("oc,nchw->nohw", w, x) + b.view(-1, 1, 1), lambda i, o: (o, i)),
}


@dataclass(frozen=True, repr=False)
class Computed(Piece):
    """A function that is given parameters, batch norm, activation."""

    how: str = "einsum"
    width: int = 4
    normed: bool = True
    act: str = "relu"

    def build(self, shape: torch.Size) -> nn.Module:
        function, weight = PRODUCTS[self.how]
        width = shape[1] if self.how == "F.conv2d depthwise" else self.width
        norm = nn.BatchNorm2d(width) if self.normed else nn.Identity()
        return nn.Sequential(Own(function, weight(shape[1], width), (width,)), norm, ACTIVATIONS[self.act]())


BARE: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "scale": lambda x, w, b: x * w[:, None, None],
    "scale and shift": lambda x, w, b: w.view(1, -1, 1, 1) * x + b.view(1, -1, 1, 1),
    "gate": lambda x, w, b: x * w.sigmoid()[None, :, None, None],
    "prelu": lambda x, w, b: F.prelu(x, w),
    "layer norm": lambda x, w, b: F.layer_norm(x.permute(0, 2, 3, 1), (x.size(1),), w, b).permute(0, 3, 1, 2),
    "class token": lambda x, w, b: torch.cat([w.view(1, -1, 1, 1).expand(x.size(0), -1, 1, x.size(3)), x], 2),
    "mix": lambda x, w, b: x + w[:, None, None] * torch.relu(x),
}


@dataclass(frozen=True, repr=False)
class Bare(Piece):
    """Parameters of one number a channel, read by the graph itself."""

    how: str = "scale"

    def build(self, shape: torch.Size) -> nn.Module:
        return Own(BARE[self.how], (shape[1],), (shape[1],))


class MultiHead(nn.Module):
    """Self-attention over positions: heads by hand, by scaled_dot_product_attention, by einsum, or by module."""

    def __init__(self, wide: int, heads: int, inner: int, how: str) -> None:
        super().__init__()
        self.heads, self.how = heads, how
        if how == "module":
            self.attention = nn.MultiheadAttention(wide, heads if wide % heads == 0 else 1, batch_first=True)
        else:
            self.q, self.k, self.v = (nn.Linear(wide, heads * inner) for _ in range(3))
            self.proj = nn.Linear(heads * inner, wide)

    def forward(self, x: Tensor) -> Tensor:
        shape, x = x.shape, x.flatten(2).transpose(1, 2)
        if self.how == "module":
            given = self.attention(x, x, x, need_weights=False)[0]
        else:
            q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
            given = self.proj(self.mixed(q, k, v).transpose(1, 2).flatten(2))
        return given.transpose(1, 2).reshape(shape).contiguous()

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.how == "sdpa":
            return F.scaled_dot_product_attention(q, k, v)
        if self.how == "einsum":
            return torch.einsum("bhts,bhsd->bhtd", torch.einsum("bhtd,bhsd->bhts", q, k).softmax(-1), v)
        return (q @ k.transpose(-2, -1) * q.size(-1) ** -0.5).softmax(-1) @ v


@dataclass(frozen=True, repr=False)
class Attention(Piece):
    """norm, attention, and the input added or not."""

    heads: int = 2
    inner: int = 2
    how: str = "sdpa"
    norm: str = "batch"
    residual: bool = True

    def build(self, shape: torch.Size) -> nn.Module:
        inner = nn.Sequential(NORMS[self.norm](shape[1]), MultiHead(shape[1], self.heads, self.inner, self.how))
        return Apply(lambda x, inner: x + inner(x), inner) if self.residual else inner


@dataclass(frozen=True, repr=False)
class Mixer(Piece):
    """norm, linear layer over channels, activation, linear layer back, each channel scaled, the input added."""

    hidden: int = 6
    norm: str = "layer"
    act: str = "relu"
    normed: bool = True

    def build(self, shape: torch.Size) -> nn.Module:
        wide = shape[1]
        first, last = (nn.Conv2d(i, o, 1) for i, o in ((wide, self.hidden), (self.hidden, wide)))
        middle = nn.BatchNorm2d(self.hidden) if self.normed else nn.Identity()
        norm = NORMS["layer" if shape[2:].numel() == 1 and "instance" in self.norm else self.norm](wide)
        inner = nn.Sequential(norm, first, middle, ACTIVATIONS[self.act](), last, Scaled(wide))
        return Apply(lambda x, inner: x + inner(x), inner)
