"""MobileNet v1, whose 3x3 convolutions are depthwise.

Source: A. Howard and others, *MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications*,
2017, Table 1; at 0.5 and 0.25 of the width in Neural Rejuvenation, Sec. 4.3, Table 3.
"""

from collections import OrderedDict

from torch import nn

from nrfx.models.layers import classifier, unit

PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Channels at full width, and stride, of each pair of a depthwise and a pointwise convolution."""


def mobilenet_v1(width: float, classes: int) -> nn.Module:
    """MobileNet with all its widths times `width`, for images [N, 3, 128, 128].

    >>> mobilenet_v1(0.25, 10).features[0].conv
    Conv2d(3, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)
    """
    i = int(32 * width)
    features: list[nn.Module] = [unit(3, i, 3, 2)]
    for full, stride in PAIRS:
        o = int(full * width)
        depthwise = unit(i, i, 3, stride, groups=i)
        features.append(nn.Sequential(OrderedDict[str, nn.Module](depthwise=depthwise, pointwise=unit(i, o, 1))))
        i = o
    return classifier(nn.Sequential(*features), i, classes)
