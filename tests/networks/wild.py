"""Ingredients that networks of others have, and that broke something once: values that meet along several dims, sizes
that are computed, weights and layers that are used twice, functions that are given a layer's weight.

Each takes maps [N, C, H, W] and gives maps, at any size of them; where it does not fit a width it is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks.piece import Apply, Piece


class Held(nn.Module):
    """function(self, x), with layers and parameters of its own as attributes."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **held: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in held.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / shape[0] ** 0.5)


def normed(i: int, o: int, kernel: int = 1, **more: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, kernel, padding=kernel // 2, bias=False, **more), nn.BatchNorm2d(o))


# What meets along several dims


def sources(join: Callable[[Tensor, Tensor], Tensor], sum_up: bool) -> Callable[[int], nn.Module]:
    """One map against a map for each of two sources, which lie along a dim of their own."""

    def run(m: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = join(x.unsqueeze(1), m.masks(x).view(n, 2, c, h, w))
        return y.sum(1) if sum_up else y.flatten(1, 2)

    return lambda wide: Held(run, masks=nn.Conv2d(wide, 2 * wide, 1))


def vector_times_sources(m: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return (m.masks(x).view(n, 2, c, h, w) * m.vector[:, None, None]).flatten(1, 2)


def folded_attention(m: Any, x: Tensor) -> Tensor:
    """bmm on [batch * heads, positions, width of a head]."""
    n, c, h, w = x.shape
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = (
        layer(tokens).view(n, h * w, 2, -1).transpose(1, 2).reshape(n * 2, h * w, -1) for layer in (m.q, m.k, m.v)
    )
    y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
    return x + m.proj(y.view(n, 2, h * w, -1).transpose(1, 2).reshape(n, h * w, -1)).transpose(1, 2).view(n, c, h, w)


def non_local(m: Any, x: Tensor) -> Tensor:
    q, k, v = (layer(x).flatten(2) for layer in (m.q, m.k, m.v))
    scores = (q.transpose(1, 2) @ k / x.shape[2] / x.shape[3]).softmax(-1)
    return x + m.proj((v @ scores.transpose(1, 2)).view(x.shape[0], -1, *x.shape[2:]))


def cosine_attention(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).flatten(2).chunk(3, 1)
    scores = F.normalize(q, dim=1).transpose(1, 2) @ F.normalize(k, dim=1)
    return m.proj((v @ scores.softmax(1)).view(x.shape[0], -1, *x.shape[2:]))


def channel_attention(m: Any, x: Tensor) -> Tensor:
    """Channels attend to channels (transposed attention)."""
    q, k, v = m.qkv(x).flatten(2).chunk(3, 1)
    return m.proj(((q @ k.mT).softmax(-1) @ v).view(x.shape[0], -1, *x.shape[2:]))


def channel_and_position_gates(m: Any, x: Tensor) -> Tensor:
    x = x * m.wide(m.narrow(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
    seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return x * m.places(seen).sigmoid()


def gate_along_channels(m: Any, x: Tensor) -> Tensor:
    """A convolution whose positions are the channels."""
    return x * m.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid().transpose(1, 2).unsqueeze(3)


# Sizes that are computed


def windows(shift: bool) -> Callable[[Any, Tensor], Tensor]:
    """Windows of 2 x 2, padded to fit, perhaps rolled by half a window; a layer on each; and back."""

    def run(m: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = F.pad(x, (0, (-w) % 2, 0, (-h) % 2))
        if shift:
            y = y.roll((-1, -1), (2, 3))
        down, across = y.shape[2] // 2, y.shape[3] // 2
        y = y.view(n, c, down, 2, across, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
        y = m.layer(y) + y
        y = y.view(n, down, across, 2, 2, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, 2 * down, 2 * across)
        return (y.roll((1, 1), (2, 3)) if shift else y)[:, :, :h, :w].contiguous()

    return run


def grown(x: Tensor, m: Any) -> Tensor:
    return F.interpolate(m.embedding, size=x.shape[2:], mode="bilinear", align_corners=False)


def pyramid(m: Any, x: Tensor) -> Tensor:
    small = m.conv(F.adaptive_avg_pool2d(x, 2))
    return torch.cat([x, F.interpolate(small, size=x.shape[2:], mode="nearest")], 1)


def by_batch(m: Any, x: Tensor) -> Tensor:
    """The examples as groups of one convolution."""
    n, c, h, w = x.shape
    kernel = (m.kernel[None] * m.attend(x.mean((2, 3)))[:, :, None, None, None].sigmoid()).reshape(n * c, 1, 3, 3)
    return F.conv2d(x.reshape(1, n * c, h, w), kernel, padding=1, groups=n * c).view(n, c, h, w)


def standardised(m: Any, x: Tensor) -> Tensor:
    mean = m.kernel.mean((1, 2, 3), keepdim=True)
    return F.conv2d(x, (m.kernel - mean) / (m.kernel.std((1, 2, 3), keepdim=True) + 1e-5), padding=1)


def one_by_one(x: Tensor) -> Tensor:
    """Each channel by itself, and side by side again."""
    return torch.stack([part.relu() for part in x.unbind(1)], 1)


def half_by_half(x: Tensor) -> Tensor:
    parts = list(x.split(x.shape[1] // 2, 1))
    for index in range(1, len(parts)):
        parts[index] = parts[index] + parts[index - 1].mean(1, keepdim=True)
    return torch.cat(parts, 1)


def read_after(x: Tensor) -> Tensor:
    """x, which is changed in place: contiguous() of what is contiguous is no copy."""
    x = 1 * x
    x.contiguous().relu_()
    return x


# Weights and layers that are used twice


def autoencoder(m: Any, x: Tensor) -> Tensor:
    tokens = x.permute(0, 2, 3, 1)
    return (F.linear(tokens, m.matrix).relu() @ m.matrix).permute(0, 3, 1, 2).contiguous()


def conv_and_transposed(m: Any, x: Tensor) -> Tensor:
    return F.conv_transpose2d(F.conv2d(x, m.kernel, padding=1).relu(), m.kernel, padding=1)


def codebook(m: Any, x: Tensor) -> Tensor:
    """The nearest of some vectors, softly."""
    tokens = x.permute(0, 2, 3, 1)
    return ((tokens @ m.matrix.t()).softmax(-1) @ m.matrix).permute(0, 3, 1, 2)


def shared_layer(wide: int) -> nn.Module:
    conv = nn.Conv2d(wide, wide, 1, bias=False)
    left, right = nn.Sequential(conv, nn.BatchNorm2d(wide)), nn.Sequential(nn.ReLU(), conv)
    return Held(lambda m, x: m.left(x).relu() + m.right(x), left=left, right=right)


def depthwise(m: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, m.kernel, m.bias, padding=1, groups=m.kernel.shape[0])


def shuffled(then: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Maps of twice the size and a quarter of the channels, something on these, and maps of the size that was."""
    return lambda m, x: F.avg_pool2d(then(m, F.pixel_shuffle(m.wide(x), 2)), 2)


def on_rows(m: Any, x: Tensor) -> Tensor:
    """A group norm whose channels are not those of the network."""
    return m.norm(x.reshape(x.shape[0], m.norm.num_channels, -1, x.shape[3])).reshape(x.shape)


def grouped(wide: int) -> nn.Module:
    return nn.GroupNorm(1 if wide % 2 or wide == 2 else 2, wide)


def normalised(x: Tensor) -> Tensor:
    return (x - x.mean((2, 3), keepdim=True)) * torch.rsqrt(x.var((2, 3), keepdim=True, correction=0) + 1)


def qkv(wide: int, layers: Callable[[int, int], nn.Module]) -> dict[str, nn.Module]:
    return {name: layers(wide, 4) for name in "qkv"} | {"proj": layers(4, wide)}


def conv1(i: int, o: int) -> nn.Module:
    return nn.Conv2d(i, o, 1)


def pixels(function: Callable[[Any, Tensor], Tensor], **held: Callable[[], Any]) -> Callable[[int], nn.Module]:
    return lambda wide: Held(
        shuffled(function), wide=nn.Conv2d(wide, 8, 1), **{name: make() for name, make in held.items()}
    )


def alone(function: Callable[[Tensor], Tensor]) -> Callable[[int], nn.Module]:
    return lambda wide: Apply(function)


def if_wide(
    function: Callable[[Tensor], Tensor], even: bool = False, most: int = 1 << 30
) -> Callable[[int], nn.Module]:
    """The function where there are 2 channels or more, at most so many, and an even number if it must be."""
    fits = lambda wide: 2 <= wide <= most and not (even and wide % 2)  # noqa: E731
    return lambda wide: Apply(function) if fits(wide) else nn.Identity()


def held(function: Callable[[Any, Tensor], Tensor], **parts: Callable[[int], Any]) -> Callable[[int], nn.Module]:
    return lambda wide: Held(function, **{name: make(wide) for name, make in parts.items()})


WILD: dict[str, Callable[[int], nn.Module]] = {
    "mask of sources": sources(torch.mul, False),
    "mask of sources, summed": sources(torch.mul, True),
    "map plus sources": sources(torch.add, False),
    "max with sources": sources(torch.maximum, False),
    "vector times sources": held(
        vector_times_sources, masks=lambda wide: nn.Conv2d(wide, 2 * wide, 1), vector=weight
    ),
    "folded attention": lambda wide: Held(folded_attention, **qkv(wide, nn.Linear)),
    "non-local": lambda wide: Held(non_local, **qkv(wide, conv1)),
    "cosine attention": held(cosine_attention, qkv=lambda wide: conv1(wide, 12), proj=lambda wide: conv1(4, wide)),
    "channel attention": held(channel_attention, qkv=lambda wide: conv1(wide, 12), proj=lambda wide: conv1(4, wide)),
    "gates of both kinds": held(
        channel_and_position_gates,
        narrow=lambda wide: conv1(wide, 2),
        wide=lambda wide: conv1(2, wide),
        places=lambda wide: nn.Conv2d(2, 1, 3, padding=1),
    ),
    "gate along channels": held(gate_along_channels, conv=lambda wide: nn.Conv1d(1, 1, 3, padding=1, bias=False)),
    "windows": held(windows(False), layer=lambda wide: nn.Linear(wide, wide)),
    "shifted windows": held(windows(True), layer=lambda wide: nn.Linear(wide, wide)),
    "resized embedding": held(lambda m, x: x + grown(x, m), embedding=lambda wide: weight(1, wide, 4, 4)),
    "pyramid": held(pyramid, conv=lambda wide: normed(wide, 4)),
    "groups by batch": held(
        by_batch, kernel=lambda wide: weight(wide, 1, 3, 3), attend=lambda wide: nn.Linear(wide, wide)
    ),
    "standardised": held(standardised, kernel=lambda wide: weight(4, wide, 3, 3)),
    "one by one": alone(one_by_one),
    "half by half": if_wide(half_by_half),
    "in pairs": alone(lambda x: torch.cat([part.flip(1) for part in x.split(2, 1)], 1)),
    "chunks by width": if_wide(lambda x: torch.cat(x.chunk(x.shape[1] // 2, 1)[::-1], 1)),
    "read after": alone(read_after),
    "if wide": alone(lambda x: x.relu() if x.shape[1] > 4 else x * 2),
    "if high": alone(lambda x: F.max_pool2d(x, 2, 1, 1) if x.shape[2] > 5 else x.sigmoid()),
    "if even": alone(lambda x: F.channel_shuffle(x, 2) if x.shape[1] % 2 == 0 else x.flip(1)),
    "range of widths": alone(lambda x: torch.cat([x[:, i : i + 1] * (i + 1) for i in range(x.shape[1])], 1)),
    "range of rows": alone(lambda x: torch.stack([x[:, :, i].cumsum(2) for i in range(x.shape[2])], 2)),
    "length of parts": alone(lambda x: torch.cat([x, *(x.chunk(len(x.shape), 1)[:1])], 1)),
    "half at least": alone(lambda x: torch.cat([x[:, : max(x.shape[1] // 2, 1)], x], 1)),
    "padded if odd": alone(lambda x: F.pad(x, (0, 1)) if x.shape[3] % 2 else x),
    "resized if needed": alone(lambda x: x if x.shape[2:] == (4, 4) else F.interpolate(x, size=(4, 4))),
    "autoencoder": held(autoencoder, matrix=lambda wide: weight(5, wide)),
    "conv and transposed": held(conv_and_transposed, kernel=lambda wide: weight(5, wide, 3, 3)),
    "codebook": held(codebook, matrix=lambda wide: weight(7, wide)),
    "shared layer": shared_layer,
    "depthwise function": held(
        depthwise, kernel=lambda wide: weight(wide, 1, 3, 3), bias=lambda wide: nn.Parameter(torch.randn(wide))
    ),
    "pixel shuffle and pool": pixels(lambda m, x: F.max_pool2d(x, 3, 1, 1)),
    "pixel shuffle and mean": pixels(lambda m, x: x + F.adaptive_avg_pool2d(x, 1)),
    "pixel shuffle and norm": pixels(lambda m, x: m.norm(x), norm=lambda: nn.BatchNorm2d(2)),
    "pixel shuffle and groups": pixels(lambda m, x: m.norm(x).relu(), norm=lambda: nn.GroupNorm(2, 2)),
    "group norm by width": if_wide(lambda x: F.group_norm(x, x.shape[1] // 2), even=True),
    "group norm on rows": lambda wide: Held(on_rows, norm=grouped(wide // gcd(2, wide))),
    "log of shifted": held(
        lambda m, x: torch.log(x.tanh() + m.shift), shift=lambda wide: nn.Parameter(torch.full((wide, 1, 1), 1.5))
    ),
    "sqrt of relu": alone(lambda x: x.relu().sqrt()),
    "rsqrt": alone(lambda x: torch.rsqrt(x * x + 0.5)),
    "power": alone(lambda x: x.sigmoid() ** 0.5),
    "max of two": alone(lambda x: torch.max(x, x.flip(3))),
    "min of two": held(lambda m, x: torch.min(x, m.conv(x)), conv=lambda wide: normed(wide, wide)),
    "max of rows": alone(lambda x: x - x.max(3, keepdim=True)[0]),
    "median of rows": alone(lambda x: x + torch.median(x, 3, keepdim=True).values),
    "largest of positions": alone(lambda x: x * x.flatten(2).topk(1).values.mean(2)[:, :, None, None]),
    "sorted rows": alone(lambda x: x.sort(3, descending=True).values),
    "kth of rows": alone(lambda x: x.kthvalue(1, 2, keepdim=True)[0].expand_as(x) - x),
    "mean and deviation": alone(normalised),
    "all but the last": alone(lambda x: torch.cat([x, x[:, : -(x.shape[1] // 2 + 1)]], 1)),
    "from the third on": alone(lambda x: torch.cat([x[:, 2:], x[:, :2]], 1)),
    "last alone": alone(lambda x: x * x[:, -1:].sigmoid()),
    "cast to int": alone(lambda x: x + x.to(torch.int32)),
    "cast to bool": alone(lambda x: x * (x > 0.1).to(x.dtype)),
    "long of positions": alone(lambda x: x * (x.mean((2, 3), keepdim=True) * 3).long()),
    "average of all": alone(lambda x: x * F.avg_pool2d(x, x.shape[2:])),
    "average of all by size": alone(lambda x: F.interpolate(F.avg_pool2d(x, x.size()[2:]), size=x.size()[2:])),
    "down and up": held(
        lambda m, x: x + F.interpolate(m.conv(F.max_pool2d(x, 2, ceil_mode=True)), size=x.shape[2:]),
        conv=lambda wide: normed(wide, wide, 3),
    ),
    "padded to fours": alone(lambda x: F.pad(x, (0, (-x.shape[3]) % 4, 0, (-x.shape[2]) % 4))),
    "padded to width": if_wide(lambda x: F.pad(x, (0, 0, 0, 0, 0, 10 - x.shape[1])), most=9),
    "rolled by half": alone(lambda x: x.roll((x.shape[2] // 2, x.shape[3] // 2), (2, 3))),
    "rolled by width": alone(lambda x: x.roll(x.shape[1] // 2, 2) + x.roll(x.shape[1] // 2, 1)),
    "repeated by width": alone(lambda x: x + x.mean(3, keepdim=True).expand(-1, x.shape[1], -1, x.shape[3])),
    "columns": held(
        lambda m, x: m.conv(F.unfold(x, 3, padding=1).view(x.shape[0], -1, *x.shape[2:])),
        conv=lambda wide: normed(9 * wide, 4),
    ),
    "windows of rows": alone(lambda x: F.pad(x, (1, 1)).unfold(3, 3, 1).amax(4)),
    "index by numbers": alone(lambda x: x[:, torch.arange(x.shape[1] - 1, -1, -1)]),
    "channels by position": alone(lambda x: x + torch.linspace(0, 1, x.shape[1], dtype=x.dtype).view(1, -1, 1, 1)),
    "tokens by class": held(
        lambda m, x: torch.cat([m.token.expand(x.shape[0], -1, -1), x.flatten(2).mT], 1)[:, 1:].mT.reshape(x.shape),
        token=lambda wide: weight(1, 1, wide),
    ),
    "weights by position": held(
        lambda m, x: (x.flatten(2).softmax(2) * x.flatten(2)).sum(2)[:, :, None, None] + x,
    ),
    "expanded gate": held(
        lambda m, x: x * m.gate(x).expand(-1, x.shape[1], -1, -1), gate=lambda wide: nn.Conv2d(wide, 1, 1)
    ),
    "grouped by einsum": held(
        lambda m, x: torch.einsum("nchw,nc->nchw", x, m.layer(x.mean((2, 3)))),
        layer=lambda wide: nn.Linear(wide, wide),
    ),
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class Wild(Piece):
    """One of the ingredients, and perhaps a norm and a relu behind it."""

    how: str = "mask of sources"
    normed: bool = True

    def build(self, shape: torch.Size) -> nn.Module:
        own = WILD[self.how](shape[1])
        if not self.normed:
            return own
        with torch.no_grad():
            wide = own.eval()(torch.zeros(2, *shape[1:])).shape[1]
        return nn.Sequential(own, nn.BatchNorm2d(wide), nn.ReLU())
