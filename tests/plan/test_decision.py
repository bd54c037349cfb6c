"""What is decided about a rewrite without a network being built, against the network that is built."""

from typing import Any

import pytest
import torch
from torch import nn

import nrfx
from nrfx.analysis.criterion import judge_of
from nrfx.plan.decision import Decision, Idle, decided
from nrfx.plan.options import Options
from tests import zoo


def traced(model: nn.Module) -> nrfx.TracedModule:
    return nrfx.trace(model, torch.zeros(zoo.IMAGE))


def decision(gm: nrfx.TracedModule, budget: nrfx.Budget | None, **options: Any) -> Decision | Idle:
    return decided(gm, budget, Options(**options), judge_of(gm, None, 0.01, options.get("residual", "live")))


@pytest.mark.parametrize("scheme", ["attention", "dense", "removed"])
@pytest.mark.parametrize("name", ["vgg_bn", "resnet", "mobilenet", "densenet_postact"])
def test_the_widths_that_are_decided_are_those_of_the_network_that_is_built(name: str, scheme: Any) -> None:
    torch.manual_seed(0)
    gm = traced(zoo.with_dead(zoo.SMALL[name](), beta="zero"))
    budget = nrfx.Budget.relative(gm, params=1.0, flops=1.0)
    found = decision(gm, budget, scheme=scheme)
    assert isinstance(found, Decision)
    result = nrfx.rejuvenate(gm, budget, scheme=scheme)
    rows = {row.name: row.out for row in result.after.rows}
    widths = {
        key: int(found.allocation.width[space.index]) * count
        for space in found.survivors.channels.spaces
        for key, count in space.births.items()
        if key in rows
    }
    assert widths and widths == {key: rows[key] for key in widths}
    assert found.allocation.cost.params == result.after.params.total
    assert found.allocation.alpha == result.alpha > 1


def test_where_nothing_is_dead_nothing_is_decided() -> None:
    gm = traced(zoo.vgg_bn())
    found = decision(gm, nrfx.Budget.relative(gm, params=1.0))
    assert isinstance(found, Idle) and found.reason.startswith("Nothing is dead and ")


def test_without_a_budget_the_survivors_stay_alone() -> None:
    torch.manual_seed(0)
    gm = traced(zoo.with_dead(zoo.vgg_bn()))
    found = decision(gm, None, scheme="dense", rescale=False)
    assert isinstance(found, Decision)
    assert found.allocation.cost.params == nrfx.utilization(nrfx.compact(gm).module).params.total
    assert torch.equal(found.allocation.width.sum(), found.survivors.kept.sum())
