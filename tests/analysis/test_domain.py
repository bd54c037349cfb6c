"""Ops that have no value at some numbers: what may grow in front of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.analysis.domain import not_to_grow
from nrfx.analysis.spaces import channels_of
from tests.rewrite.rewriting import SCHEMES, images

Op = Callable[[Tensor], Tensor]
PLACES = (2, 3)


class Through(nn.Module):
    """op between a norm, whose channels are all around 6 but for three dead ones, and the last convolution."""

    def __init__(self, op: Op) -> None:
        super().__init__()
        self.conv, self.norm, self.read = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.op = op
        nn.init.constant_(self.norm.bias, 6.0)
        nn.init.constant_(self.norm.weight, 0.1)
        nn.init.zeros_(self.norm.weight[:3])
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.op(self.norm(self.conv(x))))


@pytest.mark.parametrize("op", [
    lambda x: x / 2, lambda x: x**2, lambda x: 2**x, torch.exp, lambda x: (torch.relu(x) + 1).log(),
    lambda x: x.abs().sqrt(), lambda x: x / (1 + x.abs()), lambda x: x / (1 + torch.exp(-x)),
    lambda x: x / (x.pow(2).mean(PLACES, keepdim=True) + 1e-5).sqrt(),
    lambda x: (x - x.mean(PLACES, keepdim=True)) * (x.var(PLACES, keepdim=True) + 1e-5).rsqrt(),
    lambda x: x.exp() / x.exp().mean(PLACES, keepdim=True), lambda x: torch.sigmoid(x) * torch.sigmoid(x).log(),
])  # fmt: skip
def test_what_has_a_value_at_every_number_that_reaches_it_may_grow(op: Op) -> None:
    gm = nrfx.trace(Through(op), images())
    assert not not_to_grow(channels_of(gm))
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=2.0))
    assert result.module.get_submodule("conv").out_channels > 8 and nrfx.verify(gm, result, images()) < 1e-12


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("op", "node"), [
    (torch.log, "log"), (lambda x: torch.relu(x).log(), "log"), (torch.sqrt, "sqrt"), (lambda x: x.rsqrt(), "rsqrt"),
    (lambda x: x**0.5, "pow_1"), (lambda x: 1 / x, "truediv"), (lambda x: x.div(x.mean(PLACES, keepdim=True)), "div"),
    (lambda x: torch.addcdiv(x, x, x), "addcdiv"),
])  # fmt: skip
def test_no_new_channel_meets_an_op_where_it_has_no_value_and_a_note_says_so(op: Op, node: str, scheme: str) -> None:
    gm = nrfx.trace(Through(op), images())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=2.0), scheme=scheme)
    assert result.module.get_submodule("conv").out_channels <= 8 and nrfx.verify(gm, result, images()) < 1e-12
    assert f"conv: not widened: {node} has no value at some numbers that new channels may have." in result.notes
