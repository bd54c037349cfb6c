"""Ops that put tensors side by side: on the axis of the channels, along positions, or on a dim of their own."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nrfx.labels import along, coalesce, collapse, lies_along, over_positions, repeated, side_by_side
from nrfx.rules.effect import Call, Effect, Family, attempt
from nrfx.rules.movement import itself, moved
from nrfx.rules.registry import rule
from nrfx.rules.sizes import of_concatenation


@rule(torch.stack, copies=True, workless=True)
def stack(call: Call) -> Effect:
    effect = itself(call)
    return replace(effect, made_dim=call.argument(1, "dim", 0) % effect.out.dim())


@rule(torch.cat, torch.concat, torch.concatenate, gives=of_concatenation, copies=True, workless=True)
def cat(call: Call) -> Effect:
    """Side by side on the axis of the channels. Along positions (a class token beside the others) the parts are tied:
    whoever reads the result reads them alike, and one layout stands for all.
    """
    parts: Sequence[Tensor] = _not_empty(call.args[0])
    if any(part.dim() > 1 and not part.numel() for part in call.args[0]):  # its width follows no channel
        pins = tuple(call.pin(part, "it stands beside an empty tensor of its width") for part in parts)
        return replace(moved(call, _cat), pins=pins)
    dim = call.argument(1, "dim", call.kwargs.get("axis", 0)) % parts[0].dim()
    attempt(_cat_shape, parts, dim)
    joined = side_by_side(parts, dim) if any(part.shape[dim] > 1 for part in parts) else None
    if joined is not None:
        return Effect(Family.MOVEMENT, out=joined, apply=_cat, homogeneous=True)
    if any(part.shape[dim] > 1 and lies_along(part, dim) for part in parts):
        return moved(call, _cat)
    whole = [collapse(repeated(over_positions(part))) for part in parts]
    known = [part for part in whole if bool((part >= 0).all())]
    along_positions = all(part.shape[dim] == 1 for part in whole) and len(known) > 1
    along_positions &= all(bool((part < 0).all()) for part in whole if bool((part < 0).any()))
    one_each = all(part.numel() == 1 for part in known)  # the axis of the channels does not show
    if not along_positions or one_each:
        return moved(call, _cat)
    shape = list(torch.broadcast_shapes(*(part.shape for part in known)))
    joined = coalesce([part.expand(shape) for part in sorted(known, key=Tensor.numel)]).expand(_cat_shape(parts, dim))
    apart = _cat(parts, dim)  # padded zeros and what is opaque stay as they are
    return Effect(
        Family.MOVEMENT,
        out=torch.where(apart < 0, apart, joined) if bool((collapse(apart) < 0).any()) else joined,
        ties=tuple((known[0], other) for other in known[1:]),
        apply=_cat,
        homogeneous=True,
    )


def _not_empty(parts: Sequence[Tensor]) -> Sequence[Tensor]:
    """The parts that hold something, such as no registers beside the tokens; the first where none does."""
    return [part for part in parts if part.numel()] or parts[:1]


def _cat_shape(parts: Sequence[Tensor], dim: int) -> list[int]:
    """The shape of the parts side by side. Their other dims are checked here, for labels of size 1 are joined."""
    shape = list(parts[0].shape)
    for part in parts:
        if [*part.shape[:dim], *part.shape[dim + 1 :]] != [*shape[:dim], *shape[dim + 1 :]]:
            raise RuntimeError(f"tensors of shapes {shape} and {list(part.shape)} do not fit side by side on dim {dim}")
    shape[dim] = sum(part.shape[dim] for part in parts)
    return shape


def _cat(parts: Sequence[Tensor], dim: int = 0, **_: Any) -> Tensor:
    """torch.cat, with every other dim along which all parts repeat cut to size 1 and repeated again after."""
    parts = _not_empty(parts)
    dim %= parts[0].dim()
    shape = _cat_shape(parts, dim)
    cell = _one_cell(parts)
    if cell is not None:  # of what varies, nearly always
        return cell.as_strided(shape, (0,) * len(shape))
    if all(part.numel() and collapse(part).numel() == 1 for part in parts):
        values = torch.stack([collapse(part).reshape(()) for part in parts])
        if bool((values == values[0]).all()) or bool(values.isnan().all()):
            return values[0].expand(shape)
    if all(lies_along(part, dim) for part in parts):
        return along(torch.cat([collapse(part).reshape(-1) for part in parts]), dim, shape)
    small = [collapse(part).expand([*_cut(part, dim)]) for part in parts]
    common = list(torch.broadcast_shapes(*(part.select(dim, 0).shape for part in small)))
    common.insert(dim, -1)
    return torch.cat([part.expand([*common[:dim], part.shape[dim], *common[dim + 1 :]]) for part in small], dim).expand(
        shape
    )


def _one_cell(parts: Sequence[Tensor]) -> Tensor | None:
    """The first part, where all elements of all parts lie in one and the same memory; else None."""
    first = parts[0]
    place, dtype = first.data_ptr(), first.dtype
    alike = all(part.data_ptr() == place and part.dtype == dtype and not any(part.stride()) for part in parts)
    return first if alike and first.numel() else None


def _cut(part: Tensor, dim: int) -> list[int]:
    """The collapsed shape of `part`, whole along `dim`."""
    shape = list(collapse(part).shape)
    shape[dim] = part.shape[dim]
    return shape
