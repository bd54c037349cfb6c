"""What the paper's networks are made of: convolution, batch norm, ReLU, always in this order; and how they start.

A convolution has no bias, for the batch norm behind it has one. "Post-activation" means this order: Neural Rejuvenation
assumes that a batch norm, whose gammas tell who is dead, follows each convolution directly (Sec. 3.1.1 and 4.3).
"""

from collections import OrderedDict
from math import prod, sqrt

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

GAMMA = 0.5
"""Where every gamma starts in the authors' code; the text only says "the initial level"."""

CLASSIFIER_DEVIATION = 0.01


def unit(i: int, o: int, kernel: int = 3, stride: int = 1, *, groups: int = 1, relu: bool = True) -> nn.Sequential:
    """conv, norm and, unless relu=False, relu: [N, i, H, W] -> [N, o, H / stride, W / stride], rounded up.

    >>> list(dict(unit(3, 8).named_children()))
    ['conv', 'norm', 'relu']
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False), norm=nn.BatchNorm2d(o)
    )
    if relu:
        layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


def classifier(features: nn.Module, width: int, classes: int) -> nn.Sequential:
    """The features, their mean over all positions, and a linear layer: images -> logits [N, classes]."""
    return nn.Sequential(
        OrderedDict(
            features=features, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=nn.Linear(width, classes)
        )
    )


def initialise(model: nn.Module) -> nn.Module:
    """The model itself, with fresh numbers: gammas 0.5, betas 0, convolutions He normal (fan out), classifiers small.

        convolution ~ normal(0, sqrt(2 / (kernel elements * out / groups)))      linear ~ normal(0, 0.01), bias 0

    Draws from torch's global generator.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0, sqrt(2 / fan_out))
        elif isinstance(module, _BatchNorm):
            nn.init.constant_(module.weight, GAMMA)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, CLASSIFIER_DEVIATION)
            nn.init.zeros_(module.bias)
    return model
