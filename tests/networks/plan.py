"""Whole networks: how they end, which gammas are dead, and how they are made."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.networks.blocks import Unit
from tests.networks.piece import IMAGE, Apply, Piece, after, chain
from tests.zoo import calibrated, norms


def ended(tail: str, shape: torch.Size) -> nn.Module:
    """The end of the network: 3 logits in all cases but "maps", which ends in a convolution, "none" and "dict"."""
    wide, positions = shape[1], shape[1:].numel()
    pool: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    tails: dict[str, Callable[[], nn.Module]] = {
        "pool": lambda: nn.Sequential(*pool, nn.Linear(wide, 3)),
        "flatten": lambda: nn.Sequential(nn.Flatten(), nn.Linear(positions, 3)),
        "view": lambda: Apply(lambda x, last: last(x.contiguous().view(x.size(0), -1)), nn.Linear(positions, 3)),
        "four": lambda: nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(4 * wide, 3)),
        "mean": lambda: Apply(lambda x, last: last(x.mean((2, 3))), nn.Linear(wide, 3)),
        "tokens": lambda: Apply(lambda x, last: last(x.flatten(2).transpose(1, 2)).mean(1), nn.Linear(wide, 3)),
        "norm": lambda: nn.Sequential(
            *pool, nn.Linear(wide, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
        ),
        "hidden": lambda: nn.Sequential(nn.Flatten(), nn.Linear(positions, 5), nn.ReLU(), nn.Linear(5, 3)),
        "last norm": lambda: nn.Sequential(*pool, nn.Linear(wide, 3), nn.BatchNorm1d(3)),
        "maps": lambda: nn.Conv2d(wide, 3, 3, padding=1),
        "none": nn.Identity,
        "dict": lambda: Apply(lambda x, last: {"maps": last(x), "top": x.amax((2, 3))}, nn.Conv2d(wide, 3, 1)),
        "pair": lambda: Apply(lambda x, last: (last(x.mean((2, 3))), last(x.amax((2, 3)))), nn.Linear(wide, 3)),
    }
    return tails[tail]()


TAILS = (
    *("pool", "flatten", "view", "four", "mean", "tokens", "norm", "hidden", "last norm", "maps", "none", "dict"),
    "pair",
)


@dataclass(frozen=True, repr=False)
class Plan(Piece):
    """A network of 3-channel images, and which of its gammas are dead.

    beta: of the dead ones "zero", "random", or "negative" (which a ReLU makes zero). seed: of weights and statistics.
    frozen: how many parameters at the start do not learn. training: the mode that it is left in. image: [N, 3, H, W],
    of the trace.
    """

    pieces: tuple[Any, ...] = (Unit(),)
    tail: str = "pool"
    dead: tuple[str, ...] = (".",)
    beta: str = "zero"
    seed: int = 0
    frozen: int = 0
    training: bool = False
    image: tuple[int, ...] = IMAGE

    def build(self, shape: torch.Size | None = None) -> nn.Module:
        """The network with random weights, for images of its own shape or of the given one."""
        shape = torch.Size(self.image) if shape is None else shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            body = chain(self.pieces, shape)
            return nn.Sequential(*body, ended(self.tail, after(body, shape)).eval())

    def prepared(self) -> nn.Module:
        """In float64 and eval mode, calibrated, its dead gammas exactly 0."""
        return self.killed(self.alive()).train(self.training)

    def alive(self) -> nn.Module:
        """In float64 and eval mode, calibrated."""
        model = calibrated(self.build(), self.image, self.seed)
        for norm in model.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_var is not None:
                norm.running_var.clamp_(min=0.05)  # a silent channel would amplify rounding 300-fold
        for parameter in list(model.parameters())[: self.frozen]:
            parameter.requires_grad_(False)
        return model

    @torch.no_grad()
    def killed(self, model: nn.Module) -> nn.Module:
        """The model, in place, with the gammas that the patterns name at 0 and their betas as `beta` says."""
        generator = torch.Generator().manual_seed(self.seed)
        for number, norm in enumerate(norms(model)):
            pattern = self.dead[number % len(self.dead)]
            dead = torch.tensor([pattern[i % len(pattern)] == "x" for i in range(norm.num_features)])
            values = torch.randn(norm.num_features, generator=generator, dtype=norm.bias.dtype) * 0.5
            values = {"zero": 0 * values, "random": values, "negative": -values.abs()}[self.beta]
            norm.weight[dead], norm.bias[dead] = 0.0, values[dead]
        return model
