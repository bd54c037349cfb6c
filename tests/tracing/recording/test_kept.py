"""What a forward keeps for its next call in attributes that are not registered."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nrfx import trace
from nrfx.errors import TraceError

Forward = Callable[[Any, Tensor], Tensor]


class Keeping(nn.Module):
    """A layer, a tensor `c` and a number `n` that are no buffers, a table `t`, and a forward."""

    def __init__(self, run: Forward) -> None:
        super().__init__()
        self.layer, self.run = nn.Linear(4, 4), run
        self.c, self.n, self.t = torch.zeros(4), 0, None

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def assigned(m: Any, x: Tensor) -> Tensor:
    m.c = m.c + 1
    return m.layer(x) + m.c


def written(m: Any, x: Tensor) -> Tensor:
    m.c.add_(1)
    return m.layer(x) + m.c


def averaged(m: Any, x: Tensor) -> Tensor:
    y = m.layer(x) + m.c
    m.c = 0.9 * m.c + 0.1 * x.mean((0, 1))
    return y


def counted(m: Any, x: Tensor) -> Tensor:
    m.n += 1
    return m.layer(x) * m.n


@pytest.mark.parametrize("forward", [assigned, written, averaged, counted])
def test_what_each_call_changes_and_reads_is_refused_by_its_name(forward: Forward) -> None:
    model = nn.Sequential(Keeping(forward))
    name = "0.n" if forward is counted else "0.c"
    with pytest.raises(TraceError, match=rf"changes {name} in each call.*register_buffer\('{name[2:]}'"):
        trace(model, torch.zeros(2, 5, 4))
    assert model[0].c.tolist() == [0.0] * 4
    assert model[0].n == 0


def last(m: Any, x: Tensor) -> Tensor:
    m.c = x
    return m.layer(m.c)


def told(m: Any, x: Tensor) -> Tensor:
    m.n += 1
    return m.layer(x)


def table(m: Any, x: Tensor) -> Tensor:
    if m.t is None or m.n != x.shape[1]:
        m.n, m.t = x.shape[1], torch.arange(x.shape[1], dtype=x.dtype)[:, None].cos()
    return m.layer(x) * m.t


def table_of_five(m: Any, x: Tensor) -> Tensor:
    if m.t is None:
        m.t = torch.arange(5.0)[:, None].cos()
    return m.layer(x) * m.t


@pytest.mark.parametrize("forward", [last, told, table, table_of_five])
@pytest.mark.parametrize("called", [False, True])
def test_what_is_not_read_or_stays_the_same_is_no_matter(forward: Forward, called: bool) -> None:
    torch.manual_seed(0)
    model, x = Keeping(forward).eval(), torch.randn(2, 5, 4)
    if called:
        model(x)
    gm = trace(model, x)
    reference = copy.deepcopy(model) if not called else model
    for _ in range(3):
        torch.testing.assert_close(gm(x), reference(x))


def refilled(m: Any, x: Tensor) -> Tensor:
    m.c.fill_(2.0)
    return m.layer(x) + m.c


def test_a_tensor_may_be_written_with_what_it_holds() -> None:
    model, x = nn.Sequential(Keeping(refilled)).eval(), torch.randn(2, 5, 4)
    with pytest.raises(TraceError, match=r"changes 0\.c in each call"):
        trace(model, x)
    expected = model(x)
    torch.testing.assert_close(trace(model, x)(x), expected)


def test_tensors_without_versions_and_without_numbers_are_no_obstacle() -> None:
    with torch.inference_mode():
        x, model = torch.randn(2, 5, 4), Keeping(last).eval()
        torch.testing.assert_close(trace(model, x)(x), model(x))
    with torch.device("meta"):
        assert trace(Keeping(refilled), torch.zeros(2, 5, 4)).inputs[0][0] == (2, 5, 4)


def unknown(m: Any, x: Tensor) -> Tensor:
    m.c.fill_(torch.nan)
    return m.layer(x)


def test_nan_where_nan_was_is_no_change() -> None:
    model = Keeping(unknown)
    model.c.fill_(torch.nan)
    assert trace(model, torch.zeros(2, 5, 4)) is not None


class Cached(nn.Module):
    """Keeps what it was called with in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.cache: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cache["x"] = x
        result: torch.Tensor = self.linear(x)
        return result


def test_what_a_recorded_forward_leaves_behind_is_neither_in_the_model_nor_in_the_traced_module() -> None:
    layer = Cached()
    gm = trace(nn.Sequential(layer), torch.zeros(3, 2))
    assert layer.cache == gm.get_submodule("0").cache == {}
