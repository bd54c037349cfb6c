"""Weights that are used several times and read other constants each time: a carrier must stand for all of them, or for
none.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from tests.rewrite.rewriting import SCHEMES, difference, images, unit
from tests.zoo import calibrated, norms, with_dead

EXACT = 1e-12


class Repeated(nn.Module):
    """run(self, y) behind two units, with a third unit, a linear one and a bare kernel to be used several times.

    Dead channels give beta in the first two units, and relu(sign * beta) behind what is used again.
    """

    def __init__(self, run: Callable[["Repeated", Tensor], Tensor], sign: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.second, self.unit = unit(3, 6), unit(6, 6), unit(6, 6)
            self.other_name, self.relu, self.norm = self.unit, nn.ReLU(), nn.BatchNorm2d(6)
            self.kernel, self.linear = nn.Parameter(torch.randn(6, 6, 3, 3) / 8), nn.Linear(6, 6)
            self.vector_norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 4)
            for norm in self.modules():
                if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                    nn.init.zeros_(norm.weight[:3]), nn.init.uniform_(norm.bias, 0.1, 1.0)
            for norm in (self.unit[1], self.norm, self.vector_norm):
                norm.bias.data[:3] *= sign
        self.run = run
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.run(self, self.second(self.first(x)))
        return self.head(y.mean((2, 3)) if y.dim() == 4 else y)


def functional(m: Repeated, x: Tensor) -> Tensor:
    y = m.norm(F.conv2d(x, m.kernel, padding=1)).relu()
    return m.norm(F.conv2d(y + x, m.kernel)).relu() + x[:, :, 1:-1, 1:-1]


def linear(m: Repeated, x: Tensor) -> Tensor:
    x = x.mean((2, 3))
    y = m.vector_norm(m.linear(x)).relu()
    return m.vector_norm(m.linear(y + x)).relu() + x


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("run", [
    lambda m, x: m.unit(m.unit(x) + x), lambda m, x: m.unit(m.unit(m.unit(x) + x) + x),
    lambda m, x: m.other_name(m.unit(x) + x), lambda m, x: m.unit(2 * m.unit(x)) + x,
    lambda m, x: m.unit(torch.sigmoid(m.unit(x))) + x, lambda m, x: m.unit(x) + m.unit(x + x.flip(2)),
    lambda m, x: torch.cat([m.unit(x), m.unit(m.unit(x) + x)], 3), functional, linear,
])  # fmt: skip
def test_a_layer_that_is_used_again_on_other_constants_keeps_what_no_carrier_can_stand_for(
    run: Callable[[Repeated, Tensor], Tensor], sign: int
) -> None:
    model = Repeated(run, sign)
    gm = nrfx.trace(model, images())
    budget = nrfx.Budget.relative(gm, params=1.5)
    results = [nrfx.rejuvenate(gm, budget, scheme=scheme, residual="coupled") for scheme in SCHEMES]
    results.append(nrfx.compact(gm, residual="coupled"))
    with torch.no_grad():
        expected = model(images())
        for result in results:
            assert result.changed and float((result.module(images()) - expected).abs().max()) < EXACT


def test_a_layer_that_reads_one_constant_at_all_its_uses_reads_one_carrier() -> None:
    gm = nrfx.trace(Repeated(lambda m, x: m.norm(m.unit[0](x) + m.unit[0](x.flip(2))).relu(), sign=1), images())
    result = nrfx.compact(gm, residual="coupled")
    assert "second.0" in result.carriers and result.removed["second.1.weight"].sum() == 3


class Tied(nn.Module):
    """Two convolutions with one weight, one of them called twice, in a chain or side by side."""

    def __init__(self, chain: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.a, self.b = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.b.weight = self.a.weight
        self.again, self.norm, self.head = self.a, nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)
        self.chain = chain

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.again(self.b(self.a(x))) if self.chain else self.a(x) + self.b(x)
        return self.head(F.relu(self.norm(y)))


@pytest.mark.parametrize("residual", ["live", "coupled"])
@pytest.mark.parametrize("chain", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_tied_weights_and_repeated_calls_keep_the_function(scheme: str, chain: bool, residual: str) -> None:
    model = calibrated(Tied(chain))
    with torch.no_grad():
        for norm in norms(model):
            norm.weight[:2], norm.bias[:2] = 0.0, 0.0
    gm = nrfx.trace(model, images())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.5), scheme=scheme, residual=residual)
    assert difference(model, result.module) < EXACT
    assert result.module.get_parameter("a.weight") is result.module.get_parameter("b.weight")


def test_a_bias_that_two_layers_share_takes_the_constants_of_neither() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
            self.b = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
            self.b[3].bias = self.a[3].bias

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.a(x), self.b(x)], 1)

    model = with_dead(calibrated(Shared()), 0.4)
    gm = nrfx.trace(model, images())
    assert difference(model, nrfx.compact(gm).module) < EXACT


class Sharing(nn.Module):
    """A convolution between two units, which `run(conv, x)` uses in some way."""

    def __init__(self, run: Callable[[nn.Conv2d, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.conv, self.norm = unit(3, 8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.last, self.run = nn.Conv2d(8, 4, 1), run

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.run(self.conv, self.first(x))))


@pytest.mark.parametrize("run", [
    lambda conv, x: conv(x) + conv(x.roll(4, 1)),
    lambda conv, x: conv(x) + F.conv2d(x, conv.weight),
], ids=["on channels in another order", "by a function"])  # fmt: skip
@pytest.mark.parametrize("residual", ["live", "coupled"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_weight_that_is_read_again_keeps_the_function(
    run: Callable[[nn.Conv2d, Tensor], Tensor], residual: str, scheme: str
) -> None:
    model = with_dead(calibrated(Sharing(run)), 0.5, "random")
    gm = nrfx.trace(model, images())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.5), scheme=scheme, residual=residual)
    assert difference(model, result.module) < EXACT
