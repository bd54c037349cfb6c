"""Inputs of other sizes, made of given ones: another batch, other heights, widths and lengths.

Values are those of the inputs, repeated or cut, so that token ids and masks stay valid.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nrfx.nests import tensors_of, with_tensors
from nrfx.rewrite.compare import Call


def other_sizes(call: Call) -> Iterator[tuple[str, Call]]:
    """(what differs, the call) for a few other sizes; whoever runs them may not take them.

    >>> [what for what, _ in other_sizes(((torch.zeros(2, 3, 8, 8),), {}))]
    ['[3, 3, 8, 8]', '[1, 3, 8, 8]', '[2, 3, 12, 8]', '[2, 3, 8, 12]', '[2, 3, 12, 12]']
    """
    given = list(tensors_of(call).values())
    for dims, sizes in _changes(given):
        changed = _resized(call, dims, sizes)
        yield ", ".join(str(list(x.shape)) for x in tensors_of(changed).values()), changed


def _changes(given: Sequence[Tensor]) -> Iterator[tuple[dict[int, int], dict[int, int]]]:
    """(dim from the end or start -> old size, dim -> new size) for each change."""
    largest = max(given, key=Tensor.dim)
    if largest.dim() < 2:
        return
    batch = largest.shape[0]
    for size in sorted({batch + 1, 1} - {batch}, reverse=True):
        yield {0: batch}, {0: size}
    places = (-2, -1) if largest.dim() > 2 else (-1,)
    old = {place: largest.shape[place] for place in places}
    longer = {place: size + _step(size) for place, size in old.items()}
    for place in places:
        yield {place: old[place]}, {place: longer[place]}
    if len(places) == 2:
        yield old, longer


def _step(size: int) -> int:
    """By how much a size grows: by a multiple of what networks divide sizes by."""
    return 32 if size >= 64 else max(size // 2, 1)


def _resized(call: Call, old: dict[int, int], new: dict[int, int]) -> Call:
    def resized(x: Tensor) -> Tensor:
        for dim, size in new.items():
            if -x.dim() <= dim < x.dim() and x.shape[dim] == old[dim] and (dim == 0 or dim % x.dim() != 0):
                x = x.index_select(dim, torch.arange(size, device=x.device) % old[dim])
        return x

    args, kwargs = with_tensors(call, resized)
    return args, kwargs
