"""The paper's ResNets: torchvision's for ImageNet, and ResNet-164 for CIFAR.

Source: K. He, X. Zhang, S. Ren, J. Sun, *Deep Residual Learning for Image Recognition*, CVPR 2016; used in Neural
Rejuvenation, Sec. 4.1, 4.3 (Table 2) and 4.4 (Table 4).
"""

from collections import OrderedDict

from torch import Tensor, nn

from nrfx.models.layers import classifier, unit

EXPANSION = 4
BLOCKS = 18
"""Bottlenecks of each of the three stages: 3 * 18 * 3 convolutions, the first one and the classifier make 164."""


class Bottleneck(nn.Module):
    """relu(body(x) + shortcut(x)): [N, i, H, W] -> [N, 4 * planes, H / stride, W / stride].

    body: 1x1, 3x3 with the stride, and 1x1 to 4 * planes channels without an activation. shortcut: x itself, or a 1x1
    convolution with its norm where a stage begins.
    """

    def __init__(self, i: int, planes: int, stride: int = 1, projects: bool = False) -> None:
        super().__init__()
        o = EXPANSION * planes
        self.body = nn.Sequential(
            OrderedDict(
                reduce=unit(i, planes, 1), middle=unit(planes, planes, 3, stride), expand=unit(planes, o, 1, relu=False)
            )
        )
        self.shortcut = unit(i, o, 1, stride, relu=False) if projects else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def resnet164_cifar(classes: int) -> nn.Module:
    """ResNet-164 of post-activation bottlenecks for images [N, 3, 32, 32]; planes 16, 32, 64.

    The first block of each stage, also of the first (16 -> 64 channels), has a projection.

    Source: Sec. 4.4, Table 4. The text says "ResNet-164 with bottleneck blocks"; the authors' code has them
    post-activation.
    """
    stages = OrderedDict[str, nn.Module](stem=unit(3, 16))
    i = 16
    for number, planes in enumerate((16, 32, 64), 1):
        o = EXPANSION * planes
        first = Bottleneck(i, planes, stride=1 if number == 1 else 2, projects=True)
        stages[f"stage{number}"] = nn.Sequential(first, *(Bottleneck(o, planes) for _ in range(BLOCKS - 1)))
        i = o
    return classifier(nn.Sequential(stages), i, classes)


def torchvision_resnet(name: str, classes: int) -> nn.Module:
    """torchvision's model of this name, such as resnet50, for images [N, 3, 224, 224]; untrained.

    Source: Sec. 4.3, Table 2: params and flops of its four ResNets are those of torchvision's, whose bottlenecks have
    the stride in the 3x3 convolution.
    """
    from torchvision import models  # noqa: PLC0415 (slow to import)

    model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    return model
