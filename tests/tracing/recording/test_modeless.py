"""A forward that does not ask for its mode is recorded once, for both; one that asks is recorded in each."""

import copy
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.errors import TraceError
from nrfx.rules import OPS, opaque
from nrfx.tracing import trace


class Net(nn.Module):
    """Counts how often its forward runs; `step` is what it does beside its layers."""

    runs = 0

    def __init__(self, step: Any = lambda net, x: x) -> None:
        super().__init__()
        self.norm, self.drop, self.step = nn.BatchNorm1d(4), nn.Dropout(0.5), step

    def forward(self, x: Tensor) -> Tensor:
        type(self).runs += 1
        return self.step(self, self.drop(self.norm(x)))


def recordings(net: nn.Module, x: Tensor) -> int:
    Net.runs = 0
    gm = trace(net, x)
    count = Net.runs
    for training in (True, False):
        pair = []
        for module in (net, gm):
            twin = copy.deepcopy(module).train(training)
            torch.manual_seed(1)
            pair.append(twin(x))
        assert torch.equal(*pair)
    return count


X = torch.linspace(-1, 1, 12).view(3, 4)


def answered(net: Any, x: Tensor) -> Tensor:
    """Catches whatever it gets for an answer."""
    try:
        training = net.training
    except Exception:
        training = False
    return x * (2.0 if training else 3.0)


def frozen(net: Any, x: Tensor) -> Tensor:
    net.norm.eval()
    return net.norm(x)


ASKING = {
    "an if": lambda net, x: x * 2 if net.training else x * 3,
    "an argument": lambda net, x: F.dropout(x, 0.5, net.training),
    "of a layer": lambda net, x: x * 2 if net.norm.training else x * 3,
    "of all layers": lambda net, x: x * (1.0 + sum(m.training for m in net.modules())),
    "with a default": lambda net, x: x * (2.0 if getattr(net, "training", False) else 3.0),
    "in its dictionary": lambda net, x: x * (2.0 if vars(net)["training"] else 3.0),
    "with an error caught": answered,
    "of a copy": lambda net, x: x * (2.0 if copy.copy(net).training else 3.0),
}


def test_a_forward_that_does_not_ask_is_recorded_once() -> None:
    assert recordings(Net(), X) == 1
    assert "training" not in vars(nn.Module)


def counted(net: Any, x: Tensor) -> Tensor:
    net.calls = getattr(net, "calls", 0) + 1
    return F.dropout(x, 0.5, net.training)


def kept(net: Any, x: Tensor) -> Tensor:
    if not hasattr(net, "table"):
        net.table = torch.ones(4)
    return F.dropout(x + net.table, 0.5, net.training)


def laid_out(net: Any, x: Tensor) -> Tensor:
    x = x if x.is_contiguous() else x.contiguous()
    return F.dropout(x, 0.5, net.training)


ALSO_KEEPING = {"a count": (counted, 3), "a table": (kept, 2), "a question about memory": (laid_out, 2)}


@pytest.mark.parametrize(("step", "times"), ALSO_KEEPING.values(), ids=ALSO_KEEPING)
def test_a_mode_that_is_handed_on_needs_no_recording_more_beside_what_is_recorded_again(step: Any, times: int) -> None:
    """For a later call, or for the other answer; graphs with both modes in them are compared."""
    assert recordings(Net(step), X) == times


def later(net: Any, x: Tensor) -> Tensor:
    """Asks for the mode in its second call alone."""
    net.calls = min(getattr(net, "calls", 0) + 1, 3)
    return x * 2 if net.calls == 2 and net.training else x


def test_a_later_call_that_asks_is_heard() -> None:
    with pytest.raises(TraceError, match="changes calls in each call"):
        trace(Net(later), X)


@pytest.mark.parametrize("asking", ASKING.values(), ids=ASKING)
def test_a_forward_that_asks_is_recorded_in_each_mode(asking: Any) -> None:
    assert recordings(Net(asking), X) == (3 if asking is ASKING["in its dictionary"] else 2)
    assert "training" not in vars(nn.Module)


def test_a_forward_that_sets_a_mode_is_recorded_in_each() -> None:
    Net.runs = 0
    trace(Net(frozen), X)
    assert Net.runs == 3


class Stays(nn.BatchNorm1d):
    """A norm that training does not switch."""

    def train(self, mode: bool = True) -> "Stays":
        return super().train(False)


class Trained(nn.Module):
    """Has a mode of its class, which an instance without one falls back to."""

    training = True

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.training else x * 3


def test_a_module_with_a_mode_of_its_own_is_recorded_in_each() -> None:
    for layer in (Stays(4), Trained()):
        net = Net()
        net.norm = layer
        assert recordings(net, X) == 2


def test_other_modules_keep_their_modes_meanwhile() -> None:
    other = nn.Dropout().train(False)
    seen = []
    recordings(Net(lambda net, x: seen.append(other.training) or x), X)
    assert seen and not any(seen)


def test_a_trace_within_a_trace_leaves_the_outer_one_without_a_mode() -> None:
    inner = Net()

    def step(net: Any, x: Tensor) -> Tensor:
        trace(inner, X)
        return x * 2 if net.training else x * 3

    net = Net(step)
    gm = trace(net, X)
    assert torch.equal(gm.eval()(X), net.eval()(X))
    assert "training" not in vars(nn.Module)


def test_a_train_of_one_module_alone_is_its_way_to_switch() -> None:
    net = Net()
    net.norm.eval()
    net.norm.train = lambda mode=True: net.norm  # type: ignore[assignment]
    gm = trace(net, X)
    assert not gm.train().get_submodule("norm").training and gm.get_submodule("drop").training


class Several(nn.Module):
    """Gives two values in train mode, as a layer with an auxiliary output does."""

    def forward(self, x: Tensor) -> Any:
        return (x * 2, x) if self.training else x


def test_a_leaf_may_give_other_values_in_each_mode() -> None:
    net = Net(lambda net, x: y[0] if isinstance(y := net.several(x), tuple) else y)
    net.several = Several()
    gm = trace(net, X, leaves=[Several])
    before = dict(OPS)
    try:
        opaque(Several)
        for traced in (gm, trace(net, X)):
            for training in (True, False):
                torch.manual_seed(1)
                expected = copy.deepcopy(net).train(training)(X)
                torch.manual_seed(1)
                assert torch.equal(traced.train(training)(X), expected)
    finally:
        for key in OPS.keys() - before.keys():
            del OPS[key]


def test_a_mode_is_asked_in_one_thread_alone() -> None:
    other_kind = nn.Dropout()
    del other_kind.__dict__["training"]  # as modules of TorchScript have none
    seen: list[Any] = []

    def step(net: Any, x: Tensor) -> Tensor:
        other = threading.Thread(target=lambda: seen.append(getattr(other_kind, "training", "none")))
        other.start()
        other.join()
        return x

    assert recordings(Net(step), X) == 1
    assert set(seen) == {"none"}


def test_inputs_are_taken_in_the_dtype_of_the_parameters_also_where_a_size_is_asked_for() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.shape[1] > 2 else x

    gm = trace(Asks().double(), X.float())
    assert {node.meta["val"].dtype for node in gm.graph.nodes if isinstance(node.meta.get("val"), Tensor)} == {
        torch.float64
    }
