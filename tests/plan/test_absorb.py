"""Carriers: which column of a weight stands for which; steps are looked up for the place of a constant."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

import nrfx
from nrfx.analysis.channels import Step
from nrfx.analysis.liveness import liveness_of
from nrfx.analysis.spaces import channels_of
from nrfx.plan.absorb import absorb, carrier_columns


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


class Counted(tuple[Step, ...]):
    """Steps that count how often somebody goes through them."""

    rounds = 0

    def __iter__(self) -> Iterator[Step]:
        type(self).rounds += 1
        return super().__iter__()


def rounds(layers: int) -> int:
    """How often `absorb` goes through the steps of a network of so many layers, each with a norm behind it."""
    units = [nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(layers)]
    net = nn.Sequential(*units, nn.Conv2d(4, 4, 1))
    traced = nrfx.trace(net, torch.zeros(1, 4, 2, 2))
    channels = channels_of(traced)
    liveness = liveness_of(traced, channels)
    Counted.rounds = 0
    absorption = absorb(traced, replace(channels, steps=Counted(channels.steps)), liveness, set())
    assert len(absorption.absorbers) == layers + 1
    return Counted.rounds


def test_the_steps_are_gone_through_as_often_in_a_deep_network_as_in_a_shallow_one() -> None:
    assert rounds(2) == rounds(12)
