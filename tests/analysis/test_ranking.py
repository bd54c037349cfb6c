"""Rankings: the budget holds, no channel could come back, and what is worth least for its cost goes."""

import pytest
import torch
from torch import nn

import nrfx
from nrfx import liveness
from nrfx.errors import BudgetError


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 20, 3), nn.ReLU(), nn.Conv2d(20, 4, 1))
    return nrfx.trace(nn.Sequential(*layers), torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("measure", ["params", "flops"])
def test_a_ranking_meets_its_budget_and_no_channel_could_come_back(measure: str) -> None:
    gm = net()
    for part in (0.9, 0.5, 0.2):
        budget = nrfx.Budget.relative(gm, **{measure: part})
        result = nrfx.compact(gm, liveness=liveness.Weight(budget=budget))
        bound, spent = getattr(budget, measure), getattr(result.after, measure).total
        assert spent <= bound
        for name in ("0", "2"):  # a channel more in a layer would cost more than is left
            wider = next(row.out for row in result.after.rows if row.name == name)
            if wider < gm.get_submodule(name).out_channels:
                assert spent + _channel(result.after.rows, name, measure) > bound


def _channel(rows: tuple, name: str, measure: str) -> int:  # type: ignore[type-arg]
    """What one channel more in a layer costs: a filter and a bias, and a column of the next layer."""
    index = [row.name for row in rows].index(name)
    here, behind = rows[index], rows[index + 1]
    own = getattr(here, measure) // here.out
    kernel = 9 if behind.name == "2" else 1
    place = 1 if measure == "params" else getattr(behind, measure) // (behind.out * behind.in_ * kernel)
    return own + behind.out * kernel * place


def test_the_lowest_scores_go_first_within_a_layer() -> None:
    gm = net()
    scores = torch.arange(20.0).flip(0)
    result = nrfx.compact(gm, liveness=liveness.Scores({"2": scores}, budget=nrfx.Budget.relative(gm, params=0.8)))
    kept = result.origins["2.weight"][0]
    assert kept is not None and kept.tolist() == list(range(len(kept))) and 1 < len(kept) < 20


def test_a_channel_that_costs_more_goes_before_one_of_the_same_score() -> None:
    gm = net()
    equal = {"0": torch.ones(12), "2": torch.ones(20)}
    result = nrfx.compact(gm, liveness=liveness.Scores(equal, budget=nrfx.Budget.relative(gm, params=0.8)))
    widths = [row.out for row in result.after.rows]
    assert widths[0] < 12 and widths[1] == 20  # a channel of the first layer costs 208 params, one of the second 113


def test_a_network_within_the_budget_stays_and_says_so() -> None:
    gm = net()
    result = nrfx.compact(gm, liveness=liveness.Weight(budget=nrfx.Budget.relative(gm, params=1.0)))
    assert not result.changed and any("no channel was given up" in note for note in result.notes)


def test_a_budget_that_the_limits_do_not_allow_is_refused() -> None:
    gm = net()
    criterion = liveness.Weight(budget=nrfx.Budget(params=300), most=0.5)
    with pytest.raises(BudgetError, match=r"Without all 16 channels that the criterion may give up .* 300 params"):
        nrfx.compact(gm, liveness=criterion)


def test_what_is_given_up_can_be_given_back_as_new_channels() -> None:
    gm = net()
    low, whole = nrfx.Budget.relative(gm, params=0.6), nrfx.Budget.relative(gm, params=1.0)
    result = nrfx.rejuvenate(gm, whole, scheme="dense", liveness=liveness.Weight(budget=low))
    assert result.before.params.live <= low.params < result.after.params.total <= whole.params  # type: ignore[operator]
