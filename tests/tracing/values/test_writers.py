"""Ops that write into what they are given; who reads this later reads their result."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import nrfx
from nrfx.rules import OPS
from nrfx.tracing.values.writers import works_in_place
from tests.rules import outside
from tests.tracing.models import Joined, assert_kept


def graph_of(function: Callable[[Tensor], Tensor]) -> fx.Graph:
    return fx.symbolic_trace(function).graph


@pytest.mark.parametrize(("function", "writes"), [
    (lambda x: x.add_(1), True), (lambda x: x.add(1), False), (lambda x: F.relu(x, inplace=True), True),
    (lambda x: F.relu(x, True), True), (F.relu, False), (lambda x: x.__pow__(2), False),
    (lambda x: torch.relu_(x) + 0, True), (lambda x: F.dropout(x, 0.5, True, True), True),
])  # fmt: skip
def test_what_writes_into_its_first_argument(function: Callable[[Tensor], Tensor], writes: bool) -> None:
    node = list(graph_of(function).nodes)[1]
    assert works_in_place(node, None) is writes


def test_a_module_says_so_itself() -> None:
    node = next(iter(graph_of(lambda x: x).nodes))
    assert works_in_place(node, nn.ReLU(inplace=True)) and not works_in_place(node, nn.ReLU())


def test_the_rule_of_a_class_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, outside.Strongest, dataclasses.replace(OPS[outside.Strongest], in_place=True))
    assert works_in_place(next(iter(graph_of(lambda x: x).nodes)), outside.Strongest())


def test_a_flag_is_no_change() -> None:
    node = list(graph_of(lambda x: x.requires_grad_()).nodes)[1]
    assert not works_in_place(node, None)


def by_module(m: Any, x: Tensor) -> Tensor:
    y = m.b[:2](x)
    return nn.ReLU(inplace=True)(y).sigmoid() + y  # type: ignore[no-any-return]


def by_function(m: Any, x: Tensor) -> Tensor:
    y = m.b[:2](x)
    torch.relu_(y)
    return y.tanh() + y  # type: ignore[no-any-return]


def by_method(m: Any, x: Tensor) -> Tensor:
    y = m.b[:2](x)
    y.mul_(2).add_(1)
    return y.sigmoid() + y.neg()  # type: ignore[no-any-return]


def by_assignment(m: Any, x: Tensor) -> Tensor:
    y = m.b[:2](x)
    y += x
    total = y.shape[1]
    before = total
    total += 1
    return y.sigmoid() + y * (total - before)  # type: ignore[no-any-return]


@pytest.mark.parametrize("between", [by_module, by_function, by_method, by_assignment])
def test_channels_move_freely_past_it(between: Any) -> None:
    result = assert_kept(Joined(between))
    assert result.changed and [pin.reason for pin in result.before.pins] == ["the network's output"]


def test_the_graph_of_a_user_is_read_in_the_same_way() -> None:
    module = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)))
    (last,) = (node for node in module.graph.nodes if node.op == "output")
    with module.graph.inserting_before(last):
        written = module.graph.call_function(torch.relu_, (last.args[0],))
        last.args = (module.graph.call_function(torch.add, (last.args[0], written)),)
    module.recompile()
    traced = nrfx.tracing.as_traced(module.eval(), torch.zeros(1, 3, 4, 4))
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(traced(x), module(x))
    assert [str(node) for node in next(iter(reversed(traced.graph.nodes))).args[0].args] == ["relu_", "relu_"]


def through_a_view(m: Any, x: Tensor) -> Tensor:
    y = m.b[:2](x)
    flat = y.flatten(2)
    torch.relu_(y)
    return y.sigmoid() + flat.view(y.shape)  # type: ignore[no-any-return]


def into_a_slice(m: Any, x: Tensor) -> Tensor:
    y = m.b[:2](x)
    F.relu6(y[:, :4], inplace=True)
    return y  # type: ignore[no-any-return]


@pytest.mark.parametrize("between", [through_a_view, into_a_slice])
def test_what_others_share_stays_pinned(between: Any) -> None:
    result = assert_kept(Joined(between))
    assert any("it writes in place to a value that" in pin.reason for pin in result.before.pins)


def test_buffers_are_read_under_their_names() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x * self.count

    gm = nrfx.trace(Counting(), torch.zeros(2, 1))
    assert torch.equal(gm(torch.ones(2, 1)), torch.ones(2, 1)) and float(gm.count) == 1
