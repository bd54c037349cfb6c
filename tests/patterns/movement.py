"""Ops that move channels: shuffles, splits, slices, indices, pads, repeats, concatenations."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.patterns.pattern import Op, Pattern, parameter
from tests.zoo import cbr, conv_bn


def shuffled(m: Op, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def permuted(m: Op, x: Tensor) -> Tensor:
    n, c, h, w = x.size()
    return x.reshape(n, 4, c // 4, h * w).permute(0, 2, 1, 3).contiguous().view(n, -1, h, w)


def stripes(m: Op, x: Tensor) -> Tensor:
    return torch.cat([x[:, 1::2], x[:, ::2]], 1)


def halves(m: Op, x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    return torch.cat([torch.relu(m.conv(x[:, :half])), x[:, half:]], 1)


def in_halves(take: Callable[[Tensor], Any]) -> Callable[[Op, Tensor], Tensor]:
    def run(m: Op, x: Tensor) -> Tensor:
        a, b = take(x)
        return torch.cat([torch.relu(m.conv(a)), b], 1)

    return run


def half_conv(width: int = 4) -> dict[str, Any]:
    return {"conv": nn.Sequential(*conv_bn(width, width))}


def residual(m: Op, x: Tensor) -> Tensor:
    return torch.relu(m.body(x) + x)


def option_a(m: Op, x: Tensor) -> Tensor:
    return torch.relu(m.body(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))


def columns(multiply: Callable[[Tensor, Tensor], Tensor], *shape: int, **window: Any) -> Pattern:
    """A convolution written as F.unfold and a product with a weight of that shape; a norm and a relu behind it."""

    def run(m: Op, x: Tensor) -> Tensor:
        return torch.relu(m.norm(multiply(m.weight, F.unfold(x, **window)).view(x.size(0), -1, 8, 8)))

    return Pattern(
        run, lambda: {"weight": parameter(*shape), "norm": nn.BatchNorm2d(shape[0])}, free="before.0 op op.norm"
    )


MOVEMENT = {
    "shuffle by view": Pattern(shuffled, free="before.0"),
    "shuffle by literal view": Pattern(
        lambda m, x: x.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8), free="before.0"
    ),
    "shuffle by half literal view": Pattern(
        lambda m, x: x.view(-1, 2, x.size(1) // 2, 8, 8).transpose(1, 2).reshape(-1, x.size(1), 8, 8), free="before.0"
    ),
    "shuffle by view with -1": Pattern(
        lambda m, x: x.view(x.size(0), 2, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2), free="before.0"
    ),
    "shuffle by permute": Pattern(permuted, free="before.0"),
    "shuffle by unflatten": Pattern(lambda m, x: x.unflatten(1, (2, -1)).movedim(1, 2).flatten(1, 2), free="before.0"),
    "shuffle by stack": Pattern(lambda m, x: torch.stack(x.chunk(2, 1), 2).flatten(1, 2), free="before.0"),
    "shuffle module": Pattern(lambda m, x: m.shuffle(x), lambda: {"shuffle": nn.ChannelShuffle(4)}, free="before.0"),
    "shuffle function": Pattern(lambda m, x: F.channel_shuffle(x, 2)),
    "chunk": Pattern(in_halves(lambda x: x.chunk(2, 1)), half_conv, free="op.conv.0"),
    "chunk by method dim": Pattern(in_halves(lambda x: torch.chunk(x, chunks=2, dim=1)), half_conv, free="op.conv.0"),
    "chunk by three": Pattern(lambda m, x: torch.cat(x.chunk(3, 1)[::-1], 1), free="before.0"),
    "tensor_split": Pattern(in_halves(lambda x: torch.tensor_split(x, 2, dim=1)), half_conv, free="op.conv.0"),
    "split by size": Pattern(in_halves(lambda x: x.split(x.size(1) // 2, 1)), half_conv, free="op.conv.0"),
    "split by literal": Pattern(in_halves(lambda x: torch.split(x, 4, 1)), half_conv, free="op.conv.0"),
    "split by list": Pattern(in_halves(lambda x: torch.split(x, [5, 3], 1)), lambda: half_conv(5)),
    "slice": Pattern(halves, half_conv, free="op.conv.0"),
    "slice by literal": Pattern(in_halves(lambda x: (x[:, :5], x[:, 5:])), lambda: half_conv(5)),
    "slice from the end": Pattern(in_halves(lambda x: (x[:, -4:], x[:, :-4])), half_conv),
    "slice and forget": Pattern(lambda m, x: x[:, : x.shape[1] // 2]),
    "slice with ellipsis": Pattern(lambda m, x: x[..., 1:-1, ::2], free="before.0"),
    "strided slice": Pattern(stripes, free="before.0"),
    "narrow": Pattern(in_halves(lambda x: (x.narrow(1, 0, 4), x.narrow(1, 4, 4))), half_conv),
    "select": Pattern(lambda m, x: x * x[:, 0].unsqueeze(1), pinned="before.0"),
    "unbind": Pattern(lambda m, x: torch.stack(x.unbind(1)[::-1], 1), free="before.0"),
    "index by list": Pattern(lambda m, x: x[:, [5, 0, 3, 7]]),
    "index by tensor": Pattern(lambda m, x: x[:, m.order], lambda: {"order": torch.tensor([6, 1, 0, 5, 4, 7, 2, 3])}),
    "index by bool": Pattern(
        lambda m, x: x[:, m.kept], lambda: {"kept": torch.arange(8) % 3 > 0}, refused="needs the values of a tensor"
    ),
    "index_select": Pattern(
        lambda m, x: torch.index_select(x, 1, m.order), lambda: {"order": torch.tensor([6, 1, 0, 5, 4, 7, 2, 3])}
    ),
    "gather": Pattern(
        lambda m, x: x.gather(1, m.order.view(1, -1, 1, 1).expand(x.size(0), -1, 8, 8)),
        lambda: {"order": torch.tensor([6, 1, 0, 5])},
    ),
    "pad shortcut": Pattern(
        option_a, lambda: {"body": nn.Sequential(*conv_bn(8, 16, 3, 2))}, free="before.0 op.body.0"
    ),
    "pad channels": Pattern(lambda m, x: F.pad(x, (0, 0, 0, 0, 2, 1)), free="before.0"),
    "pad positions": Pattern(lambda m, x: F.pad(x, (1, 2, 0, 1), value=0.5), free="before.0"),
    "pad and convolve": Pattern(
        lambda m, x: m.conv(F.pad(x, (1, 1, 0, 2))), lambda: {"conv": nn.Conv2d(8, 6, 3)}, free="before.0 op.conv"
    ),
    "pad and convolve in depth": Pattern(
        lambda m, x: m.conv(F.pad(x, (1, 1, 1, 1))),
        lambda: {"conv": nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8))},
        free="before.0",
    ),
    "pad halves differently": Pattern(
        lambda m, x: m.conv(torch.cat([F.pad(x[:, ::2], (1, 0)), F.pad(x[:, 1::2], (0, 1))], 1)),
        lambda: {"conv": nn.Conv2d(8, 6, 1)},
    ),
    "pad, add, convolve": Pattern(
        lambda m, x: m.conv(torch.relu(F.pad(x, (1, 1, 1, 1)) + m.wide(x))),
        lambda: {"wide": nn.Conv2d(8, 8, 1, padding=1), "conv": nn.Conv2d(8, 6, 3)},
        free="before.0",
    ),
    "pad module": Pattern(
        lambda m, x: m.zero(m.reflect(x)),
        lambda: {"reflect": nn.ReflectionPad2d(1), "zero": nn.ZeroPad2d((1, 0, 1, 0))},
    ),
    "cat zeros": Pattern(lambda m, x: torch.cat([x, torch.zeros_like(x[:, :3])], 1)),
    "cat new zeros": Pattern(lambda m, x: torch.cat([x, x.new_zeros(x.size(0), 2, 8, 8)], 1)),
    "triangle of positions": Pattern(lambda m, x: x.triu(1), free="before.0"),
    "roll": Pattern(lambda m, x: torch.roll(x, 1, 1), free="before.0"),
    "x + roll": Pattern(lambda m, x: x + x.roll(1, 1), free="before.0"),
    "roll positions": Pattern(lambda m, x: x + x.roll((1, 2), (2, 3)), free="before.0"),
    "flip": Pattern(lambda m, x: x.flip(1), free="before.0"),
    "x + flip": Pattern(lambda m, x: x + x.flip(1), free="before.0"),
    "flip positions": Pattern(lambda m, x: x + torch.flip(x, (2, 3)), free="before.0"),
    "rot90": Pattern(lambda m, x: torch.rot90(x, 1, (2, 3))),
    "repeat": Pattern(lambda m, x: x.repeat(1, 2, 1, 1), free="before.0"),
    "tile": Pattern(lambda m, x: torch.tile(x, (1, 2, 1, 1)), free="before.0"),
    "repeat_interleave": Pattern(lambda m, x: x.repeat_interleave(2, dim=1), free="before.0"),
    "expand": Pattern(lambda m, x: x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8) + x, free="before.0"),
    "stack": Pattern(lambda m, x: torch.stack([x, 2 * x], 1).sum(1), free="before.0"),
    "stack to channels": Pattern(lambda m, x: torch.stack([x, -x], 2).flatten(1, 2), free="before.0"),
    "pixel shuffle": Pattern(lambda m, x: F.pixel_shuffle(x, 2), free="before.0"),
    "pixel unshuffle": Pattern(lambda m, x: m.un(x), lambda: {"un": nn.PixelUnshuffle(2)}, free="before.0"),
    "space to depth by view": Pattern(
        lambda m, x: x.view(-1, x.size(1), 4, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(-1, x.size(1) * 4, 4, 4),
        free="before.0",
    ),
    "patch merging": Pattern(
        lambda m, x: torch.cat([x[:, :, ::2, ::2], x[:, :, 1::2, ::2], x[:, :, ::2, 1::2], x[:, :, 1::2, 1::2]], 1),
        free="before.0",
    ),
    "flatten": Pattern(lambda m, x: F.max_pool2d(x, 4).flatten(1), free="before.0"),
    "flatten by literal": Pattern(lambda m, x: F.max_pool2d(x, 4).view(-1, 8 * 4), free="before.0"),
    "flatten by size": Pattern(lambda m, x: F.max_pool2d(x, 4).view(x.size(0), -1), free="before.0"),
    "cat then flatten": Pattern(
        lambda m, x: torch.cat([F.max_pool2d(x, 4), F.avg_pool2d(m.conv(x), 4)], 1).flatten(1),
        lambda: {"conv": cbr(8, 4)},
        free="before.0 op.conv.0",
    ),
    "cat with itself": Pattern(lambda m, x: torch.cat((x, x), dim=1), free="before.0"),
    "cat of named tensors": Pattern(
        lambda m, x: torch.cat(tensors=[x, m.conv(x)], dim=-3), lambda: {"conv": cbr(8, 4)}, free="before.0 op.conv.0"
    ),
    "cat then grouped": Pattern(
        lambda m, x: m.conv(torch.cat([x, m.other(x)], 1)),
        lambda: {"other": cbr(8, 8), "conv": nn.Sequential(*conv_bn(16, 16, groups=2))},
        free="before.0 op.other.0 op.conv.0",
    ),
    "cat then uneven grouped": Pattern(
        lambda m, x: m.conv(torch.cat([x, m.other(x)], 1)),
        lambda: {"other": cbr(8, 4), "conv": nn.Sequential(*conv_bn(12, 6, groups=2))},
        free="before.0 op.other.0 op.conv.0",
    ),
    "channels last linear": Pattern(
        lambda m, x: m.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        lambda: {"linear": nn.Linear(8, 5)},
        free="before.0 op.linear",
    ),
    "tokens": Pattern(lambda m, x: x.flatten(2).transpose(1, 2), free="before.0"),
    "squeeze": Pattern(lambda m, x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1), free="before.0"),
    "unfold": Pattern(lambda m, x: F.unfold(x, 3, padding=1).transpose(1, 2), free="before.0"),
    "unfold without padding": Pattern(lambda m, x: F.unfold(x, 3).transpose(1, 2), free="before.0"),
    "unfold module": Pattern(
        lambda m, x: m.unfold(x).mT, lambda: {"unfold": nn.Unfold((3, 1), stride=(2, 1), dilation=2)}, free="before.0"
    ),
    "unfold of one image": Pattern(
        lambda m, x: (F.unfold(x, 2, stride=2) + F.unfold(x[0], 2, 1, 0, 2)).mT, free="before.0"
    ),
    "W @ unfold": columns(lambda w, x: w @ x, 6, 72, kernel_size=3, padding=1),
    "W @ unfold without padding": columns(lambda w, x: w @ x, 6, 8, kernel_size=(1, 1)),
    "kernel.view @ unfold": columns(lambda w, x: w.view(6, -1) @ x, 6, 8, 3, 3, kernel_size=3, padding=1),
    "kernel.view of numbers @ unfold": columns(
        lambda w, x: torch.matmul(w.view(6, 72), x), 6, 8, 3, 3, kernel_size=3, dilation=2, padding=2
    ),
    "kernel.view of a list @ unfold": columns(
        lambda w, x: w.reshape([-1, 40]) @ x, 6, 8, 1, 5, kernel_size=(1, 5), padding=(0, 2)
    ),
    "kernel.view of a size @ unfold": columns(
        lambda w, x: w.view(w.size(0), -1) @ x, 6, 8, 3, 3, kernel_size=3, padding=1
    ),
    "kernel.flatten @ unfold": columns(lambda w, x: w.flatten(1) @ x, 6, 8, 3, 1, kernel_size=(3, 1), padding=(1, 0)),
    "unfold @ kernel.t": columns(
        lambda w, x: (x.mT @ torch.flatten(w, 1).t()).mT, 6, 8, 3, 3, kernel_size=3, padding=1
    ),
    "einsum of kernel.view and unfold": columns(
        lambda w, x: torch.einsum("oc,ncl->nol", w.view(6, -1), x), 6, 8, 3, 3, kernel_size=3, padding=1
    ),
    "kernel.view @ many channels": Pattern(
        lambda m, x: (m.weight.view(6, -1) @ x.flatten(2)).mT, lambda: {"weight": parameter(6, 2, 4)}, pinned="before.0"
    ),
    "kernel.view of another order @ unfold": Pattern(
        lambda m, x: (m.weight.view(8, -1).t() @ F.unfold(x, 1)).mT,
        lambda: {"weight": parameter(8, 2, 3)},
    ),
    "F.linear of kernel.view": Pattern(
        lambda m, x: F.linear(F.unfold(x, 3).mT, m.weight.view(6, -1)),
        lambda: {"weight": parameter(6, 8, 3, 3)},
        free="before.0",
    ),
    "kernel.view read twice": Pattern(
        lambda m, x: (m.weight.view(6, -1) @ F.unfold(x, 3) + m.weight.view(6, -1) @ F.unfold(x.flip(2), 3)).mT,
        lambda: {"weight": parameter(6, 8, 3, 3)},
        free="before.0",
    ),
    "unfold @ W": Pattern(
        lambda m, x: F.unfold(x, 3, padding=(1, 0)).mT @ m.weight, lambda: {"weight": parameter(72, 6)}, free="before.0"
    ),
    "einsum of unfold": Pattern(
        lambda m, x: torch.einsum("oc,ncl->nol", m.weight, F.unfold(x, 2, stride=2)).mT,
        lambda: {"weight": parameter(6, 32)},
        free="before.0",
    ),
    "unfold and fold": Pattern(lambda m, x: F.fold(F.unfold(x, 2, stride=2), (8, 8), 2, stride=2), free="before.0"),
    "unfold and fold with overlap": Pattern(
        lambda m, x: m.fold(m.unfold(x)),
        lambda: {"unfold": nn.Unfold(3, padding=1), "fold": nn.Fold((8, 8), 3, padding=1)},
        free="before.0",
    ),
    "fold of a linear layer": Pattern(
        lambda m, x: F.fold(m.linear(x.flatten(2).mT).mT, (8, 8), 3, padding=1),
        lambda: {"linear": nn.Linear(8, 54)},
        free="before.0 op.linear",
    ),
    "fold of a norm": Pattern(
        lambda m, x: F.fold(m.norm(m.linear(x.flatten(2).mT).mT).relu(), (8, 8), 3, padding=1),
        lambda: {"linear": nn.Linear(8, 54), "norm": nn.BatchNorm1d(54)},
        free="before.0 op.linear",
    ),
    "fold of patches": Pattern(
        lambda m, x: F.fold(m.norm(m.linear(F.unfold(x, 2, stride=2).mT).mT).relu(), (8, 8), 2, stride=2),
        lambda: {"linear": nn.Linear(32, 24), "norm": nn.BatchNorm1d(24)},
        free="before.0 op.linear",
    ),
    "tensor unfold": Pattern(lambda m, x: x.unfold(2, 2, 2).mean(-1), free="before.0"),
    "tensor unfold of patches": Pattern(
        lambda m, x: x.unfold(2, 3, 1).unfold(3, 3, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2),
        free="before.0",
    ),
    "rearrange by reshape": Pattern(lambda m, x: x.reshape(x.shape[0], x.shape[1], -1).mT),
}
