"""Padding before a layer or a pool, whose border no constant of a channel reaches."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from tests import zoo
from tests.rewrite.rewriting import SCHEMES, Weird, difference, images
from tests.zoo import calibrated, with_dead


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("pool", "value", "beta"), [(F.avg_pool2d, 0.0, "random"), (F.max_pool2d, 2.0, "zero")])
def test_padding_before_a_pool_varies_a_constant_at_the_border(
    pool: Callable[[Tensor, int], Tensor], value: float, beta: str, scheme: str
) -> None:
    model = Weird(lambda self, x: pool(F.pad(x, (1, 1, 1, 1), value=value), 2))
    model = with_dead(calibrated(model), 0.4, beta)
    gm = nrfx.trace(model, images())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.2), scheme=scheme)
    assert difference(model, result.module) < 1e-12


class Padded(nn.Module):
    """A padded convolution, written in three ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.before, self.way = zoo.cbr(3, 8), way
        self.weight, self.norm = nn.Parameter(torch.randn(6, 8, 3, 3)), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        if self.way == "conv":
            return self.norm(F.conv2d(x, self.weight, padding=1))
        return self.norm(F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight))


@pytest.mark.parametrize("scheme", ["dense", "attention", "removed"])
def test_padding_before_a_layer_is_that_of_the_layer(scheme: str) -> None:
    made = []
    for way in ("conv", "pad"):
        torch.manual_seed(0)
        model = Padded(way).double().eval()
        with torch.no_grad():
            model.before[1].weight[:] = torch.tensor([0, 0, 0, 1, 0.3, 1, 1, 1])
            model.before[1].bias[:] = torch.linspace(0.1, 1, 8)
        images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
        gm = nrfx.trace(model, images)
        result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme=scheme)
        assert nrfx.verify(gm, result, images) < 1e-12
        made.append((nrfx.utilization(gm).params.live, result.after, result.notes))
    assert made[0][0] < 8 * 27 + 16 + 6 * 72 + 12 and made[0] == made[1]
