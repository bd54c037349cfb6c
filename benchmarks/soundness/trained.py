"""Small networks, with an optimizer and a Rejuvenator that train them on random images."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from nrfx.training.rejuvenator import Rejuvenator

SHAPE = (4, 3, 4, 4)


@dataclass(frozen=True)
class Company:
    """A model and what trains it."""

    model: nn.Module
    optimizer: Optimizer
    rejuvenator: Rejuvenator | None

    def state(self) -> list[Any]:
        """All that a load could change, as values that can be compared."""
        trained = [[*map(id, group["params"])] for group in self.optimizer.param_groups]
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        watched = self.rejuvenator and [self.rejuvenator.state_dict(), id(self.rejuvenator.module)]
        weights = {name: tensor.tolist() for name, tensor in self.model.state_dict().items()}
        modes = [module.training for module in self.model.modules()]
        return [weights, modes, trained, options, len(self.optimizer.state), watched]


def plain() -> nn.Module:
    layers: list[nn.Module] = []
    for i, o in ((3, 8), (8, 8), (8, 6)):
        layers += [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


class Viewed(nn.Module):
    """States widths as numbers, has a norm without parameters, and two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.bare, self.second, self.last = nn.BatchNorm2d(8, affine=False), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6)
        self.hidden, self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.bare(self.norm(self.first(x)).relu())
        x = self.last(self.second(x.view(-1, 8, 4, 4))).relu()
        x = self.hidden(x.reshape((x.shape[0], 6, 16)).mean(2))
        both: Tensor = self.a(x) + self.b(x).tanh()
        return both


def sgd(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=0.01, momentum=0.9)


def adamw(model: nn.Module) -> Optimizer:
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() == 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
    return AdamW(groups, lr=1e-3, amsgrad=True)


def train(one: Company, steps: range, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    """Steps on random images [4, ...], one of each class; the network that they led to."""
    module = one.model
    for step in steps:
        module = one.model if one.rejuvenator is None else one.rejuvenator.module
        x = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(module(x), torch.arange(4))
        one.optimizer.zero_grad()
        loss.backward()
        if one.rejuvenator is not None:
            one.rejuvenator.penalize()
        one.optimizer.step()
        if one.rejuvenator is not None:
            one.rejuvenator.step()
    return module if one.rejuvenator is None else one.rejuvenator.module
