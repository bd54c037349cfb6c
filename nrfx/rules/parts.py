"""Ops that take parts of an axis: split, chunk, tensor_split, narrow, and an index.

Where channels come and go, each part keeps its own: the sizes of the parts are written anew, and equal parts
(`x.chunk(2, 1)`) become parts of sizes that are stated.
"""

import operator
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from nrfx.ids import joined
from nrfx.labels import ascends, collapse, layout, lies_along, over_positions
from nrfx.rules.effect import Before, Call, Effect, Family, Unfit, tensors, unknown
from nrfx.rules.movement import itself, moved, part_of
from nrfx.rules.positions import by_places
from nrfx.rules.registry import named, op_of, register, rule


def parts(call: Call) -> Effect:
    """The op itself; at new widths with sizes under which each part has its channels, if it states sizes as numbers."""
    labels, dim = call.args[0], call.argument(2, "dim", 0)
    if call.before is None:
        whole = itself(call)
        alone = ascends(labels) or _is_even(call, whole, dim)  # where labels ascend none stands next to itself
        return whole if alone else by_places(call, whole, dim)
    if not lies_along(labels, dim % labels.dim()) or not _is_stated(call, 1):
        return itself(call)
    sizes = _sizes(call.before, labels, dim % labels.dim())
    if sizes is None or sizes == _own_sizes(call, dim):
        return itself(call)
    stated = list(accumulate(sizes[:-1])) if call.node.target in _BY_PLACES else sizes
    return replace(moved(call, lambda x, *_, **__: x.split(sizes, dim)), literals={1: stated})


def _is_even(call: Call, effect: Effect, dim: int) -> bool:
    """Whether the op makes so many equal parts, each of channels of its own: so it does at other sizes too."""
    op = op_of(call.node.target)
    if op is None or op.sized is None:
        return False
    every, _ = joined([collapse(part).reshape(-1).unique() for part in tensors(effect.out)])
    sizes = {part.shape[dim] for part in tensors(effect.out)}
    return len(sizes) == 1 and every.numel() == every.unique().numel()


_BY_PLACES = (torch.tensor_split, "tensor_split")
"""They state where parts begin, not their sizes."""


def _is_stated(call: Call, *places: int) -> bool:
    """Whether the op is told by position, in plain numbers."""
    return all(index < len(call.node.args) and not call.is_computed(index, "") for index in places)


def _own_sizes(call: Call, dim: int) -> list[int] | None:
    """The sizes of the parts that the op makes as it stands; None where it does not take the width."""
    try:
        return [part.shape[dim] for part in tensors(itself(call).out)]
    except Unfit:
        return None


def _sizes(before: Before, labels: Tensor, dim: int) -> list[int] | None:
    """The sizes of the parts along `dim` if each label stays in its part, and new ones go where the one in front of
    them is; None where labels do not tell.
    """
    old = tensors(before.out)
    held = [collapse(part).reshape(-1).unique() for part in old]
    every, number = joined(held)
    if every.numel() != every.unique().numel() or bool((every < 0).any()):
        return None
    number_of = dict(zip(every.tolist(), number.tolist(), strict=True))
    at = _filled([number_of.get(label, -1) for label in layout(labels, dim).tolist()])
    sizes = [at.count(index) for index in range(len(held))]
    return sizes if at == sorted(at) and all(sizes) else None


def _filled(known: list[int]) -> list[int]:
    """The numbers with that in front of it in the place of each -1; 0 where there is none.

    >>> _filled([-1, 0, -1, 1])
    [0, 0, 0, 1]
    """
    filled, last = [], 0
    for part in known:
        last = last if part < 0 else part
        filled.append(last)
    return filled


def _span(before: Before, labels: Tensor, dim: int) -> tuple[int, int] | None:
    """(first, behind the last) of the places along `dim` whose channels a part takes; new ones go where the one in
    front of them is. None where they do not stand together, or where a channel stands in another part too.
    """
    held, times = collapse(before.out).reshape(-1).unique(return_counts=True)
    now = layout(labels, dim)
    if bool((now < 0).any()) or bool((held < 0).any()):
        return None
    taken = torch.isin(now, held).int()
    left, often = now[taken.bool()].unique(return_counts=True)
    if not torch.equal(often, times[torch.searchsorted(held, left)]):
        return None
    at = _filled(torch.where(now < before.labels, taken, -1).tolist())
    if 1 not in at:
        return None
    first, count = at.index(1), sum(at)
    return (first, first + count) if all(at[first : first + count]) else None


@rule(torch.narrow, "narrow", workless=True)
def narrow(call: Call) -> Effect:
    """So many channels from one on."""
    labels, dim = call.args[0], call.argument(1, "dim")
    if call.before is None:
        return by_places(call, itself(call), dim)
    if not lies_along(labels, dim % labels.dim()) or not _is_stated(call, 2, 3):
        return itself(call)
    span = _span(call.before, labels, dim % labels.dim())
    if span is None or (span[0], span[1] - span[0]) == call.args[2:4]:
        return itself(call)
    first, count = span[0], span[1] - span[0]
    return replace(moved(call, lambda x, *_, **__: x.narrow(dim, first, count)), literals={2: first, 3: count})


@rule(operator.getitem, workless=True)
def getitem(call: Call) -> Effect:
    container, index = call.args
    if not isinstance(container, Tensor):
        return part_of(container[index], operator.getitem)
    if tensors(index):
        return _indexed(call, container, index if isinstance(index, tuple) else (index,))
    if call.before is not None:
        return _resized_slice(call, call.before, container)
    index = index if isinstance(index, tuple) else (index,)
    at = zip(_dims_of(index, container.dim()), index, strict=True)
    return by_places(call, moved(call, operator.getitem), *(dim for dim, part in at if dim >= 0 and _is_numbered(part)))


def _is_numbered(part: Any) -> bool:
    """Whether a part of an index names places by their numbers."""
    return isinstance(part, int) or (isinstance(part, slice) and part != slice(None))


def _resized_slice(call: Call, before: Before, labels: Tensor) -> Effect:
    """The index, whose one slice of channels gets the bounds under which it takes the same ones."""
    index = call.args[1]
    places = [
        (place, dim)
        for place, dim in enumerate(_dims_of(index, labels.dim()) if isinstance(index, tuple) else ())
        if dim >= 0 and lies_along(labels, dim) and isinstance(index[place], slice) and index[place] != slice(None)
    ]
    if len(places) != 1 or call.is_computed(1, "") or index[places[0][0]].step not in (None, 1):
        return moved(call, operator.getitem)
    ((place, dim),) = places
    span, width = _span(before, labels, dim), labels.shape[dim]
    given: slice = index[place]
    if span is None or given.indices(width)[:2] == span:
        return moved(call, operator.getitem)
    bounds = [_bound(old, new, width) for old, new in zip((given.start, given.stop), span, strict=True)]
    if slice(*bounds).indices(width)[:2] != span:  # an open end that would have to close
        return moved(call, operator.getitem)
    written = (*index[:place], slice(*bounds), *index[place + 1 :])
    return replace(moved(call, lambda x, _: x[written]), literals={f"1.{place}": bounds})


def _bound(old: int | None, new: int, width: int) -> int | None:
    """A bound of a slice in the spelling that it had: open, from the start or from the end."""
    return None if old is None else new - width if old < 0 else new


def _indexed(call: Call, labels: Tensor, index: tuple[Any, ...]) -> Effect:
    """An index by tensors, whose values are not read: it is understood where labels do not vary along its dims."""
    plain = tuple(slice(None) if isinstance(part, Tensor) else part for part in index)
    rest = over_positions(labels)[plain]
    dims = {dim for dim, size in enumerate(collapse(labels).shape) if size > 1}
    at = _dims_of(index, labels.dim())
    picked = [dim for dim, part in zip(at, index, strict=True) if isinstance(part, Tensor)]
    if any(isinstance(part, Tensor) and part.dtype == torch.bool for part in index) or dims & set(picked):
        return unknown(call, "a tensor indexes its channels")
    small = collapse(rest)
    shape = _small_shape(labels, index, at, small)
    if shape is None:
        return unknown(call, "tensors index dims that do not stand together")
    full = list(call.val.shape)
    full = [size if small_size == 1 else small_size for size, small_size in zip(full, shape, strict=True)]
    return Effect(Family.MIXED, out=small.reshape(shape).expand(full))


def _dims_of(index: tuple[Any, ...], count: int) -> list[int]:
    """The dim of the input that each part of an index is about; -1 for a new dim."""
    used = sum(part is not None and part is not Ellipsis for part in index)
    at, dim = [], 0
    for part in index:
        if part is None or part is Ellipsis:
            at.append(-1)
            dim += (count - used) if part is Ellipsis else 0
        else:
            at.append(dim)
            dim += 1
    return at


def _small_shape(labels: Tensor, index: tuple[Any, ...], at: list[int], small: Tensor) -> list[int] | None:
    """The shape of the result as far as labels vary: the tensors' own dims, of size 1, stand where the first stood."""
    parts = [position for position, part in enumerate(index) if isinstance(part, Tensor)]
    if parts != list(range(parts[0], parts[0] + len(parts))) or any(isinstance(part, int) for part in index):
        return None
    shape: list[int] = []
    sizes = iter(small.shape)
    own = max(part.dim() for part in index if isinstance(part, Tensor))
    for position, part in enumerate(index):
        if part is Ellipsis:
            shape += [next(sizes) for _ in range(labels.dim() - sum(dim >= 0 for dim in at))]
        elif isinstance(part, Tensor):
            next(sizes)
            shape += [1] * (own if position == parts[0] else 0)
        else:
            shape.append(next(sizes))
    return [*shape, *sizes]


register(parts, torch.chunk, workless=True, sized=torch.split)
register(parts, "chunk", workless=True, sized="split")
register(parts, torch.split, torch.tensor_split, workless=True)
register(parts, *("split", "tensor_split"), *named("split_with_sizes"), workless=True)
