"""Buffers that a forward counts with, in each way that it may be written."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.errors import TraceError

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
Update = Callable[["Net", Tensor], None]


class Net(nn.Module):
    def __init__(self, update: Update) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        )
        self.head = nn.Conv2d(8, 4, 1)
        self.register_buffer("mean", torch.arange(8.0))
        self.register_buffer("other", torch.ones(8))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.scale: nn.Parameter | None = nn.Parameter(torch.ones(()))
        self.update = update

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.training:
            self.update(self, y)
        out: Tensor = self.head(y) + self.mean.mean()
        return out


def in_place(m: Net, y: Tensor) -> None:
    m.count += 1
    m.mean *= 0.5


def by_methods(m: Net, y: Tensor) -> None:
    m.count.add_(1)
    m.mean.mul_(0.9).add_(y.detach().mean((0, 2, 3)), alpha=0.1)


def assigned(m: Net, y: Tensor) -> None:
    m.count = m.count + 1
    m.mean = 0.9 * m.mean + 0.1 * y.detach().mean((0, 2, 3))


def with_a_gradient(m: Net, y: Tensor) -> None:
    m.other = y.mean((0, 2, 3))


def assigned_twice(m: Net, y: Tensor) -> None:
    m.count = m.count + 1
    m.count = m.count * 2


def in_place_then_assigned(m: Net, y: Tensor) -> None:
    m.count += 1
    m.count = m.count + m.count


def swapped(m: Net, y: Tensor) -> None:
    m.mean, m.other = m.other, m.mean + 1


def turned(m: Net, y: Tensor) -> None:
    m.mean = m.mean.flip(0).view(2, 4).t().reshape(8)


def old_values_read_later(m: Net, y: Tensor) -> None:
    old = m.count
    m.count = m.count + 1
    m.other = m.other + old


def by_a_constant(m: Net, y: Tensor) -> None:
    m.other = torch.full((8,), 3.0)


def without_gradient(m: Net, y: Tensor) -> None:
    with torch.no_grad():
        m.mean = 0.9 * m.mean + 0.1 * y.mean((0, 2, 3))


UPDATES = (
    *(in_place, by_methods, assigned, assigned_twice, in_place_then_assigned, swapped, turned, old_values_read_later),
    *(by_a_constant, without_gradient, with_a_gradient),
)
every_update = pytest.mark.parametrize("update", UPDATES, ids=lambda update: update.__name__)


def made(update: Update) -> tuple[Net, nrfx.TracedModule]:
    torch.manual_seed(0)
    model = Net(update)
    with torch.no_grad():
        model.body[1].weight[:3] = 0
    return model, nrfx.trace(copy.deepcopy(model), X)


@every_update
def test_the_graph_counts_as_the_model_does(update: Update) -> None:
    model, gm = made(update)
    for _ in range(3):
        expected, actual = model.train()(X), gm.train()(X)
        assert torch.equal(actual, expected)
        expected.sum().backward()
        actual.sum().backward()
        assert torch.equal(gm.eval()(X), model.eval()(X))
    for name, buffer in model.named_buffers():
        assert torch.equal(gm.get_buffer(name), buffer), name
        assert not gm.get_buffer(name).requires_grad


@every_update
def test_a_rewritten_network_goes_on_counting_and_is_saved(update: Update, tmp_path: Path) -> None:
    _, gm = made(update)
    gm.train()(X)
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    assert result.changed
    assert nrfx.verify(gm, result, X) < 1e-4
    counts = [int(module.train().get_buffer("count")) for module in (gm, result.module)]
    assert counts[0] == counts[1]
    for module in (gm, result.module):
        module(X)
    assert torch.equal(gm.get_buffer("count"), result.module.get_buffer("count"))
    nrfx.save(tmp_path / "net.safetensors", result.module)
    loaded = nrfx.load(tmp_path / "net.safetensors", Net(update))
    assert torch.equal(loaded.get_buffer("count"), gm.get_buffer("count"))
    for module in (loaded, gm):
        module.train()(X)
    assert torch.equal(loaded.get_buffer("count"), gm.get_buffer("count"))


def another_shape(m: Net, y: Tensor) -> None:
    m.mean = torch.cat([m.mean, m.mean])


def another_dtype(m: Net, y: Tensor) -> None:
    m.count = m.count + 0.5


def nothing(m: Net, y: Tensor) -> None:
    m.other = None


def a_parameter(m: Net, y: Tensor) -> None:
    m.scale = None


REFUSED = {
    another_shape: r"new value to mean: it is \[16\] torch.float32, .* \[8\] torch.float32.*self\.mean\.copy_",
    another_dtype: r"new value to count: it is \[\] torch.float32, .* \[\] torch.int64",
    nothing: r"new value to other: it is a NoneType",
    a_parameter: r"new value to scale: .* no new tensor, for it is no buffer",
}


@pytest.mark.parametrize("update", REFUSED, ids=lambda update: update.__name__)
def test_what_does_not_fit_is_refused_by_name(update: Update) -> None:
    with pytest.raises(TraceError, match=REFUSED[update]):
        nrfx.trace(Net(update), X)
