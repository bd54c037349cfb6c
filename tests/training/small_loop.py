"""A training loop in small: a Rejuvenator around a VGG on random images, and everything that an event changes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Optimizer

import nrfx
from nrfx.training.events import Event, Measurement
from nrfx.training.rejuvenator import Rejuvenator
from tests.zoo import IMAGE, norms, vgg_bn


def set_up(model: nn.Module | None = None, lr: float = 0.05, **options: Any) -> tuple[Rejuvenator, SGD]:
    """A traced small VGG (or the model) under SGD, with a budget of what it costs."""
    gm = nrfx.trace(vgg_bn() if model is None else model, torch.zeros(IMAGE))
    optimizer = SGD(gm.parameters(), lr=lr, momentum=0.9)
    budget = options.pop("budget", nrfx.Budget.relative(gm, params=1.0))
    return Rejuvenator(
        gm, optimizer, budget, **{"interval": 1, "generator": torch.Generator().manual_seed(0), **options}
    ), optimizer


@torch.no_grad()
def kill(nr: Rejuvenator, fraction: float = 0.5) -> None:
    """Sets the first gammas of every norm to 0."""
    for norm in norms(nr.module):
        norm.weight[: int(fraction * norm.num_features)] = 0


def learn(nr: Rejuvenator, optimizer: Optimizer, seed: int = 0) -> Measurement | Event | None:
    """One step of a user's loop on random images."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(8, *IMAGE[1:], generator=generator), torch.randint(5, (8,), generator=generator)
    out = nr.module(x)
    loss = F.cross_entropy(out[0] if isinstance(out, tuple) else out, y)
    optimizer.zero_grad()
    loss.backward()
    nr.penalize()
    optimizer.step()
    return nr.step()


def step(nr: Rejuvenator) -> Measurement | Event | None:
    """A step of a loop whose loss has a gradient of 0, and whose optimizer does nothing."""
    for parameter in nr.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    nr.penalize()
    return nr.step()


def contents(nr: Rejuvenator, optimizer: Optimizer) -> dict[str, Any]:
    """What must not change when an event fails."""
    return {
        "module": nr.module,
        "parameters": [p for group in optimizer.param_groups for p in group["params"]],
        "values": [p.detach().clone() for p in nr.module.parameters()],
        "state": {p: {k: v.clone() for k, v in s.items()} for p, s in optimizer.state.items()},
        "nr": {key: value for key, value in nr.state_dict().items() if key != "steps"},
    }


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    same_state = a["state"].keys() == b["state"].keys() and all(
        torch.equal(a["state"][p][k], b["state"][p][k]) for p in a["state"] for k in a["state"][p]
    )
    same_values = all(torch.equal(x, y) for x, y in zip(a["values"], b["values"], strict=True))
    same_parameters = all(x is y for x, y in zip(a["parameters"], b["parameters"], strict=True))
    return a["module"] is b["module"] and same_state and same_values and same_parameters and a["nr"] == b["nr"]
