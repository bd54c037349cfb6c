"""Networks with dead channels, a rewrite of each within its old params, and how far two networks differ."""

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from tests.zoo import IMAGE, SMALL, calibrated, with_dead

SCHEMES = ("dense", "attention", "removed")


def images(seed: int = 1) -> torch.Tensor:
    return torch.randn(IMAGE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prepared(name: str, beta: str = "random") -> tuple[nn.Module, nrfx.TracedModule]:
    model = with_dead(calibrated(SMALL[name]()), 0.4, beta)
    return model, nrfx.trace(model, images())


def rewritten(name: str, scheme: str, beta: str = "random", **options) -> tuple[nn.Module, nrfx.Rejuvenation]:
    model, gm = prepared(name, beta)
    budget = nrfx.Budget.relative(gm, params=1.0)
    seeded = torch.Generator().manual_seed(0)
    return model, nrfx.rejuvenate(gm, budget, scheme=scheme, generator=seeded, **options)


def difference(before: nn.Module, after: nn.Module) -> float:
    """Largest difference of the outputs, relative to the largest output."""
    with torch.no_grad():
        expected, actual = before(images()), after(images())
    return float((expected - actual).abs().max() / expected.abs().max())


def counted_flops(module: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(images()[:1])
    return counter.get_total_flops() // 2


def unit(i: int, o: int, **options: object) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, **options), nn.BatchNorm2d(o), nn.ReLU())


class Weird(nn.Module):
    """Three units, with `twist(self, x)` between the first two."""

    def __init__(self, twist: Callable[["Weird", torch.Tensor], torch.Tensor], *extra: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.head = unit(3, 8), unit(8, 8), nn.Conv2d(8, 4, 3)
        self.twist, self.extra = twist, nn.ModuleList(extra)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.twist(self, self.first(x))))
