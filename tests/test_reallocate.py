import pytest
import torch

import nrfx
from nrfx.analysis.cost import Cost, total_cost
from nrfx.analysis.liveness import liveness
from nrfx.analysis.spaces import channels
from nrfx.errors import BudgetError
from nrfx.plan.reallocate import Demand, Price, reallocate, restore, units
from tests.zoo import IMAGE, SMALL, calibrated, with_dead


def problem(name: str, round_to: int = 1):
    """(price, demand, old widths, cost of the network) of a small network with 40 % dead."""
    gm = nrfx.trace(with_dead(calibrated(SMALL[name]()), 0.4, "zero"), torch.zeros(IMAGE, dtype=torch.float64))
    found = channels(gm)
    alive = liveness(gm, found)
    live = torch.bincount(found.space_of[alive.live], minlength=len(found.spaces))
    grows = torch.tensor([space.free and space.normed for space in found.spaces])
    old = torch.bincount(found.space_of, minlength=len(found.spaces))
    return (
        Price(gm, found, alive.live, {}),
        Demand(live, live, grows, units(found, round_to)),
        old,
        total_cost(gm, found),
    )


def test_the_live_part_over_budget_is_an_error_with_both_numbers() -> None:
    price, demand, _, _ = problem("vgg_bn")
    least = price(demand.kept)
    with pytest.raises(BudgetError, match=rf"{least.params:,} params.*{least.params - 1:,} params"):
        reallocate(price, demand, nrfx.Budget(params=least.params - 1))


def test_old_widths_over_budget_are_an_error() -> None:
    price, demand, old, cost = problem("vgg_bn")
    with pytest.raises(BudgetError, match="old widths"):
        restore(price, demand, old, nrfx.Budget(params=cost.params - 1))


@pytest.mark.parametrize("name", SMALL)
def test_the_price_of_the_old_widths_is_the_cost_of_the_network(name: str) -> None:
    price, _, old, cost = problem(name)
    assert price(old) == cost


@pytest.mark.parametrize("budget", ["params", "flops", "both"])
@pytest.mark.parametrize("name", SMALL)
def test_alpha_is_the_largest_that_fits_and_then_no_further_unit_does(name: str, budget: str) -> None:
    """The definition, by exhaustion: every slightly larger alpha and every single unit more breaks the budget."""
    price, demand, _, cost = problem(name)
    bounds = {"params": {"params": cost.params}, "flops": {"flops": cost.flops}}
    bound = nrfx.Budget(**bounds.get(budget, {"params": cost.params, "flops": cost.flops}))
    found = reallocate(price, demand, bound)
    assert bound.admits(found.cost)

    def scaled(alpha: float) -> Cost:
        wide = (alpha * demand.live.double()).floor().long()
        return price(torch.where(demand.grows, torch.maximum(demand.live, wide), demand.kept))

    assert bound.admits(scaled(found.alpha))
    steps = [(int(width) + 1) / int(width) for width in demand.live[demand.grows]]
    breakpoints = [k / int(n) for n in demand.live[demand.grows] for k in range(int(n), 6 * int(n))]
    above = min((b for b in breakpoints if b > found.alpha + 1e-9), default=max(steps))
    assert not bound.admits(scaled(above + 1e-9))
    for space in demand.grows.nonzero().flatten():
        more = found.width.clone()
        more[space] += 1
        assert not bound.admits(price(more)) or price(more) == found.cost or _free(price, found.width, more, bound)


def _free(price: Price, width: torch.Tensor, more: torch.Tensor, bound: nrfx.Budget) -> bool:
    """Whether the unit costs nothing in the budgeted measures."""
    before, after = price(width), price(more)
    return (bound.params is None or before.params == after.params) and (
        bound.flops is None or before.flops == after.flops
    )


def test_widths_are_multiples_of_round_to_or_the_live_width() -> None:
    price, demand, _, cost = problem("vgg_bn", round_to=4)
    width = reallocate(price, demand, nrfx.Budget(params=int(cost.params * 1.5))).width
    grown = demand.grows & (width != demand.kept)
    assert bool((width[grown] % 4 == 0).all()) and bool(grown.any())
