"""What a transaction puts back."""

import pytest
import torch
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import ConstantLR, SequentialLR, StepLR

from nrfx.training.transaction import Transaction


def trained() -> tuple[nn.Linear, Adam]:
    linear = nn.Linear(2, 3)
    optimizer = Adam(linear.named_parameters(), lr=0.1)
    linear(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return linear, optimizer


def test_groups_state_and_schedules_are_put_back() -> None:
    linear, optimizer = trained()
    schedule = SequentialLR(optimizer, [ConstantLR(optimizer), StepLR(optimizer, 2)], milestones=[1])
    group, parameters = optimizer.param_groups[0], optimizer.param_groups[0]["params"]
    before = (dict(group), list(parameters), dict(optimizer.state[linear.weight]), list(optimizer.state))
    epochs = [part.last_epoch for part in (schedule, *schedule._schedulers)]
    with pytest.raises(KeyError), Transaction([linear], [optimizer], schedule):
        parameters.pop()
        group["param_names"].clear()
        group["new"] = 1
        optimizer.state[linear.weight]["exp_avg"] = torch.zeros(9)
        optimizer.state.pop(linear.bias)
        schedule.step()
        raise KeyError
    assert optimizer.param_groups[0] is group and group["params"] is parameters
    assert (dict(group), list(parameters), dict(optimizer.state[linear.weight]), list(optimizer.state)) == before
    assert group["param_names"] == ["weight", "bias"]
    assert [part.last_epoch for part in (schedule, *schedule._schedulers)] == epochs


def test_without_an_error_the_changes_stay() -> None:
    linear, optimizer = trained()
    with Transaction([linear], [optimizer]):
        optimizer.param_groups[0]["lr"] = 0.2
        linear.weight = nn.Parameter(torch.ones(1, 2))
    assert optimizer.param_groups[0]["lr"] == 0.2 and linear.weight.shape == (1, 2)
