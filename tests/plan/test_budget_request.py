"""Budgets as they are written on the command line."""

import pytest
import torch

import nrfx
from nrfx.errors import BudgetError
from nrfx.plan.budget_request import parse_budget
from tests import zoo


@pytest.mark.parametrize(
    ("text", "params", "flops"),
    [("params=11.7M", 11_700_000, None), ("flops=4.1G,params=250000", 250_000, 4_100_000_000)],
)
def test_absolute_budgets_are_exact(text: str, params: int, flops: int | None) -> None:
    gm = nrfx.trace(zoo.vgg_bn(), torch.zeros(zoo.IMAGE))
    assert parse_budget(text).of(gm) == nrfx.Budget(params=params, flops=flops)


def test_absolute_and_relative_budgets_mix() -> None:
    gm = nrfx.trace(zoo.vgg_bn(), torch.zeros(zoo.IMAGE))
    total = nrfx.utilization(gm).flops.total
    assert parse_budget("params=3K,flops=0.5x").of(gm) == nrfx.Budget(params=3000, flops=total // 2)


def test_no_budget_is_an_error() -> None:
    with pytest.raises(BudgetError, match="There is no budget"):
        parse_budget(None)
