"""The meter reads what `nrfx.utilization` says, and notices whatever else changes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import nrfx
from nrfx.analysis.meter import Meter
from nrfx.errors import AnalysisError


def unit(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())


class Net(nn.Module):
    def __init__(self, middle: Callable[[nn.Module, Tensor], Tensor] = lambda net, x: net.b(x)) -> None:
        super().__init__()
        self.middle = middle
        self.a, self.b, self.c = unit(3, 6), unit(6, 6), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.middle(self, self.a(x)))


def traced(middle: Callable[[nn.Module, Tensor], Tensor] = lambda net, x: net.b(x)) -> fx.GraphModule:
    torch.manual_seed(0)
    return nrfx.trace(Net(middle), torch.zeros(1, 3, 4, 4))


def same(meter: Meter, gm: fx.GraphModule, residual: str = "live") -> bool:
    read, expected = meter.read(), nrfx.utilization(gm, residual=residual)
    return (read.params, read.flops) == (expected.params, expected.flops)


def kill(norm: nn.Module, *channels: int) -> None:
    with torch.no_grad():
        norm.weight[list(channels)] = 0


MIDDLES = {
    "chain": lambda net, x: net.b(x),
    "residual": lambda net, x: net.b(x) + x,
    "gate": lambda net, x: x * torch.sigmoid(net.b(x).mean((2, 3), keepdim=True)),
    "max of both": lambda net, x: torch.maximum(x, net.b(x)),
    "selected": lambda net, x: torch.where(x > 0, x, net.b(x)),
    "logarithm": lambda net, x: torch.log(net.b(x)),
    "depthwise": lambda net, x: F.conv2d(net.b(x), torch.ones(6, 1, 3, 3), padding=1, groups=6),
    "average with padding": lambda net, x: F.avg_pool2d(net.b(x), 3, padding=1),
    "pad, then norm": lambda net, x: net.b[1](F.pad(net.b[0](x), (1, 1, 1, 1))),
    "two sides of one norm": lambda net, x: torch.cat([net.b(x), net.b(x).neg()], 2).mean(2, keepdim=True),
    "softmax over positions": lambda net, x: net.b(x).softmax(-1),
}


@pytest.mark.parametrize("residual", ["live", "coupled"])
@pytest.mark.parametrize("middle", MIDDLES.values(), ids=MIDDLES)
def test_a_reading_is_what_utilization_says(middle: Callable[[nn.Module, Tensor], Tensor], residual: str) -> None:
    gm = traced(middle)
    meter = Meter(gm, residual=residual)
    assert same(meter, gm, residual)
    for layer, channels in (("a", (0, 4)), ("b", (4,)), ("b", (0, 1)), ("a", range(6))):
        kill(gm.get_submodule(f"{layer}.1"), *channels)
        assert same(meter, gm, residual)
        with torch.no_grad():  # zeros pass where other constants do not
            gm.get_submodule("a.1").bias.normal_()
            gm.get_submodule("b.1").bias[::2] = -1.0
        assert same(meter, gm, residual)


def test_what_is_known_is_kept_from_reading_to_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = traced()
    meter = Meter(gm)
    meter.read()
    known = meter._known
    monkeypatch.setattr("nrfx.analysis.meter.channels_of", None)  # called again, it would fail
    kill(gm.get_submodule("a.1"), 2)
    assert meter.read().params.live < meter.read().params.total
    assert meter._known is known


def freeze(gm: fx.GraphModule) -> None:
    gm.get_submodule("b.1").weight.requires_grad_(False)


def replace_a_gamma(gm: fx.GraphModule) -> None:
    gm.get_submodule("b.1").weight = nn.Parameter(torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 1.0]))


def swap_a_module(gm: fx.GraphModule) -> None:
    norm = nn.BatchNorm2d(6)
    kill(norm, 0, 1, 2)
    gm.set_submodule("b.1", norm)


def hook_a_module(gm: fx.GraphModule) -> None:
    gm.get_submodule("b.2").register_forward_hook(lambda *_: None)


def replace_statistics(gm: fx.GraphModule) -> None:
    gm.get_submodule("b.1").running_mean = torch.ones(6)


def add_a_module(gm: fx.GraphModule) -> None:
    gm.add_module("head", nn.Linear(3, 3))


@pytest.mark.parametrize(
    "change", [freeze, replace_a_gamma, swap_a_module, hook_a_module, replace_statistics, add_a_module]
)
def test_a_change_of_the_network_is_noticed(change: Callable[[fx.GraphModule], None]) -> None:
    gm = traced()
    kill(gm.get_submodule("a.1"), 1)
    kill(gm.get_submodule("b.1"), 1)
    meter = Meter(gm)
    meter.read()
    known = meter._known
    change(gm)
    assert same(meter, gm)
    assert meter._known is not known


def test_a_number_that_is_not_finite_is_an_error() -> None:
    gm = traced()
    meter = Meter(gm)
    meter.read()
    with torch.no_grad():
        gm.get_submodule("b.1").bias[3] = float("nan")
    with pytest.raises(AnalysisError, match=r"b\.1\.bias\[3\] is nan"):
        meter.read()


def test_a_layer_of_which_all_gammas_are_tiny_keeps_its_strongest() -> None:
    gm = traced()
    meter = Meter(gm)
    with torch.no_grad():
        gm.get_submodule("b.1").weight.copy_(torch.linspace(1e-5, 2e-5, 6))
    assert same(meter, gm)


def test_a_network_without_norms_is_alive() -> None:
    gm = nrfx.trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), torch.zeros(1, 3, 4, 4))
    assert Meter(gm).read().params.ratio == 1.0
