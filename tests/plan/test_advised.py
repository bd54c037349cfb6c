"""The advice of one search: what is planned is what a rewrite would build, and nothing is changed."""

import copy

import pytest
import torch
from torch import nn

import nrfx
from nrfx.errors import AnalysisError
from nrfx.plan.advice import Advice
from nrfx.plan.advised import advised, asked_name, budgets_of
from nrfx.plan.options import Options
from tests import zoo


def traced(model: nn.Module) -> nrfx.TracedModule:
    return nrfx.trace(model, torch.zeros(zoo.IMAGE))


def advice(gm: nrfx.TracedModule, trigger: float = 0.5, options: Options | None = None) -> Advice:
    return advised(gm, 100, trigger, options or Options(), budgets_of(gm))


@torch.no_grad()
def graded(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with gammas between 0 and 1 in random order, none of them dead."""
    generator = torch.Generator().manual_seed(seed)
    for norm in zoo.norms(model):
        order = torch.randperm(norm.num_features, generator=generator)
        norm.weight.copy_((order + 1.0) / norm.num_features)
    return model


@pytest.mark.parametrize("name", ["vgg_bn", "resnet", "mobilenet", "densenet_postact"])
@pytest.mark.parametrize("trigger", [0.95, 0.7])
def test_what_is_planned_within_each_budget_is_what_a_rewrite_makes_of_the_same_dead_channels(
    name: str, trigger: float
) -> None:
    torch.manual_seed(0)
    gm = traced(graded(zoo.SMALL[name]()))
    told = advice(gm, trigger)
    assert [each.budget for each in told.prospects] == ["params", "flops", "both"]
    for prospect in told.prospects:
        budget = nrfx.Budget(prospect.most_params, prospect.most_flops)
        result = nrfx.rejuvenate(gm, budget, threshold=prospect.threshold[0])
        rows = {row.name: row.out for row in result.after.rows}
        assert {layer: widths[0] for layer, widths in prospect.widths.items()} == {
            layer: rows[layer] for layer in prospect.widths
        }
        assert (prospect.alpha[0], prospect.params[0]) == (result.alpha, result.after.params.total)
        assert prospect.flops[0] == result.after.flops.total


def test_where_r_is_not_at_the_trigger_yet_the_smallest_gammas_are_taken_until_it_is() -> None:
    torch.manual_seed(0)
    gm = traced(graded(zoo.vgg_bn()))
    told = advice(gm, 0.5)
    assert told.r_params == (1.0,)
    prospect = told.prospects[0]
    threshold = prospect.threshold[0]
    assert prospect.r[0] < 0.5 <= nrfx.utilization(gm, threshold=threshold - 1e-6).params.ratio
    assert prospect.r[0] == nrfx.utilization(gm, threshold=threshold).params.ratio


def test_a_network_below_the_trigger_is_planned_with_what_is_dead() -> None:
    gm = traced(zoo.with_dead(zoo.vgg_bn(), 0.6))
    told = advice(gm, 0.5)
    assert {each.threshold for each in told.prospects} == {(0.01,)} and told.prospects[0].r == told.r_params
    assert told.live == {"0": (4,), "4": (5,), "8": (7,)} and told.layers == {"0": 8, "4": 12, "8": 16}


def test_layers_that_waste_and_starve_are_named() -> None:
    torch.manual_seed(0)
    model = zoo.vgg_bn((8, 8, 64))
    with torch.no_grad():
        zoo.norms(model)[2].weight[:56] = 0
    told = advice(traced(model), 0.5)
    assert told.wasting == ("8",) and set(told.starving) == {"0", "4"}
    assert told.reshape(told.prospects[0]) > 0.3 and told.verdict.gain == "not known"


def test_a_network_that_sheds_evenly_keeps_its_shape_and_gains_nothing() -> None:
    torch.manual_seed(0)
    model = zoo.vgg_bn((16, 16, 16))
    with torch.no_grad():
        for norm in zoo.norms(model):
            norm.weight[:8] = 0
    told = advice(traced(model), 0.5)
    assert told.reshape(told.prospects[0]) < 0.1
    assert told.verdict.gain == "not expected" and told.starving == told.wasting == ()


def test_a_trigger_that_no_channel_can_bring_about_is_told() -> None:
    told = advice(traced(graded(zoo.resnet())), 0.05)
    assert told.prospects[0].r[0] >= 0.05
    assert told.verdict.gain == "not expected" and "no event would come" in told.verdict.reason


def test_a_budget_below_what_is_alive_is_told_and_the_others_are_planned() -> None:
    gm = traced(zoo.with_dead(zoo.vgg_bn(), 0.6))
    told = advised(gm, 100, 0.5, Options(), budgets_of(gm, nrfx.Budget(flops=1000)))
    assert [each.budget for each in told.prospects] == ["params"]
    assert len(told.notes) == 2 and told.notes[0].startswith("Within 1,000 flops nothing can be planned.")


def test_without_gammas_there_is_nothing_to_plan_from() -> None:
    gm = traced(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *zoo.head(8)))
    with pytest.raises(AnalysisError, match=r"no norm with a gamma.*insert_scales"):
        advice(gm)


def test_layers_of_one_width_are_told_together() -> None:
    told = advice(traced(graded(zoo.resnet())), 0.9)
    assert any(told.together.values())
    assert not {name for others in told.together.values() for name in others} & told.layers.keys()


def test_nothing_is_changed() -> None:
    gm = traced(graded(zoo.vgg_bn()))
    before, mode = copy.deepcopy(gm.state_dict()), gm.training
    random = torch.get_rng_state()
    advice(gm)
    assert all(torch.equal(value, before[name]) for name, value in gm.state_dict().items())
    assert gm.training is mode and torch.equal(torch.get_rng_state(), random)


def test_a_budget_bounds_what_it_names_and_the_rest_is_bounded_by_what_the_network_costs() -> None:
    gm = traced(zoo.vgg_bn())
    cost = nrfx.utilization(gm)
    assert budgets_of(gm, nrfx.Budget(flops=5000))["both"] == nrfx.Budget(cost.params.total, 5000)
    assert asked_name(nrfx.Budget(1, 2)) == "both" and asked_name(nrfx.Budget(params=1)) == "params"
