"""Random numbers that a forward draws without a traced tensor are refused, and no generator is left changed."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nrfx.errors import TraceError
from nrfx.tracing import trace
from nrfx.tracing.recording.draws import drawing_from
from tests.tracing.models import Function, assert_behaves_like

DRAWS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "numpy": lambda m, x: x * float(np.random.beta(1.0, 1.0)),
    "random": lambda m, x: x * random.random(),
    "torch": lambda m, x: x * torch.rand(()),
    "held numpy": lambda m, x: x * m.numpy.random(),
    "held random": lambda m, x: x * m.random.random(),
    "held torch": lambda m, x: x * torch.rand((), generator=m.torch),
}


def holding(forward: Callable[..., Any]) -> nn.Module:
    model = Function(forward)
    model.numpy, model.random, model.torch = np.random.default_rng(0), random.Random(0), torch.Generator()
    return model


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_that_would_be_frozen_is_refused_and_taken_back(name: str) -> None:
    model = holding(DRAWS[name])
    before = np.random.get_state()[1].tolist(), random.getstate(), model.numpy.bit_generator.state["state"]
    with pytest.raises(TraceError, match="draws random numbers that do not depend on its input"):
        trace(model, torch.zeros(2, 3))
    assert before == (np.random.get_state()[1].tolist(), random.getstate(), model.numpy.bit_generator.state["state"])


def test_the_module_that_draws_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Function(DRAWS["random"])), Function(lambda m, x: x * 2))
    with pytest.raises(TraceError, match=r"^1\.0 \(Function\) draws random numbers"):
        trace(model, torch.zeros(2, 3))


def test_generators_that_are_held_and_not_drawn_from_are_no_obstacle() -> None:
    model = holding(lambda m, x: x * 2)
    assert_behaves_like(trace(model, torch.zeros(2, 3)), Function(lambda m, x: x * 2), torch.randn(2, 3))


def test_draws_from_a_seed_are_the_same_each_time_and_are_taken_back() -> None:
    def drawn() -> tuple[float, float]:
        return random.random(), float(torch.rand(()))

    before = random.getstate(), torch.get_rng_state()
    with drawing_from(seed=3):
        first = drawn()
    with drawing_from(seed=3):
        assert drawn() == first
    with drawing_from(seed=4):
        assert not {*drawn()} & {*first}
    assert before[0] == random.getstate() and torch.equal(before[1], torch.get_rng_state())


def test_a_gpu_that_is_not_in_use_keeps_the_seed_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch keeps the last seed for the first use of a GPU."""
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.manual_seed(7)
    with drawing_from(seed=0):
        pass
    assert seeds == [7]
