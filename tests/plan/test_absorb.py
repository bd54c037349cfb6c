"""Carriers: which column of a weight stands for which."""

from typing import Any, cast

import torch
from torch import Tensor

from nrfx.plan.absorb import carrier_columns


class Plain:
    """Channels of which each label is one."""

    def channels_along(self, layout: Tensor) -> Tensor:
        return layout


def columns(cols: list[int], carrier_of: list[int]) -> list[int]:
    found: list[int] = carrier_columns(cast(Any, Plain()), torch.tensor(cols), torch.tensor(carrier_of)).tolist()
    return found


def test_each_column_of_a_channel_goes_to_the_same_one_of_its_carrier() -> None:
    assert columns([0, 1, 2], [-1, 2, -1]) == [-1, 2, -1]
    assert columns([2, 0, 1], [-1, 2, -1]) == [-1, -1, 0]
    assert columns([0, 0, 1, 1, 2, 2], [-1, 2, -1]) == [-1, -1, 4, 5, -1, -1]
    assert columns([-1, 1, 2], [-1, 2, -1]) == [-1, 2, -1]  # a padded zero is no channel


def test_a_carrier_that_a_weight_does_not_read_stands_for_nothing_there() -> None:
    assert columns([0, 1], [-1, 2, -1]) == [-1, -1]
    assert columns([-1, 1], [-1, 2, -1]) == [-1, -1]
