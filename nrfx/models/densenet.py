"""The paper's two DenseNets: with bottlenecks and compression, and post-activation instead of pre-activation.

Each dense layer puts what it makes beside what it got; as a batch norm and a ReLU follow each convolution, what passes
by is activated already. One gamma then says for all later layers whether a channel is dead; in the original, with a
norm in front of each convolution, every reader has a gamma of its own for it.

Source: G. Huang, Z. Liu, L. van der Maaten, K. Weinberger, *Densely Connected Convolutional Networks*, CVPR 2017,
changed as Neural Rejuvenation, Sec. 4.3, says: a norm directly behind each convolution.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nrfx.models.layers import classifier, unit

BOTTLENECK = 4
"""Width of the 1x1 convolution of a dense layer, in growths."""


class Dense(nn.Module):
    """x, and beside it `growth` channels more: [N, i, H, W] -> [N, i + growth, H, W]."""

    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.reduce = unit(i, BOTTLENECK * growth, 1)
        self.grow = unit(BOTTLENECK * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.grow(self.reduce(x))], 1)


def densenet121_postact(classes: int) -> nn.Module:
    """DenseNet-121 for images [N, 3, 224, 224]: blocks of 6, 12, 24 and 16 layers, growth 32.

    Source: Sec. 4.3, Table 2 (7.92M params, where the pre-activation network has 7.98M).
    """
    stem = nn.Sequential(unit(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))
    return _densenet(stem, 64, growth=32, layers=(6, 12, 24, 16), classes=classes)


def densenet100_cifar(classes: int) -> nn.Module:
    """DenseNet-100 for images [N, 3, 32, 32]: three blocks of 16 layers, growth 40.

    Source: Sec. 4.4, Table 4, "DenseNet-100-40". The text does not say whether it has bottlenecks and compression; only
    with both, and post-activation, has it the 8.27M params of the table.
    """
    return _densenet(unit(3, 80), 80, growth=40, layers=(16, 16, 16), classes=classes)


def _densenet(stem: nn.Module, i: int, growth: int, layers: Sequence[int], classes: int) -> nn.Module:
    """Dense blocks, with transitions between that halve the channels (1x1) and the map (mean over 2x2)."""
    parts = OrderedDict[str, nn.Module](stem=stem)
    for number, count in enumerate(layers, 1):
        parts[f"block{number}"] = nn.Sequential(*(Dense(i + n * growth, growth) for n in range(count)))
        i += count * growth
        if number < len(layers):
            parts[f"transition{number}"] = nn.Sequential(
                OrderedDict[str, nn.Module](shrink=unit(i, i // 2, 1), pool=nn.AvgPool2d(2))
            )
            i //= 2
    return classifier(nn.Sequential(parts), i, classes)
