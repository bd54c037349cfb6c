"""Functions under `torch.jit.script`, `torch.jit.trace` and `torch.compile` are recorded op by op."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nrfx
from tests.tracing.models import Joined, assert_kept

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:The .grad attribute")  # of torch and its compiler


def swish(x: Tensor, slope: float = 1.0) -> Tensor:
    return x * torch.sigmoid(x * slope)


def scripted() -> Callable[..., Tensor]:
    function: Callable[..., Tensor] = torch.jit.script(swish)
    return function


def script_in_script() -> Callable[..., Tensor]:
    inner = scripted()

    def twice(x: Tensor) -> Tensor:
        for _ in range(2):
            x = inner(x, slope=0.5)
        return x

    function: Callable[..., Tensor] = torch.jit.script(twice)
    return function


def traced() -> Callable[..., Tensor]:
    function: Callable[..., Tensor] = torch.jit.trace(swish, torch.zeros(1, 8, 4, 4))
    return function


def compiled() -> Callable[..., Tensor]:
    return torch.compile(swish, backend="eager")


@pytest.mark.parametrize("make", [scripted, script_in_script, traced, compiled], ids=lambda make: make.__name__)
def test_channels_move_freely_through_it(make: Callable[[], Callable[..., Tensor]]) -> None:
    function = make()
    result = assert_kept(Joined(lambda m, x: m.b(function(x))))
    assert result.changed and [pin.reason for pin in result.before.pins] == ["the network's output"]


def test_one_that_was_loaded_is_refused_by_name(tmp_path: Path) -> None:
    loaded: Any = scripted()
    del loaded._torchdynamo_inline
    with pytest.raises(nrfx.TraceError, match=r"calls .*swish, a TorchScript function that was loaded"):
        nrfx.trace(Joined(lambda m, x: loaded(x)), torch.zeros(1, 3, 8, 8))


def test_a_call_without_traced_values_runs_as_ever() -> None:
    function, calls = scripted(), torch.jit.ScriptFunction.__call__
    model = Joined(lambda m, x: x * float(function(torch.ones(()))))
    assert torch.equal(
        nrfx.trace(model, torch.zeros(1, 3, 8, 8))(torch.ones(1, 3, 8, 8)), model(torch.ones(1, 3, 8, 8))
    )
    assert torch.jit.ScriptFunction.__call__ is calls
