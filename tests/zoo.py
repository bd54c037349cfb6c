"""Small models for tests, one per pattern that rewrites meet, and the networks of data/oracle_examples.json.

Models take images of shape IMAGE, the oracle's those of the file. Weights come from torch's global generator.
"""

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import resnet18, resnet50

IMAGE = (2, 3, 16, 16)
Inputs = Callable[[torch.Generator], tuple[Tensor, ...]]


def conv_bn(i: int, o: int, k: int = 3, stride: int = 1, *, groups: int = 1, bias: bool = False) -> list[nn.Module]:
    return [nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=bias), nn.BatchNorm2d(o)]


def cbr(i: int, o: int, k: int = 3, stride: int = 1, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(*conv_bn(i, o, k, stride), act())


def head(width: int, classes: int = 5) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


class Add(nn.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class Cat(nn.Module):
    """The branches' outputs side by side on the channel axis."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Gate(nn.Module):
    """Squeeze and excite: x * gate(mean of x)."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, width, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def vgg_bn(widths: Sequence[int] = (8, 12, 16), classes: int = 5, bias: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in zip((3, *widths), widths, strict=False):
        layers += [*conv_bn(i, o, bias=bias), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * (IMAGE[-1] >> len(widths)) ** 2, classes))


def vgg_conv_bias(widths: Sequence[int] = (8, 12, 16), classes: int = 5) -> nn.Sequential:
    return vgg_bn(widths, classes, bias=True)


class Block(nn.Module):
    """torchvision's BasicBlock or Bottleneck, stride on the 3x3, with its names and its one shared ReLU."""

    def __init__(self, i: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        o = width * (2 if bottleneck else 1)
        self.conv1, self.bn1 = conv_bn(i, width, 1) if bottleneck else conv_bn(i, width, 3, stride)
        self.conv2, self.bn2 = conv_bn(width, width, 3, stride if bottleneck else 1)
        if bottleneck:
            self.conv3, self.bn3 = conv_bn(width, o, 1)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(*conv_bn(i, o, 1, stride)) if stride > 1 or i != o else None
        self.bottleneck = bottleneck

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(self.relu(y)))
        y += identity
        return self.relu(y)


class ResNet(nn.Module):
    """torchvision's ResNet in small, with its names; one stage per entry of blocks, widths 8, 16, ..."""

    def __init__(self, blocks: Sequence[int], bottleneck: bool, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(3, 8)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        i, self.stages = 8, len(blocks)
        for stage, depth in enumerate(blocks):
            width = 8 << stage
            o = width * (2 if bottleneck else 1)
            strides = [1 if stage == 0 else 2, *[1] * (depth - 1)]
            layers = [Block(i if n == 0 else o, width, stride, bottleneck) for n, stride in enumerate(strides)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            i = o
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(i, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet(blocks: Sequence[int] = (1, 2), bottleneck: bool = False, classes: int = 5) -> ResNet:
    return ResNet(blocks, bottleneck, classes)


def bn_relu_conv(i: int, o: int, k: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, o, k, padding=k // 2, bias=False)]


def densenet_preact(growth: int = 4, classes: int = 5) -> nn.Sequential:
    def layer(i: int) -> nn.Module:
        return Cat(nn.Identity(), nn.Sequential(*bn_relu_conv(i, 8, 1), *bn_relu_conv(8, growth, 3)))

    c = 8 + 2 * growth
    stem, first, last = conv_bn(3, 8)[0], [layer(8), layer(8 + growth)], [layer(8), layer(8 + growth)]
    transition = [*bn_relu_conv(c, 8, 1), nn.AvgPool2d(2)]
    return nn.Sequential(stem, *first, *transition, *last, nn.BatchNorm2d(c), nn.ReLU(), *head(c, classes))


def densenet_postact(growth: int = 4, classes: int = 5) -> nn.Sequential:
    def layer(i: int) -> nn.Module:
        return Cat(nn.Identity(), nn.Sequential(cbr(i, 8, 1), cbr(8, growth)))

    c = 8 + 2 * growth
    first, last = [layer(8), layer(8 + growth)], [layer(8), layer(8 + growth)]
    return nn.Sequential(cbr(3, 8), *first, cbr(c, 8, 1), nn.AvgPool2d(2), *last, *head(c, classes))


def inverted(i: int, hidden: int, o: int, stride: int, act: Callable[[], nn.Module], *, gate: bool) -> nn.Module:
    depthwise = [*conv_bn(hidden, hidden, 3, stride, groups=hidden), act()]
    gates = [Gate(hidden, 4)] if gate else []
    body = nn.Sequential(cbr(i, hidden, 1, act=act), *depthwise, *gates, *conv_bn(hidden, o, 1))
    return Add(body) if stride == 1 and i == o else body


def mobilenet(classes: int = 5, act: Callable[[], nn.Module] = nn.ReLU6, gate: bool = False) -> nn.Sequential:
    blocks = [inverted(8, 16, 12, 2, act, gate=gate), inverted(12, 24, 12, 1, act, gate=gate)]
    return nn.Sequential(cbr(3, 8, act=act), *blocks, cbr(12, 24, 1, act=act), *head(24, classes))


def mobilenet_se(classes: int = 5) -> nn.Sequential:
    return mobilenet(classes, nn.Hardswish, gate=True)


def inception(classes: int = 5) -> nn.Sequential:
    def mixed(i: int) -> nn.Module:
        pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1), cbr(i, 5, 1))
        return Cat(cbr(i, 6, 1), nn.Sequential(cbr(i, 4, 1), cbr(4, 8)), pooled)

    return nn.Sequential(cbr(3, 8), mixed(8), nn.MaxPool2d(2), mixed(19), *head(19, classes))


class AuxNet(nn.Module):
    """In train mode (logits, auxiliary logits), in eval mode the logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.trunk = cbr(3, 8), nn.Sequential(cbr(8, 12, stride=2), cbr(12, 16))
        self.aux, self.head = (
            nn.Sequential(cbr(8, 6, 1), *head(6, classes)),
            nn.Sequential(*head(16, classes)),
        )

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x)
        y = self.head(self.trunk(x))
        return (y, self.aux(x)) if self.training else y


def aux_net(classes: int = 5) -> AuxNet:
    return AuxNet(classes)


class FunctionalDropout(nn.Module):
    """F.dropout with training=self.training between two stages."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.trunk = cbr(3, 8), nn.Sequential(cbr(8, 12, stride=2), *head(12, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(F.dropout(self.stem(x), 0.5, training=self.training))


def functional_dropout(classes: int = 5) -> FunctionalDropout:
    return FunctionalDropout(classes)


def grouped(classes: int = 5) -> nn.Sequential:
    body = nn.Sequential(cbr(8, 16, 1), *conv_bn(16, 16, groups=4), nn.ReLU(), *conv_bn(16, 8, 1))
    return nn.Sequential(cbr(3, 8), Add(body), nn.ReLU(), *head(8, classes))


SMALL: dict[str, Callable[[], nn.Module]] = {
    "vgg_bn": vgg_bn,
    "vgg_conv_bias": vgg_conv_bias,
    "resnet": resnet,
    "resnet_bottleneck": lambda: resnet(bottleneck=True),
    "densenet_preact": densenet_preact,
    "densenet_postact": densenet_postact,
    "mobilenet": mobilenet,
    "mobilenet_se": mobilenet_se,
    "inception": inception,
    "aux_net": aux_net,
    "functional_dropout": functional_dropout,
    "grouped": grouped,
}


# The oracle's networks: layer names, order and widths as in the file


def vgg19_cifar(classes: int = 10) -> nn.Sequential:
    layers, i = [], 3
    for o in (64, 64, 128, 128, None, *[256] * 4, *[512] * 2, None, *[512] * 6):
        layers.append(nn.MaxPool2d(2) if o is None else cbr(i, o))
        i = o or i
    return nn.Sequential(*layers, *head(512, classes))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected (1x1, BN) where the shape changes."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.a, self.c = cbr(i, o, 3, stride), nn.Sequential(*conv_bn(o, o))
        self.d = nn.Sequential(*conv_bn(i, o, 1, stride)) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.c(self.a(x)) + self.d(x))


def resnet20_cifar(classes: int = 10) -> nn.Sequential:
    ends = [(16, 16), (16, 16), (16, 16), (16, 32), (32, 32), (32, 32), (32, 64), (64, 64), (64, 64)]
    return nn.Sequential(cbr(3, 16), *[CifarBlock(i, o, o // i) for i, o in ends], *head(64, classes))


class CifarDense(nn.Module):
    """The input, and beside it what a 1x1 and a 3x3 convolution make of it; post-activation."""

    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.a, self.b = cbr(i, 4 * growth, 1), cbr(4 * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.b(self.a(x))], 1)


def densenet22_12_cifar(classes: int = 10) -> nn.Sequential:
    def dense(i: int) -> list[nn.Module]:
        return [CifarDense(i + 12 * n, 12) for n in range(3)]

    first, second = (
        [*dense(24), cbr(60, 30, 1), nn.AvgPool2d(2)],
        [*dense(30), cbr(66, 33, 1), nn.AvgPool2d(2)],
    )
    return nn.Sequential(cbr(3, 24), *first, *second, *dense(33), *head(69, classes))


ORACLE: dict[str, Callable[[], nn.Module]] = {
    "vgg19_cifar10": vgg19_cifar,
    "resnet18_imagenet": resnet18,
    "resnet20_cifar10": resnet20_cifar,
    "densenet22_12_cifar10": densenet22_12_cifar,
    "resnet50_imagenet": resnet50,
}


def norms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.affine]


@torch.no_grad()
def with_rule(model: nn.Module, rule: str) -> nn.Module:
    """A copy with the gammas and betas of the oracle's rule "A" or "B": k-th batch norm, channel i."""
    model = copy.deepcopy(model)
    for k, norm in enumerate(norms(model)):
        i = torch.arange(norm.num_features)
        if rule == "A":
            norm.weight.copy_(torch.where((7 * i + 3 * k) % 10 < 6, 1.0, 0.001))
            norm.bias.fill_(0.1)
        else:
            live = (7 * i + 3 * k) % 10 < 2 + (5 * k) % 7
            gamma = torch.where(live, 0.5 + (13 * i + 5 * k) % 8 / 8, 0.0)
            norm.weight.copy_(torch.where(i % 3 == 2, -gamma, gamma))
            norm.bias.copy_(0.05 * (i % 5 - 2))
    return model


@torch.no_grad()
def calibrated(
    model: nn.Module, input_shape: Sequence[int] = IMAGE, seed: int = 0, *, inputs: Inputs | None = None
) -> nn.Module:
    """A copy in float64 and eval mode that listens to its input: random batch norms and statistics that fit.

    gamma is uniform in 0.5..1.5 with random sign, beta normal with deviation 0.1. The running statistics are
    the mean over 4 batches: what `inputs` draws, or 16 random images of input_shape [N, C, ...], whose N is not used.
    """
    draw = inputs or (lambda g: (torch.randn(16, *input_shape[1:], generator=g, dtype=torch.float64),))
    model = copy.deepcopy(model).double().train()
    generator = torch.Generator().manual_seed(seed)
    momenta = {norm: norm.momentum for norm in norms(model)}
    for norm in momenta:
        sign = 2 * torch.randint(2, norm.weight.shape, generator=generator) - 1
        norm.weight.copy_((0.5 + torch.rand(norm.weight.shape, generator=generator)) * sign)
        norm.bias.copy_(0.1 * torch.randn(norm.bias.shape, generator=generator))
        norm.reset_running_stats()
        norm.momentum = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(4):
            model(*draw(generator))
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    return model.eval()


@torch.no_grad()
def with_dead(model: nn.Module, fraction: float = 0.4, beta: str = "random", seed: int = 0) -> nn.Module:
    """A copy with gamma = 0 on that fraction of the channels of every batch norm, never on all of one.

    beta there is 0 for "zero" and normal with deviation 0.1 for "random".
    """
    if beta not in ("zero", "random"):
        raise ValueError(f"beta={beta!r}: 'zero' or 'random'")
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for norm in norms(model):
        dead = torch.randperm(norm.num_features, generator=generator)[: int(fraction * norm.num_features)]
        dead = dead[: norm.num_features - 1]
        values = 0.1 * torch.randn(len(dead), generator=generator, dtype=norm.bias.dtype)
        norm.weight[dead] = 0
        norm.bias[dead] = values if beta == "random" else 0
    return model
