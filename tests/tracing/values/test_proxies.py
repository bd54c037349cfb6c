"""Proxies: changes in place that they record, and what they stand for."""

import collections.abc
import functools
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from nrfx.errors import TraceError
from nrfx.tracing import trace
from nrfx.tracing.values.proxies import AUGMENTED, writes
from tests.tracing.models import Function, assert_behaves_like

BITS = ("iand", "ior", "ixor", "ilshift", "irshift")


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


def matched(x: Tensor) -> bool:
    match x:
        case Tensor():
            return True
        case _:
            return False


ASKED: dict[str, Callable[[Any], bool]] = {
    "isinstance": lambda x: isinstance(x, Tensor) and not isinstance(x, int) and isinstance(x.size(0), int),
    "an abstract class": lambda x: isinstance(x, collections.abc.Iterable),
    "no parameter": lambda x: not isinstance(x, nn.Parameter),
    "class": lambda x: x.__class__ is Tensor,
    "type": lambda x: type(x) is Tensor and type(x.size(0)) is int,
    "type equals": lambda x: type(x) == Tensor,  # noqa: E721  forwards do it
    "type in": lambda x: type(x) in (Tensor, nn.Parameter),
    "subclass": lambda x: issubclass(type(x), Tensor),
    "match": matched,
    "torch": torch.is_tensor,
    "scripting": lambda x: torch.jit.isinstance(x, Tensor),
    "getattr": lambda x: getattr(x, "__class__", None) is Tensor,
}


@functools.singledispatch
def of_tensor(x: object) -> bool:
    return False


@of_tensor.register
def _(x: Tensor) -> bool:
    return True


ASKED["dispatch"] = of_tensor


class Asking(nn.Module):
    """A forward whose file asks for types; each answer is that for the value."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if ASKED[self.name](x) else x


def test_an_answer_stays_the_same_when_python_has_specialised_the_code_that_asks() -> None:
    for name in ("isinstance", "torch", "class", "match"):
        gm = trace(Function(lambda m, x, name=name: x * sum(ASKED[name](x) for _ in range(100))), torch.zeros(2, 3))
        assert torch.equal(gm(torch.ones(2, 3)), torch.full((2, 3), 100.0))


@pytest.mark.parametrize("name", ASKED)
def test_a_question_for_the_type_is_answered_as_for_the_value(name: str) -> None:
    assert_behaves_like(trace(Asking(name), torch.zeros(2, 3)), Asking(name), torch.randn(2, 3))


def test_c_code_that_wants_a_tensor_gets_no_proxy_for_one() -> None:
    """It would read the memory of a tensor that is not there."""
    table = torch.arange(6.0)
    for forward in (lambda m, x: table[x], lambda m, x: torch.tensor(x), lambda m, x: table.copy_(x)):
        with pytest.raises(TraceError):
            trace(Function(forward), torch.zeros(2, 3))
