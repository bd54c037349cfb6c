"""Values that differ between the positions of a channel: which of them an op takes may change with the input's size."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nrfx.analysis.reinterpret import like
from nrfx.labels import NONE, along, collapse, layout, over_positions
from nrfx.rules import tensors


def settled(
    labels: Tensor, values: Tensor, several: float, border: float | None = None, made: int | None = None
) -> Tensor:
    """The values, with `several` where a channel has more than one at its positions.

    Positions lie along the dims in which labels are the same but for padded zeros and opaque values. Where some padded
    zeros lie along no such dim, only what equals them is sure.

    Args:
        border: the value of padded zeros, if it counts as no value of the channel.
        made: a dim that is none of positions, for its size never changes.
    """
    value: Tensor
    small, value = torch.broadcast_tensors(collapse(labels), collapse(values))
    if not small.numel():
        return values
    for dim in range(small.dim()):
        if dim == made or not bool(((small == small.amax(dim, keepdim=True)) | (small < 0)).all()):
            continue
        if border is not None:
            padded = (small == NONE) & (value == border)
            value = torch.where(padded, value.gather(dim, (~padded).int().argmax(dim, keepdim=True)), value)
        first = value.narrow(dim, 0, 1)
        value = torch.where((value == first).all(dim, keepdim=True), first, several).expand(small.shape)
    apart = collapse(over_positions(labels)).expand(small.shape) == NONE
    if bool(apart.any()) and bool((small >= 0).any()):
        zero = value[apart][0]
        alike = bool((value[apart] == zero).all())
        value = torch.where(apart | (value == zero), value, several) if alike else torch.full_like(value, several)
    whole: Tensor = value.expand(labels.shape)
    return whole


def moved(
    apply: Callable[..., Any],
    operand: Tensor,
    rest: tuple[tuple[Any, ...], dict[str, Any]],
    labels: tuple[Tensor, Any],
    several: float,
    border: float | None = None,
    made: int | None = None,
) -> tuple[Any, bool]:
    """The values of a movement, with `several` for what it takes of several values at the positions of a channel; and
    whether there is such a thing.

    Args:
        rest: the arguments behind the operand.
        labels: those of the operand and of the result.
        made: a dim of the operand, as for `settled`.
    """
    given, named = rest
    result = apply(operand, *given, **named)
    before, after = labels
    whole = settled(before, operand, several, border, made)
    if not bool((_is(whole, several) & ~_is(operand, several)).any()):
        return result, False
    sure = tensors(apply(whole, *given, **named))
    raw = tensors(result)
    hidden = [
        bool((_is(safe, several) & ~_is(settled(label, value, several, border), several)).any())
        for label, value, safe in zip(tensors(after), raw, sure, strict=True)
    ]
    parts = iter([safe if hides else value for safe, value, hides in zip(sure, raw, hidden, strict=True)])
    return like(result, lambda _: next(parts)), any(hidden)


def _is(values: Tensor, several: float) -> Tensor:
    return values.isnan() if several != several else values == several  # noqa: PLR0124 (NaN equals nothing)


def with_padding(labels: Tensor, values: Tensor, pooled: Tensor) -> Tensor:
    """The labels, with padded zeros (NONE) counted to the channel at their index of the channels' axis: a pool mixes
    them into it. `pooled`, the labels of the result, vary along that axis alone.

    Padding of minus infinity stays NONE, for it changes no maximum.
    """
    small, value = torch.broadcast_tensors(collapse(labels), collapse(values))
    if not bool((small == NONE).any()):
        return labels
    axis = next((dim for dim, size in enumerate(collapse(pooled).shape) if size > 1), 1)
    own = along(layout(labels, axis)[: small.shape[axis]], axis, small.shape)
    return torch.where((small == NONE) & (value != -torch.inf), own, small)
