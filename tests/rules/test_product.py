"""Products of activations, their dims by letters."""

import pytest
import torch
from torch import Tensor

from nrfx.labels import ascends, born, viewed
from nrfx.rules.positions import _in_runs
from nrfx.rules.product import _with_borders, placed


def _by_torch(labels: Tensor, names: str, out: str) -> Tensor:
    """`placed`, one dim after the other."""
    for dim in reversed(range(labels.dim())):
        if names[dim] not in out:
            labels = labels.select(dim, 0)
    here = [name for name in names if name in out]
    labels = labels.permute([here.index(name) for name in out if name in here])
    for dim, name in enumerate(out):
        if name not in here:
            labels = labels.unsqueeze(dim)
    return labels


@pytest.mark.parametrize(("names", "out"), [("abc", "cab"), ("abc", "b"), ("abc", "xcya"), ("abc", ""), ("abc", "xy")])
def test_dims_are_placed_by_their_letters(names: str, out: str) -> None:
    whole = born(5, 24)
    labels = viewed(whole, whole.view(2, 3, 4).transpose(0, 2)[1:])  # from a place inside of the memory on
    for given in (labels, labels.clone(), labels[:, :1].expand(-1, 3, -1)):
        assert torch.equal(placed(given, names, out), _by_torch(given, names, out))
    assert ascends(placed(labels, names, out)) and not ascends(placed(labels.clone(), names, out))


def test_fresh_labels_stand_beside_no_zeros_and_in_no_runs() -> None:
    """As is found where each label is looked at."""
    whole = born(0, 12)
    labels = viewed(whole, whole.view(3, 4).t())
    for dim in (0, 1):
        assert _in_runs(labels, dim) is _in_runs(labels.clone(), dim) is False
    assert torch.equal(_with_borders(labels), _with_borders(labels.clone()))
    assert _in_runs(torch.tensor([0, 0, 1, 1]), 0)
