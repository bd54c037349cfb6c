"""Layers and functions that are said in one line to keep channels apart, or to be opaque."""

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.rules import OPS, channelwise, opaque
from tests.rules import outside
from tests.rules.test_registry import IMAGE, Between


class Tilted(nn.Module):
    """A layer that keeps channels apart and has a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.tilt = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.tilt


def both(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, x


def test_an_opaque_box_pins_what_it_touches_and_says_so() -> None:
    gm = nrfx.trace(Between(outside.Router()), torch.zeros(IMAGE, dtype=torch.float64))
    usage = nrfx.utilization(gm)
    pins = {(pin.node, pin.reason) for pin in usage.pins}
    assert ("between", "it chooses by the values of its input") in pins
    assert usage.uncounted == ("between: it chooses by the values of its input",)
    assert not nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0)).changed


def test_the_constant_of_a_dead_channel_is_followed_through_a_channelwise_box() -> None:
    model = Between(outside.Strongest())
    gm = nrfx.trace(model, torch.zeros(IMAGE, dtype=torch.float64))
    usage = nrfx.utilization(gm)
    assert usage.held == () and usage.params.live < usage.params.total


@pytest.mark.parametrize(("own", "said"), [(Tilted, "Tilted has parameters"), (both, "takes one tensor and gives one")])
def test_what_is_not_one_tensor_in_and_out_without_parameters_is_pinned(own: object, said: str) -> None:
    channelwise(own)
    try:
        between = Tilted() if own is Tilted else lambda x: both(x)[0]
        usage = nrfx.utilization(nrfx.trace(Between(between), torch.zeros(IMAGE, dtype=torch.float64)))
        assert any(said in pin.reason for pin in usage.pins)
    finally:
        del OPS[own]


def test_a_function_can_be_opaque_too() -> None:
    opaque(both, reason="it doubles")
    try:
        between = Between(lambda x: both(x)[1])
        usage = nrfx.utilization(nrfx.trace(between, torch.zeros(IMAGE, dtype=torch.float64)))
        assert ("both", "it doubles") in {(pin.node, pin.reason) for pin in usage.pins}
    finally:
        del OPS[both]


class Strongest(outside.Strongest):
    """With a state, another mode in training, and a helper."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.dropout(self.sort(x), 0.5, self.training)

    def sort(self, x: Tensor) -> Tensor:
        return x.flatten(2).sort(2).values


channelwise(Strongest)


def test_analyses_change_no_state_of_a_box_and_mean_its_eval_mode() -> None:
    model = Between(Strongest()).train()
    gm = nrfx.trace(model, torch.zeros(IMAGE, dtype=torch.float64))
    usage = nrfx.utilization(gm)
    assert usage.held == () and usage.params.live < usage.params.total
    assert model.between.calls == 0 and model.between.training


def test_a_method_that_is_exchanged_on_the_instance_is_looked_into() -> None:
    model = Between(Strongest())
    model.between.sort = lambda x: x.flip(1).flatten(2)
    gm = nrfx.trace(model, torch.zeros(IMAGE, dtype=torch.float64), leaves=())
    assert "flip" in [node.name for node in gm.graph.nodes]
    leaf = nrfx.trace(model, torch.zeros(IMAGE, dtype=torch.float64), leaves=["between"])
    (entry,) = nrfx.utilization(leaf).not_understood
    assert (entry.nodes, entry.reason) == (("between",), "Strongest has a forward of its own")


def pooled(scale: float, x: Tensor) -> Tensor:
    """[N, positions, C] -> [N, C]: the largest value of each channel."""
    return scale * x.sort(1).values[:, -1]


@pytest.mark.parametrize("axis", [-1, 2])
def test_an_axis_is_counted_in_input_and_result(axis: int) -> None:
    channelwise(pooled, axis=axis)
    try:
        net = nn.Sequential(nn.Linear(6, 8), Tilt(), nn.Linear(8, 4)).double().eval()
        x = torch.randn(2, 5, 6, dtype=torch.float64)
        reasons = {pin.reason for pin in nrfx.utilization(nrfx.trace(net, x)).pins}
        assert ("channelwise(axis=2), and there is no such axis" in reasons) is (axis == 2)
    finally:
        del OPS[pooled]


class Tilt(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return pooled(2.0, x)
