"""The weights of new channels: which blocks stay, which are zero, and how far the random ones spread."""

from math import sqrt

import pytest
import torch

from nrfx.plan.origins import NEW, gather
from nrfx.rewrite.initialise import from_scratch, rejuvenated

OLD = torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([0, 2, *[NEW] * 40])
COLUMNS = torch.tensor([5, 1, 0, *[NEW] * 30])


def test_old_rows_stay_and_new_rows_read_new_columns_alone() -> None:
    weight = rejuvenated(gather(OLD, (ROWS, COLUMNS)), ROWS, COLUMNS, 42, None)
    assert torch.equal(weight[:2], gather(OLD, (ROWS, COLUMNS))[:2])
    assert not weight[:2, 3:].any() and not weight[2:, :3].any()
    assert float(weight[2:, 3:].std()) == pytest.approx(sqrt(2 / (9 * 42)), rel=0.05)


@pytest.mark.parametrize("columns", [None, torch.arange(6)])
def test_without_new_columns_new_rows_read_the_old_ones(columns: torch.Tensor | None) -> None:
    weight = rejuvenated(gather(OLD, (ROWS, columns)), ROWS, columns, 42, None)
    assert bool((weight[2:] != 0).all())


def test_without_new_rows_the_weight_is_the_gathered_one() -> None:
    weight = gather(OLD, (None, COLUMNS))
    assert rejuvenated(weight, torch.arange(4), COLUMNS, 4, None) is weight


@pytest.mark.parametrize(("shape", "deviation"), [((50, 40, 3, 3), sqrt(2 / (9 * 50))), ((50, 400), 1 / sqrt(1200))])
def test_a_layer_from_scratch_spreads_as_its_kind_does(shape: tuple[int, ...], deviation: float) -> None:
    weight = torch.zeros(shape, dtype=torch.float64)
    fresh = from_scratch(weight, 50, torch.Generator().manual_seed(0))
    assert fresh.dtype == torch.float64 and float(fresh.std()) == pytest.approx(deviation, rel=0.05)
