"""Parts of an axis that different layers read, as the blocks of real networks have them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.patterns.pattern import Op, Pattern
from tests.zoo import cbr, conv_bn


def mixed_kernels(m: Op, x: Tensor) -> Tensor:
    """A depthwise kernel of its own for each part."""
    return torch.relu(m.norm(torch.cat([m.near(a) if i else m.far(a) for i, a in enumerate(x.split([5, 3], 1))], 1)))


def gated(m: Op, x: Tensor) -> Tensor:
    """A gate over what passes and what a depthwise convolution reads; channels last."""
    gate, rest, read = torch.split(m.into(x.permute(0, 2, 3, 1)), (8, 5, 3), dim=-1)
    read = m.conv(read.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return m.out(F.gelu(gate) * torch.cat((rest, read), -1)).permute(0, 3, 1, 2)


def partial(m: Op, x: Tensor) -> Tensor:
    """A convolution over some of the channels alone, and a residual around."""
    read, rest = torch.split(x, [3, 5], dim=1)
    return x + m.body(torch.cat((m.conv(read), rest), 1))


def stages(m: Op, x: Tensor) -> Tensor:
    """Both halves, and each thing that a block makes of the last."""
    parts = [*m.into(x).chunk(2, 1)]
    parts.append(parts[-1] + m.first(parts[-1]))
    parts.append(m.second(parts[-1]))
    return torch.cat(parts, 1)


def hierarchy(m: Op, x: Tensor) -> Tensor:
    """Each part is added to what the block before made of its own."""
    first, second, third = torch.split(m.into(x), 4, 1)
    given = m.second(second)
    return torch.cat([first, given, m.third(third + given)], 1)


def block(**more: Any) -> dict[str, Any]:
    return {"into": nn.Sequential(*conv_bn(8, 12, 1))} | more


PARTS = {
    "kernels of several sizes": Pattern(
        mixed_kernels,
        lambda: {
            "far": nn.Conv2d(5, 5, 5, padding=2, groups=5),
            "near": nn.Conv2d(3, 3, 3, padding=1, groups=3),
            "norm": nn.BatchNorm2d(8),
        },
        free="before.0 op.far op.near",
    ),
    "gate over a convolution of some": Pattern(
        gated,
        lambda: {
            "into": nn.Linear(8, 16),
            "conv": nn.Conv2d(3, 3, 3, padding=1, groups=3),
            "out": nn.Linear(8, 6),
        },
        free="before.0 op.into op.conv op.out",
    ),
    "convolution of some channels": Pattern(
        partial,
        lambda: {"conv": nn.Conv2d(3, 3, 3, padding=1), "body": cbr(8, 8, 1)},
        free="before.0 op.conv op.body.0",
    ),
    "halves and what follows from one": Pattern(
        stages, lambda: block(first=cbr(6, 6), second=cbr(6, 5)), free="before.0 op.into.0 op.first.0 op.second.0"
    ),
    "parts that are added on": Pattern(
        hierarchy, lambda: block(second=cbr(4, 4), third=cbr(4, 4)), free="before.0 op.into.0 op.second.0 op.third.0"
    ),
}
