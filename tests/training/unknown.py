"""An optimizer that nobody was told of."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer


class Unknown(Optimizer):
    """Keeps a tensor of the parameter's shape, and nobody was told what it is."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float = 0.1) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter].setdefault("trace", torch.zeros_like(parameter)).add_(torch.ones_like(parameter))
