"""Steps of eval mode that are taken for train mode as well are those that its own interpretation would give."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import nrfx
from nrfx.analysis.repeats import Repeats
from nrfx.analysis.spaces import channels_of
from nrfx.rules import OPS
from nrfx.tracing import TracedModule
from tests.zoo import cbr

Way = Callable[[Any, Tensor], Tensor]


def mixed(x: Tensor, weight: Tensor) -> Tensor:
    """Ops that pin, and that bring channels into being by the names of their nodes."""
    one = x.flatten(1).select(1, 3)[:, None, None, None]
    x = F.conv2d(x, weight, padding=1)
    return x.sort(1).values + x[:, 1:2] * x.mean(1, keepdim=True) + one


class TwoGraphs(nn.Module):
    """A head in train mode alone, and something of each mode's own between two blocks."""

    def __init__(self, train: Way = lambda net, x: x, evaluated: Way = lambda net, x: x) -> None:
        super().__init__()
        self.train_way, self.eval_way = train, evaluated
        self.a, self.b, self.aux, self.fc = cbr(3, 8), cbr(8, 8), nn.Linear(8, 2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        x = self.train_way(self, x) if self.training else self.eval_way(self, x)
        weight = self.b[0].weight
        aux = self.aux(mixed(F.relu(x), weight).mean((2, 3))) if self.training else None
        x = mixed(F.relu(self.b(x), inplace=True), weight)
        x = self.fc(torch.cat((x, x * 2), 1).chunk(2, 1)[0].mean((2, 3)))
        return x if aux is None else (x, aux)


def told(value: Any) -> Any:
    """What a step says, tensors as lists; functions alone are not told."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [told(part) for part in value]
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: told(getattr(value, field.name)) for field in fields(value)}
    return "a function" if callable(value) else value


def steps(gm: TracedModule) -> list[Any]:
    return [(step.mode, step.node.name, step.path, told(step.effect)) for step in channels_of(gm).steps]


def without_learning(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return F.relu(x * 2)


def seen_later(net: Any, x: Tensor) -> Tensor:
    y = x * 2
    view = y.flatten(2)
    z = F.relu(F.relu(y, inplace=True))
    return z * view.mean()


def seen_before(net: Any, x: Tensor) -> Tensor:
    y = x * 2
    y.flatten(2)
    return F.relu(F.relu(y, inplace=True))


NETS: dict[str, Callable[[], nn.Module]] = {
    "a head": TwoGraphs,
    "another op": lambda: TwoGraphs(lambda net, x: x * 2, lambda net, x: x + 2),
    "one op more": lambda: TwoGraphs(lambda net, x: F.relu(x.flip(1))),
    "one op less": lambda: TwoGraphs(evaluated=lambda net, x: F.relu(x.flip(1))),
    "another number": lambda: TwoGraphs(lambda net, x: x.flip(2), lambda net, x: x.flip(1)),
    "a region": lambda: TwoGraphs(without_learning, lambda net, x: F.relu(x * 2)),
    "a region in eval mode": lambda: TwoGraphs(lambda net, x: F.relu(x * 2), without_learning),
    "a later reader": lambda: TwoGraphs(seen_later, seen_before),
    "a later reader in eval mode": lambda: TwoGraphs(seen_before, seen_later),
    "batch and size": lambda: TwoGraphs(lambda net, x: x.transpose(0, 2), lambda net, x: x.transpose(0, 3)),
    "googlenet": lambda: torchvision.models.googlenet(init_weights=False),
}


def assert_as_of_each_graph(gm: TracedModule, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gm.graphs["train"] is not gm.graphs["eval"]
    taken = []
    ask = Repeats.step
    monkeypatch.setattr(Repeats, "step", lambda *given: taken.append(ask(*given)) or taken[-1])
    found = steps(gm)
    assert any(step is not None for step in taken)
    monkeypatch.setattr(Repeats, "step", lambda *_: None)
    assert found == steps(gm)


@pytest.mark.parametrize("name", NETS)
def test_steps_are_those_of_an_interpretation_of_each_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    image = torch.zeros(2, 3, 224, 224) if name == "googlenet" else torch.zeros(2, 3, 6, 6)
    assert_as_of_each_graph(nrfx.trace(NETS[name](), image), monkeypatch)


class Cut(nn.Module):
    """A leaf that gives fewer rows in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., 2:] if self.training else x


def test_values_of_another_shape_have_an_effect_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    @nrfx.rules.rule(Cut)
    def cut(call: nrfx.rules.Call) -> nrfx.rules.Effect:
        return nrfx.rules.Effect(nrfx.rules.Family.MIXED, out=call.opaque_like(call.val, "a cut value"))

    net = TwoGraphs()
    net.b.append(Cut())
    try:
        assert_as_of_each_graph(nrfx.trace(net, torch.zeros(2, 3, 6, 6)), monkeypatch)
    finally:
        del OPS[Cut]
