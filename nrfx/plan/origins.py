"""Where each position of a new axis comes from. Slicing, widening and carrying optimizer state are a gather by it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from nrfx.ids import joined, occurrence
from nrfx.labels import memory_of

NEW = -1

PART = 1 << 20
"""Numbers that are gathered at a time: what lies in between stays in the caches, and takes no memory that counts."""

Origins = tuple[Tensor | None, ...]
"""For each dim of a tensor, int64: the old position of each position, NEW where it has none; None: dim unchanged."""

Factors = tuple[Tensor | None, ...]
"""For each dim of a tensor, float64: what each position is multiplied by; None for 1 everywhere."""


def origin(old: Tensor, new: Tensor) -> Tensor:
    """[len new] int64: the old position of each new one, NEW where its label is new; repeated labels keep their order.

    >>> origin(torch.tensor([3, 4, 5]), torch.tensor([3, 5, 9]))
    tensor([ 0,  2, -1])
    """
    if old.numel() and _ascends(old):  # nearly always: a birth numbers its labels in order, and all differ
        place = torch.searchsorted(old, new.contiguous()).clamp_(max=old.numel() - 1)
        found = old[place] == new
        if _ascends(new) or not bool((torch.bincount(place[found]) > 1).any()):
            return torch.where(found, place, NEW)
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


def _ascends(labels: Tensor) -> bool:
    """Whether each label stands once, in order."""
    return labels.is_contiguous() and bool((labels[1:] > labels[:-1]).all())


def first_place(layout: Tensor, labels: Tensor) -> Tensor:
    """[len labels] int64: where each label stands first in the layout, NEW where it does not.

    >>> first_place(torch.tensor([3, 4, 3]), torch.tensor([4, 4, 3, 9]))
    tensor([ 1,  1,  0, -1])
    """
    if not layout.numel():
        return torch.full_like(labels, NEW)
    if memory_of(layout) == memory_of(labels) and _ascends(layout):  # nearly always
        return torch.arange(layout.numel())
    ordered, order = torch.sort(layout, stable=True)
    place = torch.searchsorted(ordered, labels.contiguous()).clamp(max=layout.numel() - 1)
    return torch.where(ordered[place] == labels, order[place], NEW)


@dataclass(frozen=True)
class Axis:
    """The origins of a dim, with what a gather asks of them: many tensors have the same.

    Attributes:
        places: the origins.
        chosen: the old positions that are there, in order; None where the axis stays as it is.
        known: the positions that have an origin; None where all have.
        in_front: whether all that have one stand in front of those that have none.
    """

    places: Tensor
    chosen: Tensor | None
    known: Tensor | None
    in_front: bool = True

    @classmethod
    def of(cls, places: Tensor, width: int) -> Self:
        """Of origins on an old axis of that width."""
        if is_whole(places, width):
            return cls(places, None, None)
        old = places != NEW
        if bool(old.all()):
            return cls(places, places, None)
        known = old.nonzero().flatten()
        return cls(places, places[known], known, not known.numel() or int(known[-1]) == known.numel() - 1)


Axes = tuple[Axis | None, ...]
"""For each dim of a tensor, its origins; None: dim unchanged."""


def axes_of_births(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Axis]:
    """Key -> the axis of `origin` of a birth's old and new labels, found for all births at once.

    For the births whose new labels ascend, which are nearly all, where the old labels are 0, 1, 2, ... over all births.

    >>> axes_of_births({"a": torch.tensor([0, 1]), "b": torch.tensor([2, 3])}, {"b": torch.tensor([3, 4])})["b"].places
    tensor([ 1, -1])
    """
    start, births = 0, {}  # the first label of each birth, and its labels
    for key, labels in old.items():
        births[key] = (start, labels.numel())
        start += labels.numel()
    if not new or not torch.equal(joined(list(old.values()))[0], torch.arange(start)):
        return {}
    labels, birth = joined(list(new.values()))
    first, width = torch.tensor([births[key] for key in new]).index_select(0, birth).unbind(1)
    place = labels - first
    known = (place >= 0) & (place < width)  # labels of new channels stand behind all old ones
    place = torch.where(known, place, NEW)
    falls = birth[1:][(labels[1:] <= labels[:-1]) & (birth[1:] == birth[:-1])]
    others, sizes = set(falls.tolist()), [labels.numel() for labels in new.values()]
    times = torch.bincount(birth[known], minlength=len(new)).tolist()
    axes = {}
    for index, (key, part) in enumerate(zip(new, place.split(sizes), strict=True)):
        if index in others:
            continue
        places = part.clone()  # in memory of its own: who keeps one keeps no others
        if times[index] == sizes[index] == births[key][1]:
            axes[key] = Axis(places, None, None)
        elif times[index] == sizes[index]:
            axes[key] = Axis(places, places, None)
        else:
            axes[key] = Axis.of(places, births[key][1])
    return axes


def gather(tensor: Tensor, origins: Origins, factors: Factors = ()) -> Tensor:
    """The tensor with each dim resized by its origins, times the factors; new positions are zero.

    Products are computed in float64 and rounded once.

    >>> gather(torch.tensor([[1, 2], [3, 4]]), (torch.tensor([1, -1]), None))
    tensor([[3, 4],
            [0, 0]])
    """
    axes = (None if places is None else Axis.of(places, tensor.shape[dim]) for dim, places in enumerate(origins))
    return gather_along(tensor, tuple(axes), factors)


def gather_along(tensor: Tensor, axes: Axes, factors: Factors = ()) -> Tensor:
    """`gather` by origins that others have, too."""
    scaling = any(factor is not None for factor in factors)
    if len(axes) == 1 and not scaling and (axis := axes[0]) is not None and axis.known is None:  # nearly all vectors
        return tensor if axis.chosen is None else tensor.index_select(0, _beside(axis.chosen, tensor))
    moved = {dim: axis for dim, axis in enumerate(axes) if axis is not None and axis.chosen is not None}
    if not moved and not scaling:
        return tensor
    chosen = {dim: _beside(axis.chosen, tensor) for dim, axis in moved.items() if axis.chosen is not None}
    known = {dim: _beside(axis.known, tensor) for dim, axis in moved.items() if axis.known is not None}
    by = tuple(f if f is None or dim not in known else f.to(tensor.device)[known[dim]] for dim, f in enumerate(factors))
    by = by if scaling else ()
    if not known:
        return _taken(tensor, chosen, by)
    if all(axis.in_front for axis in moved.values()):  # nearly always
        shape = [axis.places.numel() if (axis := moved.get(dim)) else size for dim, size in enumerate(tensor.shape)]
        return _in_front(tensor, chosen, by, shape)
    return _spread_out(_taken(tensor, chosen, by), known, moved)


def _taken(tensor: Tensor, chosen: Mapping[int, Tensor], factors: Factors) -> Tensor:
    """The tensor at the chosen positions, times the factors."""
    if tensor.numel() <= PART:
        if not factors:
            return _selected(tensor, chosen)
        return scaled(_selected(tensor, chosen), factors).to(tensor.dtype)
    taken = tensor.new_empty(_sizes(tensor, chosen))
    _take(tensor, chosen, factors, taken)
    return taken


def _beside(places: Tensor, tensor: Tensor) -> Tensor:
    """The places on the device of the tensor."""
    return places if tensor.device.type == "cpu" else places.to(tensor.device)


def _selected(tensor: Tensor, chosen: Mapping[int, Tensor]) -> Tensor:
    for dim, here in chosen.items():
        tensor = tensor.index_select(dim, here)
    return tensor


def _in_front(tensor: Tensor, chosen: Mapping[int, Tensor], factors: Factors, shape: Sequence[int]) -> Tensor:
    """A tensor of that shape with the chosen positions in front of each dim, and zeros behind them."""
    whole = corner = tensor.new_zeros(shape)
    for dim, size in enumerate(_sizes(tensor, chosen)):
        corner = corner.narrow(dim, 0, size)
    _take(tensor, chosen, factors, corner)
    return whole


def _sizes(tensor: Tensor, chosen: Mapping[int, Tensor]) -> list[int]:
    return [chosen[dim].numel() if dim in chosen else size for dim, size in enumerate(tensor.shape)]


def _take(tensor: Tensor, chosen: Mapping[int, Tensor], factors: Factors, into: Tensor) -> None:
    """Writes the tensor at the chosen positions, times the factors; some rows at a time, for what they take in between.

    `into` may be a part of a larger tensor.
    """
    step = max(PART // max(tensor[:1].numel(), 1), 1)
    behind = {dim: here for dim, here in chosen.items() if dim}
    for start in range(0, into.shape[0], step):
        at = slice(start, start + step)
        part = tensor.index_select(0, chosen[0][at]) if 0 in chosen else tensor[at]
        by = tuple(factor if dim or factor is None else factor[at] for dim, factor in enumerate(factors))
        into[at].copy_(scaled(_selected(part, behind), by))


def _spread_out(tensor: Tensor, known: Mapping[int, Tensor], moved: Mapping[int, Axis]) -> Tensor:
    """A tensor that holds the given one at the known places of these dims, and zeros elsewhere."""
    for dim, at in known.items():
        width = [moved[dim].places.numel() if other == dim else size for other, size in enumerate(tensor.shape)]
        tensor = tensor.new_zeros(width).index_copy_(dim, at, tensor)
    return tensor


def is_whole(places: Tensor, width: int) -> bool:
    """Whether the origins are 0, 1, 2, ... over the whole old axis of that width."""
    return places.numel() == width and torch.equal(places, torch.arange(width))


def scaled(tensor: Tensor, factors: Factors) -> Tensor:
    """The tensor times the vector of each dim; float64 where there is a vector, unchanged where there is none."""
    if all(factor is None for factor in factors):
        return tensor
    product = tensor.to(torch.float64, copy=True)
    for dim, factor in enumerate(factors):
        if factor is not None:
            product *= factor.to(tensor.device).view([-1 if dim == other else 1 for other in range(tensor.dim())])
    return product


def with_means(value: Tensor, origins: Origins) -> Tensor:
    """The tensor with, at the new positions of each dim, the mean over the old ones: the level of others like them."""
    for dim, part in enumerate(origins):
        if part is None or not bool((part == NEW).any()) or not bool((part != NEW).any()):
            continue
        old = value.index_select(dim, (part != NEW).nonzero().flatten().to(value.device))
        fresh = (part == NEW).nonzero().flatten().to(value.device)
        mean = old.double().mean(dim, keepdim=True).to(value.dtype)
        value = value.index_copy(dim, fresh, mean.repeat_interleave(fresh.numel(), dim))
    return value
