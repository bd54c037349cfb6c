"""Families of networks for images of 14 x 14 in one colour, each of some 10,000 to 80,000 params.

vgg              wide where the images are small, as the paper's VGG-16: most of its params lie in the last two layers
early            a VGG that is wide where the images are large
level            a VGG of one width
even             a VGG whose widths double with each pooling, as one would build it by hand
resnet           bottlenecks in three stages, with an add behind each
early resnet     the same, wide inside the first stage
late resnet      the same, with most of its params in the last stage
densenet         two dense blocks with a transition, layers of 1x1 and 3x3
late densenet    the same, with most of its params in the second block
mobilenet        inverted bottlenecks with depthwise convolutions
late mobilenet   the same, with most of its params in the last stage and the 1x1 convolution behind it

Every gamma starts at 0.5, as in the paper.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from nrfx.models.layers import GAMMA
from nrfx.models.vgg import vgg19_cifar

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


def resnet(stem: int, *stages: tuple[int, int]) -> nn.Sequential:
    """Two bottlenecks for each (middle, out); stages behind the first halve the image."""
    blocks, i = [], stem
    for index, (middle, o) in enumerate(stages):
        blocks += [Residual(i, middle, o, 2 if index else 1), Residual(o, middle, o, 1)]
        i = o
    return nn.Sequential(unit(1, stem, stride=2), *blocks, *head(i))


class Dense(nn.Module):
    """A layer of a dense block: what it computes goes behind what it read."""

    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(unit(i, 4 * growth, 1), unit(4 * growth, growth))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)


def densenet(stem: int, *growths: int, layers: int = 3) -> nn.Sequential:
    """A dense block for each growth, with a transition that halves the channels and the image between two."""
    parts: list[nn.Module] = [unit(1, stem, stride=2)]
    i = stem
    for block, growth in enumerate(growths):
        if block:
            parts += [unit(i, i // 2, 1), nn.AvgPool2d(2)]
            i //= 2
        for _ in range(layers):
            parts.append(Dense(i, growth))
            i += growth
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


def _mobilenet(stem: int, last: int, *rows: tuple[int, int], times: int = 4) -> nn.Sequential:
    """An inverted bottleneck for each (out, stride), and a 1x1 convolution with `last` channels behind them."""
    blocks: list[nn.Module] = []
    i = stem
    for o, stride in rows:
        blocks.append(Inverted(i, o, stride, times))
        i = o
    return nn.Sequential(unit(1, stem, stride=2), *blocks, unit(i, last, 1), *head(last))


def wide_late() -> nn.Sequential:
    """The network of the family vgg, for a command line."""
    return vgg((4, 4, None, 8, 8, None, 64, 64))


def bottlenecks() -> nn.Sequential:
    """The network of the family resnet, for a command line."""
    return resnet(16, (8, 32), (12, 48), (24, 96))


FAMILIES: Mapping[str, Callable[[], nn.Sequential]] = {
    "vgg": wide_late,
    "late": lambda: vgg((6, 6, None, 12, None, 56, 56)),
    "even": lambda: vgg((8, 8, None, 16, 16, None, 32, 32)),
    "early": lambda: vgg((24, 24, None, 8, 8, None, 8, 8)),
    "level": lambda: vgg((24, 24, None, 24, 24, None, 24, 24)),
    "resnet": bottlenecks,
    "early resnet": lambda: resnet(16, (40, 16), (6, 24), (8, 32)),
    "late resnet": lambda: resnet(8, (4, 8), (8, 16), (48, 96)),
    "late densenet": lambda: densenet(12, 4, 24),
    "densenet": lambda: densenet(24, 12, 12),
    "other densenet": lambda: densenet(16, 8, 16),
    "mobilenet": lambda: _mobilenet(16, 96, (16, 1), (24, 2), (24, 1), (48, 2), (48, 1)),
    "late mobilenet": lambda: _mobilenet(8, 256, (8, 1), (12, 2), (12, 1), (48, 2), (48, 1)),
}
"""Family -> its network, untrained. "late" and "other densenet" are for choosing settings alone, and are in no table of
results."""


WIDE = "paper vgg"
"""The paper's VGG-19 for CIFAR at its own width, 20 million params: for images of 28 x 28 in three colours."""

WHOLE_IMAGE = (3, 28, 28)


def network(family: str, seed: int) -> nn.Module:
    """An untrained network of the family; the seed decides its weights."""
    torch.manual_seed(seed)
    return vgg19_cifar(CLASSES) if family == WIDE else FAMILIES[family]()


def shape_of(family: str) -> tuple[int, int, int]:
    """Of an image that the family's network takes."""
    return WHOLE_IMAGE if family == WIDE else (1, 14, 14)
