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


class Sign(torch.autograd.Function):
    """The gradient passes where the input is small."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * (ctx.saved_tensors[0].abs() < 1)


class Twice(torch.autograd.Function):
    """Two results, and a number among the arguments; its forward takes no ctx."""

    @staticmethod
    def forward(x: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        return x * factor, x + 1

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, left: Tensor, right: Tensor) -> tuple[Tensor, None]:
        return -left * ctx.factor + right, None


def both_of_twice(x: Tensor) -> Tensor:
    left, right = Twice.apply(x, 2.0)
    return left * right


def sign_apart(x: Tensor) -> Tensor:
    with torch.no_grad():
        gate = Sign.apply(x)
    return gate * x


@pytest.mark.parametrize("between", [Sign.apply, both_of_twice, sign_apart], ids=["sign", "twice", "apart"])
def test_an_autograd_function_without_a_rule_is_one_call_that_pins(between: Any) -> None:
    model = Between(between)
    gm = pickle.loads(pickle.dumps(nrfx.trace(model, torch.zeros(IMAGE, dtype=torch.float64))))
    for x in (torch.randn(IMAGE, dtype=torch.float64), torch.randn(1, 3, 9, 7, dtype=torch.float64)):
        grads = []
        for network in (model, gm):
            network.zero_grad()
            network(x).square().sum().backward()
            grads.append([parameter.grad for parameter in network.parameters()])
        assert torch.equal(gm(x), model(x)) and all(map(torch.equal, *grads))
    name = "Twice" if between is both_of_twice else "Sign"
    usage = nrfx.utilization(gm)
    assert not usage.uncounted  # its multiply-adds were measured
    assert any(pin.reason == f"nrfx has no rule for {name}" for pin in usage.pins)
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    assert nrfx.verify(gm, result, torch.randn(IMAGE, dtype=torch.float64)) < 1e-12


def test_an_autograd_function_that_looks_at_values_is_refused_by_name() -> None:
    class Chooses(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(nrfx.TraceError, match=r"Node chooses .*needs the values of a tensor"):
        nrfx.trace(Between(Chooses.apply), torch.zeros(IMAGE, dtype=torch.float64))
