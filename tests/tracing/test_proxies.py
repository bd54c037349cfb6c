"""Proxies: changes in place that they record, and what they stand for."""

import operator

import pytest
import torch
from torch import Tensor, fx, nn

from nrfx.errors import TraceError
from nrfx.tracing import trace
from nrfx.tracing.proxies import AUGMENTED, writes
from tests.tracing.models import Function, assert_behaves_like

BITS = ("iand", "ior", "ixor", "ilshift", "irshift")


def test_an_attribute_of_a_value_cannot_be_set() -> None:
    def named(m: nn.Module, x: Tensor) -> Tensor:
        x.tag = "input"
        return x

    with pytest.raises(TraceError, match="sets the attribute tag of x"):
        trace(Function(named), torch.zeros(2, 3))


@pytest.mark.parametrize("name", [inplace.__name__ for inplace in AUGMENTED])
def test_an_augmented_assignment_changes_what_shares_its_memory(name: str) -> None:
    inplace = getattr(operator, name)

    def changed(m: nn.Module, x: Tensor) -> Tensor:
        y = x.clone()
        view = y[0]
        y = inplace(y, 2)
        return y + view

    model = Function(changed)
    x = torch.arange(1, 7).view(2, 3) if name in BITS else torch.arange(1.0, 7.0).view(2, 3)
    gm = trace(model, x)
    assert inplace in {node.target for node in gm.graph.nodes}
    assert_behaves_like(gm, model, x)


@pytest.mark.parametrize(("target", "writing"), [
    (operator.iadd, True), (operator.setitem, True), (torch.relu_, True), (torch.Tensor.__iadd__, True),
    (operator.and_, False), (operator.or_, False), (torch.relu, False), (torch.Tensor.__add__, False),
])  # fmt: skip
def test_a_node_writes_by_its_name(target: object, writing: bool) -> None:
    graph = fx.Graph()
    assert writes(graph.call_function(target, (graph.placeholder("x"), 1))) == writing


@pytest.mark.parametrize(
    ("method", "writing"), [("add_", True), ("__setitem__", True), ("add", False), ("__add__", False)]
)
def test_a_method_writes_by_its_name(method: str, writing: bool) -> None:
    graph = fx.Graph()
    assert writes(graph.call_method(method, (graph.placeholder("x"), 1))) == writing


def test_an_instance_is_judged_by_the_value_behind_the_proxy() -> None:
    kinds = []

    def asks(m: nn.Module, x: Tensor) -> Tensor:
        kinds.append((isinstance(x, Tensor), isinstance(x.size(0), int), isinstance(x, int), isinstance(3, int)))
        return x + 1

    trace(Function(asks), torch.zeros(2, 3))
    assert set(kinds) == {(True, True, False, True)}
