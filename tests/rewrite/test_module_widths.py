"""The attributes of modules that repeat a width follow the shapes of their parameters."""

from typing import Any

import pytest
import torch
from torch import nn

from nrfx.nn import ChannelScale
from nrfx.rewrite.module_widths import bare_width, fit_widths


@pytest.mark.parametrize(("module", "shape", "expected"), [
    (nn.Conv2d(6, 8, 3), (5, 4, 3, 3), {"out_channels": 5, "in_channels": 4, "groups": 1}),
    (nn.Conv2d(6, 8, 3, groups=2), (12, 3, 3, 3), {"out_channels": 12, "in_channels": 9, "groups": 3}),
    (nn.Conv1d(6, 6, 3, groups=6), (4, 1, 3), {"out_channels": 4, "in_channels": 4, "groups": 4}),
    (nn.ConvTranspose2d(6, 8, 3, groups=2), (9, 4, 3, 3), {"in_channels": 9, "out_channels": 12, "groups": 3}),
    (nn.Linear(4, 5), (7, 6), {"out_features": 7, "in_features": 6}),
    (nn.BatchNorm1d(4), (6,), {"num_features": 6}),
    (nn.GroupNorm(2, 8), (12,), {"num_channels": 12, "num_groups": 3}),
    (nn.PReLU(4), (6,), {"num_parameters": 6}),
    (ChannelScale(4, 1), (6,), {"channels": 6}),
])  # fmt: skip
def test_widths_and_groups_are_those_of_the_weight(module: Any, shape: tuple[int, ...], expected: dict) -> None:
    module.weight = nn.Parameter(torch.zeros(shape))
    fit_widths(module)
    assert {name: getattr(module, name) for name in expected} == expected


def test_a_class_that_sets_attributes_in_its_own_way_is_asked_to() -> None:
    class Noting(nn.Linear):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "out_features":
                self.__dict__.setdefault("set", []).append(value)
            super().__setattr__(name, value)

    layer = Noting(4, 5)
    layer.weight = nn.Parameter(torch.zeros(7, 4))
    fit_widths(layer)
    assert layer.set == [5, 7] and layer.out_features == 7


def test_a_module_without_a_width_is_left_alone() -> None:
    activation = nn.LeakyReLU(0.1)
    fit_widths(activation)
    assert vars(activation).keys() == vars(nn.LeakyReLU(0.1)).keys()


def test_only_a_norm_without_parameters_states_a_bare_width() -> None:
    assert bare_width(nn.InstanceNorm2d(4)) == bare_width(nn.GroupNorm(2, 4, affine=False)) == 4
    assert bare_width(nn.BatchNorm2d(4)) is None and bare_width(nn.ReLU()) is None


def test_a_norm_without_parameters_takes_the_width_that_it_meets() -> None:
    norm, group_norm = nn.InstanceNorm2d(4), nn.GroupNorm(2, 8, affine=False)
    fit_widths(norm, 6)
    fit_widths(group_norm, 12)
    assert (norm.num_features, group_norm.num_channels, group_norm.num_groups) == (6, 12, 3)
