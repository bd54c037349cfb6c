"""The meter reads what `nrfx.utilization` says, and notices whatever else changes."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import nrfx
from nrfx.analysis import meter as meter_file
from nrfx.analysis.meter import Meter
from nrfx.errors import AnalysisError, TraceError
from nrfx.rules import Call, Effect
from nrfx.rules.registry import register


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


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """A list that gets an element at each call of a function of the meter's file."""
    calls: list[int] = []
    function = getattr(meter_file, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return function(*args, **kwargs)

    monkeypatch.setattr(meter_file, name, call)
    return calls


@pytest.mark.parametrize(("middle", "times"), [("chain", 0), ("gate", 1)])
def test_liveness_is_asked_where_a_value_decides_and_nowhere_else(
    middle: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gm = traced(MIDDLES[middle])
    meter, asked = Meter(gm), counted(monkeypatch, "liveness_of")
    meter.read()
    assert not asked
    kill(gm.get_submodule("a.1"), 2)
    assert meter.read().params.total > 0 and len(asked) == times


def test_a_reading_takes_one_transfer_and_no_other_operation_on_what_the_device_holds() -> None:
    gm = traced()
    meter = Meter(gm)
    meter.read()
    held = {id(tensor) for tensor in (*gm.parameters(), *gm.buffers())}
    seen = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if any(id(leaf) in held for leaf in tree_leaves((args, kwargs))):
                seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Seen():
        meter.read()
    assert seen == ["aten.cat.default"]


def in_both_modes(gm: fx.GraphModule) -> None:
    gm.train()
    gm.eval()
    gm.get_submodule("a").train()


def load(gm: fx.GraphModule) -> None:
    state = {name: tensor.clone() for name, tensor in gm.state_dict().items()}
    state["b.1.weight"][2:5] = 0.0
    gm.load_state_dict(state)


NO_CHANGE: dict[str, Callable[[fx.GraphModule], object]] = {
    "gammas": lambda gm: kill(gm.get_submodule("a.1"), 2),
    "mode": in_both_modes,
    "state dict": load,
    "frozen": lambda gm: gm.get_submodule("b.1").weight.requires_grad_(False),
    "gradients": lambda gm: gm(torch.zeros(2, 3, 4, 4)).sum().backward(),
}


@pytest.mark.parametrize("change", NO_CHANGE.values(), ids=NO_CHANGE)
def test_what_is_known_holds_while_a_network_trains(
    change: Callable[[fx.GraphModule], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    gm = traced()
    kill(gm.get_submodule("a.1"), 1)
    meter = Meter(gm)
    meter.read()
    computed = counted(monkeypatch, "channels_of")
    change(gm)
    assert same(meter, gm)
    assert not computed


def test_the_graphs_of_both_modes_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    class Auxiliary(Net):
        def forward(self, x: Tensor) -> Any:
            x = self.a(x)
            return (self.c(self.b(x)), x.mean()) if self.training else self.c(self.b(x))

    gm = nrfx.trace(Auxiliary(), torch.zeros(1, 3, 4, 4))
    meter = Meter(gm)
    meter.read()
    computed = counted(monkeypatch, "channels_of")
    for mode in (True, False, True):
        kill(gm.train(mode).get_submodule("b.1"), int(mode))
        assert same(meter, gm)
    assert not computed


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


def load_other_tensors(gm: fx.GraphModule) -> None:
    state = {name: tensor.clone() for name, tensor in gm.state_dict().items()}
    state["b.1.weight"][2:5] = 0.0
    gm.load_state_dict(state, assign=True)


def to_double(gm: fx.GraphModule) -> None:
    gm.double()


def to_half(gm: fx.GraphModule) -> None:
    gm.half()


def reads(gm: fx.GraphModule, name: str) -> fx.Node:
    return next(node for node in gm.graph.nodes if node.target == name)


def pass_a_layer_by(gm: fx.GraphModule) -> None:
    reads(gm, "c").args = (reads(gm, "a.2"),)


def add_a_node(gm: fx.GraphModule) -> None:
    last = reads(gm, "b.2")
    with gm.graph.inserting_after(last):
        sums = gm.graph.call_function(torch.cumsum, (last, 1))
    last.replace_all_uses_with(sums, delete_user_cb=lambda user: user is not sums)
    sums.meta["val"] = last.meta["val"]


def read_once_more(gm: fx.GraphModule) -> None:
    last = reads(gm, "b.2")
    with gm.graph.inserting_after(last):
        gm.graph.call_function(torch.cumsum, (last, 1)).meta["val"] = last.meta["val"]


def remove_a_node(gm: fx.GraphModule) -> None:
    relu = reads(gm, "b.2")
    relu.replace_all_uses_with(relu.args[0])
    gm.graph.erase_node(relu)


def call_another_layer(gm: fx.GraphModule) -> None:
    reads(gm, "b.1").target = "a.1"


def resize_a_parameter(gm: fx.GraphModule) -> None:
    gm.unread.data = torch.ones(3)


def change_an_attribute(gm: fx.GraphModule) -> None:
    gm.get_submodule("b.0").padding_mode = "circular"


def change_a_plain_tensor(gm: fx.GraphModule) -> None:
    gm.get_submodule("b.0").table = torch.zeros(3)


def remove_an_attribute(gm: fx.GraphModule) -> None:
    del gm.get_submodule("b.0").table
    gm.get_submodule("b.0").other = None


def run_at_another_size(gm: fx.GraphModule) -> None:
    for node in gm.graph.nodes:
        node.meta["val"] = torch.zeros(*node.meta["val"].shape[:2], 8, 8, device="meta")


class Guarded:
    """Compares itself by a number, which others may not have."""

    def __init__(self) -> None:
        self.number = 1

    def __eq__(self, other: Any) -> bool:
        return bool(self.number == other.number)

    __hash__ = None  # type: ignore[assignment]


def change_what_compares_itself(gm: fx.GraphModule) -> None:
    gm.get_submodule("b.0").guarded = None


def exchange_a_hook(gm: fx.GraphModule) -> None:
    layer = gm.get_submodule("a.0")
    layer._forward_hooks.clear()
    layer.register_forward_hook(lambda *_: None)


def teach_a_rule(gm: fx.GraphModule) -> None:
    register(rule_of_odd, odd)


def odd(x: Tensor) -> Tensor:
    return x


def rule_of_odd(call: Call) -> Effect:
    raise AssertionError("no graph calls it")


CHANGES = (
    resize_a_parameter,
    replace_a_gamma,
    swap_a_module,
    hook_a_module,
    replace_statistics,
    add_a_module,
    exchange_a_hook,
)
ATTRIBUTES = (change_an_attribute, change_a_plain_tensor, remove_an_attribute, change_what_compares_itself)
CONVERSIONS = (load_other_tensors, to_double, to_half)
EDITS = (pass_a_layer_by, add_a_node, read_once_more, remove_a_node, call_another_layer, run_at_another_size)


@pytest.mark.parametrize("change", [*CHANGES, *CONVERSIONS, *EDITS, *ATTRIBUTES, teach_a_rule])
def test_a_change_of_the_network_is_noticed(
    change: Callable[[fx.GraphModule], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gm = traced()
    kill(gm.get_submodule("a.1"), 1)
    kill(gm.get_submodule("b.1"), 1)
    gm.unread, gm.get_submodule("b.0").table = nn.Parameter(torch.ones(2)), torch.ones(3)
    gm.get_submodule("b.0").guarded = Guarded()
    gm.get_submodule("a.0").register_forward_hook(lambda *_: None)
    meter = Meter(gm)
    meter.read()
    computed = counted(monkeypatch, "channels_of")
    change(gm)
    assert same(meter, gm)
    assert len(computed) == 1


@pytest.mark.parametrize("change", EDITS[:5])
def test_an_edit_of_the_graph_changes_what_is_read(change: Callable[[fx.GraphModule], None]) -> None:
    gm = traced()
    kill(gm.get_submodule("b.1"), 1)
    meter = Meter(gm)
    before = meter.read()
    change(gm)
    assert same(meter, gm)
    assert change is remove_a_node or meter.read() != before


def test_a_copy_of_a_meter_reads_its_own_network() -> None:
    gm = traced()
    meter = Meter(gm)
    before = meter.read()
    twin = copy.deepcopy(meter)
    kill(twin.traced.get_submodule("a.1"), 1, 2)
    assert same(twin, twin.traced) and twin.read() != before == meter.read()


def test_layers_that_no_longer_fit_the_graph_are_an_error() -> None:
    gm = traced()
    meter = Meter(gm)
    meter.read()
    gm.set_submodule("b.1", nn.BatchNorm2d(5))
    for _ in range(2):
        with pytest.raises(TraceError, match="normalises 5 channels"):
            meter.read()


@pytest.mark.parametrize("name", ["b.1.weight", "b.1.bias", "a.1.running_mean", "a.1.running_var"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_an_error(name: str, value: float) -> None:
    gm = traced()
    meter = Meter(gm)
    meter.read()
    with torch.no_grad():
        gm.state_dict(keep_vars=True)[name][3] = value
    with pytest.raises(AnalysisError, match=rf"{re.escape(name)}\[3\] is {value}"):
        meter.read()


def test_a_network_without_values_is_an_error() -> None:
    gm = traced()
    meter = Meter(gm)
    meter.read()
    gm.to("meta")
    with pytest.raises(AnalysisError, match="meta device"):
        meter.read()


def test_an_option_out_of_range_is_an_error() -> None:
    with pytest.raises(AnalysisError, match="threshold is 2"):
        Meter(traced(), threshold=2)


def test_a_layer_of_which_all_gammas_are_tiny_keeps_its_strongest() -> None:
    gm = traced()
    meter = Meter(gm)
    with torch.no_grad():
        gm.get_submodule("b.1").weight.copy_(torch.linspace(1e-5, 2e-5, 6))
    assert same(meter, gm)


def test_a_network_without_norms_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = nrfx.trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), torch.zeros(1, 3, 4, 4))
    asked = counted(monkeypatch, "liveness_of")
    assert Meter(gm).read().params.ratio == 1.0 and not asked
