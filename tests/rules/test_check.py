"""Slips of a rule: each is an error that names the node, the rule and what is missing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.rules import OPS, Call, Effect, Family, Norm, Site, along, check, elementwise, layout, register
from tests.rules import outside
from tests.tracing.models import Function


class Twisted(nn.Module):
    """A network of a convolution and one op of the user's own."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.first, self.own = nn.Conv2d(3, 8, 1), own

    def forward(self, x: Tensor) -> Tensor:
        return self.own(self.first(x).mean((2, 3)))


def used(rule: Callable[[Call], Effect], monkeypatch: pytest.MonkeyPatch, width: int = 5) -> None:
    """Analyses a network with a layer from 8 channels to `width` that has this rule."""
    monkeypatch.setitem(OPS, outside.Mirror, replace(OPS[outside.Mirror], rule=rule))
    nrfx.utilization(nrfx.trace(Twisted(outside.Mirror(8, width)), torch.zeros(2, 3, 4, 4)))


def without_bias_site(call: Call) -> Effect:
    effect = outside.mirror(call)
    return replace(effect, sites=effect.sites[:2])


def with_rows_and_columns_exchanged(call: Call) -> Effect:
    effect = outside.mirror(call)
    assert effect.reading is not None
    return replace(effect, reading=replace(effect.reading, rows=effect.reading.cols, cols=effect.reading.rows))


def with_a_site_on_one_axis(call: Call) -> Effect:
    effect = outside.mirror(call)
    return replace(effect, sites=(effect.sites[0], effect.sites[2]))


def with_a_site_of_another_width(call: Call) -> Effect:
    effect = outside.mirror(call)
    rows = effect.sites[0].layout
    return replace(effect, sites=(*effect.sites, Site("own.offset", 0, rows[:-1])))


def with_a_site_on_a_dim_that_is_not_there(call: Call) -> Effect:
    return replace(outside.mirror(call), sites=(Site("own.offset", 1, layout(call.args[0], 1)),))


def with_labels_of_another_shape(call: Call) -> Effect:
    return elementwise(call)


def as_a_norm_without_a_site(call: Call) -> Effect:
    channels = layout(call.args[0], 1)
    norm = Norm(*("own", "own", channels, 1, "own.offset"), beta=None, mean=None, var=None, eps=0.0)
    return Effect(Family.NORM, out=along(channels[:1].expand(5), 1, call.val.shape), norm=norm)


def changed(**fields: object) -> Callable[[Call], Effect]:
    def rule(call: Call) -> Effect:
        return replace(outside.mirror(call), **fields)  # type: ignore[arg-type]

    return rule


def with_a_site_of_a_relative_name(call: Call) -> Effect:
    effect = outside.mirror(call)
    return replace(effect, sites=(*effect.sites, Site("offset", 0, effect.sites[0].layout)))


def applying(apply: Callable[[Tensor], Any], family: Family = Family.MIXED) -> Callable[[Call], Effect]:
    """Of the first five channels, as they say, with that `apply`."""

    def rule(call: Call) -> Effect:
        fixed = tuple(name for name, _ in call.module.named_parameters()) if call.module is not None else ()
        return Effect(family, out=call.args[0][:, :5], apply=apply, fixed=fixed)

    return rule


def twice_born(call: Call) -> Effect:
    effect = outside.mirror(call)
    call.birth("own", 5), call.birth("own", 3)
    return effect


def on_another_axis(call: Call) -> Effect:
    effect = outside.mirror(call)
    assert effect.reading is not None
    return replace(effect, reading=replace(effect.reading, axis=0))


def without_sites(call: Call) -> Effect:
    return Effect(Family.MIXED, out=outside.mirror(call).out)


@pytest.mark.parametrize(("rule", "said"), [
    (lambda call: None, "it is None, and an Effect is expected"),
    (changed(out=None), "its labels are a NoneType of 0 tensors, and its result is a tensor"),
    (changed(out=torch.zeros(2, 5)), "its labels are torch.float32, and int64 is expected"),
    (changed(reading=None), "its family is CONTRACTION, and it has no reading"),
    (changed(work=()), "it has a reading and no work"),
    (changed(family=Family.MIXED), "it has a reading, and its family is MIXED"),
    (changed(family=Family.GROUPED), "its reading has 1 groups, and its family is GROUPED"),
    (changed(family=Family.POINTWISE), "its family is POINTWISE, and it has no apply"),
    (with_a_site_of_a_relative_name, r"a site names 'offset', and there is no such parameter: call\.own"),
    (on_another_axis, r"it reads 8 channels on axis 0, and its operand has shape \[2, 8\]"),
    (without_sites, "own.matrix has no site; if it keeps its shape"),
    (applying(lambda x: x.nan_to_num()[:, :5], Family.POINTWISE), "its apply loses NaN, which stands for what varies"),
    (applying(lambda x: x.nan_to_num(1.0)[:, :5]), "its apply loses NaN, which stands for what varies"),
    (applying(lambda x: x[:, :4]), r"its apply gives \[2, 4\] on float64 with NaN, and its labels have shape \[2, 5\]"),
    (applying(lambda x: 1 // 0), r"its apply fails on float64 with NaN \(ZeroDivisionError"),
    (applying(lambda x: (x[:, :5], x)), "its apply gives 2 tensors on float64 with NaN, and its labels are 1"),
    (applying(lambda x: x[:, : 5 if x.isnan().all() else 4], Family.MOVEMENT), "its apply gives .* on int64 with"),
    (twice_born, "asks for 3 channels of 'own', which brought 5 into being before: a key has one width"),
])  # fmt: skip
def test_an_effect_that_contradicts_itself_is_an_error(
    rule: Callable[[Call], Effect], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(nrfx.AnalysisError, match=f"Node own: .*{said}"):
        used(rule, monkeypatch)


def test_rows_and_columns_of_a_square_weight_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their numbers agree, and their layouts do not."""
    with pytest.raises(nrfx.AnalysisError, match=r"the site on dim . of own\.\w+ has not the layout of the reading"):
        used(with_rows_and_columns_exchanged, monkeypatch, width=8)


@pytest.mark.parametrize(("rule", "said"), [
    (without_bias_site, r"the bias own\.offset has no site: Site\('own\.offset', 0, rows\)"),
    (with_rows_and_columns_exchanged, "own.matrix has 5 rows and 8 columns a group, and the reading 8 rows, 5 columns"),
    (with_a_site_on_one_axis, r"the weight own\.matrix has sites on dims \[0\] alone"),
    (with_a_site_of_another_width, r"dim 0 of own\.offset has 5 positions, and the layout of its site 4"),
    (with_a_site_on_a_dim_that_is_not_there, r"dim 1 of own\.offset has a site, and its shape is \[5\]"),
    (with_labels_of_another_shape, r"its labels have shape \[2, 8\], and its result \[2, 5\]"),
    (as_a_norm_without_a_site, r"own\.offset of the norm has no site"),
])  # fmt: skip
def test_a_slip_is_an_error_and_not_a_wrong_network(
    rule: Callable[[Call], Effect], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(nrfx.AnalysisError, match=f"Node own: the effect of its rule \\(.*{rule.__name__}\\).*{said}"):
        used(rule, monkeypatch)


def test_a_parameter_beside_others_with_sites_is_named_or_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.own = nn.Conv2d(3, 8, 1), outside.Forgetful(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.own(self.first(x))

    gm = nrfx.trace(Net(), torch.zeros(2, 3, 4, 4))
    with pytest.raises(nrfx.AnalysisError, match=r"own\.shift has no site; if it keeps its shape.*fixed=\('shift',\)"):
        nrfx.utilization(gm)

    def with_shift_fixed(call: Call) -> Effect:
        return replace(outside.forgetful(call), fixed=("shift",))

    monkeypatch.setitem(OPS, outside.Forgetful, replace(OPS[outside.Forgetful], rule=with_shift_fixed))
    assert nrfx.utilization(gm).params.total == 8 * 4 + 16


def test_a_right_rule_of_a_layer_with_a_weight_passes() -> None:
    model: Any = Twisted(outside.Mirror(8, 5))
    usage = nrfx.utilization(nrfx.trace(model, torch.zeros(2, 3, 4, 4)))
    assert usage.params.total == 8 * 4 + 5 * 9 and usage.flops.total == 8 * 3 * 16 + 5 * 8


def halved(x: Tensor) -> Tensor:
    return x[:, ::2]


def test_a_rule_of_ours_for_an_op_of_a_users_own_is_checked_outside_of_the_tests_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check, "every_rule", False)
    register(elementwise, halved)
    try:
        gm = nrfx.trace(nn.Sequential(nn.Linear(3, 8), Function(lambda _, x: halved(x))), torch.zeros(2, 3))
        with pytest.raises(
            nrfx.AnalysisError, match=r"halved.*its labels have shape \[2, 8\], and its result \[2, 4\]"
        ):
            nrfx.utilization(gm)
    finally:
        del OPS[halved]
