"""Weights that are used several times and read other constants each time: a carrier must stand for all of them, or for
none.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from tests.rewrite.rewriting import SCHEMES, images, unit

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
