"""Norms of every kind, and weights that are normalised."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.ops import FrozenBatchNorm2d

from tests.patterns.pattern import Op, Pattern, parameter
from tests.zoo import cbr


def by_hand(m: Op, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    var = (x - mean).pow(2).mean(1, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * m.weight[:, None, None]


def layer_norm_2d(m: Op, x: Tensor) -> Tensor:
    return m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def standardised(m: Op, x: Tensor) -> Tensor:
    w = m.weight - m.weight.mean((1, 2, 3), keepdim=True)
    return F.conv2d(x, w / (w.std((1, 2, 3), keepdim=True) + 1e-5), padding=1)


def two_norms(m: Op, x: Tensor) -> Tensor:
    x = m.conv(x)
    return torch.relu(m.a(x)) + torch.sigmoid(m.b(x))


NORM = {
    "GroupNorm": Pattern(lambda m, x: m.norm(x), lambda: {"norm": nn.GroupNorm(2, 8)}, free="before.0"),
    "GroupNorm without parameters": Pattern(
        lambda m, x: m.norm(x), lambda: {"norm": nn.GroupNorm(4, 8, affine=False)}, free="before.0"
    ),
    "GroupNorm of one group": Pattern(lambda m, x: m.norm(x), lambda: {"norm": nn.GroupNorm(1, 8)}, pinned="before.0"),
    "GroupNorm of each channel": Pattern(lambda m, x: m.norm(x), lambda: {"norm": nn.GroupNorm(8, 8)}, free="before.0"),
    "F.group_norm": Pattern(
        lambda m, x: F.group_norm(x, 4, m.weight, m.bias),
        lambda: {"weight": parameter(8), "bias": parameter(8)},
        free="before.0",
    ),
    "GroupNorm on a view": Pattern(
        lambda m, x: m.norm(x.reshape(x.shape[0], 4, -1, x.shape[3])).reshape(x.shape),
        lambda: {"norm": nn.GroupNorm(2, 4)},
        free="before.0",
    ),
    "LayerNorm of channels": Pattern(layer_norm_2d, lambda: {"norm": nn.LayerNorm(8)}, pinned="before.0"),
    "LayerNorm of all": Pattern(lambda m, x: m.norm(x), lambda: {"norm": nn.LayerNorm([8, 8, 8])}, pinned="before.0"),
    "LayerNorm of positions": Pattern(lambda m, x: m.norm(x), lambda: {"norm": nn.LayerNorm([8, 8])}, free="before.0"),
    "F.layer_norm": Pattern(
        lambda m, x: F.layer_norm(x.permute(0, 2, 3, 1), (8,), m.weight).permute(0, 3, 1, 2),
        lambda: {"weight": parameter(8)},
        pinned="before.0",
    ),
    "F.layer_norm of size": Pattern(lambda m, x: F.layer_norm(x, x.shape[1:]), pinned="before.0"),
    "layer norm by hand": Pattern(by_hand, lambda: {"weight": parameter(8)}, pinned="before.0"),
    "RMSNorm": Pattern(layer_norm_2d, lambda: {"norm": nn.RMSNorm(8)}, pinned="before.0"),
    "InstanceNorm": Pattern(lambda m, x: m.norm(x), lambda: {"norm": nn.InstanceNorm2d(8)}, free="before.0"),
    "InstanceNorm affine": Pattern(
        lambda m, x: m.norm(x), lambda: {"norm": nn.InstanceNorm2d(8, affine=True)}, free="before.0"
    ),
    "InstanceNorm with statistics": Pattern(
        lambda m, x: m.norm(x),
        lambda: {"norm": nn.InstanceNorm2d(8, affine=True, track_running_stats=True)},
        free="before.0",
    ),
    "F.instance_norm": Pattern(lambda m, x: F.instance_norm(x, weight=m.weight), lambda: {"weight": parameter(8)}),
    "batch norm without affine": Pattern(
        lambda m, x: m.norm(x), lambda: {"norm": nn.BatchNorm2d(8, affine=False)}, free="before.0"
    ),
    "batch norm without statistics": Pattern(
        lambda m, x: m.norm(m.conv(x)),
        lambda: {"conv": nn.Conv2d(8, 6, 1), "norm": nn.BatchNorm2d(6, track_running_stats=False)},
        free="before.0 op.conv",
    ),
    "SyncBatchNorm": Pattern(
        lambda m, x: torch.relu(m.norm(m.conv(x))),
        lambda: {"conv": nn.Conv2d(8, 6, 1), "norm": nn.SyncBatchNorm(6)},
        free="before.0 op.conv",
        trains=False,
    ),
    "FrozenBatchNorm2d": Pattern(
        lambda m, x: torch.relu(m.norm(m.conv(x))),
        lambda: {"conv": nn.Conv2d(8, 6, 1), "norm": FrozenBatchNorm2d(6)},
        free="before.0 op.conv",
    ),
    "F.batch_norm": Pattern(
        lambda m, x: F.batch_norm(m.conv(x), m.mean, m.var, m.weight, m.bias, False),
        lambda: {
            "conv": nn.Conv2d(8, 6, 1),
            "mean": torch.rand(6),
            "var": 0.5 + torch.rand(6),
            "weight": parameter(6),
            "bias": parameter(6),
        },
        free="before.0 op",
    ),
    "two norms on a convolution": Pattern(
        two_norms,
        lambda: {"conv": nn.Conv2d(8, 6, 1), "a": nn.BatchNorm2d(6), "b": nn.BatchNorm2d(6)},
        free="before.0 op.conv",
    ),
    "norms in a row": Pattern(
        lambda m, x: m.b(torch.relu(m.a(m.conv(x)))),
        lambda: {"conv": nn.Conv2d(8, 6, 1), "a": nn.BatchNorm2d(6), "b": nn.BatchNorm2d(6)},
        free="before.0 op.conv",
    ),
    "norm of tokens": Pattern(
        lambda m, x: m.norm(m.linear(x.flatten(2).mT).mT).mT,
        lambda: {"linear": nn.Linear(8, 6), "norm": nn.BatchNorm1d(6)},
    ),
    "weight_norm": Pattern(
        lambda m, x: m.conv(x), lambda: {"conv": parametrizations.weight_norm(nn.Conv2d(8, 6, 3, padding=1))}
    ),
    "spectral_norm": Pattern(
        lambda m, x: m.conv(x), lambda: {"conv": parametrizations.spectral_norm(nn.Conv2d(8, 6, 3, padding=1))}
    ),
    "spectral_norm in a hook": Pattern(
        lambda m, x: m.up(m.conv(x)),
        lambda: {
            "conv": torch.nn.utils.spectral_norm(nn.Conv2d(8, 6, 3, padding=1)),
            "up": torch.nn.utils.spectral_norm(nn.ConvTranspose2d(6, 6, 2)),
        },
        pinned="before.0",
    ),
    "weight standardisation": Pattern(standardised, lambda: {"weight": parameter(6, 8, 3, 3)}),
    "F.group_norm by a computed number of groups": Pattern(
        lambda m, x: F.group_norm(m.conv(x), x.shape[1] // 2), lambda: {"conv": cbr(8, 8)}, free="op.conv.0"
    ),
    "F.group_norm by groups of four": Pattern(
        lambda m, x: F.group_norm(m.conv(x), num_groups=m.conv(x).size(1) // 4),
        lambda: {"conv": cbr(8, 8)},
        free="op.conv.0",
    ),
}
