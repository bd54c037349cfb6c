"""utilization: params and flops of one example, live and total."""

import pytest
import torch
from torch import nn

import nrfx


def test_a_network_that_is_one_layer_is_understood() -> None:
    u = nrfx.utilization(nrfx.trace(nn.Linear(3, 5), torch.zeros(2, 3)))
    assert (u.params.total, u.flops.total, u.uncounted) == (20, 15, ())


@pytest.mark.parametrize("batch", [1, 3])
def test_flops_are_those_of_one_example_whatever_the_batch_and_also_without_one(batch: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1))
    flops = 4 * 3 * 9 * 36 + 2 * 4 * 9
    assert nrfx.utilization(nrfx.trace(model, torch.zeros(batch, 3, 8, 8))).flops.total == flops
    assert nrfx.utilization(nrfx.trace(model, torch.zeros(3, 8, 8))).flops.total == flops
