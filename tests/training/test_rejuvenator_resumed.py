"""A training that is saved by others in the middle of a search, and goes on from their checkpoint."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

import nrfx
from nrfx.tracing.graph.stated import KEY
from tests.training.small_loop import kill
from tests.zoo import IMAGE, resnet

X = torch.randn(8, *IMAGE[1:], generator=torch.Generator().manual_seed(1))
Y = torch.randint(5, (8,), generator=torch.Generator().manual_seed(2))


class Task(nn.Module):
    """A trainer's wrapper: it calls the user's model, and saves itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = resnet()


def optimizer_of(module: nn.Module, scheme: str) -> SGD:
    """With momentum, unless weights were split: torch tells state by positions, and the parts stand at others."""
    return SGD(module.parameters(), lr=0.05, momentum=0.0 if scheme == "removed" else 0.9)


def begun(task: Task, scheme: str) -> nrfx.Rejuvenator:
    """A Rejuvenator on a task, whose network is whatever the task's has become."""
    traced = nrfx.trace(task.model, X)
    optimizer = optimizer_of(traced, scheme)
    budget, generator = nrfx.Budget.relative(traced, params=1.0), torch.Generator().manual_seed(3)
    options: dict[str, Any] = {"interval": 1, "trigger": 0.9, "max_events": 1, "residual": "coupled"}
    return nrfx.Rejuvenator(traced, optimizer, budget, scheme=scheme, generator=generator, **options).attach()


def train(task: Task, nr: nrfx.Rejuvenator, steps: range) -> list[float]:
    losses = []
    for step in steps:
        if step == 3:
            kill(nr, 0.4)
        loss = F.cross_entropy(task.model(X), Y)
        nr.optimizer.zero_grad()
        loss.backward()
        nr.optimizer.step()
        losses.append(loss.item())
    return losses


def checkpoint(task: Task, nr: nrfx.Rejuvenator) -> Any:
    file = io.BytesIO()
    torch.save({"state_dict": task.state_dict(), "optimizer": nr.optimizer.state_dict(), "nr": nr.state_dict()}, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


@pytest.mark.parametrize("scheme", ["attention", "removed", "dense"])
@pytest.mark.parametrize("order", ["network first", "all built before"])
def test_a_run_resumed_from_a_plain_checkpoint_is_the_run_that_was_not_stopped(scheme: str, order: str) -> None:
    task = Task()
    nr = begun(task, scheme)
    train(task, nr, range(6))
    saved = checkpoint(task, nr)
    expected = train(task, nr, range(6, 9))
    assert nr.events == 1
    twin = Task()
    if order == "network first":
        traced = nrfx.trace(twin.model, X)
        twin.model = traced
        twin.load_state_dict(saved["state_dict"])
        optimizer = optimizer_of(traced, scheme)
        other = nrfx.Rejuvenator(traced, optimizer, nrfx.Budget(params=10**6), max_events=1).attach()
    else:
        other = begun(twin, scheme)
        twin.load_state_dict(
            saved["state_dict"]
        )  # the model is joined to its traced module, and both become the network
        if scheme == "removed":  # other parameters than the optimizer was built with
            other.detach()
            optimizer = optimizer_of(other.module, scheme)
            other = nrfx.Rejuvenator(other.module, optimizer, nrfx.Budget(params=10**6), max_events=1).attach()
    other.optimizer.load_state_dict(saved["optimizer"])
    other.load_state_dict(saved["nr"])
    assert train(twin, other, range(6, 9)) == expected
    assert all(torch.equal(a, b) for a, b in zip(task.parameters(), twin.parameters(), strict=True))


class Routed(nn.Module):
    """A part that can be traced, behind a decision on values."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = resnet(), nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return self.head(y) if float(y.detach().sum()) > 0 else self.head(-y)


def test_a_model_that_is_traced_in_parts_comes_back_too() -> None:
    def made() -> tuple[nn.Module, Any, Callable[..., Any]]:
        model = Routed().eval()
        gm = nrfx.trace(model, X, partial=True).eval()
        optimizer = SGD(gm.parameters(), lr=0.0)
        options: dict[str, Any] = {"interval": 1, "trigger": 1.0, "residual": "coupled"}
        nr = nrfx.Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0), **options).attach()
        return model, nr, optimizer.step

    model, nr, step = made()
    kill(nr, 0.4)
    model(X).sum().backward()
    step()
    assert nr.events == 1 and KEY in model.state_dict()
    twin, other, _ = made()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(X), model(X)) and torch.equal(other.module(X), model(X))
    alone = copy.deepcopy(model)
    assert KEY in alone.state_dict() and torch.equal(alone(X), model(X))
