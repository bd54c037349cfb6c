"""The paper's three VGGs: chains of 3x3 units and max pools without the large linear layers of the original.

Source: K. Simonyan and A. Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, 2014,
changed as Neural Rejuvenation, Sec. 4.2, 4.3 and 4.4 say. Names of layers count units and pools from 0, in order.
"""

from collections.abc import Sequence

from torch import nn

from nrfx.models.layers import classifier, unit

POOL = None
"""Stands for a max pool of 2x2 in a list of widths."""


def vgg19_cifar(classes: int) -> nn.Module:
    """VGG-19 for images [N, 3, 32, 32]: 16 convolutions, of whose pools only two are left, behind the 4th and the 10th.

    Source: Sec. 4.4, Tables 4 and 5.
    """
    features = _chain(3, (64, 64, 128, 128, POOL, *[256] * 4, 512, 512, POOL, *[512] * 6))
    return classifier(nn.Sequential(*features), 512, classes)


def vgg19_imagenet(classes: int) -> nn.Module:
    """VGG-19 for images [N, 3, 128, 128], simplified: the first convolution and pool are those of ResNet.

    The pool behind the last convolutions is left out: the map is 4x4 there.

    Source: Sec. 4.2, Table 1. The text gives 20.5M params; this network, whose layers are those of the authors' code,
    has 20,550,568.
    """
    stem = [unit(3, 64, 7, 2), unit(64, 64), nn.MaxPool2d(3, 2, 1)]
    features = _chain(64, (128, 128, POOL, *[256] * 4, POOL, *[512] * 4, POOL, *[512] * 4))
    return classifier(nn.Sequential(*stem, *features), 512, classes)


def vgg16_imagenet(classes: int) -> nn.Module:
    """VGG-16 for images [N, 3, 224, 224], with two 1x1 units of 4096 channels behind the mean over all positions.

    The last pool is left out: the mean is over a map of 14x14. A batch of one image cannot train it, for batch norms
    see one value a channel.

    Source: Sec. 4.3, Table 2. The text puts the two convolutions before the mean; only behind it do they cost the 15.3G
    multiply-adds of Table 2 (before it: 19.1G). It does not say how large they are: with 3x3 kernels, even in the first
    alone, the network would have 54.5M params or more instead of its 37.7M.
    """
    blocks = (64, 64, POOL, 128, 128, POOL, *[256] * 3, POOL, *[512] * 3, POOL, *[512] * 3)
    wide = [nn.AdaptiveAvgPool2d(1), unit(512, 4096, 1), unit(4096, 4096, 1)]
    return classifier(nn.Sequential(*_chain(3, blocks), *wide), 4096, classes)


def _chain(i: int, widths: Sequence[int | None]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for o in widths:
        layers.append(nn.MaxPool2d(2) if o is POOL else unit(i, o))
        i = i if o is POOL else o
    return layers
