"""The networks that the benchmarks rewrite: they have dead channels, and their outputs depend on the input.

With random gammas and statistics the outputs of mobilenets and googlenet hardly depend on the image (1e-7 relative), so
that any broken rewrite would pass. Hence the batch norms are calibrated by train-mode forwards on random images.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

SHARE_DEAD = 0.4


@dataclass(frozen=True)
class Network:
    """How to build a model, and the side in pixels of the images that it takes."""

    build: Callable[[], nn.Module]
    side: int = 64

    def images(self, count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """[count, 3, side, side] standard normal."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, 3, self.side, self.side, generator=generator, dtype=dtype)


def torchvision_network(name: str, side: int = 64) -> Network:
    """The torchvision model of this name, without weights and without its slow truncated-normal initialisation."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return Network(lambda: torchvision.models.get_model(name, **options), side)


NETWORKS: Mapping[str, Network] = {
    "vgg11_bn": torchvision_network("vgg11_bn"),
    "vgg16_bn": torchvision_network("vgg16_bn"),
    "resnet18": torchvision_network("resnet18"),
    "resnet50": torchvision_network("resnet50"),
    "densenet121": torchvision_network("densenet121"),
    "mobilenet_v2": torchvision_network("mobilenet_v2"),
    "mobilenet_v3_small": torchvision_network("mobilenet_v3_small"),
    "googlenet": torchvision_network("googlenet", 96),
    "inception_v3": torchvision_network("inception_v3", 299),  # its auxiliary head takes no smaller image
}


def dying(
    network: Network, beta: float = 0.0, *, dtype: torch.dtype = torch.float64, calibration: int = 8, seed: int = 0
) -> nn.Module:
    """The network in eval mode, 40 % of the gammas of every batch norm at 0, with calibrated statistics and no dropout.

    Live gammas are uniform(0.5, 1.5) with random signs, live betas normal(0, 0.1).

    Args:
        beta: standard deviation of the betas beside dead gammas; 0.0 puts them at 0.
        calibration: images of the two train-mode forwards, one before the gammas die and one after.
    """
    torch.manual_seed(seed)
    model = network.build().to(dtype)

    def run(model: nn.Module, turn: int) -> None:
        model.train()(network.images(calibration, seed + turn, dtype))

    return with_dead_channels(model, run, beta)


def with_dead_channels(model: nn.Module, run: Callable[[nn.Module, int], None], beta: float) -> nn.Module:
    """The model itself, in eval mode, as `dying` describes it. Uses torch's global generator.

    Args:
        run: (model, 1 or 2) -> runs the model with its batch norms in train mode.
        beta: standard deviation of the betas beside dead gammas.
    """
    without_dropout(model)
    for _, norm in norms(model):
        _enliven(norm)
    calibrate(model, lambda model: run(model, 1))
    for _, norm in norms(model):
        _kill(norm, beta)
    calibrate(model, lambda model: run(model, 2))
    return model.eval()


def norms(model: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """The batch norms of a model by path."""
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            yield path, module


def _enliven(norm: _BatchNorm) -> None:
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias, 0, 0.1)
    with torch.no_grad():
        norm.weight.mul_(torch.randint(0, 2, norm.weight.shape) * 2 - 1)


def _kill(norm: _BatchNorm, beta: float) -> None:
    dead = torch.randperm(norm.num_features)[: int(SHARE_DEAD * norm.num_features)]
    with torch.no_grad():
        norm.weight[dead] = 0.0
        norm.bias[dead] = torch.randn(dead.numel(), dtype=norm.bias.dtype) * beta


def without_dropout(model: nn.Module) -> None:
    """Puts every probability of dropout and drop path to 0, so that train-mode forwards see what eval mode sees."""
    for module in model.modules():
        if isinstance(module, _DropoutNd | StochasticDepth):
            module.p = 0.0
        if type(module).__name__ == "DropPath":  # timm's
            vars(module)["drop_prob"] = 0.0


def calibrate(model: nn.Module, run: Callable[[nn.Module], object]) -> None:
    """Gives the batch norms the statistics of one forward. run: makes it, with the batch norms in train mode."""
    momenta = [(norm, norm.momentum) for _, norm in norms(model)]
    for norm, _ in momenta:
        norm.reset_running_stats()
        norm.momentum = 1.0
    with torch.no_grad():
        run(model)
    for norm, momentum in momenta:
        norm.momentum = momentum
