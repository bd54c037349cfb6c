"""The networks behind the paper's tables, by name.

    vgg19_imagenet                                Table 1
    densenet121_postact, vgg16_imagenet           Table 2
    resnet18, resnet34, resnet50, resnet101       Table 2, and torchvision's other plain ResNet, resnet152
    mobilenet_v1_050, mobilenet_v1_025            Table 3
    vgg19_cifar                                   Tables 4 and 5
    resnet164_cifar, densenet100_cifar            Table 4

Params and multiply-adds are those that the tables print (tests/models/test_networks.py has them all to the last digit).
Pretrained weights do not exist.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

from torch import nn

from nrfx.errors import UsageError
from nrfx.models.densenet import densenet100_cifar, densenet121_postact
from nrfx.models.layers import initialise
from nrfx.models.mobilenet import mobilenet_v1
from nrfx.models.resnet import resnet164_cifar, torchvision_resnet
from nrfx.models.vgg import vgg16_imagenet, vgg19_cifar, vgg19_imagenet


@dataclass(frozen=True)
class Network:
    """How to build a network for a number of classes; the paper's side of an image in pixels, and its classes."""

    build: Callable[[int], nn.Module]
    side: int
    classes: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of one image, [1, 3, side, side]."""
        return 1, 3, self.side, self.side


RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")

NETWORKS: Mapping[str, Network] = {
    "vgg19_imagenet": Network(vgg19_imagenet, 128, 1000),
    "vgg16_imagenet": Network(vgg16_imagenet, 224, 1000),
    "densenet121_postact": Network(densenet121_postact, 224, 1000),
    **{name: Network(partial(torchvision_resnet, name), 224, 1000) for name in RESNETS},
    "mobilenet_v1_050": Network(partial(mobilenet_v1, 0.5), 128, 1000),
    "mobilenet_v1_025": Network(partial(mobilenet_v1, 0.25), 128, 1000),
    "vgg19_cifar": Network(vgg19_cifar, 32, 10),
    "resnet164_cifar": Network(resnet164_cifar, 32, 10),
    "densenet100_cifar": Network(densenet100_cifar, 32, 10),
}


def create(name: str, num_classes: int | None = None) -> nn.Module:
    """A network of the paper, untrained: [N, 3, side, side] -> logits [N, num_classes].

    Every gamma starts at 0.5 as in the authors' code, also in torchvision's ResNets: under the penalty a gamma of 0.5
    dies in half the steps of one of 1. The side of the images is `NETWORKS[name].side`; others work too.

    Args:
        name: one of NETWORKS.
        num_classes: a positive integer; None for that of the paper, 1000 on ImageNet and 10 on CIFAR.

    Raises:
        UsageError: there is no network of this name, or num_classes is no positive integer.

    >>> create("vgg19_cifar", num_classes=100).classifier
    Linear(in_features=512, out_features=100, bias=True)
    """
    if name not in NETWORKS:
        close = get_close_matches(str(name), NETWORKS, n=3)
        offer = f"close to it: {', '.join(close)}" if close else f"they are {', '.join(NETWORKS)}"
        raise UsageError(f"There is no network {name!r} of the paper; {offer}.")
    network = NETWORKS[name]
    classes = network.classes if num_classes is None else num_classes
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise UsageError(
            f"num_classes is {num_classes!r} for {name}; expected a positive integer, or None for {network.classes}."
        )
    return initialise(network.build(classes))
