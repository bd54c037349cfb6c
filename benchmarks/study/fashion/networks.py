"""Four families of networks for images of 14 x 14 in one colour, each of some 40,000 to 60,000 params.

vgg          wide where the images are small, as the paper's VGG-16: most of its params lie in the last two layers
even         a VGG whose widths double with each pooling, as one would build it by hand
resnet       bottlenecks in three stages, with an add behind each
densenet     two dense blocks with a transition, layers of 1x1 and 3x3
mobilenet    inverted bottlenecks with depthwise convolutions

Every gamma starts at 0.5, as in the paper.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from nrfx.models.layers import GAMMA

CLASSES = 10


def unit(i: int, o: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    norm = nn.BatchNorm2d(o)
    nn.init.constant_(norm.weight, GAMMA)
    return nn.Sequential(conv, norm, *([nn.ReLU()] if act else []))


def head(width: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)]


def vgg(widths: tuple[int | None, ...]) -> nn.Sequential:
    """A unit for each width, a pooling for each None."""
    layers: list[nn.Module] = []
    i = 1
    for width in widths:
        if width is None:
            layers.append(nn.MaxPool2d(2))
        else:
            layers.append(unit(i, width))
            i = width
    return nn.Sequential(*layers, *head(i))


class Residual(nn.Module):
    """A bottleneck: x + branch(x), with a projection where the shape changes, and a ReLU behind the add."""

    def __init__(self, i: int, middle: int, o: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(unit(i, middle, 1), unit(middle, middle, 3, stride), unit(middle, o, 1, act=False))
        self.skip = nn.Identity() if (i, stride) == (o, 1) else unit(i, o, 1, stride, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.skip(x))


def _resnet() -> nn.Sequential:
    stages = ((8, 32, 1), (12, 48, 2), (24, 96, 2))
    blocks, i = [], 16
    for middle, o, stride in stages:
        blocks += [Residual(i, middle, o, stride), Residual(o, middle, o, 1)]
        i = o
    return nn.Sequential(unit(1, 16, stride=2), *blocks, *head(i))


class Dense(nn.Module):
    """A layer of a dense block: what it computes goes behind what it read."""

    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(unit(i, 4 * growth, 1), unit(4 * growth, growth))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)


def _densenet(growth: int = 12, layers: int = 3) -> nn.Sequential:
    parts: list[nn.Module] = [unit(1, 2 * growth, stride=2)]
    i = 2 * growth
    for block in range(2):
        for _ in range(layers):
            parts.append(Dense(i, growth))
            i += growth
        if block == 0:
            parts += [unit(i, i // 2, 1), nn.AvgPool2d(2)]
            i //= 2
    return nn.Sequential(*parts, *head(i))


class Inverted(nn.Module):
    """Wider inside by `times`, with a depthwise convolution there, and an add where the shape stays."""

    def __init__(self, i: int, o: int, stride: int, times: int) -> None:
        super().__init__()
        wide = i * times
        self.branch = nn.Sequential(
            unit(i, wide, 1), unit(wide, wide, 3, stride, groups=wide), unit(wide, o, 1, act=False)
        )
        self.adds = (i, stride) == (o, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        return x + y if self.adds else y


def _mobilenet() -> nn.Sequential:
    rows = ((16, 1), (24, 2), (24, 1), (48, 2), (48, 1))
    blocks: list[nn.Module] = []
    i = 16
    for o, stride in rows:
        blocks.append(Inverted(i, o, stride, 4))
        i = o
    return nn.Sequential(unit(1, 16, stride=2), *blocks, unit(i, 96, 1), *head(96))


FAMILIES: Mapping[str, Callable[[], nn.Sequential]] = {
    "vgg": lambda: vgg((4, 4, None, 8, 8, None, 64, 64)),
    "late": lambda: vgg((6, 6, None, 12, None, 56, 56)),
    "even": lambda: vgg((8, 8, None, 16, 16, None, 32, 32)),
    "resnet": _resnet,
    "densenet": _densenet,
    "mobilenet": _mobilenet,
}
"""Family -> its network, untrained. "late" is for choosing settings alone, and is in no table of results."""


def network(family: str, seed: int) -> nn.Sequential:
    """An untrained network of the family; the seed decides its weights."""
    torch.manual_seed(seed)
    return FAMILIES[family]()
