"""Vectors of ids: labels of several layouts as one, how often each comes, and which ids ties connect."""

from collections.abc import Sequence

import torch
from torch import Tensor


def among(ids: Tensor, mask: Tensor) -> Tensor:
    """bool, of the shape of `ids`: whether each is an index (>= 0) and in the mask (bool, perhaps empty).

    >>> among(torch.tensor([1, -1, 0]), torch.tensor([False, True]))
    tensor([ True, False, False])
    """
    if not mask.numel():
        return torch.zeros_like(ids, dtype=torch.bool)
    return (ids >= 0) & mask[ids.clamp(min=0)]


def joined(layouts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The labels of several layouts as one vector, and for each of them the index of its layout.

    >>> joined([torch.tensor([4, 5]), torch.tensor([7])])
    (tensor([4, 5, 7]), tensor([0, 0, 1]))
    """
    none = torch.zeros(0, dtype=torch.int64)
    lengths = torch.tensor([layout.numel() for layout in layouts], dtype=torch.int64)
    return torch.cat([none, *layouts]), torch.arange(len(layouts)).repeat_interleave(lengths)


def tally(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct values of an int64 vector, sorted, and how often each occurs; fast where equal ones are neighbours.

    >>> tally(torch.tensor([5, 5, 2, 2, 2, 5]))
    (tensor([2, 5]), tensor([3, 3]))
    """
    runs, lengths = torch.unique_consecutive(numbers, return_counts=True)
    values, run_of = torch.unique(runs, return_inverse=True)
    return values, torch.zeros_like(values).index_add_(0, run_of, lengths)


def occurrence(layout: Tensor) -> Tensor:
    """[len] int64: how many times the same label stands earlier in the layout.

    >>> occurrence(torch.tensor([4, 7, 4, 4]))
    tensor([0, 0, 1, 2])
    """
    # stable: equal labels stay in their order, so that the rank among them is the distance to the first
    order = torch.argsort(layout, stable=True)
    ordered = layout[order]
    place = torch.arange(layout.numel())
    first = torch.searchsorted(ordered, ordered, side="left")
    rank = torch.empty_like(order)
    rank[order] = place - first
    return rank


def components(count: int, left: Tensor, right: Tensor) -> Tensor:
    """[count] int64: for each of the ids 0..count-1 the smallest id that ties (left[k], right[k]) connect it to.

    Each round takes the ties whose ends have two roots, hangs the larger of these under the smaller, and shortens all
    ways to a root to one step.

    >>> components(5, torch.tensor([0, 3]), torch.tensor([2, 4]))
    tensor([0, 1, 0, 3, 3])
    """
    # A root that several ties would hang is hung under any of the others; the rest is done in the next round. The loop
    # ends: roots only fall, and never below 0. No id lies under a larger one, so that the root of all is the smallest.
    # 1 to 3 rounds on the networks of torchvision (up to 40,000 ties); a path of 100,000 ids in random order takes 11.
    root = torch.arange(count)
    while True:
        left, right = root.index_select(0, left), root.index_select(0, right)  # half the time of root[left]
        apart = left != right
        if not bool(apart.any()):
            return root
        left, right = left[apart], right[apart]
        root.index_copy_(0, torch.maximum(left, right), torch.minimum(left, right))
        while not torch.equal(root, shorter := root.index_select(0, root)):
            root = shorter
