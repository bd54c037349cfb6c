"""Small networks for images in one colour: VGGs of any widths, and the one of the recipes `digits` and `shapes`."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from nrfx.models.layers import GAMMA

POOL = None
"""Stands for a max pool of 2 x 2 in a list of widths."""


def digits_net(classes: int = 10) -> nn.Sequential:
    """A VGG with batch norm for images [N, 1, 8, 8]; every gamma begins at 0.5.

    >>> import torch
    >>> digits_net()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    stages = OrderedDict[str, nn.Module](
        stage1=_stage(1, 8, 16, nn.MaxPool2d(2)),
        stage2=_stage(16, 16, 32, nn.MaxPool2d(2)),
        stage3=_stage(32, 32, 48, nn.AdaptiveAvgPool2d(1)),
        flatten=nn.Flatten(),
        classifier=nn.Linear(48, classes),
    )
    return nn.Sequential(stages)


def _stage(channels: int, first: int, second: int, pool: nn.Module) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module]()
    for number, (i, o) in enumerate(((channels, first), (first, second)), start=1):
        norm = nn.BatchNorm2d(o)
        nn.init.constant_(norm.weight, GAMMA)
        layers |= {
            f"conv{number}": nn.Conv2d(i, o, 3, padding=1, bias=False),
            f"norm{number}": norm,
            f"relu{number}": nn.ReLU(),
        }
    return nn.Sequential(layers | {"pool": pool})


def vgg(widths: Sequence[int | None], classes: int = 10) -> nn.Sequential:
    """conv, norm and ReLU for each width: images [N, 1, H, W] -> logits [N, classes].

    >>> [name for name, _ in vgg((4, POOL, 8)).named_children()]
    ['conv1', 'norm1', 'relu1', 'pool1', 'conv2', 'norm2', 'relu2', 'mean', 'flatten', 'classifier']
    """
    layers = OrderedDict[str, nn.Module]()
    i, number = 1, 0
    for o in widths:
        if o is POOL:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
            continue
        number += 1
        layers |= {
            f"conv{number}": nn.Conv2d(i, o, 3, padding=1, bias=False),
            f"norm{number}": nn.BatchNorm2d(o),
            f"relu{number}": nn.ReLU(),
        }
        i = o
    ends = {"mean": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": nn.Linear(i, classes)}
    return nn.Sequential(OrderedDict(layers | ends))
