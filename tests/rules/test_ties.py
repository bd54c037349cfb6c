"""Ties of labels that share an index of the axis that is read."""

import torch

from nrfx.ids import components
from nrfx.rules.ties import ties_along


def joined(labels: torch.Tensor, axis: int) -> list[list[int]]:
    """The groups of labels that the ties make one."""
    ((left, right),) = ties_along(labels, axis)
    group = components(int(labels.max()) + 1, left.reshape(-1), right.reshape(-1))
    return [(group == index).nonzero().flatten().tolist() for index in group.unique()]


def test_labels_that_lie_along_the_axis_are_tied_to_none() -> None:
    assert ties_along(torch.arange(4).view(1, 4, 1).expand(2, 4, 5), 1) == ()
    assert ties_along(torch.zeros(1, 1, 1, dtype=torch.int64), 0) == ()


def test_labels_at_one_index_of_the_axis_are_one_channel_to_the_reader() -> None:
    labels = torch.arange(6).view(1, 2, 3)
    assert joined(labels, 1) == [[0, 1, 2], [3, 4, 5]]
    assert joined(labels, 2) == [[0, 3], [1, 4], [2, 5]]
