"""Small networks on which tools that count params and multiply-adds go wrong, with the true numbers worked out by hand.

The true params are the learnable numbers that `parameters()` lists, a shared one once, whether the forward uses it or
not. The true flops are the multiply-adds of convolutions, linear layers and matrix products in one forward, a layer
that is called twice twice. No trap has a bias, a norm or an activation, which tools count or leave out by convention;
attention has a softmax, which may add a percent or two.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 16
PLACES = SIDE * SIDE
TOKENS, WIDTH = 24, 64


@dataclass(frozen=True)
class Trap:
    """A network, its inputs, and what is true of it.

    what: what makes it a trap, in a few words. on_meta: the network and its inputs lie on the meta device.
    """

    what: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    params: int
    flops: int
    on_meta: bool = False


def image(channels: int = 8) -> tuple[Tensor, ...]:
    """One image of SIDE x SIDE."""
    return (torch.randn(1, channels, SIDE, SIDE),)


def tokens() -> tuple[Tensor, ...]:
    """One sequence of TOKENS vectors of WIDTH."""
    return (torch.randn(1, TOKENS, WIDTH),)


def words() -> tuple[Tensor, ...]:
    """One sequence of TOKENS numbers below 50."""
    return (torch.arange(TOKENS).unsqueeze(0),)


def conv(in_: int, out: int, kernel: int = 3, groups: int = 1) -> nn.Conv2d:
    """Without a bias; keeps the side of the image."""
    return nn.Conv2d(in_, out, kernel, padding=kernel // 2, groups=groups, bias=False)


class CalledTwice(nn.Module):
    """One convolution, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.conv(x))
        return out


class Functional(nn.Module):
    """F.conv2d with a parameter of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, padding=1)


class FunctionalLinear(nn.Module):
    """F.linear with a parameter of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Product(nn.Module):
    """x @ W, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, 32))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Sum(nn.Module):
    """An einsum over a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, 32))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("btc,co->bto", x, self.weight)


class Products(nn.Module):
    """A product of two activations: every token with every other one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return torch.bmm(y, y.transpose(1, 2))


class SelfAttention(nn.Module):
    """nn.MultiheadAttention, whose forward in eval mode without gradients is one fused call."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, bias=False, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


class ScaledProduct(nn.Module):
    """F.scaled_dot_product_attention between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.into(x).unflatten(-1, (3, 4, WIDTH // 4)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.out(mixed)
        return out


class Tied(nn.Module):
    """An embedding and a linear layer with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, WIDTH)
        self.linear = nn.Linear(WIDTH, 50, bias=False)
        self.linear.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.embedding(x))
        return out


class OneModuleTwice(nn.Module):
    """One convolution under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(8, 8)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x))
        return out


class OwnConv(nn.Conv2d):
    """A subclass of nn.Conv2d with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, None, self.stride, self.padding)


class Unused(nn.Module):
    """A layer that the forward does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = conv(8, 8), conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x)
        return out


class Frozen(nn.Module):
    """A layer whose weight needs no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(8, 8), conv(8, 8)
        self.first.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x))
        return out


class BareParameter(nn.Module):
    """A parameter of the module beside its layers, such as a position embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x + self.position)
        return out


class TwoInputs(nn.Module):
    """Two inputs of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.of_image, self.of_tokens = conv(8, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        out: Tensor = self.of_image(x).mean((2, 3)) + self.of_tokens(tokens).mean(1)
        return out


_ATTENTION_PARAMS = 4 * WIDTH * WIDTH
_ATTENTION_FLOPS = 4 * TOKENS * WIDTH * WIDTH + 2 * TOKENS * TOKENS * WIDTH

TRAPS: Mapping[str, Trap] = {
    "plain": Trap("no trap: a convolution", lambda: conv(8, 16), image, 16 * 8 * 9, 16 * 8 * 9 * PLACES),
    "called twice": Trap("a convolution called twice", CalledTwice, image, 8 * 8 * 9, 2 * 8 * 8 * 9 * PLACES),
    "two names": Trap("a convolution under two names", OneModuleTwice, image, 8 * 8 * 9, 2 * 8 * 8 * 9 * PLACES),
    "F.conv2d": Trap("with a parameter", Functional, image, 16 * 8 * 9, 16 * 8 * 9 * PLACES),
    "F.linear": Trap("with a parameter", FunctionalLinear, tokens, 32 * WIDTH, TOKENS * 32 * WIDTH),
    "x @ W": Trap("with a parameter", Product, tokens, WIDTH * 32, TOKENS * WIDTH * 32),
    "einsum": Trap("with a parameter", Sum, tokens, WIDTH * 32, TOKENS * WIDTH * 32),
    "bmm": Trap(
        "of two activations",
        *(Products, tokens, WIDTH * WIDTH, TOKENS * WIDTH * WIDTH + TOKENS * TOKENS * WIDTH),
    ),
    "tokens": Trap(
        "a linear layer on a sequence",
        *(lambda: nn.Linear(WIDTH, 32, bias=False), tokens, WIDTH * 32, TOKENS * WIDTH * 32),
    ),
    "attention": Trap("nn.MultiheadAttention", SelfAttention, tokens, _ATTENTION_PARAMS, _ATTENTION_FLOPS),
    "fused attention": Trap(
        "F.scaled_dot_product_attention", ScaledProduct, tokens, _ATTENTION_PARAMS, _ATTENTION_FLOPS
    ),
    "encoder layer": Trap(
        "nn.TransformerEncoderLayer, one fused call",
        lambda: nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True, bias=False),
        tokens,
        _ATTENTION_PARAMS + 2 * WIDTH * 2 * WIDTH + 2 * WIDTH,  # the weights of two layer norms last
        _ATTENTION_FLOPS + TOKENS * 2 * WIDTH * 2 * WIDTH,
    ),
    "tied": Trap("an embedding and a linear layer with one weight", Tied, words, 50 * WIDTH, TOKENS * 50 * WIDTH),
    "grouped": Trap("four groups", lambda: conv(8, 16, 3, 4), image, 16 * 2 * 9, 16 * 2 * 9 * PLACES),
    "depthwise": Trap("a group a channel", lambda: conv(8, 8, 3, 8), image, 8 * 9, 8 * 9 * PLACES),
    "dilated": Trap(
        "dilation and stride 2",
        lambda: nn.Conv2d(8, 16, 3, 2, padding=2, dilation=2, bias=False),
        *(image, 16 * 8 * 9, 16 * 8 * 9 * PLACES // 4),
    ),
    "transposed": Trap(  # each number of the input meets 4 x 4 weights of each output channel
        "stride 2", lambda: nn.ConvTranspose2d(8, 16, 4, 2, 1, bias=False), image, 8 * 16 * 16, 8 * 16 * 16 * PLACES
    ),
    "transposed, grouped": Trap(
        "stride 2, four groups",
        lambda: nn.ConvTranspose2d(8, 16, 4, 2, 1, groups=4, bias=False),
        *(image, 8 * 4 * 16, 8 * 4 * 16 * PLACES),
    ),
    "Conv1d": Trap(
        "on a sequence",
        lambda: nn.Conv1d(TOKENS, 32, 3, padding=1, bias=False),
        *(tokens, 32 * TOKENS * 3, 32 * TOKENS * 3 * WIDTH),
    ),
    "Conv3d": Trap(
        "on a volume",
        lambda: nn.Conv3d(4, 8, 3, padding=1, bias=False),
        lambda: (torch.randn(1, 4, 4, SIDE, SIDE),),
        *(8 * 4 * 27, 8 * 4 * 27 * 4 * PLACES),
    ),
    "subclass": Trap(
        "of nn.Conv2d, with its own forward",
        *(lambda: OwnConv(8, 16, 3, padding=1, bias=False), image, 16 * 8 * 9, 16 * 8 * 9 * PLACES),
    ),
    "unused": Trap("a layer that is not called", Unused, image, 2 * 8 * 8 * 9, 8 * 8 * 9 * PLACES),
    "frozen": Trap("a weight without a gradient", Frozen, image, 2 * 8 * 8 * 9, 2 * 8 * 8 * 9 * PLACES),
    "bare parameter": Trap(
        "a position embedding", BareParameter, tokens, TOKENS * WIDTH + WIDTH * WIDTH, TOKENS * WIDTH * WIDTH
    ),
    "two inputs": Trap(
        "of two sizes",
        *(TwoInputs, lambda: (*image(), *tokens())),
        *(WIDTH * 8 * 9 + WIDTH * WIDTH, WIDTH * 8 * 9 * PLACES + TOKENS * WIDTH * WIDTH),
    ),
    "on meta": Trap(
        "the network has no storage", lambda: conv(8, 16), image, 16 * 8 * 9, 16 * 8 * 9 * PLACES, on_meta=True
    ),
}
