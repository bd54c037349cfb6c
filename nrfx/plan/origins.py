"""Where each position of a new axis comes from. Slicing, widening and carrying optimizer state are a gather by it."""

import torch
from torch import Tensor

from nrfx.labels import occurrence

NEW = -1

Origins = tuple[Tensor | None, ...]
"""For each dim of a tensor, int64: the old position of each position, NEW where it has none; None: dim unchanged."""

Factors = tuple[Tensor | None, ...]
"""For each dim of a tensor, float64: what each position is multiplied by; None for 1 everywhere."""


def origin(old: Tensor, new: Tensor) -> Tensor:
    """[len new] int64: the old position of each new one, NEW where its label is new; repeated labels keep their order.

    >>> origin(torch.tensor([3, 4, 5]), torch.tensor([3, 5, 9]))
    tensor([ 0,  2, -1])
    """
    # The n-th position of a label comes from its n-th old position. A (label, n) pair is one number: labels from 0 on,
    # for opaque ones are negative, times more than n can be. Labels below 1e9 on axes below 1e9 stay within int64.
    lowest = min(int(old.min()), int(new.min())) if old.numel() and new.numel() else 0
    times = max(old.numel(), new.numel()) + 1
    old_keys = (old - lowest) * times + occurrence(old)
    new_keys = (new - lowest) * times + occurrence(new)
    ordered, order = torch.sort(old_keys)
    place = torch.searchsorted(ordered, new_keys).clamp(max=max(old.numel() - 1, 0))
    if not old.numel():
        return torch.full_like(new, NEW)
    return torch.where(ordered[place] == new_keys, order[place], NEW)


def first_place(layout: Tensor, labels: Tensor) -> Tensor:
    """[len labels] int64: where each label stands first in the layout, NEW where it does not.

    >>> first_place(torch.tensor([3, 4, 3]), torch.tensor([4, 4, 3, 9]))
    tensor([ 1,  1,  0, -1])
    """
    if not layout.numel():
        return torch.full_like(labels, NEW)
    ordered, order = torch.sort(layout, stable=True)
    place = torch.searchsorted(ordered, labels.contiguous()).clamp(max=layout.numel() - 1)
    return torch.where(ordered[place] == labels, order[place], NEW)


def gather(tensor: Tensor, origins: Origins) -> Tensor:
    """The tensor with each dim resized by its origins; new positions are zero.

    >>> gather(torch.tensor([[1, 2], [3, 4]]), (torch.tensor([1, -1]), None))
    tensor([[3, 4],
            [0, 0]])
    """
    for dim, places in enumerate(origins):
        if places is not None and not is_whole(places, tensor.shape[dim]):
            here = places.to(tensor.device)
            tensor = tensor.index_select(dim, here.clamp(min=0))
            tensor.index_fill_(dim, (here == NEW).nonzero().flatten(), 0)
    return tensor


def is_whole(places: Tensor, width: int) -> bool:
    """Whether the origins are 0, 1, 2, ... over the whole old axis of that width."""
    return places.numel() == width and torch.equal(places, torch.arange(width))


def scaled(tensor: Tensor, factors: Factors) -> Tensor:
    """The tensor times the vector of each dim; float64 where there is a vector, unchanged where there is none."""
    for dim, factor in enumerate(factors):
        if factor is not None:
            view = [1] * tensor.dim()
            view[dim] = -1
            tensor = tensor.double() * factor.to(tensor.device).view(view)
    return tensor
