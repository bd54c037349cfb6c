"""Convolutions and linear layers, as modules and as functions."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.patterns.pattern import Op, Pattern, parameter


def norm_act(conv: nn.Module, width: int) -> dict[str, Any]:
    return {"conv": nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())}


def called(m: Op, x: Tensor) -> Tensor:
    return m.conv(x)


def normed(function: Callable[[Op, Tensor], Tensor], width: int, free: str = "", **parts: Callable[[], Any]) -> Pattern:
    """function, batch norm, relu."""

    def run(m: Op, x: Tensor) -> Tensor:
        return torch.relu(m.norm(function(m, x)))

    return Pattern(run, lambda: {"norm": nn.BatchNorm2d(width)} | {n: make() for n, make in parts.items()}, free=free)


part = functools.partial

CONVOLUTION = {
    "transposed": Pattern(called, lambda: norm_act(nn.ConvTranspose2d(8, 6, 2, 2), 6), free="op.conv.0 before.0"),
    "transposed padded": Pattern(
        called, lambda: norm_act(nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1), 6), free="op.conv.0 before.0"
    ),
    "transposed grouped": Pattern(
        called, lambda: norm_act(nn.ConvTranspose2d(8, 12, 3, padding=1, groups=4), 12), free="op.conv.0 before.0"
    ),
    "transposed depthwise": Pattern(
        called, lambda: norm_act(nn.ConvTranspose2d(8, 8, 2, 2, groups=8), 8), free="before.0"
    ),
    "transposed without norm": Pattern(
        called, lambda: {"conv": nn.ConvTranspose2d(8, 6, 2, bias=False)}, free="op.conv before.0"
    ),
    "grouped": Pattern(
        called, lambda: norm_act(nn.Conv2d(8, 12, 3, padding=1, groups=4), 12), free="before.0 op.conv.0"
    ),
    "grouped of one a group": Pattern(
        called, lambda: norm_act(nn.Conv2d(8, 4, 3, groups=4), 4), free="before.0 op.conv.0"
    ),
    "depthwise": Pattern(called, lambda: norm_act(nn.Conv2d(8, 8, 3, padding=1, groups=8), 8), free="before.0"),
    "depthwise with multiplier": Pattern(
        called, lambda: norm_act(nn.Conv2d(8, 16, 3, padding=1, groups=8), 16), free="before.0 op.conv.0"
    ),
    "dilated": Pattern(
        called, lambda: norm_act(nn.Conv2d(8, 6, 3, padding=2, dilation=2), 6), free="before.0 op.conv.0"
    ),
    "same padding": Pattern(called, lambda: norm_act(nn.Conv2d(8, 6, 3, padding="same"), 6), free="before.0 op.conv.0"),
    "circular padding": Pattern(
        called, lambda: norm_act(nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular"), 6), free="before.0 op.conv.0"
    ),
    "grouped reflect padding": Pattern(
        called, lambda: norm_act(nn.Conv2d(8, 8, 3, padding=1, groups=8, padding_mode="reflect"), 8), free="before.0"
    ),
    "conv1d of tokens": Pattern(
        lambda m, x: torch.relu(m.norm(m.conv(x.flatten(2)))).mT,
        lambda: {"conv": nn.Conv1d(8, 6, 3, padding=1), "norm": nn.BatchNorm1d(6)},
        free="before.0",
    ),
    "conv3d of one frame": Pattern(
        lambda m, x: torch.relu(m.norm(m.conv(x.unsqueeze(2)))).squeeze(2),
        lambda: {"conv": nn.Conv3d(8, 6, (1, 3, 3)), "norm": nn.BatchNorm3d(6)},
        free="before.0 op.conv",
    ),
    "bilinear": Pattern(
        lambda m, x: m.layer(x.mean((2, 3)), x.amax((2, 3))), lambda: {"layer": nn.Bilinear(8, 8, 5)}, uncounted=True
    ),
    "F.conv2d": normed(
        lambda m, x: F.conv2d(x, m.weight, m.bias, padding=1),
        6,
        weight=part(parameter, 6, 8, 3, 3),
        bias=part(parameter, 6),
        free="before.0",
    ),
    "F.conv2d grouped": normed(
        lambda m, x: F.conv2d(x, m.weight, groups=4), 12, weight=part(parameter, 12, 2, 1, 1), free="before.0"
    ),
    "F.conv2d depthwise by size": normed(
        lambda m, x: F.conv2d(x, m.weight, None, 1, 1, 1, x.size(1)),
        8,
        weight=part(parameter, 8, 1, 3, 3),
        free="before.0",
    ),
    "F.conv2d of computed weight": normed(
        lambda m, x: F.conv2d(x, m.weight * 2), 6, weight=part(parameter, 6, 8, 1, 1)
    ),
    "F.conv2d of sliced weight": normed(lambda m, x: F.conv2d(x, m.weight[:6]), 6, weight=part(parameter, 9, 8, 1, 1)),
    "F.conv_transpose2d": normed(
        lambda m, x: F.conv_transpose2d(x, m.weight, stride=2), 6, weight=part(parameter, 8, 6, 2, 2), free="before.0"
    ),
    "F.linear": Pattern(
        lambda m, x: F.linear(x.flatten(2).mT, m.weight, m.bias),
        lambda: {"weight": parameter(6, 8), "bias": parameter(6)},
    ),
    "F.linear transposed": Pattern(
        lambda m, x: F.linear(x.flatten(2).mT, m.weight.t()), lambda: {"weight": parameter(8, 6)}
    ),
    "blur by a buffer of kernels": Pattern(
        lambda m, x: F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), m.kernel, groups=m.kernel.shape[0]),
        lambda: {"kernel": torch.ones(8, 1, 3, 3) / 9},
        free="before.0",
    ),
    "blur by buffer": Pattern(
        lambda m, x: F.conv2d(x, m.kernel.expand(x.size(1), 1, 3, 3), padding=1, groups=x.size(1)),
        lambda: {"kernel": torch.ones(1, 1, 3, 3) / 9},
        free="",
    ),
}
