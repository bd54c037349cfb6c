"""The values of an interpretation on constants: float64, NaN for what varies.

Most values of a network vary in all of their elements: these lie in the memory of one, and a note says so.
"""

from collections.abc import Callable

import torch
from torch import Tensor

NAN = float("nan")
UNKNOWN = torch.full((), NAN, dtype=torch.float64)
"""What varies. A number in its place takes torch twice as long."""

_ALL_NAN = "_nrfx_all_nan"
"""A note on a tensor that `all_varying` made: to look takes several calls of torch."""


def one(low: Tensor, high: Tensor) -> Tensor:
    """The one value of several constants, from their lowest and their highest; NaN where these differ."""
    return torch.where(low == high, low, UNKNOWN)  # NaN equals nothing, itself included


def same(rows: Tensor, one: Callable[[Tensor, Tensor], Tensor] = one) -> Tensor:
    """The one value of each row, NaN where it has several."""
    return rows[:, 0] if rows.shape[1] == 1 else one(rows.amin(1), rows.amax(1))  # both are NaN where one element is


def all_varying(shape: torch.Size) -> Tensor:
    """NaN in that shape, in the memory of one element."""
    values = UNKNOWN.as_strided(shape, (0,) * len(shape))
    vars(values)[_ALL_NAN] = True
    return values


def is_all_varying(values: Tensor) -> bool:
    """Whether all elements are NaN and lie in the memory of one, as `all_varying` makes them; in O(1).

    Most values of a network are of this kind, and ops pass over them without arithmetic. A tensor of NaNs with
    memory of its own is told as False, which costs time and no correctness.
    """
    if not values.numel():
        return False
    if _ALL_NAN in vars(values):
        return True
    return values.dim() > 0 and not any(values.stride()) and bool(values[(0,) * values.dim()].isnan())
