"""The state of one parameter in an optimizer, after a rewrite has gathered, scaled and widened the parameter.

    state'[i] = f[i] ** -power * state[origin[i]]              means of gradients: a gradient is scaled by 1 / f
    copy'[i]  = new[i] + f[i] * (copy - old)[origin[i]]        copies of the parameter keep their distance from it

Positions that are new, or were written anew (f = 0), start from the kind's fill. Where all factors are 1 the next step
of a survivor is the old network's. Where they are not, the state is what the optimizer would have kept for the scaled
parameter; weight decay and eps, which see the parameter's or the gradient's own scale, are not carried through.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from nrfx.optimizers.kinds import MEAN, PARAMETER, Fill, Kind
from nrfx.plan.origins import NEW, Factors, Origins, gather, scaled, with_means
from nrfx.rewrite.result import Rejuvenation

State = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """How a new parameter comes from an old one.

    Attributes:
        new, old: the parameters; old is None for one without an ancestor.
        origins: of each dim, NEW also where the value was written anew.
        factors: of each dim, 1 where the position is new.
    """

    new: nn.Parameter
    old: nn.Parameter | None
    origins: Origins
    factors: Factors

    @classmethod
    def of(cls, name: str, new: nn.Parameter, old: nn.Parameter | None, result: Rejuvenation) -> Self:
        """The change that a rewrite made to the parameter of that name."""
        nothing = (None,) * new.dim()
        origins, factors = result.origins.get(name, nothing), result.factors.get(name, nothing)
        pairs = tuple(map(_without_zeros, origins, factors))
        return cls(new, old, tuple(places for places, _ in pairs), tuple(factor for _, factor in pairs))

    @property
    def same(self) -> bool:
        """Whether the parameter is as it was."""
        return self.old is not None and all(part is None for part in (*self.origins, *self.factors))

    def carried(self, value: Tensor, power: float) -> Tensor:
        """A tensor of the old shape, gathered and scaled by f ** -power; 0 at new positions. float64 if scaled."""
        shrinks = tuple(None if f is None or power == 0 else f.double() ** -power for f in self.factors)
        return scaled(gather(value, self.origins), shrinks)

    def known(self) -> Tensor | None:
        """bool, broadcast to the new shape: whether the position was carried; None where all were."""
        masks = []
        for dim, places in enumerate(self.origins):
            if places is not None and bool((places == NEW).any()):
                masks.append((places != NEW).view([-1 if other == dim else 1 for other in range(self.new.dim())]))
        return torch.stack(torch.broadcast_tensors(*masks)).all(0) if masks else None


def _without_zeros(places: Tensor | None, factor: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Origin and factor of a dim, NEW and 1 where the factor is 0: the position was written anew."""
    if factor is None or not bool((factor == 0).any()):
        return places, factor
    here = torch.arange(factor.numel()) if places is None else places
    return torch.where(factor.cpu() == 0, NEW, here), torch.where(factor == 0, 1.0, factor)


def carried_state(kind: Kind, before: State, change: Change, options: Mapping[str, Any]) -> State | None:
    """The state of the new parameter; {} where it has no ancestor, None where it changed and must start anew.

    Args:
        before: the old parameter's.
        options: of its group.
    """
    if change.old is None:
        return {}
    if change.same:
        return {key: _beside(value, change.new) for key, value in before.items()}
    if kind.restarts & before.keys():
        return None
    state = {key: _followed(kind, key, value, change, options) for key, value in before.items()}
    for row, column in kind.factored.items():
        if row in before:
            state[row], state[column] = _factored(before[row], before[column], change)
    return state


def _followed(kind: Kind, key: str, value: Any, change: Change, options: Mapping[str, Any]) -> Any:
    if not isinstance(value, Tensor) or key not in kind.powers or value.shape != _old(change).shape:
        return copy.deepcopy(value)
    power, fill = kind.powers[key], kind.fill.get(key, 0.0)
    start = options[fill] if isinstance(fill, str) and fill not in (PARAMETER, MEAN) else fill
    return _like(value, _valued(value, change, power, start, key in kind.sums), change.new)


def _valued(value: Tensor, change: Change, power: float, start: Fill | Tensor, is_sum: bool) -> Tensor:
    """The tensor at the new positions, with what those start from that were not carried."""
    if isinstance(start, str) and start == PARAMETER:
        distance = change.carried(value.double() - _old(change).detach().to(value.device).double(), power)
        return change.new.detach().to(value.device).double() + distance
    if isinstance(start, str):
        return with_means(change.carried(value, power), change.origins)
    base = start if is_sum else 0.0
    carried = change.carried(value - base, power) + base if is_sum else change.carried(value, power)
    known = change.known()
    return carried if known is None else torch.where(known.to(value.device), carried, float(start))


def _factored(rows: Tensor, columns: Tensor, change: Change) -> tuple[Tensor, Tensor]:
    """The means over the last dim, and over the last but one, of the squared gradients that both stand for.

        v_ij = rows_i columns_j / mean(rows)      v'_ij = v_ij / (f_i f_j) ** 2      their means over the new positions

    So the product is exact where it was. New positions start from the means over the carried ones.

    Source: Shazeer, Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, 2018, Sec. 3.
    """
    dims = _old(change).dim()
    keeps = rows.dim() == dims  # whether a mean keeps its dim, of size 1
    row, column = (x if keeps else x.unsqueeze(dim) for x, dim in ((rows, -1), (columns, -2)))
    last, other = dims - 1, dims - 2
    by_row, by_column = _along(row, change, {last}), _along(column, change, {other})
    # what the other dims alone make of each: the means before, to which the new ones are compared
    before_row, before_column = (_along(x, change, {last, other}) for x in (row, column))
    carried_row = by_row * _ratio(by_column.mean(-1, keepdim=True), before_column.mean(-1, keepdim=True))
    carried_column = by_column * _ratio(by_row.mean(-2, keepdim=True), before_row.mean(-2, keepdim=True))
    if not keeps:
        carried_row, carried_column = carried_row.squeeze(-1), carried_column.squeeze(-2)
    return carried_row.to(rows.dtype), carried_column.to(columns.dtype)


def _along(value: Tensor, change: Change, left_out: set[int]) -> Tensor:
    """The tensor gathered and scaled along all dims but some, with means at new positions; float64."""
    origins = tuple(None if dim in left_out else places for dim, places in enumerate(change.origins))
    shrinks = tuple(None if f is None or dim in left_out else f.double() ** -2 for dim, f in enumerate(change.factors))
    return with_means(scaled(gather(value.double(), origins), shrinks), origins)


def _ratio(now: Tensor, before: Tensor) -> Tensor:
    return torch.where(before > 0, now / before.clamp(min=torch.finfo(before.dtype).tiny), 1.0)


def _old(change: Change) -> nn.Parameter:
    assert change.old is not None
    return change.old


def _beside(value: Any, new: nn.Parameter) -> Any:
    """A copy of state whose parameter is as it was."""
    full = isinstance(value, Tensor) and value.shape == new.shape and value.dim() > 0
    return _like(value, value, new) if full else copy.deepcopy(value)


def _like(value: Tensor, carried: Tensor, new: nn.Parameter) -> Tensor:
    """The carried tensor in the dtype and on the device of the value, laid out in memory like the new parameter."""
    assert carried.shape == new.shape, f"origins give {list(carried.shape)}, the parameter has {list(new.shape)}"
    return torch.empty_like(new, dtype=value.dtype, device=value.device, requires_grad=False).copy_(carried)
