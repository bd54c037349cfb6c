"""Rules that are registered from outside: exact counts, a kept function; and what is refused."""

import copy
import dataclasses
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from nrfx.errors import UsageError
from nrfx.rules import OPS, Call, Effect, elementwise, op_of, register, rule
from nrfx.rules.effect import attribute_of
from tests.rules import outside
from tests.tracing.models import Function

IMAGE = (2, 3, 5, 5)


class Between(nn.Module):
    """Two convolutions with norms, and something in between. Half of the channels are dead, with constants."""

    def __init__(self, between: Callable[[Tensor], Tensor], wide: int = 8) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.between = between
        self.last = nn.Linear(wide, 4)
        with torch.no_grad():
            self.norm.weight[::2] = 0
            self.norm.bias.normal_()
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.between(torch.relu(self.norm(self.first(x))))
        return self.last(y.flatten(2).mean(2))


class Weighted(nn.Module):
    """A function of the user's own that reads a weight and a bias, between two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.weight, self.bias = nn.Parameter(torch.randn(10, 8)), nn.Parameter(torch.randn(10))
        self.inner, self.last = nn.BatchNorm1d(10), nn.Linear(10, 4)
        with torch.no_grad():
            self.norm.weight[:3], self.inner.weight[2:5] = 0, 0
            self.norm.bias.normal_(), self.inner.bias.normal_()
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        y = outside.doubled_linear(torch.relu(self.norm(self.first(x))), self.weight, self.bias)
        return self.last(torch.relu(self.inner(y)))


def counted(model: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(x[:1])
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("scheme", ["dense", "attention", "removed"])
def test_a_function_that_reads_a_weight_is_counted_exactly_and_keeps_its_function(scheme: str) -> None:
    model, x = Weighted(), torch.randn(2, 6, dtype=torch.float64)
    gm = nrfx.trace(model, x)
    usage = nrfx.utilization(gm)
    assert usage.params.total == sum(p.numel() for p in model.parameters())
    assert usage.flops.total == counted(model, x)
    assert usage.params.live == (6 + 3) * 5 + (5 + 1) * 7 + 7 * 2 + (7 + 1) * 4
    assert usage.uncounted == ()
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme=scheme)
    assert result.changed and nrfx.verify(gm, result, x) < 1e-12
    assert result.after.params.total == sum(p.numel() for p in result.module.parameters())


@pytest.mark.parametrize(
    "between",
    [outside.SignedRoot.apply, outside.signed_root, torch.ops.nrfx_tests.wave, outside.Strongest()],
    ids=["apply", "alias", "custom_op", "channelwise"],
)
def test_custom_autograd_functions_ops_and_layers_pass_channels(between: Callable[[Tensor], Tensor]) -> None:
    model, x = Between(between), torch.randn(IMAGE, dtype=torch.float64)
    gm = nrfx.trace(model, x)
    assert torch.equal(gm(x), model(x))
    assert [pin.node for pin in nrfx.utilization(gm).pins] == ["output"]
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    assert nrfx.verify(gm, result, x) < 1e-12
    assert nrfx.verify(gm, nrfx.compact(gm), x) < 1e-12


def test_what_holds_an_autograd_function_copies_pickles_and_trains() -> None:
    x = torch.randn(IMAGE, dtype=torch.float64)
    gm = nrfx.trace(Between(outside.signed_root), x)
    for twin in (copy.deepcopy(gm), pickle.loads(pickle.dumps(gm))):
        assert torch.equal(twin(x), gm(x))
    gm.train()(x).sum().backward()
    assert bool(gm.get_parameter("first.weight").grad.any())


def test_a_layer_of_ones_own_may_hold_its_numbers_as_it_likes() -> None:
    """Its weight under another name, its channels on another axis: no check of torch's layers is meant for it."""
    net = nn.Sequential(nn.Conv2d(3, 8, 1), Function(lambda _, x: x.movedim(1, -1)), outside.LastNorm(8))
    net.extend([outside.Mirror(8, 6), nn.LayerNorm(6)]).double()
    with torch.no_grad():
        net[2].weight[:3], net[2].bias[:] = 0, 0.5
    x = torch.randn(IMAGE, dtype=torch.float64)
    gm = nrfx.trace(net, x)
    result = nrfx.compact(gm)
    assert nrfx.verify(gm, result, x) < 1e-12
    layer: Any = result.module.get_submodule("3")
    assert (layer.in_features, layer.out_features) == (5, 6)


class Rectified(torch.autograd.Function):
    """max(x, 0), which gives 0 for NaN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, torch.zeros_like(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


rule(Rectified)(outside.signed_root_rule)


def in_half(x: Tensor) -> Tensor:
    """An op of half precision alone, as kernels for GPUs are."""
    if x.dtype is torch.float64 and not x.is_meta:
        raise RuntimeError("no kernel for double")
    return x.sin()


rule(in_half, keeps_shape=True)(outside.signed_root_rule)


def test_what_varies_is_no_constant_although_the_op_forgets_it() -> None:
    """Behind a padded convolution constants vary at the border."""
    padded = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    model, x = Between(nn.Sequential(padded, Function(lambda _, x: Rectified.apply(x)))), torch.randn(IMAGE).double()
    with torch.no_grad():
        model.norm.bias.fill_(1), padded.weight.abs_()
    gm = nrfx.trace(model, x)
    assert nrfx.verify(gm, nrfx.compact(gm), x) < 1e-12


def test_an_op_that_cannot_be_run_on_a_constant_holds_it() -> None:
    gm = nrfx.trace(Between(in_half), torch.zeros(IMAGE, dtype=torch.float64))
    assert nrfx.utilization(gm).held == (("in_half cannot be run on its constant (no kernel for double)", 4),)


class Gated(nn.Module):
    """A module of two tensors."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * torch.sigmoid(gate)


rule(Gated, keeps_shape=True, workless=True)(outside.signed_root_rule)


def test_a_module_may_take_its_tensors_by_name() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gated = Gated()

        def forward(self, x: Tensor) -> Tensor:
            return self.gated(gate=x, x=x)

    x = torch.randn(IMAGE, dtype=torch.float64)
    gm = nrfx.trace(Between(Both()), x)
    assert nrfx.utilization(gm).held == () and nrfx.verify(gm, nrfx.compact(gm), x) < 1e-12


def test_a_leaf_with_a_forward_of_its_own_is_not_counted_as_its_base() -> None:
    class Twice(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(super().forward(x))

    model = Between(Twice(8, 8, 1))
    usage = nrfx.utilization(nrfx.trace(model, torch.zeros(IMAGE, dtype=torch.float64), leaves=[Twice]))
    (entry,) = usage.not_understood
    assert (entry.reason, entry.flops) == ("Twice has a forward of its own", 2 * 8 * 8 * 3 * 3)  # on maps of 3x3


def test_a_subclass_that_changes_the_forward_has_no_part_in_the_rule() -> None:
    gm = nrfx.trace(Between(outside.Untaught()), torch.zeros(IMAGE, dtype=torch.float64))
    assert any("sort" in str(node.target) for node in gm.graph.nodes)


def test_an_op_has_one_rule_and_a_key_is_of_a_known_kind() -> None:
    with pytest.raises(UsageError, match=r"relu.* has a rule already, nrfx.rules.pointwise.elementwise"):
        register(outside.wave_rule, F.relu)
    with pytest.raises(UsageError, match=r"weights=1: expected a tuple .*such as \(1,\)"):
        register(outside.wave_rule, counted, weights=1)


@pytest.mark.parametrize(
    "key",
    [3, nn.ReLU(), outside.SignedRoot.apply, outside.wave, outside.Kept.partial, "erfinvv", Tensor, Tensor.erfinv],
)
def test_what_no_graph_calls_is_refused_as_a_key(key: object) -> None:
    with pytest.raises(UsageError, match=r"cannot have a rule: expected a module class, a function.*torch\.ops\.mylib"):
        register(outside.wave_rule, key)


def test_a_rule_may_be_registered_again_under_its_own_name() -> None:
    """A notebook cell that is run twice."""
    before = OPS[outside.SignedRoot]
    try:
        rule(outside.SignedRoot)(outside.signed_root_rule)
    finally:
        OPS[outside.SignedRoot] = before


@pytest.mark.parametrize("places", [(1, 2), ("weight", "bias"), ("bias", 1)])
@pytest.mark.parametrize("by_name", [True, False])
def test_weights_are_named_by_place_or_name_however_they_are_passed(
    places: tuple[int | str, ...], by_name: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Named(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.norm(self.first(x)))
            weights = {"bias": self.bias, "weight": self.weight}
            y = (
                outside.doubled_linear(**weights, x=y)
                if by_name
                else outside.doubled_linear(y, *reversed(weights.values()))
            )
            return self.last(torch.relu(self.inner(y)))

    op = dataclasses.replace(OPS[outside.doubled_linear], weights=places)
    monkeypatch.setitem(OPS, outside.doubled_linear, op)
    model, x = Named(), torch.randn(2, 6, dtype=torch.float64)
    gm = nrfx.trace(model, x)
    assert nrfx.utilization(gm).flops.total == counted(model, x)
    assert nrfx.verify(gm, nrfx.compact(gm), x) < 1e-12


def test_a_weight_that_its_entry_does_not_name_is_an_error_and_not_a_wrong_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the parameter brings channels into being where it is read, and is counted with widths of its own."""
    monkeypatch.setitem(OPS, outside.doubled_linear, type(OPS[outside.doubled_linear])(outside.doubled_linear_rule))
    gm = nrfx.trace(Weighted(), torch.zeros(2, 6, dtype=torch.float64))
    with pytest.raises(nrfx.AnalysisError, match=r"doubled_linear.*reads weight as a weight.*weights=\(1,\)"):
        nrfx.utilization(gm)


def broken(call: Call) -> Effect:
    return elementwise(call, typo=1)  # type: ignore[call-arg]


def divided(call: Call) -> Effect:
    return elementwise(call, times=bool(1 / len(call.kwargs)))


@pytest.mark.parametrize(("broken", "said"), [(broken, "TypeError.*typo"), (divided, "ZeroDivisionError")])
def test_a_rule_that_raises_pins_its_op_and_is_a_warning(
    broken: Callable[[Call], Effect], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPS, outside.SignedRoot, type(OPS[outside.SignedRoot])(broken))
    gm = nrfx.trace(Between(outside.signed_root), torch.zeros(IMAGE, dtype=torch.float64))
    with pytest.warns(nrfx.RuleWarning, match=f"failed at node signed_root, which is pinned .{said}"):
        usage = nrfx.utilization(gm)
    assert "signed_root" in {pin.node for pin in usage.pins}


def test_an_op_is_known_by_the_name_of_a_package_that_is_not_imported() -> None:
    from torchvision.ops import StochasticDepth, stochastic_depth  # noqa: PLC0415

    assert op_of(stochastic_depth) is not None and op_of(StochasticDepth(0.1, "row")) is not None


def test_a_subclass_has_the_rule_of_its_nearest_parent() -> None:
    class Own(nn.Conv2d):
        pass

    assert op_of(Own(3, 4, 1)) is OPS[nn.Conv2d]


@pytest.mark.parametrize(("op", "said"), [
    (lambda m, x: x * x.argmax(1, keepdim=True), "argmax looks at values"),
    (lambda m, x: torch.cummax(x, 1)[0], "puts channels in the order of their values"),
    (lambda m, x: torch.special.bessel_j0(x), "no rule for special_bessel_j0"),
])  # fmt: skip
def test_an_op_without_a_rule_is_named(op: Callable[[nn.Module, Tensor], Tensor], said: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), Function(op))
    (pin,) = nrfx.utilization(nrfx.trace(model, torch.zeros(2, 3))).pins
    assert pin.space == "0" and said in pin.reason


def test_a_rule_that_gives_nothing_at_other_widths_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(call: Call) -> Any:
        return None if call.resized else elementwise(call)

    monkeypatch.setitem(OPS, outside.SignedRoot, type(OPS[outside.SignedRoot])(forgetful))
    gm = nrfx.trace(Between(outside.signed_root), torch.zeros(IMAGE, dtype=torch.float64))
    with pytest.raises(nrfx.AnalysisError, match=r"signed_root.*forgetful.*it is None, and an Effect is expected"):
        nrfx.compact(gm)


@pytest.mark.parametrize(("widths", "said"), [
    (lambda layer, met: {"out_features": layer.nope}, "failed (AttributeError: "),
    (lambda layer, met: 8, "gave 8: it takes the module and the width that it meets, and gives {attribute: number}."),
    (lambda layer, met: {"out_features": "8"}, "gave {'out_features': '8'}"),
])  # fmt: skip
def test_widths_that_raise_or_are_none_are_an_error_that_names_the_op(
    widths: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own(nn.Linear):
        pass

    monkeypatch.setitem(OPS, Own, dataclasses.replace(OPS[nn.Linear], widths=widths))
    gm = nrfx.trace(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), Own(4, 3)), torch.zeros(2, 3))
    with pytest.raises(nrfx.AnalysisError, match=re.escape(said)) as raised:
        nrfx.compact(gm)
    assert "of the op Own" in str(raised.value)


class Answering(nn.Module):
    """Has attributes of each kind, and answers for one that it does not have."""

    kind = "class"

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(1)), None
        self.register_buffer("mean", torch.zeros(1))
        self.inner, self.plain = nn.ReLU(), 3

    @property
    def computed(self) -> int:
        return self.plain

    def __getattr__(self, name: str) -> Any:
        return 7 if name == "asked" else super().__getattr__(name)


@pytest.mark.parametrize(
    "name", ["weight", "bias", "mean", "inner", "plain", "kind", "computed", "asked", "nothing", "forward"]
)
def test_an_attribute_is_what_getattr_gives(name: str) -> None:
    module = Answering()
    found, expected = attribute_of(module, name), getattr(module, name, None)
    assert found is expected or found == expected
