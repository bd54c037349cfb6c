"""Where functions and autograd functions with a rule are found while a forward is recorded."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import nrfx
from nrfx.rules import OPS, rule
from tests.rules import outside
from tests.rules.test_registry import IMAGE, Between, Weighted


def test_tracing_leaves_functions_as_they_were() -> None:
    class Broken(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError(super().forward(x))

    def state() -> list[object]:
        functions = (outside.doubled_linear, outside.smooth)
        return [*((f.__code__, f.__kwdefaults__) for f in functions), dict(vars(outside.SignedRoot))]

    before = state()
    nrfx.trace(Weighted(), torch.zeros(2, 6, dtype=torch.float64))
    with pytest.raises(nrfx.TraceError):
        nrfx.trace(Broken(), torch.zeros(2, 6, dtype=torch.float64))
    assert state() == before


def from_a_closure() -> Callable[[Tensor], Tensor]:
    smooth = outside.smooth
    return lambda x: smooth(-x)


def by_default(x: Tensor, function: Callable[[Tensor], Tensor] = outside.smooth) -> Tensor:
    return function(x)


@pytest.mark.parametrize(
    "between",
    [*(outside.smooth, outside.Kept.static, outside.Kept.table["smooth"], outside.Kept.partial, from_a_closure()),
     by_default, lambda x: outside.smooth(strength=2.0, x=x)],
    ids=["itself", "static", "table", "partial", "closure", "default", "by_name"],
)  # fmt: skip
def test_a_function_with_a_rule_is_one_call_wherever_it_is_kept(between: Callable[[Tensor], Tensor]) -> None:
    model, x = Between(between), torch.randn(IMAGE, dtype=torch.float64)
    gm = nrfx.trace(model, x)
    (node,) = (node for node in gm.graph.nodes if node.target is outside.smooth)
    assert len(node.all_input_nodes) == 1 and "x" not in node.kwargs and torch.equal(gm(x), model(x))
    assert nrfx.verify(gm, nrfx.compact(gm), x) < 1e-12
    again = nrfx.trace(gm, x)  # the code of a graph has globals of its own
    assert [node.name for node in again.graph.nodes] == [node.name for node in gm.graph.nodes]


def test_a_function_in_a_closure_of_its_own_may_have_a_rule() -> None:
    power = 2

    def powered(x: Tensor, *, shift: float = 1.0) -> Tensor:
        return x.sin() ** power + shift

    rule(powered)(outside.smooth_rule)
    try:
        gm = nrfx.trace(Between(lambda x: powered(x, shift=3.0)), torch.zeros(IMAGE, dtype=torch.float64))
        assert powered in [node.target for node in gm.graph.nodes]
        assert torch.equal(powered(torch.zeros(3)), torch.ones(3))
    finally:
        del OPS[powered]


def test_a_function_may_be_named_by_its_package() -> None:
    gm = nrfx.trace(Between(outside.named), torch.zeros(IMAGE, dtype=torch.float64))
    assert [pin.node for pin in nrfx.utilization(gm).pins] == ["output"]


def test_a_function_that_is_marked_with_fx_wrap_has_its_rule() -> None:
    gm = nrfx.trace(Between(lambda x: marked(-x)), torch.zeros(IMAGE, dtype=torch.float64))
    assert [pin.node for pin in nrfx.utilization(gm).pins] == ["output"]
    assert [node.target for node in pickle.loads(pickle.dumps(gm)).graph.nodes if node.name == "marked"] == [marked]


@torch.fx.wrap
def marked(x: Tensor) -> Tensor:
    return x.sin()


rule(marked)(outside.smooth_rule)


class Tripled(torch.autograd.Function):
    """3 x, in the new style: an argument by name, and one with a default."""

    @staticmethod
    def forward(x: Tensor, factor: float = 1.0, times: float = 3.0) -> Tensor:
        return x * factor * times

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.factor = inputs[1] * inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad * ctx.factor, None, None


class Stopped(Tripled):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad * 0, None, None


@pytest.mark.parametrize("kind", [Tripled, Stopped])
def test_a_subclass_of_an_autograd_function_keeps_its_own_backward(kind: Any) -> None:
    rule(Tripled)(outside.signed_root_rule)
    try:
        model, x = Between(lambda x: kind.apply(x, factor=2.0)), torch.randn(IMAGE, dtype=torch.float64)
        gm = nrfx.trace(model, x)
        assert torch.equal(gm(x), model(x)) and nrfx.verify(gm, nrfx.compact(gm), x) < 1e-12
        grads = [torch.autograd.grad(net(x).sum(), model.first.weight)[0] for net in (model, gm)]
        assert torch.equal(*grads) and bool(grads[0].any()) is (kind is Tripled)
    finally:
        del OPS[Tripled]
