"""Ways in which an op could take new widths and compute something else."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn

import nrfx
from nrfx.analysis.channels import Mismatch, Step
from nrfx.analysis.spaces import channels_of
from nrfx.labels import NONE, OPAQUE, along, noted
from nrfx.plan.expected import Expected
from nrfx.plan.mismatches import _check_ties, _Labels
from nrfx.rules import Effect, Family


def tied(left: Tensor, right: Tensor) -> Step:
    """An addition that ties two operands."""
    node = fx.Graph().placeholder("add")
    return Step("eval", node, "add", Effect(Family.POINTWISE, out=left, ties=((left, right),)))


@pytest.mark.parametrize("other", [[2, 3], [2, NONE], [OPAQUE - 9, 3]])
def test_labels_of_other_channels_do_not_meet(other: list[int]) -> None:
    channel_of = torch.tensor([0, 1, 0, 1])
    with pytest.raises(Mismatch, match="add: its operands no longer meet channel by channel"):
        _check_ties(tied(torch.tensor([1, 0]), torch.tensor(other)), channel_of)


@pytest.mark.parametrize("other", [[3, 2], [1, 0], [3, NONE], [NONE, OPAQUE - 9]])
def test_labels_of_one_channel_meet_and_may_meet_what_is_no_channel(other: list[int]) -> None:
    channel_of = torch.tensor([0, 1, 0, 1])
    _check_ties(tied(torch.tensor([1, 0]), torch.tensor(other)), channel_of)


def test_an_operand_that_repeats_meets_each() -> None:
    with pytest.raises(Mismatch):
        _check_ties(tied(torch.tensor([[0], [1]]), torch.tensor([[0, 0]])), torch.tensor([0, 1]))


def giving(labels: Tensor) -> Step:
    """An activation whose channels have these labels."""
    out = along(noted(labels), 1, (1, labels.numel(), 2, 2))
    return Step("eval", fx.Graph().placeholder("act"), "act", Effect(Family.POINTWISE, out=out))


def test_the_labels_of_every_pair_of_layouts_are_looked_at() -> None:
    old, new, other = giving(torch.tensor([0, 1])), giving(torch.tensor([1])), giving(torch.tensor([2]))
    check = _Labels(3, []).check
    for _ in range(2):
        check(old, new)
    with pytest.raises(Mismatch, match="other labels stand for its channels"):
        check(old, other)


def test_the_columns_of_every_weight_are_looked_at() -> None:
    channels = channels_of(nrfx.trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), torch.zeros(1, 3, 2, 2)))
    kept, width = torch.ones(channels.space_of.numel(), dtype=torch.bool), torch.bincount(channels.space_of)
    check = Expected(channels, channels.births, kept, width).check
    step = next(step for step in channels.steps if step.path == "1")
    reading = step.effect.reading
    assert reading is not None
    for _ in range(2):
        check(step, step, channels.channel_of)
    twice = replace(reading, cols=reading.cols[[0, 0, 2, 3]])
    with pytest.raises(Mismatch, match="no longer reads the same channels"):
        check(step, replace(step, effect=replace(step.effect, reading=twice)), channels.channel_of)
