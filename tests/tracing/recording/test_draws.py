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


def test_generators_that_are_held_and_not_drawn_from_are_no_obstacle() -> None:
    model = holding(lambda m, x: x * 2)
    assert_behaves_like(trace(model, torch.zeros(2, 3)), Function(lambda m, x: x * 2), torch.randn(2, 3))
