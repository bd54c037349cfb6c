import pytest
import torch
from torch import nn

import nrfx
from nrfx.analysis.cost import Cost, total_cost
from nrfx.analysis.liveness import liveness_of
from nrfx.analysis.spaces import channels_of
from nrfx.errors import BudgetError
from nrfx.plan.reallocate import CostModel, WidthBounds, reallocate, restore, units
from tests.zoo import IMAGE, SMALL, calibrated, with_dead


def problem(name: str, round_to: int = 1):
    """(cost_of, bounds, old widths, cost of the network) of a small network with 40 % dead."""
    gm = nrfx.trace(with_dead(calibrated(SMALL[name]()), 0.4, "zero"), torch.zeros(IMAGE, dtype=torch.float64))
    channels = channels_of(gm)
    liveness = liveness_of(gm, channels)
    live = torch.bincount(channels.space_of[liveness.live], minlength=len(channels.spaces))
    grows = torch.tensor([space.free and space.normed for space in channels.spaces])
    old = torch.bincount(channels.space_of, minlength=len(channels.spaces))
    return (
        CostModel(gm, channels, liveness.live, {}),
        WidthBounds(live, live, grows, units(channels, round_to)),
        old,
        total_cost(gm, channels),
    )


def test_the_live_part_over_budget_is_an_error_with_both_numbers() -> None:
    cost_of, bounds, _, _ = problem("vgg_bn")
    least = cost_of(bounds.kept)
    with pytest.raises(BudgetError, match=rf"{least.params:,} params.*{least.params - 1:,} params"):
        reallocate(cost_of, bounds, nrfx.Budget(params=least.params - 1))


def test_old_widths_over_budget_are_an_error() -> None:
    cost_of, bounds, old, cost = problem("vgg_bn")
    with pytest.raises(BudgetError, match="old widths"):
        restore(cost_of, bounds, old, nrfx.Budget(params=cost.params - 1))


@pytest.mark.parametrize("name", SMALL)
def test_the_price_of_the_old_widths_is_the_cost_of_the_network(name: str) -> None:
    cost_of, _, old, cost = problem(name)
    assert cost_of(old) == cost


@pytest.mark.parametrize("budget", ["params", "flops", "both"])
@pytest.mark.parametrize("name", SMALL)
def test_alpha_is_the_largest_that_fits_and_then_no_further_unit_does(name: str, budget: str) -> None:
    """The definition, by exhaustion: every slightly larger alpha and every single unit more breaks the budget."""
    cost_of, bounds, _, cost = problem(name)
    amounts = {"params": {"params": cost.params}, "flops": {"flops": cost.flops}}
    bound = nrfx.Budget(**amounts.get(budget, {"params": cost.params, "flops": cost.flops}))
    allocation = reallocate(cost_of, bounds, bound)
    assert bound.admits(allocation.cost)

    def scaled(alpha: float) -> Cost:
        wide = (alpha * bounds.live.double()).floor().long()
        return cost_of(torch.where(bounds.grows, torch.maximum(bounds.live, wide), bounds.kept))

    assert bound.admits(scaled(allocation.alpha))
    steps = [(int(width) + 1) / int(width) for width in bounds.live[bounds.grows]]
    breakpoints = [k / int(n) for n in bounds.live[bounds.grows] for k in range(int(n), 6 * int(n))]
    above = min((b for b in breakpoints if b > allocation.alpha + 1e-9), default=max(steps))
    assert not bound.admits(scaled(above + 1e-9))
    for space in bounds.grows.nonzero().flatten():
        more = allocation.width.clone()
        more[space] += 1
        assert (
            not bound.admits(cost_of(more))
            or cost_of(more) == allocation.cost
            or _free(cost_of, allocation.width, more, bound)
        )


def _free(cost_of: CostModel, width: torch.Tensor, more: torch.Tensor, bound: nrfx.Budget) -> bool:
    """Whether the unit costs nothing in the budgeted measures."""
    before, after = cost_of(width), cost_of(more)
    return (bound.params is None or before.params == after.params) and (
        bound.flops is None or before.flops == after.flops
    )


def test_widths_are_multiples_of_round_to_or_the_live_width() -> None:
    cost_of, bounds, _, cost = problem("vgg_bn", round_to=4)
    width = reallocate(cost_of, bounds, nrfx.Budget(params=int(cost.params * 1.5))).width
    grown = bounds.grows & (width != bounds.kept)
    assert bool((width[grown] % 4 == 0).all()) and bool(grown.any())


def test_the_cost_of_a_deep_network_has_as_many_terms_for_each_layer_as_that_of_a_shallow_one() -> None:
    def terms(layers: int) -> int:
        units = [nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) for _ in range(layers)]
        gm = nrfx.trace(nn.Sequential(*units, nn.Conv2d(4, 4, 1)), torch.zeros(1, 4, 2, 2))
        channels = channels_of(gm)
        return CostModel(gm, channels, torch.ones(channels.space_of.shape, dtype=torch.bool), {}).slope.numel()

    assert terms(32) == 16 * terms(2)
