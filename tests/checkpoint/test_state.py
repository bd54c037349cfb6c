"""State and options of optimizers: what each of them keeps passes, and what a step would fail on does not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from nrfx.checkpoint.state import option_fault, state_fault

MADE: dict[str, tuple[Callable[..., Optimizer], dict[str, Any]]] = {
    "sgd": (SGD, {}),
    "momentum": (SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (Adam, {"lr": torch.tensor(1e-3)}),
    "amsgrad": (AdamW, {"amsgrad": True, "foreach": False}),
    "fused": (AdamW, {"fused": True}),
    "other": (torch.optim.Adafactor, {}),
    "nadam": (torch.optim.NAdam, {}),
    "rmsprop": (torch.optim.RMSprop, {"centered": True, "momentum": 0.9}),
    "asgd": (torch.optim.ASGD, {}),
    "rprop": (torch.optim.Rprop, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adamax": (torch.optim.Adamax, {}),
    "radam": (torch.optim.RAdam, {}),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_an_optimizer_keeps_after_a_step_passes(name: str, dtype: torch.dtype) -> None:
    kind, options = MADE[name]
    layer = nn.Linear(3, 2).to(dtype)
    optimizer = kind(layer.parameters(), **{"lr": 0.1, **options})
    layer(torch.ones(1, 3, dtype=dtype)).sum().backward()
    optimizer.step()
    (group,) = optimizer.param_groups
    assert option_fault(optimizer.defaults, {**group, "initial_lr": 0.1}) is None
    for parameter in layer.parameters():
        assert state_fault(kind, group, optimizer.state[parameter], parameter) is None


def test_amsgrad_needs_its_own_average() -> None:
    weight = torch.zeros(2)
    state = {"step": torch.tensor(1.0), "exp_avg": weight, "exp_avg_sq": weight}
    assert state_fault(AdamW, {"amsgrad": False}, state, weight) is None
    assert state_fault(AdamW, {"amsgrad": True}, state, weight).startswith("'max_exp_avg_sq' is missing")


@pytest.mark.parametrize("betas", [(-0.1, 0.9), (0.9, 1.0), (0.9,), 0.9, "betas"])
def test_betas_are_two_numbers_from_0_to_1(betas: Any) -> None:
    assert option_fault({"betas": (0.9, 0.999)}, {"betas": betas}).startswith("betas is ")
