"""Label tensors: which channel each element of an activation carries.

A label tensor has the shape of the activation and dtype int64. A value >= 0 is the id of a channel, NONE (-1) says that
the element carries no channel and may meet any (a padded zero), a value <= OPAQUE (-2) that it carries something fixed
that is not understood: OPAQUE - k refers to the k-th reason that the analysis keeps. Dims along which the labels do not
change have stride 0, which keeps label tensors of large activations small: `collapse` gives just the part that varies.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

NONE = -1
OPAQUE = -2


_REPEATS, _CHANNELS, _OVER, _HOLES = "_nrfx_repeats", "_nrfx_channels", "_nrfx_over", "_nrfx_holes"
_ASCENDS, _SMALL = "_nrfx_ascends", "_nrfx_small"
"""Notes on a tensor of what it holds: (dim, layout) where it repeats a layout, True where every label is a channel's;
what `over_positions` gives for it, None for the tensor itself; (dim, layout) where it repeats a layout but for NONE at
some positions, the same for each index of the dim; True where it `ascends`; and what `collapse` gives for it.

Nearly all label tensors are layouts of fresh labels, repeated. To ask torch takes several calls for each; the notes
are those of one tensor, and what torch makes of it has none.
"""


def born(first: int, width: int) -> Tensor:
    """[width] fresh labels, from `first` on."""
    labels = noted(torch.arange(first, first + width))
    vars(labels)[_ASCENDS] = True
    return labels


def noted(labels: Tensor) -> Tensor:
    """The labels, of which the caller knows that each is a channel's, with a note that says so."""
    vars(labels)[_CHANNELS] = True
    return labels


def all_channels(labels: Tensor) -> bool:
    """Whether every element carries a channel.

    >>> all_channels(born(0, 3)), all_channels(torch.tensor([0, NONE]))
    (True, False)
    """
    notes = vars(labels)
    if _REPEATS in notes:
        notes = vars(notes[_REPEATS][1])
    return _CHANNELS in notes or bool((collapse(labels) >= 0).all())


def ascends(labels: Tensor) -> bool:
    """Whether the labels lie in the memory of fresh ones: all are channels, and along a dim of several indices they
    ascend, or stay the same where its stride is 0. False where their notes do not say so.

    >>> ascends(along(born(0, 3), 1, (2, 3))), ascends(torch.arange(3))
    (True, False)
    """
    notes = vars(labels)
    if _REPEATS in notes:
        notes = vars(notes[_REPEATS][1])
    return _ASCENDS in notes


def viewed(labels: Tensor, taken: Tensor) -> Tensor:
    """`taken`, what an op made of the labels; noted as one that ascends where they do and it lies in their memory.

    >>> labels = born(0, 6)
    >>> ascends(viewed(labels, labels.view(2, 3))), ascends(viewed(labels, labels + 1))
    (True, False)
    """
    return alike(labels, taken) if ascends(labels) and is_view(labels, taken) else taken


def alike(labels: Tensor, view: Tensor) -> Tensor:
    """A view that was made of the labels; noted as one that ascends where they do."""
    if ascends(labels):
        notes = vars(view)
        notes[_ASCENDS] = notes[_CHANNELS] = True
    return view


def is_view(labels: Tensor, taken: Tensor) -> bool:
    """Whether `taken`, what an op made of the labels, lies in their memory."""
    return taken.untyped_storage().data_ptr() == labels.untyped_storage().data_ptr()


def moves_alone(labels: Tensor, taken: Sequence[Tensor]) -> bool:
    """Whether all that an op took of the labels are views of them, and the labels ascend or are one all over: then a
    part of them is as good as any other, and what was taken repeats along its dims of stride 0 alone.
    """
    known = ascends(labels) or collapse(labels).numel() == 1
    return known and bool(taken) and all(is_view(labels, part) for part in taken)


def some_channel(labels: Tensor) -> bool:
    """Whether some element carries a channel."""
    return labels.numel() > 0 if ascends(labels) else bool((collapse(labels) >= 0).any())


def highest(labels: Tensor, dims: Iterable[int]) -> Tensor:
    """The highest label along the dims, which stay, with size 1.

    >>> labels = born(0, 6)
    >>> highest(viewed(labels, labels.view(2, 3)), [1])
    tensor([[2],
            [5]])
    """
    if not ascends(labels) or not labels.numel():
        return labels.amax(sorted(dims), keepdim=True)
    sizes, strides, first = list(labels.shape), labels.stride(), labels.storage_offset()
    for dim in dims:  # the last one
        first += (sizes[dim] - 1) * strides[dim]
        sizes[dim] = 1
    return alike(labels, labels.as_strided(sizes, strides, first))


def led(labels: Tensor, dims: Iterable[int]) -> Tensor:
    """The labels with the highest along the dims in the place of each.

    >>> led(torch.tensor([[0, 1], [2, 3]]), [1])
    tensor([[1, 1],
            [3, 3]])
    """
    lead = highest(labels, dims)
    return alike(lead, lead.expand_as(labels))


def repeats_along(labels: Tensor) -> int | None:
    """The dim along which the labels repeat a layout; None where their notes do not say so.

    >>> repeats_along(along(born(0, 3), 1, (2, 3))), repeats_along(born(0, 3))
    (1, None)
    """
    dim: int | None = vars(labels).get(_REPEATS, (None,))[0]
    return dim


def repeated_along(values: Tensor, dim: int) -> Tensor | None:
    """The vector that the values repeat along `dim`, one for each index of it; None where their notes do not say so.

    >>> repeated_along(along(torch.tensor([3, 5]), 1, (4, 2)), 1)
    tensor([3, 5])
    """
    at, vector = vars(values).get(_REPEATS, (None, None))
    return vector if at == dim and vector.numel() == values.shape[dim] else None


def repeat_one_layout(one: Tensor, other: Tensor) -> bool:
    """Whether both repeat the very same layout along the same dim; False where their notes do not say so."""
    (dim, layout), (same_dim, same) = (vars(each).get(_REPEATS, (None, None)) for each in (one, other))
    return dim is not None and dim == same_dim and layout is same


def repeat_alike(labels: Sequence[Tensor]) -> bool:
    """Whether the tensors have one shape and repeat layouts along one dim, and every element carries a channel.

    False where their notes do not say so.
    """
    first = labels[0]
    dim = vars(first).get(_REPEATS, (None,))[0]
    return dim is not None and all(
        vars(each).get(_REPEATS, (None,))[0] == dim and each.shape == first.shape and all_channels(each)
        for each in labels
    )


def side_by_side(parts: Sequence[Tensor], dim: int) -> Tensor | None:
    """The parts joined along `dim`, where each repeats a layout of channels along it; None where notes do not say so.

    The parts have equal sizes on all other dims.
    """
    layouts = []
    for part in parts:
        at, layout = vars(part).get(_REPEATS, (None, part))
        if at != dim or not all_channels(part):
            return None
        layouts.append(layout)
    whole = torch.cat(layouts)
    vars(whole)[_CHANNELS] = True
    return along(whole, dim, [*parts[0].shape[:dim], whole.numel(), *parts[0].shape[dim + 1 :]])


def collapse(labels: Tensor) -> Tensor:
    """The labels with every dim that repeats by stride 0 cut to size 1.

    >>> collapse(torch.arange(3).view(1, 3, 1).expand(2, 3, 5)).shape
    torch.Size([1, 3, 1])
    """
    notes = vars(labels)
    known: Tensor | None = notes.get(_SMALL)
    if known is not None:
        return known
    strides = labels.stride()
    if 0 not in strides:
        return labels
    sizes = [min(size, 1) if stride == 0 else size for stride, size in zip(strides, labels.shape, strict=True)]
    notes[_SMALL] = small = alike(labels, labels.as_strided(sizes, strides))
    return small


def varying(labels: Tensor) -> set[int]:
    """The dims along which labels vary: those that `collapse` leaves with several indices.

    >>> varying(along(born(0, 3), 1, (2, 3, 5)))
    {1}
    """
    sizes = zip(labels.shape, labels.stride(), strict=True)
    return {dim for dim, (size, stride) in enumerate(sizes) if stride and size > 1}


def varying_part(labels: Tensor) -> Tensor:
    """The layout that the labels repeat, where their notes tell it; else `collapse` of them. It has all the labels.

    >>> layout = born(0, 3)
    >>> varying_part(along(layout, 1, (2, 3, 5))) is layout
    True
    """
    repeats = vars(labels).get(_REPEATS)
    part: Tensor = collapse(labels) if repeats is None else repeats[1]
    return part


def channels_part(labels: Tensor) -> Tensor:
    """A part of the labels, or of `over_positions` of them where that is known, with all of their channels.

    >>> channels_part(with_holes(torch.tensor([[NONE, 4], [NONE, 5]]), 0, torch.tensor([4, 5])))
    tensor([4, 5])
    """
    notes = vars(labels)
    if _HOLES in notes:
        layout: Tensor = notes[_HOLES][1]
        return layout
    over = notes.get(_OVER)
    return varying_part(labels if over is None else over)


def noted_as(labels: Tensor, taken: Tensor) -> Tensor:
    """`taken`, a view that an op made of the labels; where these repeat a layout and it does too, it is noted.

    >>> labels = along(born(0, 3), 1, (2, 3, 5))
    >>> repeats_along(labels.mT), repeats_along(noted_as(labels, labels.mT))
    (None, 2)
    """
    repeats = vars(labels).get(_REPEATS)
    if repeats is not None and _REPEATS not in vars(taken):
        dim = repeats_of(repeats[1], taken)
        if dim is not None:
            vars(taken)[_REPEATS] = dim, repeats[1]
            return taken
    return viewed(labels, taken)


def repeats_of(layout: Tensor, taken: Tensor) -> int | None:
    """The dim along which `taken`, which lies in the memory of the layout, repeats it; None where it does not."""
    moving = [at for at, stride in enumerate(taken.stride()) if stride and taken.shape[at] > 1]
    if len(moving) != 1 or taken.data_ptr() != layout.data_ptr():
        return None
    (dim,) = moving
    return dim if taken.stride(dim) == layout.stride(0) and taken.shape[dim] == layout.numel() else None


def with_holes(labels: Tensor, dim: int, layout: Tensor) -> Tensor:
    """`repeated` of labels that repeat a layout of several channels along `dim` but for NONE at some positions, which
    are the same for each index of the dim.

    >>> with_holes(torch.tensor([[[NONE, 4], [NONE, 5]]] * 3), 1, torch.tensor([4, 5])).stride()
    (0, 2, 1)
    """
    first = repeated(labels.narrow(dim, 0, 1))  # one index tells of all
    small = labels
    for at, stride in enumerate(first.stride()):
        if at != dim and stride == 0 and small.shape[at] > 1:
            small = small.narrow(at, 0, 1)
    small = small.expand(labels.shape)
    vars(small)[_HOLES] = dim, layout
    return small


def holes_of(labels: Tensor) -> tuple[int, Tensor] | None:
    """The dim and layout that the labels repeat but for NONE at some positions; None where notes do not say so."""
    holes: tuple[int, Tensor] | None = vars(labels).get(_HOLES)
    return holes


def memory_of(labels: Tensor) -> tuple[Any, ...]:
    """A key that two label tensors have in common if they are the same memory, read in the same way. It says nothing
    once one of them is freed.

    >>> ids = torch.arange(3)
    >>> memory_of(ids.view(1, 3)[0]) == memory_of(ids) != memory_of(ids[:2])
    True
    """
    return labels.data_ptr(), labels.shape, labels.stride()


def repeated(labels: Tensor) -> Tensor:
    """The same labels in less memory: each dim along which they do not change gets stride 0.

    >>> repeated(torch.tensor([[3, 4], [3, 4]])).stride()
    (0, 1)
    """
    if ascends(labels) or len(varying(labels)) < 2:
        return labels
    small = collapse(labels)
    for dim, size in enumerate(small.shape):
        if size > 1:
            first = small.narrow(dim, 0, 1)
            small = first if bool((small == first).all()) else small
    return small.expand(labels.shape)


def over_positions(labels: Tensor) -> Tensor:
    """The labels, with the channel in the place of what stands beside it: of padded zeros and of opaque values along a
    dim of positions, which is one along which labels are otherwise the same. The same object where there are none.

    >>> over_positions(torch.tensor([[NONE, 4, 4], [NONE, 5, OPAQUE]]))
    tensor([[4, 4, 4],
            [5, 5, 5]])
    """
    notes = vars(labels)
    if _OVER not in notes:
        holes = notes.get(_HOLES)
        notes[_OVER] = _over(labels) if holes is None else along(holes[1], holes[0], labels.shape)
    over: Tensor | None = notes[_OVER]
    return labels if over is None else over


def _over(labels: Tensor) -> Tensor | None:
    """`over_positions` of the labels; None for the labels themselves."""
    small = first = collapse(labels)
    beside = small < 0
    if not small.numel() or bool(beside.all()) or not bool(beside.any()):
        return None
    for dim in range(small.dim()):
        if small.shape[dim] == 1:
            continue
        lead = small.amax(dim, keepdim=True)
        if bool(((small == lead) | beside).all()):
            small = torch.where(beside & (lead >= 0), lead, small)
            beside = small < 0
            if not bool(beside.any()):
                break
    return None if small is first else small.expand(labels.shape)  # a view of itself would never be freed


def along(layout: Tensor, dim: int, shape: Sequence[int]) -> Tensor:
    """A tensor of `shape` that repeats `layout` (1-d, len shape[dim]) along every other dim, without copying.

    >>> along(torch.arange(3), 1, (2, 3, 5, 5)).shape, along(torch.arange(3), 1, (2, 3, 5, 5))[0, :, 4, 4]
    (torch.Size([2, 3, 5, 5]), tensor([0, 1, 2]))
    """
    if layout.numel() == shape[dim]:  # nearly always; a view that is expanded takes three times as long
        strides = [0] * len(shape)
        strides[dim] = layout.stride(0)
        labels = layout.as_strided(shape, strides)
    else:
        view = [1] * len(shape)
        view[dim] = layout.numel()
        labels = layout.view(view).expand(shape)
    vars(labels)[_REPEATS] = dim, layout
    return labels


def fill(value: int, shape: Sequence[int]) -> Tensor:
    """A label tensor of `shape` that is `value` everywhere, in the memory of one element."""
    return torch.full((1,) * len(shape), value, dtype=torch.int64).expand(tuple(shape))


def spread(labels: Tensor, dim: int) -> Tensor:
    """[shape[dim], m]: a row for each index of `dim`, with the labels at the m places that share it.

    Places along dims of stride 0 count once, so that m = 1 where the labels vary along `dim` alone.
    """
    small = collapse(labels).movedim(dim, 0)
    rows = small.reshape(small.shape[0], -1)
    return rows.expand(labels.shape[dim], -1)


def spread_inside(values: Tensor, labels: Tensor, dim: int, zero: float) -> Tensor:
    """As `spread(values, dim)`, with each padded zero in the place of what it pads: where the label is NONE and the
    value `zero`, the first value of the same index that is not such a one.

    >>> padded = torch.tensor([[NONE, 4, 4], [NONE, 5, 5]])
    >>> spread_inside(torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.7, 0.0]]), padded, 0, 0.0)
    tensor([[0.5000, 0.5000, 0.5000],
            [0.7000, 0.7000, 0.0000]])
    """
    if not bool((collapse(labels) == NONE).any()):
        return spread(values, dim)
    small, value = torch.broadcast_tensors(collapse(labels), collapse(values))
    known, rows = (part.movedim(dim, 0).flatten(1) if part.dim() > 1 else part[:, None] for part in (small, value))
    border = (known == NONE) & (rows == zero)
    first = rows.gather(1, (~border).int().argmax(1, keepdim=True))
    return torch.where(border, first, rows).expand(labels.shape[dim], -1)


def lies_along(labels: Tensor, dim: int) -> bool:
    """Whether the labels change along `dim`, and along no other dim: those have stride 0 or size 1."""
    if vars(labels).get(_REPEATS, (None,))[0] == dim:
        return True
    sizes = zip(labels.shape, labels.stride(), strict=True)
    return all((stride != 0) if at == dim else (stride == 0 or size == 1) for at, (size, stride) in enumerate(sizes))


def layout(labels: Tensor, dim: int) -> Tensor:
    """The labels along `dim` as a vector; where an index carries several, a channel is preferred, then an opaque value.

    >>> layout(torch.arange(3).view(1, 3, 1).expand(2, 3, 5), 1)
    tensor([0, 1, 2])
    """
    repeats = vars(labels).get(_REPEATS)
    if repeats is not None and repeats[0] == dim:
        known: Tensor = repeats[1]
        return known
    if lies_along(labels, dim):  # nearly all labels do, and a view costs nothing
        return viewed(labels, collapse(labels).reshape(-1))
    rows = spread(labels, dim)
    if rows.shape[1] == 1:
        return rows[:, 0].contiguous()
    # channels are >= 0, NONE is -1, opaque values lie below: the highest is a channel if any is, the lowest is opaque
    highest = rows.amax(1)
    return torch.where(highest >= 0, highest, rows.amin(1))


def coalesce(labels: Sequence[Tensor]) -> Tensor:
    """The labels of an element-wise result: of the first operand that carries a channel, else of one that is opaque."""
    known = labels[0]
    if all_channels(known):
        return known
    for other in labels[1:]:
        # of NONE and an opaque value the opaque one, which is the smaller
        fallback = torch.where(other >= 0, other, torch.minimum(known, other))
        known = torch.where(known >= 0, known, fallback)
    return known
