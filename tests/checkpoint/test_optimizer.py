"""Optimizers of every kind in a file, alone and several: they go on as if they had never been away."""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.optim import Optimizer

import nrfx
from nrfx.errors import CheckpointError
from nrfx.tracing import TracedModule

KINDS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "Adadelta": optim.Adadelta,
    "Adafactor": optim.Adafactor,
    "Adagrad": lambda p: optim.Adagrad(p, initial_accumulator_value=0.1),
    "Adamax": optim.Adamax,
    "ASGD": optim.ASGD,
    "LBFGS": lambda p: optim.LBFGS(p, max_iter=2),
    "NAdam": optim.NAdam,
    "RAdam": optim.RAdam,
    "RMSprop": lambda p: optim.RMSprop(p, momentum=0.9, centered=True),
    "Rprop": optim.Rprop,
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def trained(gm: nn.Module, optimizers: Iterable[Optimizer], steps: int = 2) -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))

    def loss() -> torch.Tensor:
        gm.zero_grad()
        value: torch.Tensor = gm(x).square().mean()
        value.backward()
        return value

    for _ in range(steps):
        for optimizer in optimizers:
            loss()
            optimizer.step(loss)


def gone_on(path: Path, gm: TracedModule, saved: Any, made: Callable[[nn.Module], Any]) -> None:
    """Saves, loads into a fresh network and optimizer, and compares two more steps of both."""
    nrfx.save(path, gm, optimizer=saved)
    fresh = net()
    loading = made(fresh)
    loaded = nrfx.load(path, fresh, optimizer=loading)
    for module, optimizers in ((gm, saved), (loaded, loading)):
        trained(module, [optimizers] if isinstance(optimizers, Optimizer) else optimizers)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in gm.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_goes_on_after_it_was_loaded(tmp_path: Path, kind: str) -> None:
    gm = nrfx.trace(net(), torch.zeros(2, 3, 4, 4))
    optimizer = KINDS[kind](gm.parameters())
    trained(gm, [optimizer])
    gone_on(tmp_path / "net", gm, optimizer, lambda module: KINDS[kind](module.parameters()))


def both(module: nn.Module) -> list[Optimizer]:
    matrices = [parameter for parameter in module.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in module.parameters() if parameter.dim() == 1]
    return [optim.SGD(matrices, lr=0.1, momentum=0.9), optim.AdamW(vectors)]


def test_two_optimizers_go_on_each_with_its_own_parameters(tmp_path: Path) -> None:
    gm = nrfx.trace(net(), torch.zeros(2, 3, 4, 4))
    optimizers = both(gm)
    trained(gm, optimizers)
    gone_on(tmp_path / "net", gm, optimizers, both)


def test_another_number_of_optimizers_is_refused(tmp_path: Path) -> None:
    gm = nrfx.trace(net(), torch.zeros(2, 3, 4, 4))
    nrfx.save(tmp_path / "net", gm, optimizer=both(gm))
    fresh = net()
    with pytest.raises(CheckpointError, match="it holds 2 optimizers, and 1 are given"):
        nrfx.load(tmp_path / "net", fresh, optimizer=optim.AdamW(fresh.parameters()))
    with pytest.raises(CheckpointError, match="it holds the state of a SGD, and the optimizer is a AdamW"):
        nrfx.load(tmp_path / "net", fresh, optimizer=both(fresh)[::-1])


def test_a_wrapper_is_saved_as_what_it_wraps(tmp_path: Path) -> None:
    class Wrapper:
        def __init__(self, optimizer: Optimizer) -> None:
            self.optimizer = optimizer

    gm = nrfx.trace(net(), torch.zeros(2, 3, 4, 4))
    optimizer = optim.RMSprop(gm.parameters())
    trained(gm, [optimizer])
    before = copy.deepcopy(optimizer.state_dict())
    nrfx.save(tmp_path / "net", gm, optimizer=Wrapper(optimizer))  # type: ignore[arg-type]
    fresh = net()
    loading = optim.RMSprop(fresh.parameters())
    nrfx.load(tmp_path / "net", fresh, optimizer=Wrapper(loading))  # type: ignore[arg-type]
    after = loading.state_dict()["state"]
    assert all(torch.equal(value["square_avg"], after[key]["square_avg"]) for key, value in before["state"].items())
