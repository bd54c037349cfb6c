"""The network inside of what users wrap around it."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel

from nrfx.errors import TrainingError
from nrfx.training.wrappers import unwrapped


def test_wrappers_in_wrappers_are_looked_through() -> None:
    inside = nn.Linear(2, 2)
    assert unwrapped(inside) is inside
    assert unwrapped(torch.compile(DataParallel(inside), backend="eager")) is inside


def test_what_flattens_parameters_is_refused_with_what_does_not() -> None:
    class FullyShardedDataParallel(nn.Module):
        """Of torch's name: its own needs a process group."""

    with pytest.raises(TrainingError, match=r"flattens the parameters.*fully_shard \(FSDP2\)"):
        unwrapped(FullyShardedDataParallel())
