import math

import pytest
import torch

import nrfx
from nrfx.analysis.cost import Cost
from nrfx.errors import BudgetError
from tests.zoo import IMAGE, vgg_bn


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, math.nan, "1G"])
def test_a_budget_that_is_no_positive_integer_is_refused_by_name(bad: object) -> None:
    with pytest.raises(BudgetError, match="Budget flops="):
        nrfx.Budget(flops=bad)  # type: ignore[arg-type]


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"needs params=, flops= or both"):
        nrfx.Budget()


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, True])
def test_a_relative_budget_needs_a_positive_finite_fraction(bad: float) -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    with pytest.raises(BudgetError, match="Relative budget params="):
        nrfx.Budget.relative(gm, params=bad)


def test_a_budget_on_both_admits_what_is_within_both() -> None:
    budget = nrfx.Budget(params=10, flops=20)
    assert budget.admits(Cost(10, 20)) and not budget.admits(Cost(11, 20)) and not budget.admits(Cost(10, 21))
